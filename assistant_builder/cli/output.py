"""Output of the command line: tables, JSON and errors in one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from assistant_builder.errors import AssistantBuilderError
from assistant_builder.i18n import (
    Text,
    environment_language,
    render,
    use_language,
    use_row_numbers,
)
from assistant_builder.redaction import terminal_json, terminal_text

if TYPE_CHECKING:
    from assistant_builder.api import Study
    from assistant_builder.data import Findings


def print_json(document: Any) -> None:
    """Print one JSON document to standard output."""
    sys.stdout.write(terminal_json(json.dumps(document, ensure_ascii=False, indent=2)) + "\n")


def echo(text: str, *, err: bool = False) -> None:
    """Print a text to standard output, or to standard error; all that the commands print goes through this module."""
    typer.echo(terminal_text(text), err=err)


def fail(error: AssistantBuilderError) -> NoReturn:
    """Print an error as one line to standard error, and exit with code 1."""
    fail_with(1, said(error))


def conclusion(study: Study) -> list[str]:
    """The conclusion of a report in the language of the environment."""
    with use_language(environment_language()):
        return study.conclusion


def said(error: AssistantBuilderError) -> str:
    """An error in the language of the environment."""
    with use_language(environment_language()):
        return str(error)


def fail_with(code: int, message: Text) -> NoReturn:
    """Print a message as one line to standard error, in the language of the environment, and exit with a code."""
    with use_language(environment_language()):
        echo(f"assistant-builder: {message}", err=True)
    raise SystemExit(code)


def check_choice(option: str, value: str, choices: Sequence[str]) -> None:
    """Raise BadParameter if the value of an option is not one of the choices."""
    if value not in choices:
        raise typer.BadParameter(f"{value!r} is not one of {', '.join(choices)}", param_hint=option)


def confirm(question: str) -> bool:
    """Ask the user, if input and messages are those of a terminal; else False."""
    terminal = sys.stdin.isatty() and sys.stderr.isatty()
    return terminal and typer.confirm(question, default=False, err=True)


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
    with use_row_numbers(dataset.numbers.shown):
        lines += [
            f"{problem['severity']}: {problem['title']}. {problem['detail']}"
            for problem in findings.problems
        ]
    if dataset.numbers.note:
        lines.append(render(dataset.numbers.note))
    echo("\n".join(lines))
