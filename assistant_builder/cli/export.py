"""The command ``export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from assistant_builder.cli import output
from assistant_builder.cli.options import Consent, Json, Name, TrustRemoteCode
from assistant_builder.jobs.events import Event
from assistant_builder.study import Study


def export(
    name: Name,
    arm: Annotated[str, typer.Option(help="Assistant to export: qlora or lora.")],
    to: Annotated[Path, typer.Option(metavar="DIR", help="Target folder; it must be new or empty.")],
    format: Annotated[str, typer.Option(help="adapter: only the adapter, with a zip file. merged: the complete model "
                                        "in 16 bits, with an Ollama Modelfile.")] = "adapter",
    force: Annotated[bool, typer.Option("--force", help="Write to a folder that is not empty. Files of the same name "
                                        "are replaced; other files are kept.")] = False,
    sample: Annotated[int, typer.Option(min=1, help="Number of held-out items for the check after writing.")] = 20,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Export a trained assistant to a folder.

    A model card is included. The written files are checked by scoring some held-out items again.
    """
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
