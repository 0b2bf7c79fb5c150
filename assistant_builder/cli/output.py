"""Output of the command line: progress bars, tables, JSON and errors in one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast, get_args

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from assistant_builder.config import Approach
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.redaction import escape_control_characters
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
    """Print one JSON document to standard output."""
    sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=2) + "\n")


def fail(error: AssistantBuilderError) -> NoReturn:
    """Print an error as one line to standard error, and exit with code 1."""
    fail_with(1, str(error))


def fail_with(code: int, message: str) -> NoReturn:
    """Print a message as one line to standard error, and exit with a code."""
    sys.stderr.write(f"assistant-builder: {escape_control_characters(message)}\n")
    raise SystemExit(code)


def check_choice(option: str, value: str, choices: Sequence[str]) -> None:
    """Raise BadParameter if the value of an option is not one of the choices."""
    if value not in choices:
        raise typer.BadParameter(f"{value!r} is not one of {', '.join(choices)}", param_hint=option)


def check_approach(value: str | None) -> Approach | None:
    """The value of ``--approach``; raises BadParameter if there is no such approach."""
    if value is not None:
        check_choice("--approach", value, get_args(Approach))
    return cast("Approach | None", value)


def note(line: str) -> None:
    """Print one line of information to standard error."""
    sys.stderr.write(f"assistant-builder: {line}\n")


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    """Print a plain table to standard output; cells are not interpreted as markup."""
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(escape(escape_control_characters(cell)) for cell in row))
    Console().print(table, markup=False)


def print_findings(findings: Findings) -> None:
    """Print the findings of a data check to standard output."""
    dataset = findings.dataset
    columns = ", ".join(f"{role} = {name}" for role, name in dataset.columns.items() if name)
    lines = [f"{Path(dataset.source).name}: {dataset.format}, {dataset.rows} rows, {len(findings.usable)} usable",
             f"columns: {columns}"]
    lines += [f"{problem['severity']}: {problem['title']}. {problem['detail']}" for problem in findings.problems]
    sys.stdout.write(escape_control_characters("\n".join(lines)) + "\n")


class RunDisplay:
    """Progress bars on standard error while a study runs."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, event: Event) -> None:
        """Update the bar of the event's step."""
        if event.step not in self._tasks:
            self._tasks[event.step] = self._progress.add_task(
                event.step, total=None, mark=MARKS["running"], message="", eta=""
            )
        task = self._tasks[event.step]
        if event.state == "succeeded":
            self._progress.update(task, total=1, completed=1, mark=MARKS["succeeded"], eta="",
                                  message="already done" if event.reused else "done")
        elif event.progress is not None:
            eta = event.progress.eta_seconds
            self._progress.update(task, total=event.progress.total or None, completed=event.progress.done,
                                  mark=MARKS[event.state], message=event.progress.message,
                                  eta=f"{human_seconds(eta)} left" if eta is not None else "")


@contextmanager
def run_display() -> Iterator[RunDisplay]:
    """Show progress bars while a study runs; on a pipe, only the final state of each bar is written."""
    console = Console(stderr=True)
    progress = Progress(TextColumn("{task.fields[mark]} {task.description:<12}"), BarColumn(bar_width=30),
                        TextColumn("{task.percentage:>3.0f} %"), TextColumn("{task.fields[message]}"),
                        TextColumn("{task.fields[eta]}"), console=console, transient=False, disable=False)
    with progress:
        yield RunDisplay(progress)


def has_nodes(status: dict[str, Any]) -> bool:
    """Whether a step of the study ran on a cluster node."""
    return any("node" in step for step in status["steps"])


def step_rows(status: dict[str, Any]) -> list[list[str]]:
    """Rows of the table of steps that ``status`` prints."""
    return [[f"{MARKS[step['state']]} {step['name']}", step["state"], human_seconds(step["seconds"]),
             *([step.get("node", "")] if has_nodes(status) else [])] for step in status["steps"]]
