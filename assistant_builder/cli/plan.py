"""The commands ``plan`` and ``settings``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from assistant_builder.cli import output
from assistant_builder.cli.options import (
    Json,
    Settings,
    TrustRemoteCode,
    documented,
    parse_settings,
    split_consent,
)
from assistant_builder.config import StudyConfig, option_fields


def settings(as_json: Json = False) -> None:
    """List all settings of study.yaml."""
    plain = str | int | float | bool | None
    rows: list[dict[str, Any]] = [
        {
            "key": key,
            "default": default if isinstance(default, plain) else str(default),
            "help": field.description or "",
        }
        for key, (field, default) in option_fields().items()
    ]
    if as_json:
        return output.print_json(rows)
    output.print_table(
        ["setting", "default", "meaning"],
        [["" if value is None else str(value) for value in row.values()] for row in rows],
    )


@documented()
def plan(
    model: str,
    *,
    memory: str | None = None,
    card: str | None = None,
    pairs: Annotated[int, typer.Option(min=0)] = 0,
    tokens: Annotated[int, typer.Option(min=0)] = 0,
    settings: Settings = [],
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Estimate memory, time and cost of each method.

    The estimate is for this machine or for a given GPU. Nothing is trained, and no weights are downloaded.

    Args:
        model (MODEL): Model name, Hugging Face id, or folder with a config.json.
        memory (SIZE): Plan for a GPU with this much memory, e.g. 24GB.
        card (NAME): Plan for a GPU of the catalog, e.g. 'A100 80 GB'.
        pairs: Number of training pairs. 0 means 10,000.
        tokens: Mean number of tokens per pair. 0 means half of train.max_length, 256 where that follows the data.
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
    if as_json:
        return output.print_json(to_document(planned))
    from assistant_builder.ui.plan.view import plan_text

    columns, rows, lines = plan_text(planned)
    output.print_table(columns, rows)
    output.echo("\n".join(lines))
