"""The commands ``report`` and ``compare``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from assistant_builder.cli import output
from assistant_builder.cli.options import Json, Name
from assistant_builder.errors import StudyError
from assistant_builder.study import Study
from assistant_builder.study.report_types import read_report

_FAILING = {"worse": ("worse",), "inconclusive": ("worse", "inconclusive")}
"""Value of ``--fail-if`` → verdicts that fail."""
FailIf = Annotated[
    str | None,
    typer.Option(
        metavar="VERDICT",
        help="worse or inconclusive: exit with code 3 if that "
        "is the verdict. inconclusive also fails if the verdict is worse.",
    ),
]


def _exit_if_failing(fail_if: str | None, verdicts: Sequence[str], sentence: str) -> None:
    """Exit with code 3, and one line on standard error, if a verdict fails; no verdict counts as inconclusive."""
    if fail_if is None:
        return
    failing = [verdict for verdict in verdicts or ("inconclusive",) if verdict in _FAILING[fail_if]]
    if failing:
        verdict = "worse" if "worse" in failing else failing[0]
        output.fail_with(3, f"the verdict is {verdict} (--fail-if {fail_if}): {sentence}")


def report(
    name: Name,
    format: Annotated[
        str, typer.Option(help="html prints the path of the report; md and json print its text.")
    ] = "html",
    fail_if: FailIf = None,
) -> None:
    """Show the report of a study; with html its conclusion is printed to standard error, unless a verdict may fail."""
    study = Study.open(name)
    output.check_choice("--format", format, ("html", "md", "json"))
    if fail_if is not None:
        output.check_choice("--fail-if", fail_if, tuple(_FAILING))
    path = study.folder / f"report.{format}"
    if not path.is_file():
        raise StudyError(
            "there is no report yet",
            where=f"study {name}",
            remedy=f"Finish the study with 'assistant-builder run {name}'",
        )
    if format == "html" and fail_if is None:
        for line in output.conclusion_lines(study):
            output.echo(line, err=True)
    found = read_report(study.folder / "report.json")
    if format == "json":
        output.print_json(found)
    else:
        output.echo(
            str(path) if format == "html" else path.read_text(encoding="utf-8").rstrip("\n")
        )
    _exit_if_failing(fail_if, [found["verdict"]["outcome"]], found["sentence"])


def compare(
    a: Annotated[
        str,
        typer.Argument(
            metavar="A", help="Reference study; its primary metric and margin are used."
        ),
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="Study to compare with A.")],
    as_json: Json = False,
    fail_if: FailIf = None,
) -> None:
    """Compare two studies on their common held-out questions."""
    if fail_if is not None:
        output.check_choice("--fail-if", fail_if, tuple(_FAILING))
    first, second = Study.open(a), Study.open(b)
    from evals.study_compare import compare_studies, contrast_rows, difference_rows

    comparison = compare_studies(first, second)
    if as_json:
        output.print_json(comparison)
    else:
        output.echo(f"A = {a}, B = {b}")
        if comparison["differences"]:
            output.print_table(["difference", "A", "B"], difference_rows(comparison))
        output.print_table(
            ["cell", "metric", "A", "B", "B \u2212 A", "95% interval", "p (Holm)"],
            contrast_rows(comparison),
        )
        output.echo(comparison["sentence"])
        for warning in comparison["warnings"]:
            output.echo(f"note: {warning}.")
    _exit_if_failing(
        fail_if, [verdict["outcome"] for verdict in comparison["verdicts"]], comparison["sentence"]
    )
