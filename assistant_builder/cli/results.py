"""The commands ``report``, ``compare``, ``ask`` and ``export``, which use a study that was run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from assistant_builder.arms import ARMS, label, with_arm
from assistant_builder.cli import output
from assistant_builder.cli.options import Consent, Json, Name, TrustRemoteCode
from assistant_builder.errors import ConfigError, StudyError
from assistant_builder.export_formats import DEFAULT_FORMAT, parse_export
from assistant_builder.redaction import escape_control_characters
from assistant_builder.runner.backend import Event
from assistant_builder.study import Study


def report(
    name: Name,
    format: Annotated[str, typer.Option(help="html prints the path of the report; md and json print its text.")]
    = "html",
) -> None:
    """Show the report of a study."""
    study = Study.open(name)
    output.check_choice("--format", format, ("html", "md", "json"))
    path = study.folder / f"report.{format}"
    if not path.is_file():
        raise StudyError("there is no report yet", where=f"study {name}",
                         remedy=f"Finish the study with 'assistant-builder run {name}'")
    typer.echo(str(path) if format == "html" else path.read_text(encoding="utf-8").rstrip("\n"))


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


def ask(
    name: Name,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="The question, in quotes.")],
    arm: Annotated[str, typer.Option(help=f"Who answers: {', '.join(ARMS)}, or both (every arm that the study "
                                     "trains).")] = "both",
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Ask the trained assistants one question."""
    output.check_choice("--arm", arm, (*ARMS, "both"))
    if not question.strip():
        raise ConfigError("the question is empty", remedy="Write a question in quotes")
    from assistant_builder.chat.ask import ask_arms

    study = Study.open(name)
    trained = study.config.arms
    if arm not in (*trained, "both"):
        raise ConfigError(f"study {name} trains only {' and '.join(trained)} and has no {arm} assistant",
                          where="--arm", remedy=f"Ask with --arm {trained[0]}, or train it with "
                          f"'assistant-builder run {name} --set arms={','.join(with_arm(trained, arm))}'")
    Consent(trust_remote_code).allow(study.config)
    answers = ask_arms(study, question, [known for known in trained if arm in (known, "both")])
    if as_json:
        return output.print_json({"question": question, "answers": answers})
    for asked, answer in answers.items():
        text = escape_control_characters(answer["text"])
        typer.echo(f"{label(asked)} ({answer['tokens']} tokens, {answer['seconds']:.1f} s): {text}")


def export(
    name: Name,
    arm: Annotated[str, typer.Option(help=f"Assistant to export: {' or '.join(ARMS)}.")],
    to: Annotated[Path, typer.Option(metavar="DIR", help="Target folder; it must be new or empty.")],
    format: Annotated[str, typer.Option(help="Format of the export.")] = DEFAULT_FORMAT,
    force: Annotated[bool, typer.Option("--force", help="Write to a folder that is not empty. Files of the same name "
                                        "are replaced; other files are kept.")] = False,
    sample: Annotated[int, typer.Option(min=1, help="Number of held-out items for the check after writing.")] = 20,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Export a trained assistant to a folder.

    A model card is included. The written files are checked by scoring some held-out items again.
    """
    from assistant_builder.export.job import export_to, summary_lines

    try:
        spec = parse_export(arm, format)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    study = Study.open(name)
    Consent(trust_remote_code).allow(study.config)
    if as_json:
        return output.print_json(export_to(study, spec, to, force=force, sample=sample))
    with output.run_display() as display:
        record = export_to(study, spec, to, force=force, sample=sample,
                           on_progress=lambda at: display(Event("export", "running", at)))
    for line in summary_lines(record):
        typer.echo(line)
