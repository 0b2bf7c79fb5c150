"""The queue of runs on this machine, which executes one run at a time in the order of arrival.

Every run writes a ticket, a numbered file in ``queue/`` of the home folder, and proceeds once no ticket with a lower
number is active. The files are the complete state of the queue. Tickets of dead runs are ignored.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from assistant_builder.atomic_io import read_json, write_json
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.study import Study, home, run_marker
from assistant_builder.study.locks import process_alive, process_identity

_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Ticket:
    """The position of a run in the queue.

    Attributes:
        number: Position; lower numbers run earlier.
        path: File of the ticket.
        study: Folder of the study.
        pid: The process that runs the study's steps.
        process_started: Its :func:`process_identity`.
    """

    number: int
    path: Path
    study: Path
    pid: int
    process_started: str | float

    @property
    def is_active(self) -> bool:
        """Whether later runs must wait: its process or one of its steps is running; a step can outlive its run."""
        if process_alive(self.pid, self.process_started):
            return True
        study = Study(self.study)
        try:
            return any(study.step(step).state == "running" for step in study.steps)
        except (AssistantBuilderError, OSError):  # the study was deleted, or its files are damaged
            return False


def queue_folder() -> Path:
    """The folder of the tickets."""
    return home() / "queue"


def active_tickets() -> list[Ticket]:
    """Tickets of the runs that use or wait for the machine, in order."""
    found = []
    for path in queue_folder().glob("[0-9]*.json"):
        try:
            record = read_json(path)
            ticket = Ticket(int(path.stem), path, Path(record["study"]), record["pid"], record["process_started"])
        except (OSError, AssistantBuilderError, KeyError, TypeError, ValueError):  # just removed, or damaged
            continue
        found.append(ticket)
    return sorted((ticket for ticket in found if ticket.is_active), key=lambda ticket: ticket.number)


@contextmanager
def machine_lock(study: Study, *, now: bool = False, waiting: Callable[[list[str]], None]) -> Iterator[None]:
    """Reserve the machine for a run of ``study`` after all earlier runs.

    Args:
        study: The study.
        now: Do not wait for earlier runs; later runs wait for this run in any case.
        waiting: Called repeatedly with the names of the studies ahead, in order, and finally with none. An exception
            from it gives up the position in the queue.
    """
    ticket = _take_ticket(study)
    try:
        names: list[str] = []
        while not now and (ahead := [other for other in active_tickets() if other.number < ticket.number]):
            names = [other.study.name for other in ahead]
            waiting(names)
            try:
                time.sleep(_POLL_SECONDS)
            except KeyboardInterrupt:
                study.request_cancel()
        if names:
            waiting([])
        with contextlib.suppress(OSError):  # without the marker an idle chat frees its memory later
            run_marker().touch()
        yield
    finally:
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
