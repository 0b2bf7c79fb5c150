"""The commands of ``data``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from assistant_builder.cli import output
from assistant_builder.cli.options import Json, Settings, parse_settings
from assistant_builder.config import DataConfig, StudyConfig
from assistant_builder.errors import DataError

if TYPE_CHECKING:
    from assistant_builder.data import Pair
    from evals.stats.power import Power


def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV, TSV, JSON, JSONL, XLSX or Parquet.")],
    settings: Settings = [],  # noqa: B006 - typer reads the default and never changes it
    as_json: Json = False,
) -> None:
    """Show which rows of a data file can be used.

    The exit code is 0 if a study can start from the file, else 1.
    """
    from assistant_builder.data import check_pairs, load_pairs
    from evals.stats.power import power_sentence

    config = StudyConfig().with_changes(parse_settings(settings)).data
    dataset = load_pairs(file, columns=config.columns, system=config.system)
    findings = check_pairs(dataset, near_duplicate_threshold=config.near_duplicate_threshold)
    power = _held_out_power(findings.usable, config)
    if as_json:
        output.print_json({**findings.to_record(), "power": power.to_record() if power else None})
    else:
        output.print_findings(findings)
        if power:
            typer.echo(f"power: {power_sentence(power.to_record())}")
    findings.require_start()


def _held_out_power(pairs: Sequence[Pair], config: DataConfig) -> Power | None:
    """Statistical power of the held-out set that a study would split off; None if there are too few pairs."""
    from assistant_builder.data import split_pairs
    from evals.stats.power import split_power

    try:
        return split_power(split_pairs(pairs, config).to_record())
    except DataError:
        return None
