"""The runner of this machine, and its queue: one run at a time, and in it one step at a time.

Every run writes a ticket, a numbered file in ``queue/`` of the home folder, and proceeds once no ticket with a lower
number is active. The files are the complete state of the queue. Tickets of dead runs are ignored.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

from filelock import FileLock
from typing_extensions import TypedDict

from assistant_builder.atomic_io import read_json, write_json
from assistant_builder.child_process import compute_environment
from assistant_builder.config import ExecutorConfig
from assistant_builder.devices import driver_present
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.forking import STEPS, Preloaded, Process, start_python
from assistant_builder.planning.memory_check import require_study_fit
from assistant_builder.runner.backend import Event
from assistant_builder.runner.invalidation import queue_if_stale, raise_for_step_result
from assistant_builder.runner.step_process import step_command
from assistant_builder.study import Study, home, run_marker
from assistant_builder.study.locks import process_alive, process_identity
from assistant_builder.study.steps import FORMATS, needed_before

_LIGHT = {"data", "report"}
"""Steps that import no models."""
_POLL_SECONDS = 0.25
_QUEUE_POLL_SECONDS = 0.5
_GRACE_SECONDS = 600.0
"""Time that a cancelled step has to finish its optimizer step; termination loses the work since the last checkpoint."""


class LocalRunner:
    """Runs steps as processes of this machine, one study at a time; the arguments are those of all runners."""

    dashboard = ""

    def __init__(self, executor: ExecutorConfig | None = None, synced: object = None) -> None:
        pass

    def check_resources(self, study: Study) -> None:
        """Raise ResourceError if the training does not fit into the memory of this machine."""
        require_study_fit(study)

    def acquire(
        self, study: Study, *, now: bool, waiting: Callable[[list[str]], None]
    ) -> AbstractContextManager[None]:
        """Acquire the machine after the earlier runs of other studies; see :func:`machine_lock`."""
        return machine_lock(study, now=now, waiting=waiting)

    def run_steps(self, study: Study, on_event: Callable[[Event], None]) -> None:
        """Run every step that is not done, in order.

        If an earlier run started a step, wait for it and then check it again, because it may have had other settings.
        """
        pending = list(study.steps)
        with _preloaded(study) as preloaded:
            while pending:
                for step in list(pending):
                    if not set(needed_before(step, study.steps)).isdisjoint(pending):
                        continue  # with early stopping the arms wait for each other, and later steps for them
                    done = not queue_if_stale(study, step)
                    ours = done or _run_step(study, step, on_event, preloaded)
                    record = study.step(step)
                    if ours:
                        on_event(Event(step, record.state, study.progress(step), reused=done))
                    if ours and record.state == "succeeded":
                        pending.remove(step)


@contextmanager
def _preloaded(study: Study) -> Iterator[Preloaded | None]:
    """A process with the libraries of the steps, if several of them have work to do."""
    due = [step for step in study.steps if study.step(step).state != "succeeded"]
    several = len(set(due) - _LIGHT) > 1
    found = Preloaded.where_safe(STEPS, gpu_driver=driver_present()) if several else None
    try:
        yield found
    finally:
        if found is not None:
            found.close()


def _run_step(
    study: Study,
    step: str,
    on_event: Callable[[Event], None],
    preloaded: Preloaded | None = None,
) -> bool:
    """Run a step or wait for the process that an earlier run started; returns whether this run started it."""
    process: Process | None = None
    if study.step(step).state != "running":
        log_file = study.log_file(step)
        log_file.parent.mkdir(parents=True, exist_ok=True)
        with log_file.open("ab") as log:
            process = start_python(
                step_command(study, step),
                compute_environment(),
                preloaded=None if step in _LIGHT else preloaded,
                stderr=log,
                piped=False,
                nice="behind" if step == FORMATS else "lower",
            )
    cancelled_at: float | None = None
    while process.poll() is None if process is not None else study.step(step).state == "running":
        try:
            on_event(Event(step, "running", study.progress(step)))
            if study.cancel_requested:
                cancelled_at = cancelled_at or time.monotonic()
                if process is not None and time.monotonic() - cancelled_at > _GRACE_SECONDS:
                    process.terminate()
            time.sleep(_POLL_SECONDS)
        except KeyboardInterrupt:
            study.request_cancel()
    raise_for_step_result(study, step, process.returncode if process is not None else None)
    return process is not None


# The queue


class _TicketFile(TypedDict):
    study: str
    pid: int
    process_started: str | float


@dataclass(frozen=True)
class Ticket:
    """The position of a run in the queue."""

    number: int  # position; lower numbers run earlier
    path: Path
    study: Path  # folder of the study
    pid: int  # the process that runs the study's steps
    process_started: str | float  # its :func:`process_identity`

    @property
    def is_active(self) -> bool:
        """Whether later runs must wait: its process or one of its steps is running; a step can outlive its run."""
        if process_alive(self.pid, self.process_started):
            return True
        return _step_runs(Study(self.study))


def _step_runs(study: Study) -> bool:
    try:
        return any(study.step(step).state == "running" for step in study.steps)
    except (AssistantBuilderError, OSError):  # the study was deleted, or its files are damaged
        return False


def queue_folder() -> Path:
    """The folder of the tickets."""
    return home() / "queue"


def active_tickets() -> list[Ticket]:
    """Tickets of the runs that use or wait for the machine, in order."""
    tickets = []
    for path in queue_folder().glob("[0-9]*.json"):
        # just removed, or damaged
        with contextlib.suppress(OSError, AssistantBuilderError, ValueError):
            record = read_json(path, _TicketFile)
            pid, identity = record["pid"], record["process_started"]
            tickets.append(Ticket(int(path.stem), path, Path(record["study"]), pid, identity))
    return sorted((ticket for ticket in tickets if ticket.is_active), key=attrgetter("number"))


@contextmanager
def machine_lock(
    study: Study, *, now: bool = False, waiting: Callable[[list[str]], None]
) -> Iterator[None]:
    """Reserve the machine for a run of ``study`` after all earlier runs; with ``now``, only later runs wait.

    ``waiting`` is called repeatedly with the names of the studies ahead, in order, and finally with none. An exception
    from it gives up the position in the queue.
    """
    ticket = _take_ticket(study)
    try:
        names: list[str] = []
        while not now and (
            ahead := [other for other in active_tickets() if other.number < ticket.number]
        ):
            names = [other.study.name for other in ahead]
            waiting(names)
            try:
                time.sleep(_QUEUE_POLL_SECONDS)
            except KeyboardInterrupt:
                study.request_cancel()
        if names:
            waiting([])
        with contextlib.suppress(OSError):  # without the marker an idle chat frees its memory later
            run_marker().touch()
        yield
    finally:
        if not _step_runs(study):  # a step that outlives this run keeps the machine
            ticket.path.unlink(missing_ok=True)


def _take_ticket(study: Study) -> Ticket:
    """Write a ticket with the next number, and remove inactive tickets.

    A run that resumes a study while a step of its previous run is running takes the position of that run.
    """
    folder = queue_folder()
    folder.mkdir(parents=True, exist_ok=True)
    pid, identity = os.getpid(), process_identity(os.getpid())
    with FileLock(folder / ".lock"):
        active = active_tickets()
        for path in {*folder.glob("[0-9]*.json")} - {ticket.path for ticket in active}:
            path.unlink(missing_ok=True)
        own = next((ticket.number for ticket in active if ticket.study == study.folder), None)
        number = own or (active[-1].number + 1 if active else 1)
        path = folder / f"{number:06d}.json"
        write_json(path, {"study": str(study.folder), "pid": pid, "process_started": identity})
    return Ticket(number, path, study.folder, pid, identity)
