"""An address that comes from a file is contacted only after the user has typed or allowed it."""

import contextlib
import json
import os
import pty
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from assistant_builder.cli import app
from assistant_builder.cluster.ray_client import connect
from assistant_builder.config import StudyConfig
from assistant_builder.errors import AssistantBuilderError, ConfigError, StoreError
from assistant_builder.runner.open_study import open_or_create
from assistant_builder.runner.run import run_study
from assistant_builder.store.sync import cancel_nodes, fetch_study, pull_updates
from assistant_builder.study import Study
from assistant_builder.study.addresses import (
    VARIABLE,
    address_environment,
    addresses_file,
    allow_addresses,
    not_allowed,
    require_allowed,
)
from assistant_builder.sweep import open_sweep
from evals.judge.pairwise import judge_study
from tests.evals.judge.judged_study import make_study
from tests.shadowing_modules import installed_command
from tests.synthetic_study import SMALL, evaluated, new_study, trained, with_data
from tests.ui.blocks import train_values, wired_train_tab


class Stranger:
    """A server that counts its connections and answers nothing."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.connections = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            connection.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # closed before
            # wakes the thread, whose accept would go on listening
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def stranger(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stranger]:
    server = Stranger()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    yield server
    server.close()


def addresses_of(stranger: Stranger, kind: str) -> dict[str, Any]:
    return {
        "ray": {"executor.kind": "ray", "executor.address": f"127.0.0.1:{stranger.port}"},
        "client": {"executor.kind": "ray", "executor.address": f"ray://127.0.0.1:{stranger.port}"},
        "store": {"executor.store": "s3://of-somebody/studies"},
        "judge": {
            "eval.judge_url": f"http://127.0.0.1:{stranger.port}/v1",
            "eval.judge_model": "judge",
        },
    }[kind]


KINDS = ["ray", "client", "store", "judge"]


def handed_on(stranger: Stranger, kind: str, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "pairs.csv").write_bytes(SMALL.read_bytes())
    path = folder / "study.yaml"
    path.write_text(
        StudyConfig()
        .with_changes(
            {"name": "handed-on", "data.source": "pairs.csv", **addresses_of(stranger, kind)}
        )
        .to_yaml(),
        encoding="utf-8",
    )
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_an_address_of_a_file_is_refused_in_one_sentence(kind, stranger, tmp_path):
    path = handed_on(stranger, kind, tmp_path / "study")
    for words in (
        ["run", str(path)],
        ["run", str(path), "--name", "mine"],
        ["sweep", str(path), "--set", "train.rank=4,8"],
    ):
        done = CliRunner().invoke(app, words)
        assert isinstance(done.exception, ConfigError), words
        said = str(done.exception)
        assert "comes from a file" in said and "--trust-address" in said and "\n" not in said
    assert not Study.all() and stranger.connections == 0 and not addresses_file().exists()


@pytest.mark.parametrize("kind", KINDS)
def test_an_address_of_a_study_folder_is_refused_wherever_it_would_be_contacted(kind, stranger):
    study = new_study("handed-on")
    study.write_config(study.config.with_changes(addresses_of(stranger, kind)))  # as it came
    for use in (
        lambda: run_study(study),
        lambda: open_or_create("handed-on", name=None, changes={}, redo=False) and run_study(study),
        lambda: require_allowed(study.config.addresses),
    ):
        with pytest.raises(ConfigError, match="comes from a file"):
            use()
    if kind in ("ray", "client"):
        with pytest.raises(ConfigError, match="comes from a file"):
            connect(study.config.executor.address)
    if kind == "store":
        for contact in (
            lambda: cancel_nodes(study),
            lambda: fetch_study("s3://of-somebody/studies/x"),
            lambda: pull_updates(study, "s3://of-somebody/studies"),
        ):
            with pytest.raises(ConfigError, match="comes from a file"):
                contact()
        assert isinstance(
            CliRunner().invoke(app, ["cancel", "handed-on"]).exception, AssistantBuilderError
        )
    if kind == "judge":
        judged = make_study()
        judged.write_config(judged.config.with_changes(addresses_of(stranger, kind)))
        with pytest.raises(ConfigError, match="comes from a file"):
            judge_study(judged)
    assert stranger.connections == 0


def test_serving_on_a_cluster_asks_too(stranger):
    study = evaluated(trained(with_data(new_study("served"))))
    for arm in study.config.arms:
        (study.arm_folder(arm) / "adapter").mkdir()
        (study.arm_folder(arm) / "adapter" / "adapter_model.safetensors").touch()
    study.write_config(
        study.config.with_changes({"executor.address": f"127.0.0.1:{stranger.port}"})
    )
    done = CliRunner().invoke(app, ["serve", "served", "--backend", "ray"])
    assert isinstance(done.exception, ConfigError) and "--trust-address" in str(done.exception)
    assert stranger.connections == 0


def test_the_option_allows_and_is_remembered(stranger, tmp_path):
    path = handed_on(stranger, "ray", tmp_path / "study")
    address = f"127.0.0.1:{stranger.port}"
    other = CliRunner().invoke(app, ["run", str(path), "--trust-address", "127.0.0.1:1"])
    assert isinstance(other.exception, ConfigError) and stranger.connections == 0
    stranger.close()  # nothing answers now, which is said at once
    done = CliRunner().invoke(app, ["run", str(path), "--trust-address", address])
    assert "no Ray cluster answers" in str(done.exception)
    assert stat.S_IMODE(addresses_file().stat().st_mode) == 0o600
    assert json.loads(addresses_file().read_text()) == [address]
    again = CliRunner().invoke(app, ["run", "handed-on"])  # without a question
    assert "no Ray cluster answers" in str(again.exception)


def test_an_address_that_the_user_typed_is_allowed(stranger, tmp_path):
    typed = {
        "executor.store": "s3://own/studies",
        "eval.judge_url": "'http://own.example/v1'",
        "eval.judge_model": "m",
    }
    study = open_or_create(str(SMALL), name="own", changes=typed, redo=False)
    assert not_allowed(study.config.addresses) == {}
    path = handed_on(stranger, "judge", tmp_path / "study")
    with pytest.raises(
        ConfigError, match="http://127"
    ):  # one typed address does not allow the other one
        open_or_create(
            str(path),
            name=None,
            changes={"executor.store": "s3://own2/x"},
            redo=False,
            before=lambda config: require_allowed(config.addresses),
        )
    sweep = open_sweep(
        str(SMALL),
        name="s",
        settings=["train.rank=4,8", "executor.kind=ray", "executor.address=own:1"],
    )
    assert not_allowed(sweep.trials[0].config.addresses) == {}
    with pytest.raises(StoreError, match="no study there"):  # typed, contacted, and no store
        open_or_create(f"file://{tmp_path}/handed-on", name=None, changes={}, redo=False)
    assert not_allowed({"executor.store": f"file://{tmp_path}/"}) == {}


def test_a_store_cannot_name_further_addresses(stranger, bucket, tmp_path, monkeypatch):
    from assistant_builder.store.mirror import Mirror
    from assistant_builder.store.object_store import ObjectStore

    monkeypatch.setenv("AWS_ENDPOINT_URL", os.environ["AWS_ENDPOINT_URL"])
    theirs = new_study("handed-on", executor__store=bucket)
    theirs.write_config(theirs.config.with_changes(addresses_of(stranger, "judge")))
    Mirror(theirs, ObjectStore(f"{bucket}/handed-on")).push()
    monkeypatch.setenv("ASSISTANT_BUILDER_HOME", str(tmp_path / "mine"))
    done = CliRunner().invoke(app, ["run", f"{bucket}/handed-on"])
    assert isinstance(done.exception, ConfigError) and "eval.judge_url" in str(done.exception)
    assert stranger.connections == 0


def test_own_addresses_need_no_permission():
    assert not_allowed({"executor.address": "auto", "executor.store": "memory://x"}) == {}
    assert (
        not_allowed(
            {"executor.address": "memory://x", "executor.store": "auto", "eval.judge_url": "local"}
        )
        != {}
    )
    assert not_allowed({"executor.address": "auto "}) != {}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "null",
        "{}",
        '{"http://x": 1}',
        "[[]]",
        '["other"]',
        "[" * 10_000,
        '"http://x"',
        "[1, null]",
        "\x00",
    ],
)
def test_a_damaged_file_allows_nothing(content, home):
    home.mkdir()
    addresses_file().write_text(content)
    assert not_allowed({"eval.judge_url": "http://x"})
    allow_addresses(["http://x/"])
    assert not not_allowed({"eval.judge_url": "http://x"})


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_a_file_that_others_can_write_allows_nothing():
    allow_addresses(["http://x"])
    addresses_file().chmod(0o666)
    assert not_allowed({"eval.judge_url": "http://x"})


def test_a_node_of_the_cluster_is_told_what_is_allowed(monkeypatch, tmp_path):
    allow_addresses(["http://own/v1"])
    told = address_environment(
        {"eval.judge_url": "http://own/v1", "executor.store": "s3://of-somebody"}
    )
    monkeypatch.setenv("ASSISTANT_BUILDER_HOME", str(tmp_path / "node"))
    assert not_allowed({"eval.judge_url": "http://own/v1"})
    monkeypatch.setenv(VARIABLE, told[VARIABLE])
    assert not not_allowed({"eval.judge_url": "http://own/v1"})
    assert not_allowed({"executor.store": "s3://of-somebody"})


@pytest.mark.skipif(not hasattr(pty, "openpty"), reason="no terminals")
@pytest.mark.parametrize("answer", ["n", "", "y"])
def test_at_a_terminal_the_user_is_asked(answer, stranger, tmp_path):
    path = handed_on(stranger, "ray", tmp_path / "study")
    stranger.close()
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        installed_command("run", str(path)), stdin=theirs, stderr=theirs, stdout=subprocess.DEVNULL
    )
    os.close(theirs)
    said = b""
    while b"[y/N]" not in said:
        said += os.read(ours, 1000)
    os.write(ours, answer.encode() + b"\n")
    try:
        while chunk := os.read(ours, 1000):
            said += chunk
    except OSError:  # the process has ended
        pass
    os.close(ours)
    assert process.wait() == 1
    assert f"127.0.0.1:{stranger.port} (executor.address)" in said.decode()
    assert (b"no Ray cluster answers" in said) is (answer == "y") is addresses_file().exists()


def test_the_page_starts_no_run_before_the_checkbox_is_ticked(stranger, monkeypatch):
    started: list[str] = []
    monkeypatch.setattr(
        "assistant_builder.ui.train.actions.start_run",
        lambda name, redo, trust: started.append(name),
    )
    monkeypatch.setattr("assistant_builder.ui.train.preflight.make_plan", lambda config, data: None)
    tab, study = wired_train_tab(), new_study("handed-on")
    study.write_config(study.config.with_changes(addresses_of(stranger, "judge")))
    values = train_values(tab, "handed-on", study.config)
    ticked = {**values, tab.connect: True}

    def tick_of(shown: dict[Any, Any]) -> dict[str, Any]:
        return shown[tab.connect]

    asked = tick_of(tab._plan_updates(study, study.config))
    assert asked["visible"]
    assert not asked["value"]
    assert f"http://127.0.0.1:{stranger.port}/v1" in asked["label"]
    refused = str(tab._start(values)[tab.message])
    assert "The project was not started" in refused
    assert f"127.0.0.1:{stranger.port}" in refused
    assert not started
    tab._allowed(values)
    assert "The project was not started" in str(tab._start(values)[tab.message])
    other = study.config.with_changes({"eval.judge_url": "http://other.example/v1"})
    assert not tick_of(tab._allowed(ticked))["visible"]
    shown = tick_of(tab._changed(train_values(tab, "handed-on", other)))
    assert shown["visible"]
    assert "other.example" in shown["label"]
    assert "127.0.0.1" not in shown["label"]
    again = tab._start(train_values(tab, "handed-on", other))
    assert "The project was not started" in str(again[tab.message])
    assert str(tab._start(values)[tab.message]) == "" and started == ["handed-on"]
    assert stranger.connections == 0
