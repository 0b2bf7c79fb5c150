"""The queue of runs on a machine, and the priority of computing processes."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from assistant_builder.atomic_io import write_json
from assistant_builder.child_process import lower_priority
from assistant_builder.cli import app
from assistant_builder.errors import Cancelled, StudyError
from assistant_builder.runner import local_runner
from assistant_builder.runner.backend import QUEUE, Event
from assistant_builder.runner.local_runner import (
    LocalRunner,
    active_tickets,
    machine_lock,
    queue_folder,
)
from assistant_builder.runner.run import run_study
from assistant_builder.study import Study
from assistant_builder.study.steps import StepRecord
from tests.cluster.conftest import wait_until
from tests.synthetic_study import new_study, with_data


@pytest.fixture(autouse=True)
def quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_runner, "_QUEUE_POLL_SECONDS", 0.01)


@contextmanager
def living(*, own_session: bool = False) -> Iterator[psutil.Process]:
    """An idle process for the duration of the block."""
    words = [sys.executable, "-c", "input()"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=own_session) as process:
        yield psutil.Process(process.pid)


def ticket(number: int, study: Study, process: psutil.Process) -> Path:
    path = queue_folder() / f"{number:06d}.json"
    write_json(
        path,
        {"study": str(study.folder), "pid": process.pid, "process_started": process.create_time()},
    )
    return path


def never(names: list[str]) -> None:
    raise AssertionError(f"it waited for {names}")


def test_runs_are_executed_in_order_of_arrival():
    studies = [new_study(name) for name in ("one", "two", "three")]
    order: list[str] = []
    at_once: list[int] = []
    inside: list[str] = []
    reported: dict[str, list[list[str]]] = {study.name: [] for study in studies}
    first_may_end = threading.Event()

    def run(study: Study) -> None:
        with machine_lock(study, waiting=reported[study.name].append):
            inside.append(study.name)
            order.append(study.name)
            at_once.append(len(inside))
            if study.name == "one":
                first_may_end.wait(10)
            inside.remove(study.name)

    threads = []
    for place, study in enumerate(studies):
        threads.append(threading.Thread(target=run, args=(study,)))
        threads[-1].start()
        wait_until(lambda: len(active_tickets()) == place + 1)  # noqa: B023 - read before the next round
    wait_until(lambda: reported["three"])
    first_may_end.set()
    for thread in threads:
        thread.join(10)
    assert order == ["one", "two", "three"] and at_once == [1, 1, 1]
    assert reported["one"] == []
    assert reported["two"][0] == ["one"]
    assert reported["three"][0] == ["one", "two"]
    assert reported["two"][-1] == reported["three"][-1] == []
    assert active_tickets() == [] and not list(queue_folder().glob("[0-9]*"))


def test_tickets_of_dead_runs_are_ignored_and_removed():
    with living() as process:
        left = ticket(4, new_study("dead"), process)
    with machine_lock(new_study("next"), waiting=never):
        assert not left.exists() and [taken.number for taken in active_tickets()] == [1]
    (queue_folder() / "000007.json").write_text("{")
    with machine_lock(new_study("last"), waiting=never):
        assert [taken.study.name for taken in active_tickets()] == ["last"]


def test_a_step_that_outlived_its_run_blocks_the_queue():
    orphaned, other = new_study("orphaned"), new_study("other")
    with living() as process:
        ticket(1, orphaned, process)
    with living() as step:
        orphaned.write_step(
            StepRecord("data", state="running", pid=step.pid, process_started=step.create_time())
        )
        assert [taken.study.name for taken in active_tickets()] == ["orphaned"]
        reported: list[list[str]] = []

        def run_other() -> None:
            with machine_lock(other, waiting=reported.append):
                pass

        waits = threading.Thread(target=run_other)
        waits.start()
        wait_until(lambda: reported)
        with machine_lock(orphaned, waiting=never):  # carrying on takes over its own place
            assert [taken.study.name for taken in active_tickets()] == ["orphaned", "other"]
    waits.join(10)
    assert reported[0] == ["orphaned"]


def test_run_with_now_does_not_wait_but_blocks_later_runs():
    first, second, third = (new_study(name) for name in ("first", "second", "third"))
    with living() as process:
        ticket(1, first, process)
        reported: list[list[str]] = []

        def give_up(names: list[str]) -> None:
            reported.append(names)
            raise Cancelled("enough")

        with (
            machine_lock(second, now=True, waiting=never),
            pytest.raises(Cancelled),
            machine_lock(third, waiting=give_up),
        ):
            pass
        assert reported == [["first", "second"]]
        assert [taken.study.name for taken in active_tickets()] == ["first"]


def test_a_waiting_run_is_shown_as_queued_and_can_be_cancelled(monkeypatch):
    monkeypatch.setattr(
        LocalRunner, "run_steps", lambda self, study, on_event: pytest.fail("it ran")
    )
    busy, study = new_study("busy"), with_data(new_study("waiting"))
    seen: list[tuple[str, dict[str, object]]] = []

    def watch(event: Event) -> None:
        assert event.step == QUEUE and event.state == "queued" and event.progress is not None
        seen.append((event.progress.message, study.status()))
        study.request_cancel()

    with living() as process:
        ticket(1, busy, process)
        with pytest.raises(Cancelled):
            run_study(study, on_event=watch, check=lambda study: None, redo=True)
    ((message, status),) = seen
    assert message == "waits for study busy"
    assert status["state"] == "queued" and status["behind"] == ["busy"]
    assert study.state == "cancelled" and study.queued_behind == [] and active_tickets() == []
    assert study.step("data").state == "succeeded"  # outputs are deleted only when the run proceeds


def test_a_run_that_died_in_the_queue_is_lost():
    study = new_study()
    study.write_run_record("queued", queued_behind=["other"])
    assert study.state == "queued" and study.queued_behind == ["other"]
    record = study.run_record()
    assert record is not None
    write_json(study.folder / "run.json", {**record, "process_started": 0.0})
    assert study.state == "lost" and study.queued_behind == []


def test_cancel_command_accepts_only_running_and_queued_studies():
    study = new_study()
    refused = CliRunner().invoke(app, ["cancel", study.name])
    assert isinstance(refused.exception, StudyError) and not study.cancel_requested
    study.write_run_record("queued", queued_behind=["rivers", "lakes"])
    assert (
        "queued, waits for study rivers and 1 more"
        in CliRunner().invoke(app, ["status", study.name]).stdout
    )
    assert CliRunner().invoke(app, ["cancel", study.name]).exit_code == 0 and study.cancel_requested


def session_niceness(pid: int) -> str | None:
    """Autogroup niceness of the process's session; None if the kernel has no autogroups."""
    file = Path(f"/proc/{pid}/autogroup")
    said = file.read_text().split() if file.is_file() else []
    return said[-1] if said else None


def test_a_step_that_outlives_its_run_keeps_the_machine():
    study, other = with_data(new_study("first")), new_study("second")
    with living() as process:
        started = process.create_time()
        record = StepRecord("evaluate", "running", pid=process.pid, process_started=started)
        with machine_lock(study, waiting=never):
            study.write_step(record)
        assert [ticket.study for ticket in active_tickets()] == [study.folder]
        with machine_lock(study, waiting=never):  # the run that carries on
            study.write_step(StepRecord("evaluate", "succeeded"))
    assert active_tickets() == []
    with machine_lock(other, waiting=never):
        pass


def test_computing_processes_have_low_priority():
    with living(own_session=True) as process:
        before = process.nice()
        lower_priority(process.pid)
        assert process.nice() == max(before, 10)
        lower_priority(process.pid)
        assert process.nice() == max(before, 10)
        # niceness alone counts in its session only
        assert session_niceness(process.pid) in (None, "10")
        lower_priority(process.pid, behind=True)
        assert process.nice() == 19 and session_niceness(process.pid) in (None, "19")
        lower_priority(process.pid)
        assert process.nice() == 19
    lower_priority(process.pid)  # it has ended


def test_lower_priority_does_not_change_another_session():
    before = session_niceness(os.getpid())
    with living() as process:
        lower_priority(process.pid)
        assert process.nice() >= 10
    assert session_niceness(os.getpid()) == before
