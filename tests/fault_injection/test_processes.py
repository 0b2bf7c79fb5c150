"""Detection of live and dead processes does not depend on the clock or on process ids alone."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from assistant_builder.atomic_io import write_json
from assistant_builder.cli import app
from assistant_builder.runner.local_runner import active_tickets, machine_lock, queue_folder
from assistant_builder.runner.step_process import run_as_step
from assistant_builder.study.locks import process_alive, process_identity
from assistant_builder.study.steps import Progress, StepRecord
from assistant_builder.ui.home.view import list_studies
from assistant_builder.ui.study_snapshot import stamp, study_strip, take_snapshot
from assistant_builder.ui.train.view import run_panel
from tests.cluster.conftest import wait_until
from tests.synthetic_study import new_study


def test_a_clock_that_is_set_back_ends_no_run(monkeypatch):
    study = new_study()
    study.write_run_record("running")
    study.write_step(
        StepRecord(
            "data",
            "running",
            started=time.time(),
            pid=os.getpid(),
            process_started=process_identity(os.getpid()),
        )
    )
    hour = 3600.0
    boot = psutil.boot_time()
    now = time.time
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: boot - hour, raising=False)
    monkeypatch.setattr(time, "time", lambda: now() - hour)
    assert study.step("data").state == "running" and study.state == "running"
    assert "running" in str(study_strip(take_snapshot(study))).lower()
    with machine_lock(study, waiting=lambda names: pytest.fail(f"it waited for {names}")):
        assert [ticket.study.name for ticket in active_tickets()] == [study.name]


def test_a_clock_set_back_in_a_step_gives_no_negative_times(monkeypatch):
    study, now = new_study(), time.time

    def work() -> list[Path]:
        monkeypatch.setattr(time, "time", lambda: now() - 86_400)
        study.write_progress("data", Progress(1, 2, "file"))
        return []

    assert run_as_step(study, "data", work) == 0
    record = study.step("data")
    assert record.state == "succeeded" and 0 <= record.seconds < 60
    assert "-" not in str(run_panel(take_snapshot(study), "")).split("<p>")[-1]


def test_changes_of_files_with_future_times_are_detected():
    study = new_study()
    path = study.folder / "study.yaml"
    os.utime(path, (now := time.time() + 86_400, now))
    assert list_studies().entries[0].state == "queued"
    before, entry = stamp([path]), list_studies().entries[0]
    study.write_config(study.config.with_changes({"model.base": "qwen3-0.6b"}))
    os.utime(path, (now, now))  # as if the clock had been set back
    assert stamp([path]) != before
    assert list_studies().entries[0].model == "qwen3-0.6b" != entry.model


def test_a_reused_process_id_does_not_revive_a_dead_process():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        mark = process_identity(process.pid)
        assert process_alive(process.pid, mark)
        assert isinstance(mark, str)
        boot, ticks = mark.split("/")
        for other in (
            f"{boot}/{int(ticks) - 1}",
            f"another-boot/{ticks}",
            0.0,
            psutil.Process().create_time() - 50,
        ):
            assert not process_alive(process.pid, other), other
        study = new_study()
        record = {
            "state": "running",
            "pid": process.pid,
            "process_started": f"{boot}/1",
            "time": 0.0,
            "error": None,
        }
        write_json(study.folder / "run.json", record)
        study.write_step(
            StepRecord("data", "running", pid=process.pid, process_started=f"{boot}/1")
        )
        assert study.step("data").state == "lost" and study.state == "lost"
        output = CliRunner().invoke(app, ["status", study.name]).stdout
        assert "the process ended unexpectedly" in output
        assert f"Resume it with 'assistant-builder run {study.name}'" in output
        panel = run_panel(take_snapshot(study), "")
        assert "interrupted" in panel and "Resume" in panel
        write_json(
            queue_folder() / "000001.json",
            {"study": str(study.folder), "pid": process.pid, "process_started": f"{boot}/1"},
        )
        assert active_tickets() == []


def test_records_of_older_versions_with_a_start_time_are_readable():
    process = psutil.Process()
    assert process_alive(process.pid, process.create_time())
    assert not process_alive(process.pid, process.create_time() - 10)


def test_a_zombie_is_dead():
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    mark = process_identity(process.pid)
    wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE, 60)
    assert not process_alive(process.pid, mark)
    process.wait()
