"""The commands ``plan`` and ``settings``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from assistant_builder.cli import output
from assistant_builder.cli.options import (
    Json,
    Settings,
    TrustRemoteCode,
    parse_settings,
    split_consent,
)
from assistant_builder.config import StudyConfig, option_fields


def settings(as_json: Json = False) -> None:
    """List all settings of study.yaml."""
    rows = [
        {
            "key": key,
            "default": default
            if isinstance(default, str | int | float | bool | None)
            else str(default),
            "help": field.description or "",
        }
        for key, (field, default) in option_fields().items()
    ]
    if as_json:
        return output.print_json(rows)
    output.print_table(
        ["setting", "default", "meaning"],
        [
            [
                str(row["key"]),
                "" if row["default"] is None else str(row["default"]),
                str(row["help"]),
            ]
            for row in rows
        ],
    )


def plan(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Model name, Hugging Face id, or folder with a config.json."
        ),
    ],
    memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Plan for a GPU with this much memory, e.g. 24GB."),
    ] = None,
    card: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Plan for a GPU of the catalog, e.g. 'A100 80 GB'."),
    ] = None,
    pairs: Annotated[
        int, typer.Option(min=0, help="Number of training pairs. 0 means 10,000.")
    ] = 0,
    tokens: Annotated[
        int,
        typer.Option(
            min=0,
            help="Mean number of tokens per pair. 0 means half of "
            "train.max_length, 256 where that follows the data.",
        ),
    ] = 0,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write chart and tables to this HTML file."),
    ] = None,
    settings: Settings = [],  # noqa: B006 - typer reads the default and never changes it
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Estimate memory, time and cost of each method.

    The estimate is for this machine or for a given GPU. Nothing is trained, and no weights are downloaded.
    """
    from assistant_builder.planning.advice import to_document
    from assistant_builder.planning.hardware import choose_machine
    from assistant_builder.planning.plan import Lengths, plan_study

    settings, consent = split_consent(settings, trust_remote_code)
    config = StudyConfig().with_changes({**parse_settings(settings), "model.base": model})
    consent.allow(config)
    longest = config.train.assumed_length
    if config.train.max_length == "auto":
        longest = max(longest, 2 * tokens)
    lengths = Lengths.about(tokens, longest) if tokens else None
    planned = plan_study(config, pairs, lengths, choose_machine(memory, card))
    if html is not None:
        from assistant_builder.ui.plan.tab import write_plan_file

        write_plan_file(planned, html)
    if as_json:
        return output.print_json(to_document(planned))
    from assistant_builder.ui.plan.view import plan_text

    columns, rows, lines = plan_text(planned)
    output.print_table(columns, rows)
    output.echo("\n".join([*lines, *([f"Chart and tables: {html}"] if html else [])]))
