"""The progress of a run on standard error: bars in a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from assistant_builder.redaction import terminal_text
from assistant_builder.runner.backend import QUEUE, Event

MARKS = {
    "queued": "·",
    "running": "▸",
    "succeeded": "✓",
    "failed": "✗",
    "cancelled": "■",
    "lost": "?",
}


def human_seconds(seconds: float) -> str:
    """3725 → ``1 h 2 min``; 75 → ``1 min 15 s``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def run_display() -> Iterator[Callable[[Event], None]]:
    """Yield a function that shows the events of a run."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _ProgressLines()
        return
    one_line = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    with Progress(
        TextColumn("{task.fields[mark]} {task.description:<12}"),
        BarColumn(bar_width=10),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[eta]}"),
        TextColumn("{task.fields[message]}", table_column=one_line),
        console=console,
        expand=True,
    ) as progress:
        yield _progress_bars(progress)


def _progress_bars(progress: Progress) -> Callable[[Event], None]:
    tasks: dict[str, TaskID] = {}

    def show(event: Event) -> None:
        at = event.progress
        fields: dict[str, Any] = {}
        if event.state == "succeeded":
            message = "already done" if event.reused else "done"
            fields = {"total": 1, "completed": 1, "message": "", "eta": message}
        elif at is not None:
            message = terminal_text(at.message)
            fields = {
                "total": at.total or None,
                "completed": at.done,
                "message": message,
                "eta": _time_left(event),
            }
        if event.step not in tasks:
            tasks[event.step] = progress.add_task(
                event.step, total=None, mark=MARKS["running"], message="", eta=""
            )
        if fields:
            progress.update(tasks[event.step], mark=MARKS[event.state], **fields)

    return show


class _ProgressLines:
    """Lines for logs: the start of each step, every tenth of it, and its end."""

    def __init__(self) -> None:
        self._started: dict[str, float] = {}
        self._waiting: dict[str, str] = {}
        self._tenths: dict[tuple[str, str], int] = {}

    def __call__(self, event: Event) -> None:
        step, at = event.step, event.progress
        if event.reused:
            self._write(step, "already done")
        elif event.state == "queued":
            if at is not None and at.message not in ("", self._waiting.get(step)):
                self._waiting[step] = at.message
                self._write(step, at.message)
        else:
            if step not in self._started:
                self._started[step] = time.monotonic()
                if event.state == "running":
                    self._write(step, "started")
            if event.state == "succeeded":
                if step != QUEUE:
                    seconds = time.monotonic() - self._started[step]
                    self._write(step, f"done in {human_seconds(seconds)}")
            elif at is not None and at.total:
                tenth = 10 * at.done // at.total
                if self._tenths.get((step, at.unit), 0) < tenth < 10:
                    self._tenths[step, at.unit] = tenth
                    parts = (f"{10 * tenth} %", at.message, _time_left(event))
                    self._write(step, ", ".join(filter(None, parts)))

    @staticmethod
    def _write(step: str, text: str) -> None:
        print(terminal_text(f"{step}: {text}"), file=sys.stderr, flush=True)


def _time_left(event: Event) -> str:
    """The estimated rest of a step, such as ``2 min 5 s left``, and until the verdict; empty if it is not known."""
    at = event.progress
    if at is None or at.eta_seconds is None:
        return ""
    left = f"{human_seconds(at.eta_seconds)} left"
    if at.verdict_seconds is None:
        return left
    return f"verdict in {human_seconds(at.verdict_seconds)}, {left}"
