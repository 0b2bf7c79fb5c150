"""Uploads to a hub on this machine: what is uploaded, for whom, and errors in one line that keep the export."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from typer.testing import CliRunner, Result

from assistant_builder.atomic_io import write_json
from assistant_builder.cli import app
from assistant_builder.errors import AssistantBuilderError, ConfigError, HubError
from assistant_builder.export.atomic_dir import describe_files
from assistant_builder.export.export import read_export
from assistant_builder.export.push import check_push, push_export, upload_lines
from tests.export.upload_hub import UploadHub, upload_hub
from tests.synthetic_study import finished_study

TOKEN = "hf_canaryCANARYcanaryCANARYcanary1234"
REPO = "me/library"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[UploadHub]:
    with upload_hub(TOKEN) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written(tmp_path / "out")


def written(folder: Path, *more: str) -> Path:
    """A complete export, in whose folder there is also a file of the user."""
    for name in ("README.md", "adapter_model.safetensors", "library-lora.zip", *more):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"content of {name}")
    write_json(
        folder / "export.json",
        {
            "study": "library",
            "format": "adapter",
            "archive": "library-lora.zip",
            "files": describe_files(folder),
            "sentences": [],
        },
    )
    (folder / "notes [1].txt").write_text("of the user")
    return folder


def record_of(folder: Path) -> dict[str, Any]:
    record = read_export(folder)
    assert record is not None
    return record


def test_an_export_is_uploaded_to_a_private_repository(hub, folder):
    pushed = push_export(record_of(folder), REPO)
    assert (pushed["repo"], pushed["url"], pushed["private"]) == (
        REPO,
        f"{hub.endpoint}/{REPO}",
        True,
    )
    assert hub.private == {REPO: True}
    assert hub.files[REPO] == {
        name: f"content of {name}".encode() for name in ("README.md", "adapter_model.safetensors")
    }
    assert {file["name"]: file["bytes"] for file in pushed["files"]} == {
        name: len(content) for name, content in hub.files[REPO].items()
    }
    assert push_export(record_of(folder), REPO) == pushed  # once more, to a repository that exists


def test_a_public_repository_needs_the_option(hub, folder):
    assert push_export(record_of(folder), REPO, public=True)["private"] is False
    hub.files.clear()
    with pytest.raises(HubError, match="exists and is public"):
        push_export(record_of(folder), REPO)
    assert not hub.files


def test_pairs_are_named_before_they_are_uploaded(hub, tmp_path):
    plain = upload_lines(record_of(written(tmp_path / "plain")), REPO, public=False)
    assert plain[0].startswith("Uploading 2 files (")
    assert plain[0].endswith("to me/library (private):")
    assert [line.split() for line in plain[1:]] == [
        ["adapter_model.safetensors", "36", "bytes"],
        ["README.md", "20", "bytes"],
    ]
    record = record_of(written(tmp_path / "pairs", "retrieval/facts.jsonl"))
    assert "training pairs as plain text" in upload_lines(record, REPO, public=True)[-1]
    push_export(record, REPO, public=True)
    assert "retrieval/facts.jsonl" in hub.files[REPO]


@pytest.mark.parametrize(
    "repo",
    [
        "",
        "library",
        "me/library/more",
        "me/lib rary",
        "me/-library",
        "me/a--b",
        "m\x1be/x",
        "me/" + 97 * "x",
        "../library",
        "me/",
        "https://huggingface.co/me/library",
    ],
)
def test_a_name_that_is_no_repository_is_refused_before_the_export(repo, hub):
    with pytest.raises(ConfigError, match="--push") as caught:
        check_push(repo)
    assert "owner/name" in str(caught.value.remedy) and "\n" not in str(caught.value)


def test_the_token_is_that_of_the_environment_or_of_the_hub_s_file(
    hub, folder, tmp_path, monkeypatch
):
    check_push(REPO)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ConfigError, match="there is no token"):
        check_push(REPO)
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(file))
    check_push(REPO)
    assert push_export(record_of(folder), REPO)["private"]


def test_a_hub_that_is_switched_off_is_noticed_before_the_export(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        check_push(REPO)


def refusal(folder: Path, repo: str = REPO) -> str:
    with pytest.raises(HubError) as caught:
        push_export(record_of(folder), repo)
    text = str(caught.value)
    assert "\n" not in text
    assert "canary" not in text.lower()
    assert f"The export is complete in {folder}" in text
    assert f"hf upload {repo} {folder} . --private" in text and "--exclude 'notes [1].txt'" in text
    assert record_of(folder)["files"]
    return text


def test_refusals_say_what_to_do_and_keep_the_export(hub, folder, monkeypatch):
    assert "the token may not write to you/library" in refusal(folder, "you/library")
    hub.refuse_commit = 400
    assert "the quota of me is used up" in refusal(folder) or "refused the upload" in refusal(
        folder
    )
    monkeypatch.setenv("HF_TOKEN", TOKEN + "x")
    assert "does not accept the token" in refusal(folder)


def test_a_hub_out_of_reach_keeps_the_export(hub, folder, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "http://127.0.0.1:9: the hub cannot be reached" in refusal(folder)


# the command


def export(*words: str) -> Result:
    return CliRunner().invoke(app, ["export", "library", "--arm", "lora", "--to", "out", *words])


@pytest.fixture
def exported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The exports that the command started, which are finished at once."""
    started: list[str] = []

    def export_to(study: Any, spec: Any, target: Path, **_: Any) -> dict[str, Any]:
        started.append(spec.name)
        return record_of(folder)

    finished_study("library")
    monkeypatch.setattr("assistant_builder.export.job.export_to", export_to)
    return started


def test_the_command_lists_and_uploads(hub, exported):
    done = export("--push", REPO)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert any(line.startswith("Uploading 2 files") for line in lines)
    assert "adapter_model.safetensors" in done.stdout
    assert lines[-1] == f"Uploaded (private): {hub.endpoint}/{REPO}" and TOKEN not in done.output
    (document,) = [json.loads(export("--push", REPO, "--json").stdout)]
    assert document["pushed"] == {
        "repo": REPO,
        "url": f"{hub.endpoint}/{REPO}",
        "private": True,
        "files": [file for file in document["files"] if file["name"] != document["archive"]],
    }
    assert "pushed" not in json.loads(export("--json").stdout)


@pytest.mark.parametrize(
    ("words", "problem"),
    [(["--push", "library"], "has no owner"), (["--push", REPO], "there is no token")],
)
def test_nothing_is_exported_for_an_upload_that_cannot_be(
    words, problem, hub, exported, monkeypatch
):
    monkeypatch.delenv("HF_TOKEN")
    done = export(*words)
    assert isinstance(done.exception, AssistantBuilderError)
    assert problem in str(done.exception)
    assert not exported
    assert export("--public").exit_code == 2 and not exported
