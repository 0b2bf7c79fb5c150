"""Studies that are synced with a store while they run: lost machines are replaced by others."""

import os
import signal
import socket
import sys
import time

import pytest
from typer.testing import CliRunner

from assistant_builder.atomic_io import read_jsonl
from assistant_builder.cli import app
from assistant_builder.config import StudyConfig
from assistant_builder.errors import AssistantBuilderError, ConfigError, StoreError, StudyError
from assistant_builder.runner.open_study import open_or_create
from assistant_builder.runner.run import run_study
from assistant_builder.store import mirror as mirrors
from assistant_builder.store.lease import Lease, StoreLeaseFile
from assistant_builder.store.object_store import ObjectStore
from assistant_builder.study import Study
from tests.cluster.conftest import Background, configure_step, starts, wait_until
from tests.conftest import SECRET
from tests.synthetic_study import new_study

TRAIN = "train-lora"


def slept(study: Study) -> list[int]:
    return [record["start"] for record in read_jsonl(study.step_folder(TRAIN) / f"{TRAIN}.slept")]


def opened(source: str) -> Study:
    return open_or_create(source, name=None, changes={}, redo=False)


@pytest.mark.long
def test_a_study_survives_the_loss_of_its_worker_and_machine(
    bucket, tmp_path, monkeypatch, sleeping_steps, quick_leases
):
    url = bucket
    study = new_study("survives", executor__store=url)
    configure_step(study, TRAIN, sleep=3)
    run = Background(study)
    wait_until(lambda: len(slept(study)) >= 5, 60)
    pid = study.step(TRAIN).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert isinstance(run.wait(60), AssistantBuilderError)

    monkeypatch.setenv("ASSISTANT_BUILDER_HOME", str(tmp_path / "another machine"))
    other = opened(f"{url}/survives")
    assert other.folder != study.folder and other.step("data").state == "succeeded"
    assert other.step(TRAIN).state == "failed" and starts(other, TRAIN) == 1
    run_study(other)
    assert other.state == "succeeded" and (starts(other, "data"), starts(other, TRAIN)) == (1, 2)
    assert len(slept(other)) == 30 and slept(other).count(1) >= 5  # resumed, not restarted

    monkeypatch.setenv("ASSISTANT_BUILDER_HOME", str(tmp_path / "a third"))
    third = opened(f"{url}/survives/")
    run_study(third)
    assert third.state == "succeeded" and starts(third, TRAIN) == 2
    assert third.config.executor.store == url
    assert ObjectStore(f"{url}/survives").read(".lease.json") is None

    monkeypatch.setenv("ASSISTANT_BUILDER_HOME", str(study.folder.parents[1]))  # the first is back
    assert opened("survives").state == study.state == "succeeded" and len(slept(study)) == 30
    assert not [
        path
        for path in tmp_path.rglob("*")
        if path.is_file() and SECRET.encode() in path.read_bytes()
    ]


def test_a_second_machine_is_refused(memory, tmp_path, monkeypatch, sleeping_steps, quick_leases):
    study = new_study("once", executor__store=memory)
    store = ObjectStore(f"{memory}/once")
    configure_step(study, TRAIN, sleep=600)
    run = Background(study)
    wait_until(
        lambda: study.step(TRAIN).state == "running" and store.read("arms/lora/status.json"), 60
    )
    monkeypatch.setenv("ASSISTANT_BUILDER_HOME", str(tmp_path / "another machine"))
    with pytest.raises(StudyError, match=f"{socket.gethostname()} is running this study"):
        run_study(opened(f"{memory}/once"))
    # as after a long silence
    Lease(StoreLeaseFile(store, ".lease.json"), "another", "another machine").acquire()
    assert "taken the study over" in str(run.wait(60))
    assert study.step(TRAIN).state == "cancelled"


@pytest.mark.long
def test_a_store_outage_stops_no_step(memory, monkeypatch, sleeping_steps, quick_leases):
    study = new_study("away", executor__store=memory)
    configure_step(study, TRAIN, sleep=2)
    run = Background(study)
    wait_until(lambda: len(slept(study)) >= 3, 60)

    def fail(*_: object) -> None:
        raise StoreError("the store does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(mirrors.Mirror, "push", fail)
        assert isinstance(run.wait(60), StoreError)
    assert all(study.step(step).state == "succeeded" for step in study.steps)
    assert study.run_record() is not None and study.run_record()["state"] == "failed"
    run_study(study)
    assert starts(study, TRAIN) == 1
    assert b"succeeded" in (ObjectStore(f"{memory}/away").read("report.status.json") or b"")


def test_another_study_of_the_same_name_is_not_overwritten(
    memory, tmp_path, monkeypatch, sleeping_steps, quick_leases
):
    run_study(new_study("library", executor__store=memory))
    monkeypatch.setenv("ASSISTANT_BUILDER_HOME", str(tmp_path / "another machine"))
    other = new_study("library", executor__store=memory)
    before = ObjectStore(f"{memory}/library").versions()
    with pytest.raises(StudyError, match="contains a study 'library'.*Rename"):
        run_study(other)
    assert ObjectStore(f"{memory}/library").versions() == before
    assert not (other.folder / "data" / "status.json").exists()
    with pytest.raises(StudyError, match="contains a study 'library'"):
        opened(f"{memory}/library")


@pytest.mark.parametrize(
    "url",
    """
        s3://key:canary-secret@bucket/folder s3://bucket/folder?token=canary-secret
        s3://bucket#canary-secret simplecache::s3://canary-secret bucket/canary-secret s3://
    """.split(),
)
def test_invalid_urls_and_urls_with_secrets_are_refused_without_repeating_them(url, memory):
    with pytest.raises(ConfigError, match="store (must be a plain URL|is not a URL)") as caught:
        StudyConfig().with_changes({"executor.store": url})
    assert "canary-secret" not in str(caught.value)
    if "://" in url:
        result = CliRunner().invoke(app, ["run", f"{url}/library"])
        assert result.exit_code == 1
        assert "canary-secret" not in result.output + str(result.exception)


def test_store_errors_are_one_line_with_a_remedy(bucket, monkeypatch):
    from s3fs import S3FileSystem

    def error_of(url: str) -> str:
        S3FileSystem.clear_instance_cache()  # it remembers address and credentials
        with pytest.raises(StoreError) as caught:
            opened(url)
        assert "\n" not in str(caught.value)
        assert "canary" not in str(caught.value)
        assert str(caught.value.remedy)
        return str(caught.value)

    assert "there is no study there" in error_of(f"{bucket}/nobody")
    assert "there is no bucket" in error_of("s3://nowhere-at-all/studies/library")
    assert "fsspec does not support nothing://" in error_of("nothing://bucket/library")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "s3fs", None)
        assert "pip install 's3fs'" in error_of("s3a://bucket/library")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert "no credentials" in error_of(f"{bucket}/without-any")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "canary-key-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-secret-access-key")
    with socket.socket() as taken:  # bound and not listening
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        began = time.monotonic()
        assert "the request to the store failed" in error_of("s3://bucket-of-nobody/library")
        assert time.monotonic() - began < 30
