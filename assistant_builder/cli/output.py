"""Output of the command line: progress bars, tables, JSON and errors in one line."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
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
from assistant_builder.redaction import terminal_json, terminal_text
from assistant_builder.runner.backend import QUEUE, Event
from assistant_builder.study.report_types import read_report

if TYPE_CHECKING:
    from assistant_builder.data import Findings
    from assistant_builder.study import Study

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


def print_json(document: Any) -> None:
    """Print one JSON document to standard output."""
    sys.stdout.write(terminal_json(json.dumps(document, ensure_ascii=False, indent=2)) + "\n")


def echo(text: str, *, err: bool = False) -> None:
    """Print a text to standard output, or to standard error; all that the commands print goes through this module."""
    typer.echo(terminal_text(text), err=err)


def fail(error: AssistantBuilderError) -> NoReturn:
    """Print an error as one line to standard error, and exit with code 1."""
    fail_with(1, str(error))


def fail_with(code: int, message: str) -> NoReturn:
    """Print a message as one line to standard error, and exit with a code."""
    echo(f"assistant-builder: {message}", err=True)
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


def is_terminal() -> bool:
    """Whether somebody can be asked: input and messages are those of a terminal."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def note(line: str) -> None:
    """Print one line of information to standard error."""
    echo(f"assistant-builder: {line}", err=True)


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    """Print a plain table to standard output; cells are not interpreted as markup."""
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(escape(terminal_text(cell)) for cell in row))
    Console().print(table, markup=False)


def print_findings(findings: Findings) -> None:
    """Print the findings of a data check to standard output."""
    dataset = findings.dataset
    columns = ", ".join(f"{role} = {name}" for role, name in dataset.columns.items() if name)
    lines = [
        f"{Path(dataset.source).name}: {dataset.format}, {dataset.rows} rows, {len(findings.usable)} usable",
        f"columns: {columns}",
    ]
    lines += [
        dataset.numbers.in_text(f"{problem['severity']}: {problem['title']}. {problem['detail']}")
        for problem in findings.problems
    ]
    if dataset.numbers.note:
        lines.append(dataset.numbers.note)
    echo("\n".join(lines))


class ProgressBars:
    """A progress bar on standard error for each step of a run."""

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
            self._progress.update(
                task,
                total=1,
                completed=1,
                mark=MARKS["succeeded"],
                eta="",
                message="already done" if event.reused else "done",
            )
        elif event.progress is not None:
            self._progress.update(
                task,
                total=event.progress.total or None,
                completed=event.progress.done,
                mark=MARKS[event.state],
                message=terminal_text(event.progress.message),
                eta=_time_left(event),
            )


class ProgressLines:
    """Lines on standard error, for logs: the start of each step, every tenth of it, and its end."""

    def __init__(self) -> None:
        self._started: dict[str, float] = {}
        self._waiting: dict[str, str] = {}
        self._tenths: dict[tuple[str, str], int] = {}

    def __call__(self, event: Event) -> None:
        """Write a line if the event's step has started, has ended, waits, or has done another tenth."""
        step, progress = event.step, event.progress
        if event.reused:
            return self._write(step, "already done")
        if event.state == "queued":
            message = progress.message if progress is not None else ""
            if message and message != self._waiting.get(step):
                self._waiting[step] = message
                self._write(step, message)
            return None
        if step not in self._started:
            self._started[step] = time.monotonic()
            if event.state == "running":
                self._write(step, "started")
        if event.state == "succeeded":
            if step != QUEUE:
                self._write(
                    step, f"done in {human_seconds(time.monotonic() - self._started[step])}"
                )
        elif progress is not None and progress.total:
            tenth = 10 * progress.done // progress.total
            if self._tenths.get((step, progress.unit), 0) < tenth < 10:
                self._tenths[step, progress.unit] = tenth
                self._write(
                    step,
                    ", ".join(
                        filter(None, (f"{10 * tenth} %", progress.message, _time_left(event)))
                    ),
                )
        return None

    def _write(self, step: str, text: str) -> None:
        echo(f"{step}: {text}", err=True)


def _time_left(event: Event) -> str:
    """The estimated rest of a step, such as ``2 min 5 s left``; empty if it is not known."""
    seconds = event.progress.eta_seconds if event.progress is not None else None
    return "" if seconds is None else f"{human_seconds(seconds)} left"


@contextmanager
def run_display() -> Iterator[Callable[[Event], None]]:
    """Show the progress of a run on standard error: as bars in a terminal, otherwise as lines."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield ProgressLines()
        return
    progress = Progress(
        TextColumn("{task.fields[mark]} {task.description:<12}"),
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[message]}"),
        TextColumn("{task.fields[eta]}"),
        console=console,
        transient=False,
        disable=False,
    )
    with progress:
        yield ProgressBars(progress)


def conclusion_lines(study: Study) -> list[str]:
    """The conclusion of a study's report, as lines for the terminal."""
    from assistant_builder.quantization import texts_of
    from evals.report.conclusion import conclude

    with texts_of(study.config.model.quant_type):
        return list(conclude(read_report(study.folder / "report.json")).lines)


def has_nodes(status: dict[str, Any]) -> bool:
    """Whether a step of the study ran on a cluster node."""
    return any("node" in step for step in status["steps"])


def step_rows(status: dict[str, Any]) -> list[list[str]]:
    """Rows of the table of steps that ``status`` prints."""
    return [
        [
            f"{MARKS[step['state']]} {step['name']}",
            step["state"],
            human_seconds(step["seconds"]),
            *([step.get("node", "")] if has_nodes(status) else []),
        ]
        for step in status["steps"]
    ]
