"""What the command line shows: a bar for each step of a run, tables, and errors in one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from assistant_builder.errors import AssistantBuilderError
from assistant_builder.redaction import visible
from assistant_builder.runner.backend import Event

if TYPE_CHECKING:
    from assistant_builder.data import Findings

MARKS = {"queued": "·", "running": "▸", "succeeded": "✓", "failed": "✗", "cancelled": "■", "lost": "?"}


def human_seconds(seconds: float) -> str:
    """3725 → ``1 h 2 min``; 75 → ``1 min 15 s``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def print_json(document: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=2) + "\n")


def fail(error: AssistantBuilderError) -> NoReturn:
    """One line on standard error, exit code 1."""
    sys.stderr.write(f"assistant-builder: {visible(str(error))}\n")
    raise SystemExit(1)


def note(line: str) -> None:
    """One line on standard error that is no error."""
    sys.stderr.write(f"assistant-builder: {line}\n")


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    """A plain table on standard output; texts are shown as they are."""
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(_literal(cell) for cell in row))
    Console().print(table, markup=False)


def print_findings(findings: Findings) -> None:
    """What checking a data file found, on standard output."""
    dataset = findings.dataset
    columns = ", ".join(f"{role} = {name}" for role, name in dataset.columns.items() if name)
    lines = [f"{Path(dataset.source).name}: {dataset.format}, {dataset.rows} rows, {len(findings.usable)} usable",
             f"columns: {columns}"]
    lines += [f"{problem['severity']}: {problem['title']}. {problem['detail']}" for problem in findings.problems]
    sys.stdout.write(visible("\n".join(lines)) + "\n")


def _literal(text: str) -> str:
    from rich.markup import escape

    return escape(visible(text))


class RunDisplay:
    """Bars on standard error while a study runs.

    Args:
        progress: Rich's live display.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, event: Event) -> None:
        """Show what happened."""
        if event.step not in self._tasks:
            self._tasks[event.step] = self._progress.add_task(
                event.step, total=None, mark=MARKS["running"], message="", eta=""
            )
        task = self._tasks[event.step]
        if event.state == "succeeded":
            self._progress.update(task, total=1, completed=1, mark=MARKS["succeeded"], eta="",
                                  message="done before" if event.reused else "done")
        elif event.progress is not None:
            eta = event.progress.eta_seconds
            self._progress.update(
                task, total=event.progress.total or None, completed=event.progress.done, mark=MARKS[event.state],
                message=event.progress.message, eta=f"{human_seconds(eta)} left" if eta is not None else "",
            )


@contextmanager
def run_display() -> Iterator[RunDisplay]:
    """Show bars while a study runs; on a pipe, only what is done is written."""
    console = Console(stderr=True)
    progress = Progress(
        TextColumn("{task.fields[mark]} {task.description:<12}"), BarColumn(bar_width=30),
        TextColumn("{task.percentage:>3.0f} %"), TextColumn("{task.fields[message]}"),
        TextColumn("{task.fields[eta]}"), console=console, transient=False, disable=False,
    )
    with progress:
        yield RunDisplay(progress)


def on_nodes(status: dict[str, Any]) -> bool:
    """Whether a step of a study ran on a node of a cluster."""
    return any("node" in step for step in status["steps"])


def step_rows(status: dict[str, Any]) -> list[list[str]]:
    """Rows of the steps' table of ``status``."""
    return [
        [f"{MARKS[step['state']]} {step['name']}", step["state"], human_seconds(step["seconds"]),
         *([step.get("node", "")] if on_nodes(status) else [])]
        for step in status["steps"]
    ]
