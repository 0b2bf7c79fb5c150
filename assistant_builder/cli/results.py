"""Commands that use what a study made: its report, comparisons, answers and exports."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from assistant_builder.cli import output
from assistant_builder.cli.options import Consent, Json, Name, TrustRemoteCode
from assistant_builder.config import ARMS
from assistant_builder.errors import ConfigError, StudyError
from assistant_builder.jobs.events import Event
from assistant_builder.redaction import escape_control_characters
from assistant_builder.study import Study


def report(
    name: Name,
    format: Annotated[str, typer.Option(help="html prints the path; md and json print the text.")] = "html",
) -> None:
    """Show a study's report."""
    study = Study.open(name)
    if format not in ("html", "md", "json"):
        raise typer.BadParameter(f"{format!r} is none of html, md, json", param_hint="--format")
    path = study.folder / f"report.{format}"
    if not path.is_file():
        raise StudyError("there is no report yet", where=f"study {name}",
                         remedy=f"Finish the study with 'assistant-builder run {name}'")
    typer.echo(str(path) if format == "html" else path.read_text(encoding="utf-8").rstrip("\n"))


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="Study to compare against; its margin and metric decide.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Study that is compared.")],
    as_json: Json = False,
) -> None:
    """Compare two studies, item by item, on the held-out questions that both have."""
    first, second = Study.open(a), Study.open(b)
    from evals.study_compare import compare_studies, contrast_rows, difference_rows

    comparison = compare_studies(first, second)
    if as_json:
        return output.print_json(comparison)
    typer.echo(f"A = {a}, B = {b}")
    if comparison["differences"]:
        output.print_table(["what differs", "A", "B"], difference_rows(comparison))
    output.print_table(["cell", "metric", "A", "B", "B \u2212 A", "95% interval", "p (Holm)"],
                        contrast_rows(comparison))
    typer.echo(comparison["sentence"])
    for warning in comparison["warnings"]:
        typer.echo(f"note: {warning}.")


def ask(
    name: Name,
    question: Annotated[str, typer.Argument(metavar="QUESTION")],
    arm: Annotated[str, typer.Option(help="qlora, lora, or both: every arm that the study trains.")] = "both",
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Put one question to the trained assistants."""
    if arm not in ("qlora", "lora", "both"):
        raise typer.BadParameter(f"{arm!r} is none of qlora, lora, both", param_hint="--arm")
    if not question.strip():
        raise ConfigError("the question is empty", remedy="Write one between quotes")
    from assistant_builder.chat.ask import ask_arms

    study = Study.open(name)
    trained = study.config.arms
    if arm not in (*trained, "both"):
        raise ConfigError(f"study {name} trains {' and '.join(trained)} alone, and has no {arm} assistant",
                          where="--arm", remedy=f"Ask with --arm {trained[0]}, or train both with "
                          f"'assistant-builder run {name} --set arms={','.join(ARMS)}'")
    Consent(trust_remote_code).allow(study.config)
    answers = ask_arms(study, question, [known for known in trained if arm in (known, "both")])
    if as_json:
        return output.print_json({"question": question, "answers": answers})
    for asked, answer in answers.items():
        label = {"qlora": "QLoRA · 4-bit", "lora": "LoRA · 16-bit"}[asked]
        typer.echo(f"{label} ({answer['tokens']} tokens, {answer['seconds']:.1f} s): {escape_control_characters(answer['text'])}")


def export(
    name: Name,
    arm: Annotated[str, typer.Option(help="qlora or lora.")],
    to: Annotated[Path, typer.Option(metavar="DIR", help="Folder to make; new or empty.")],
    format: Annotated[str, typer.Option(help="adapter: the adapter alone, with a zip; merged: the whole model in 16 "
                                        "bits, with an Ollama Modelfile.")] = "adapter",
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that is not empty: files of the same name "
                                        "are replaced, all others stay.")] = False,
    sample: Annotated[int, typer.Option(min=1, help="Held-out items to score again after writing.")] = 20,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Write a trained assistant to a folder, with model card, scored again after writing."""
    from evals.export.command import export_to, told_lines
    from evals.export.kinds import parse_kind

    try:
        kind = parse_kind(arm, format)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    study = Study.open(name)
    Consent(trust_remote_code).allow(study.config)
    if as_json:
        return output.print_json(export_to(study, kind, to, force=force, sample=sample))
    with output.run_display() as display:
        record = export_to(study, kind, to, force=force, sample=sample,
                           on_progress=lambda at: display(Event("export", "running", at)))
    for line in told_lines(record):
        typer.echo(line)
