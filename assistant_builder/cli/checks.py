"""The commands ``doctor``, ``data check``, ``settings`` and ``plan``, which need no study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from assistant_builder.cli import output
from assistant_builder.cli.options import Json, Settings, TrustRemoteCode, parse_settings, split_consent
from assistant_builder.config import DataConfig, StudyConfig, option_fields
from assistant_builder.errors import DataError

if TYPE_CHECKING:
    from assistant_builder.data import Pair
    from evals.stats.power import Power


def doctor(as_json: Json = False) -> None:
    """Check this machine and the installed packages, and show how to fix problems."""
    from assistant_builder.doctor import diagnose

    report = diagnose()
    if as_json:
        return output.print_json(report)
    output.print_table(
        ["", "check", "found", "remedy"],
        [["✓" if check["ok"] else "✗", check["name"], str(check["value"]), check["remedy"] or ""]
         for check in report["checks"]],
    )


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


def settings(as_json: Json = False) -> None:
    """List all settings of study.yaml."""
    rows = [{"key": key, "default": default if isinstance(default, str | int | float | bool | None) else str(default),
             "help": field.description or ""} for key, (field, default) in option_fields().items()]
    if as_json:
        return output.print_json(rows)
    output.print_table(["setting", "default", "meaning"],
                       [[str(row["key"]), "" if row["default"] is None else str(row["default"]), str(row["help"])]
                        for row in rows])


def plan(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model name, Hugging Face id, or folder with a "
                                         "config.json.")],
    memory: Annotated[str | None, typer.Option(metavar="SIZE", help="Plan for a GPU with this much memory, e.g. 24GB.")]
    = None,
    card: Annotated[str | None, typer.Option(metavar="NAME", help="Plan for a GPU of the catalog, e.g. 'A100 80 GB'.")]
    = None,
    pairs: Annotated[int, typer.Option(min=0, help="Number of training pairs. 0 means 10,000.")] = 0,
    tokens: Annotated[int, typer.Option(min=0, help="Mean number of tokens per pair. 0 means half of "
                                        "train.max_length.")] = 0,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write chart and tables to this HTML file.")]
    = None,
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
    lengths = Lengths.about(tokens, config.train.max_length) if tokens else None
    planned = plan_study(config, pairs, lengths, choose_machine(memory, card))
    if html is not None:
        from assistant_builder.ui.plan.tab import write_plan_file

        write_plan_file(planned, html)
    if as_json:
        return output.print_json(to_document(planned))
    from assistant_builder.ui.plan.view import plan_text

    columns, rows, lines = plan_text(planned)
    output.print_table(columns, rows)
    typer.echo("\n".join([*lines, *([f"Chart and tables: {html}"] if html else [])]))
