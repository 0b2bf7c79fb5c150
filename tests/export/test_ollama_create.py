"""``export --ollama`` with a program that stands in for Ollama: checked before the export, run in its folder."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from assistant_builder.atomic_io import write_json
from assistant_builder.cli import app
from assistant_builder.errors import AssistantBuilderError, ConfigError
from assistant_builder.export.atomic_dir import describe_files
from assistant_builder.export.export import read_export
from assistant_builder.export.ollama import require_ollama
from tests.synthetic_study import finished_study

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the program is a shell script")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An export to GGUF in a folder whose name needs quotes; the command makes it at once."""
    folder = tmp_path / "the folder"
    folder.mkdir()
    (folder / "Modelfile").write_text("FROM ./library-lora-Q8_0.gguf\n")
    write_json(
        folder / "export.json",
        {
            "study": "library",
            "format": "gguf",
            "archive": None,
            "sentences": [],
            "files": describe_files(folder),
        },
    )
    finished_study("library")

    def export_to(study: Any, spec: Any, target: Path, **_: Any) -> dict[str, Any]:
        (tmp_path / "exported").touch()
        return read_export(folder) or {}

    monkeypatch.setattr("assistant_builder.export.job.export_to", export_to)
    return folder


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program ``ollama`` that writes its folder and its arguments down."""
    path = tmp_path / "bin" / "ollama"
    path.parent.mkdir()
    path.write_text(
        f'#!/bin/sh\n{{ pwd; printf "%s\\n" "$@"; cat Modelfile; }} > "{tmp_path}/asked"\n'
    )
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}/usr/bin{os.pathsep}/bin")
    return path


def export(*words: str, format: str = "gguf") -> Result:
    return CliRunner().invoke(
        app, ["export", "library", "--arm", "lora", "--format", format, "--to", "out", *words]
    )


def test_the_model_is_created_in_the_folder_of_the_export(folder, program, tmp_path):
    done = export("--ollama", "support:q8")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "asked").read_text().splitlines() == [
        str(folder),
        "create",
        "support:q8",
        "-f",
        "Modelfile",
        "FROM ./library-lora-Q8_0.gguf",
    ]
    assert f"In Ollama: cd '{folder}' && ollama create library -f Modelfile" in done.stdout
    assert done.stdout.splitlines()[-1] == "Ask it: ollama run support:q8"
    document = json.loads(export("--ollama", "support", "--json").stdout)
    assert document["ollama"] == {"name": "support"} and document["folder"] == str(folder)


def test_without_the_program_nothing_is_exported(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    done = export("--ollama", "support")
    assert isinstance(done.exception, ConfigError) and not (tmp_path / "exported").exists()
    assert str(done.exception).startswith(
        "--ollama: the program ollama is not on the PATH. Install Ollama"
    )
    assert "\n" not in str(done.exception)


@pytest.mark.parametrize(
    "name", ["", "-f", "--help", "a b", "a;rm", "../x", "n\nx", "n\x1b", "x" * 300]
)
def test_a_name_that_no_model_can_have_is_refused(name, program):
    with pytest.raises(ConfigError, match="cannot be the name of a model"):
        require_ollama(name)
    assert require_ollama("me/support-1.0_b:q4") == str(program)


def test_a_refusal_keeps_the_export(folder, program):
    program.write_text(
        "#!/bin/sh\necho transferring\necho 'Error: could not connect to the server' >&2\nexit 1\n"
    )
    done = export("--ollama", "support")
    assert type(done.exception) is AssistantBuilderError
    text = str(done.exception)
    assert "Ollama could not create support: Error: could not connect to the server" in text
    assert "\n" not in text
    assert text.endswith(f"cd '{folder}' && ollama create support -f Modelfile")
    assert (folder / "Modelfile").exists()
