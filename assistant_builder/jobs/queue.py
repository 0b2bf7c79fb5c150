"""The queue before this machine: one run at a time, first come, first served, whoever started it.

Every run takes a number, a file in ``queue/`` of the home, and goes ahead once no run with a lower number is left. The
files are all there is to the queue: it outlives the page, and what a run that died left behind holds nobody up.
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
from assistant_builder.steps import process_alive, process_mark
from assistant_builder.study import Study, home, run_marker

_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Ticket:
    """A run's place in the queue.

    Attributes:
        number: Its number; lower ones came earlier.
        path: The file that says so.
        study: Folder of the study.
        pid: The process that runs the study's steps.
        process_started: What tells that process from a later one with the same id.
    """

    number: int
    path: Path
    study: Path
    pid: int
    process_started: str | float

    @property
    def holds(self) -> bool:
        """Whether those behind have to wait: its process lives, or a step outlived it and still computes."""
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


def tickets() -> list[Ticket]:
    """Every run that holds the machine or waits for it, the first to come first."""
    found = []
    for path in queue_folder().glob("[0-9]*.json"):
        try:
            record = read_json(path)
            ticket = Ticket(int(path.stem), path, Path(record["study"]), record["pid"], record["process_started"])
        except (OSError, AssistantBuilderError, KeyError, TypeError, ValueError):  # just taken away, or damaged
            continue
        found.append(ticket)
    return sorted((ticket for ticket in found if ticket.holds), key=lambda ticket: ticket.number)


@contextmanager
def our_turn(study: Study, *, now: bool = False, waiting: Callable[[list[str]], None]) -> Iterator[None]:
    """Hold the machine for a run of ``study``, once all that came before are done.

    Args:
        study: The study.
        now: Go ahead without waiting; those who come later wait for this run too.
        waiting: Told the names of the studies before this one, in order, whenever they change; raising from it gives up
            the place.
    """
    ticket = _take_number(study)
    try:
        before: list[str] = []
        while not now and (ahead := [other for other in tickets() if other.number < ticket.number]):
            names = [other.study.name for other in ahead]
            waiting(names)
            before = names
            try:
                time.sleep(_POLL_SECONDS)
            except KeyboardInterrupt:
                study.request_cancel()
        if before:
            waiting([])
        with contextlib.suppress(OSError):  # then an idle chat keeps its memory until it ends by itself
            run_marker().touch()
        yield
    finally:
        ticket.path.unlink(missing_ok=True)


def _take_number(study: Study) -> Ticket:
    """Write the ticket under the next number, and take away those that hold nobody up.

    A run that carries on while a step of the run before still computes takes over the place of that run.
    """
    folder = queue_folder()
    folder.mkdir(parents=True, exist_ok=True)
    pid, mark = os.getpid(), process_mark(os.getpid())
    with FileLock(folder / ".lock"):  # held for a moment; the system frees it where its holder dies
        living = tickets()
        for path in {*folder.glob("[0-9]*.json")} - {ticket.path for ticket in living}:
            path.unlink(missing_ok=True)
        own = next((ticket.number for ticket in living if ticket.study == study.folder), None)
        number = own or (living[-1].number + 1 if living else 1)
        path = folder / f"{number:06d}.json"
        record = {"study": str(study.folder), "pid": pid, "process_started": mark}
        write_json(path, record)
    return Ticket(number, path, study.folder, pid, mark)
