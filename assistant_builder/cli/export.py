"""The command ``export``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from assistant_builder.arms import ARMS
from assistant_builder.cli import output
from assistant_builder.cli.options import ApproachName, Consent, Json, Name, TrustRemoteCode
from assistant_builder.export_formats import DEFAULT_FORMAT, parse_export
from assistant_builder.runner.backend import Event
from assistant_builder.study import Study


def export(
    name: Name,
    arm: Annotated[str, typer.Option(help=f"Assistant to export: {' or '.join(ARMS)}.")],
    to: Annotated[
        Path, typer.Option(metavar="DIR", help="Target folder; it must be new or empty.")
    ],
    format: Annotated[str, typer.Option(help="Format of the export.")] = DEFAULT_FORMAT,
    type: Annotated[
        str | None,
        typer.Option(
            show_default=False,
            help="Type of the weights, for a format with several: with gguf BF16, Q8_0 (the default), "
            "Q5_1, Q4_1 or Q4_0, and Q6_K, Q5_K_M or Q4_K_M where llama.cpp is installed.",
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Write to a folder that is not empty. Files of the same name "
            "are replaced; other files are kept.",
        ),
    ] = False,
    sample: Annotated[
        int, typer.Option(min=1, help="Number of held-out items for the check after writing.")
    ] = 20,
    with_data: Annotated[
        bool,
        typer.Option(
            "--with-data",
            help="Add the index of a grounded assistant, with which it "
            "looks facts up. It contains the training pairs as plain text.",
        ),
    ] = False,
    importance: Annotated[
        bool,
        typer.Option(
            "--importance",
            help="With gguf as Q5_1, Q4_1 or Q4_0: choose block "
            "scales by the activations on training rows, also if the settings of the "
            "study do not.",
        ),
    ] = False,
    ollama: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            show_default=False,
            help="With gguf: also make it a model of Ollama with this name ('ollama create').",
        ),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME",
            show_default=False,
            help="Upload the export to the "
            "model hub as a private repository. Needs a token with write access: "
            "HF_TOKEN or 'hf auth login'.",
        ),
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="With --push: let everyone read the repository.")
    ] = False,
    approach: ApproachName = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Export a trained assistant to a folder.

    A model card is included. The written files are checked by scoring some held-out items again.
    """
    from assistant_builder.export.job import export_to, summary_lines
    from assistant_builder.export.ollama import create_in_ollama, require_ollama
    from assistant_builder.export.push import check_push, push_export, upload_lines

    if public and push is None:
        raise typer.BadParameter("--public needs --push OWNER/NAME", param_hint="--public")
    if ollama is not None and format != "gguf":
        raise typer.BadParameter("--ollama needs --format gguf", param_hint="--ollama")
    try:
        spec = parse_export(arm, format, type)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    study = Study.open(name).of_choice(output.check_approach(approach))
    Consent(trust_remote_code).allow(study.config)
    if ollama is not None:
        require_ollama(ollama)
    if push is not None:
        check_push(push)
    options: dict[str, Any] = {
        "force": force,
        "sample": sample,
        "with_data": with_data,
        "importance": importance,
    }
    if as_json:
        record = export_to(study, spec, to, **options)
    else:
        with output.run_display() as display:
            record = export_to(
                study,
                spec,
                to,
                on_progress=lambda at: display(Event("export", "running", at)),
                **options,
            )
            display(Event("export", "succeeded"))
    say: Callable[[str], None] = (lambda line: None) if as_json else output.echo
    for line in summary_lines(record):
        say(line)
    if ollama is not None:
        say(f"Creating {ollama} in Ollama")
        create_in_ollama(Path(record["folder"]), ollama)
        record["ollama"] = {"name": ollama}
        say(f"Ask it: ollama run {ollama}")
    if push is not None:
        for line in upload_lines(record, push, public=public):
            say(line)
        record["pushed"] = pushed = push_export(record, push, public=public)
        say(f"Uploaded ({'private' if pushed['private'] else 'public'}): {pushed['url']}")
    if as_json:
        output.print_json(record)
