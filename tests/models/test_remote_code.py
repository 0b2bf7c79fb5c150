"""A model's own code runs when the user says so for this command, and never because a file says so."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from assistant_builder.cli import run as commands
from assistant_builder.cli.options import parse_settings, split_consent
from assistant_builder.config import ModelConfig, StudyConfig, parse_config
from assistant_builder.errors import ConfigError, ModelError
from assistant_builder.models.catalog import resolve
from assistant_builder.models.loading import base_spec
from assistant_builder.models.remote_code import allows_code
from assistant_builder.runner import run
from assistant_builder.runner.open_study import open_or_create
from assistant_builder.study import Study
from assistant_builder.study.steps import changed_inputs
from assistant_builder.sweep import open_sweep
from assistant_builder.ui.train import tab as train_tab
from assistant_builder.ui.train.tab import TrainTab
from tests.commands import FEW_SCORES, QUICK, set_words
from tests.export.tiny import tiny_base, tiny_study
from tests.own_code import with_own_code
from tests.shadowing_modules import installed_command
from tests.synthetic_study import SMALL, new_study
from tests.ui.blocks import inside_blocks, train_values, wired_train_tab

VARIABLE = "ASSISTANT_BUILDER_TRUST_REMOTE_CODE"


@pytest.fixture(autouse=True)
def nothing_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "[]")  # set, so that what a test allows is taken back after it


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base that transformers can load without its code, and with it."""
    folder = tmp_path / "base"
    with_own_code(folder, "llama")
    return folder


def handed_on(folder: Path, base: Path, **settings: Any) -> Path:
    """A study.yaml as its author sends it along with the data."""
    folder.mkdir(exist_ok=True)
    (folder / "pairs.csv").write_bytes(SMALL.read_bytes())
    changes = {
        "name": "handed-on",
        "data.source": "pairs.csv",
        "model.base": str(base),
        "model.trust_remote_code": True,
        **settings,
    }
    path = folder / "study.yaml"
    path.write_text(StudyConfig().with_changes(changes).to_yaml(), encoding="utf-8")
    return path


def cli(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        installed_command(*words), capture_output=True, text=True, env=dict(os.environ), timeout=600
    )


# files


def test_a_study_yaml_that_asks_for_it_is_refused(tmp_path, base, home):
    path = handed_on(tmp_path / "study", base)
    with pytest.raises(ModelError, match="no file can allow") as caught:
        open_or_create(str(path), name=None, changes={}, redo=False)
    said = str(caught.value)
    assert str(base) in said
    assert "modeling_own.py" in said
    assert "--trust-remote-code" in said
    assert "\n" not in said
    assert not (home / "studies").exists()


def test_a_folder_that_asks_for_it_opens_and_does_not_run(base):
    study = new_study("handed-on", model__base=str(base), model__trust_remote_code=True)
    assert study.config.model.trust_remote_code and study.status()["state"] == "queued"
    with pytest.raises(ModelError, match="no file can allow"):
        open_or_create("handed-on", name=None, changes={}, redo=False)
    with pytest.raises(ModelError, match="no file can allow"):
        open_or_create("handed-on", name="other", changes={}, redo=False)
    kept = open_or_create(
        "handed-on", name=None, changes={"model.trust_remote_code": "false"}, redo=False
    )
    assert not kept.config.model.trust_remote_code


def test_a_study_in_a_store_that_asks_for_it_is_refused(base, bucket, tmp_path, monkeypatch):
    from assistant_builder.store.mirror import Mirror
    from assistant_builder.store.object_store import ObjectStore

    study = new_study("handed-on", model__base=str(base), model__trust_remote_code=True)
    Mirror(study, ObjectStore(f"{bucket}/handed-on")).push()
    monkeypatch.setenv("ASSISTANT_BUILDER_HOME", str(tmp_path / "other machine"))
    with pytest.raises(ModelError, match="no file can allow"):
        open_or_create(f"{bucket}/handed-on", name=None, changes={}, redo=False)


def test_a_sweep_of_a_study_yaml_that_asks_for_it_is_refused(tmp_path, base, home):
    path = handed_on(tmp_path / "study", base)
    with pytest.raises(ModelError, match="no file can allow"):
        open_sweep(str(path), name=None, settings=["train.rank=4,8"])
    with pytest.raises(ConfigError, match="a study cannot allow it"):
        open_sweep(str(SMALL), name=None, settings=["model.trust_remote_code=true,false"])
    assert not (home / "sweeps").exists()


def test_what_loads_a_base_heeds_no_file(base):
    with pytest.raises(ModelError, match="no file can allow"):
        base_spec(ModelConfig(base=str(base), trust_remote_code=True), base, "float16")


# the command line


def test_the_flag_allows_the_folder_it_names_and_nothing_is_written_down(
    tmp_path, base, monkeypatch, capsys
):
    path = handed_on(tmp_path / "study", base)
    # as the flag
    settings, consent = split_consent(["train.rank=4", "model.trust_remote_code=true"], False)
    study = open_or_create(
        str(path), name=None, changes=parse_settings(settings), redo=False, before=consent
    )
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(base) in said and "modeling_own.py" in said
    assert "trust_remote_code: false" in (study.folder / "study.yaml").read_text(encoding="utf-8")
    assert allows_code(study.config.model) and json.loads(os.environ[VARIABLE]) == [str(base)]

    other = tmp_path / "other"
    with_own_code(other)
    assert not allows_code(ModelConfig(base=str(other)))
    with pytest.raises(ModelError, match="--trust-remote-code"):
        resolve(str(other), trust_remote_code=allows_code(ModelConfig(base=str(other))))
    assert not allows_code(ModelConfig(base="owner/name"))
    assert not allows_code(ModelConfig(base="owner/name@main"))

    again = open_or_create(
        str(path), name=None, changes={"train.rank": 4}, redo=False, before=consent
    )
    assert again.config == study.config  # carried on, though the file asks and the study does not

    monkeypatch.setenv(VARIABLE, "true")  # names nothing
    assert not allows_code(study.config.model)


def test_a_key_that_old_records_hold_changes_nothing():
    assert (
        changed_inputs({"model.trust_remote_code": True}, {"model.trust_remote_code": False}) == []
    )
    assert changed_inputs({"model.revision": "a"}, {"model.revision": "b"}) == [
        "model.revision: a -> b"
    ]


@pytest.mark.train
@pytest.mark.long
def test_code_runs_with_the_flag_and_not_without(bundled_models, tmp_path):
    base = tiny_base(tmp_path / "base")
    mark = with_own_code(base)
    few = {**QUICK, **FEW_SCORES, "arms": "qlora", "eval.cells": "Q4"}
    settings = set_words({**few, "model.base": base})
    refused = cli("run", str(SMALL), "--name", "own", *settings)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "--trust-remote-code" in refused.stderr
    assert str(base) in refused.stderr and not mark.exists()

    done = cli("run", str(SMALL), "--name", "own", *settings, "--trust-remote-code", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["state"] == "succeeded"
    assert f"Python code of {base}" in done.stderr
    assert "modeling_own" in mark.read_text()
    assert "trust_remote_code: true" not in Study.open("own").folder.joinpath(
        "study.yaml"
    ).read_text(encoding="utf-8")
    assert (
        json.loads(cli("run", "own", "--trust-remote-code", "--json").stdout)["state"]
        == "succeeded"
    )


@pytest.mark.train
@pytest.mark.long
def test_a_trained_study_answers_with_the_flag_and_not_without(tmp_path):
    study = tiny_study(tiny_base(tmp_path / "base"), "own")
    mark = with_own_code(tmp_path / "base")
    for words in (
        ["ask", "own", "How much?", "--arm", "lora"],
        ["run", "own"],
        ["serve", "own", "--port", "0"],
    ):
        refused = cli(*words)
        assert refused.returncode == 1 and "--trust-remote-code" in refused.stderr, words
        assert str(tmp_path / "base") in refused.stderr.splitlines()[-1]
        assert "Traceback" not in refused.stderr
    assert not mark.exists()
    answer = cli("ask", "own", "How much?", "--arm", "lora", "--trust-remote-code", "--json")
    assert json.loads(answer.stdout)["answers"]["lora"]["tokens"] > 0
    assert "modeling_own" in mark.read_text()
    assert not study.config.model.trust_remote_code


# the page


def press_start(tab: TrainTab, study: Study, trust: bool, config: StudyConfig | None = None) -> str:
    return str(
        tab._start(train_values(tab, study.name, config or study.config, trust=trust))[tab.message]
    )


def test_the_page_runs_code_with_a_tick_for_the_folder_it_names(tmp_path, monkeypatch):
    base, other = tmp_path / "base", tmp_path / "other"
    for folder in (base, other):
        with_own_code(folder)
    started: list[bool] = []
    monkeypatch.setattr(
        "assistant_builder.ui.train.actions.start_run",
        lambda name, redo, trust: started.append(trust),
    )
    monkeypatch.setattr("assistant_builder.ui.train.preflight.make_plan", lambda config, data: None)
    tab, study = wired_train_tab(), new_study("own", model__base=str(base))
    assert "model.trust_remote_code" not in tab.form.components

    def tick_of(values: dict[Any, Any]) -> dict[str, Any]:
        return values[tab.trust]

    shown = tick_of(tab._plan_updates(study, study.config))
    assert shown["visible"] and not shown["value"]
    assert f"{base} (configuration_own.py, modeling_own.py)" in shown["label"]
    assert "The project was not started" in press_start(tab, study, False) and started == []
    # nobody has ticked it
    assert "The project was not started" in press_start(tab, study, True) and started == []

    values = train_values(tab, "own", study.config, trust=True)
    assert tick_of(tab._trusted(values))["value"]
    elsewhere = study.config.with_changes({"model.base": str(other)})
    shown = tick_of(tab._changed(train_values(tab, "own", elsewhere, trust=True)))
    assert shown["visible"] and not shown["value"] and str(other) in shown["label"]
    assert "The project was not started" in press_start(tab, study, True, elsewhere)
    assert started == []
    assert press_start(tab, study, True) == "" and started == [True]
    # for that run alone
    assert "The project was not started" in press_start(tab, study, False) and started == [True]

    plain = new_study("plain")
    assert not tick_of(tab._plan_updates(plain, plain.config))["visible"]
    assert press_start(tab, plain, False) == "" and started == [True, False]


def test_a_run_from_the_page_is_told_by_its_command_alone(monkeypatch, tmp_path):
    begun: list[tuple[list[str], dict[str, str]]] = []

    class Process:
        pid = os.getpid()

        def __init__(self, words: list[str], **options: Any) -> None:
            begun.append((words, options.get("env") or dict(os.environ)))

    monkeypatch.setattr(run.subprocess, "Popen", Process)
    monkeypatch.setattr(run, "lower_priority", lambda pid: None)
    monkeypatch.setenv(VARIABLE, json.dumps([str(tmp_path)]))  # a tick for another run
    new_study("own")
    run.start_run("own")
    run.start_run("own", trust=True)
    assert ["--trust-remote-code" in words for words, _ in begun] == [False, True]
    assert not any(VARIABLE in environment for _, environment in begun)


# addresses


ADDRESSES = {
    "executor.kind": "ray",
    "executor.address": "127.0.0.1:1",
    "executor.store": "s3://of-somebody/studies",
    "eval.judge_url": "http://127.0.0.1:2/v1",
    "eval.judge_model": "judge",
}


_CONTACTED = ("executor.address", "executor.store", "eval.judge_url")


def test_addresses_of_a_study_yaml_are_said_before_they_are_used(tmp_path, monkeypatch, capsys):
    from assistant_builder.store import sync

    said_before: list[str] = []

    def contact(*_: Any, **__: Any) -> None:
        said_before.append(capsys.readouterr().err)

    monkeypatch.setattr(sync, "pull_updates", contact)
    monkeypatch.setattr(run, "run_study", contact)
    path = handed_on(
        tmp_path / "study",
        tmp_path,
        **{**ADDRESSES, "model.base": "smollm2-135m-instruct", "model.trust_remote_code": False},
    )
    commands.run([str(path)], as_json=True, trust_address=[ADDRESSES[key] for key in _CONTACTED])
    json.loads(capsys.readouterr().out)
    named = ("127.0.0.1:1", "s3://of-somebody/studies", "http://127.0.0.1:2/v1")
    assert all(said_before[0].count(address) == 1 for address in named)
    commands.run(["handed-on"], as_json=True)
    assert all(address in said_before[1] for address in named)
    assert StudyConfig().external_addresses == {}


def test_an_address_cannot_hide_itself():
    config = parse_config({"executor": {"kind": "ray", "address": "good\r\x1b[2K\u202ebad:1"}})
    said = config.external_addresses["executor.address"]
    assert said.isprintable() and "\\x1b[2K\\u202ebad:1" in said


def test_the_page_shows_addresses_where_a_run_is_started(monkeypatch):
    tab, study = (
        inside_blocks(TrainTab),
        new_study("far", **{key.replace(".", "__"): value for key, value in ADDRESSES.items()}),
    )
    shown = str(tab._plan_updates(study, study.config)[tab.plan])
    assert all(
        address in shown
        for address in ("127.0.0.1:1", "s3://of-somebody/studies", "http://127.0.0.1:2/v1")
    )
    study.write_run_record("cancelled")  # carried on: nothing else of the start is shown then
    monkeypatch.setattr(train_tab, "_shows_preflight", lambda study, redo: False)
    assert "127.0.0.1:2" in str(tab._plan_updates(study, study.config)[tab.plan])
