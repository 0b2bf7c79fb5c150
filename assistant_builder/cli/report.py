"""The commands ``report`` and ``compare``."""

from __future__ import annotations

from typing import Annotated

import typer

from assistant_builder.cli import output
from assistant_builder.cli.options import Json, Name
from assistant_builder.errors import StudyError
from assistant_builder.study import Study


def report(
    name: Name,
    format: Annotated[str, typer.Option(help="html prints the path of the report; md and json print its text.")]
    = "html",
) -> None:
    """Show the report of a study; with html its conclusion is printed to standard error."""
    study = Study.open(name)
    output.check_choice("--format", format, ("html", "md", "json"))
    path = study.folder / f"report.{format}"
    if not path.is_file():
        raise StudyError("there is no report yet", where=f"study {name}",
                         remedy=f"Finish the study with 'assistant-builder run {name}'")
    if format != "html":
        return typer.echo(path.read_text(encoding="utf-8").rstrip("\n"))
    for line in output.conclusion_lines(study):
        typer.echo(line, err=True)
    typer.echo(str(path))


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="Reference study; its primary metric and margin are used.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Study to compare with A.")],
    as_json: Json = False,
) -> None:
    """Compare two studies on their common held-out questions."""
    first, second = Study.open(a), Study.open(b)
    from evals.study_compare import compare_studies, contrast_rows, difference_rows

    comparison = compare_studies(first, second)
    if as_json:
        return output.print_json(comparison)
    typer.echo(f"A = {a}, B = {b}")
    if comparison["differences"]:
        output.print_table(["difference", "A", "B"], difference_rows(comparison))
    output.print_table(["cell", "metric", "A", "B", "B \u2212 A", "95% interval", "p (Holm)"],
                       contrast_rows(comparison))
    typer.echo(comparison["sentence"])
    for warning in comparison["warnings"]:
        typer.echo(f"note: {warning}.")
