"""Commands that look before anything is run: the machine, the settings, a data file, a plan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assistant_builder.cli import output
from assistant_builder.cli.options import Json, Settings, TrustRemoteCode, changes_of, consent_of
from assistant_builder.config import DataConfig, option_fields
from assistant_builder.errors import DataError

if TYPE_CHECKING:
    from assistant_builder.data import Pair
    from evals.stats.power import Power


def doctor(as_json: Json = False) -> None:
    """Show hardware and versions, what is missing, and the remedy."""
    from assistant_builder.doctor import diagnose

    report = diagnose()
    if as_json:
        return output.print_json(report)
    output.print_table(
        ["", "check", "found", "remedy"],
        [["✓" if check["ok"] else "✗", check["name"], str(check["value"]), check["remedy"] or ""]
         for check in report["checks"]],
    )


def list_settings(as_json: Json = False) -> None:
    """List every setting of study.yaml with its default and meaning."""
    rows: list[dict[str, Any]] = []
    for key, (field, default) in option_fields().items():
        value = default if isinstance(default, str | int | float | bool | None) else str(default)
        rows.append({"key": key, "default": value, "help": field.description or ""})
    if as_json:
        return output.print_json(rows)
    output.print_table(["setting", "default", "meaning"],
                        [[row["key"], "" if row["default"] is None else str(row["default"]), row["help"]]
                         for row in rows])


def data_check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV, TSV, JSON, JSONL, XLSX or Parquet.")],
    settings: Settings = [],  # noqa: B006 - typer reads the default and never changes it
    as_json: Json = False,
) -> None:
    """Show what of a file would be accepted; exit code 0 if a study can start from it, 1 if not."""
    from assistant_builder.config import StudyConfig
    from assistant_builder.data import check_pairs, load_pairs
    from evals.stats.power import power_sentence

    config: DataConfig = StudyConfig().with_changes(changes_of(settings)).data
    dataset = load_pairs(file, columns=config.columns, system=config.system)
    findings = check_pairs(dataset, near_duplicate_threshold=config.near_duplicate_threshold)
    power = _planned_power(findings.usable, config)
    if as_json:
        output.print_json({**findings.to_record(), "power": power.to_record() if power else None})
    else:
        output.print_findings(findings)
        if power:
            typer.echo(f"power: {power_sentence(power.to_record())}")
    findings.require_start()


def _planned_power(pairs: Sequence[Pair], config: DataConfig) -> Power | None:
    """What the held-out set could detect that a study would split off from these pairs; None where they are too few."""
    from assistant_builder.data import split_pairs
    from evals.stats.power import split_power

    try:
        return split_power(split_pairs(pairs, config).to_record())
    except DataError:
        return None


def plan(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A name, a hub id, or a folder with a config.json.")],
    memory: Annotated[str | None, typer.Option(metavar="SIZE", help="Plan for a GPU with this memory, as in 24GB.")]
    = None,
    card: Annotated[str | None, typer.Option(metavar="NAME", help="Plan for a GPU of the catalog, as in 'A100 80 GB'.")]
    = None,
    pairs: Annotated[int, typer.Option(min=0, help="Training pairs; 0: 10,000.")] = 0,
    tokens: Annotated[int, typer.Option(min=0, help="Mean tokens of a pair; 0: half of train.max_length.")] = 0,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the chart and tables as one HTML file.")]
    = None,
    settings: Settings = [],  # noqa: B006 - typer reads the default and never changes it
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Show memory, time and cost of each method before anything is downloaded or trained; here, or on a GPU."""
    from assistant_builder.config import StudyConfig
    from assistant_builder.planning.hardware import choose_machine
    from assistant_builder.planning.plan import Lengths
    from assistant_builder.planning.planner import plan_study, to_document

    settings, consent = consent_of(settings, trust_remote_code)
    config = StudyConfig().with_changes({**changes_of(settings), "model.base": model})
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
