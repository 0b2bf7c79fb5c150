"""The command ``sweep``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assistant_builder.api import check_tasks
from assistant_builder.arms import ARMS
from assistant_builder.cli import output
from assistant_builder.cli.options import (
    Json,
    TrustAddress,
    TrustRemoteCode,
    documented,
    split_consent,
)
from assistant_builder.errors import StudyError
from assistant_builder.i18n import m
from assistant_builder.runner.backend import Event
from assistant_builder.runner.display import run_display

if TYPE_CHECKING:
    from assistant_builder.sweep.spec import Trial


@documented(arms=", ".join(ARMS))
def sweep(
    source: str,
    *,
    settings: Annotated[list[str], typer.Option("--set")],
    name: str | None = None,
    arm: str | None = None,
    trust_remote_code: TrustRemoteCode = False,
    trust_address: TrustAddress = [],
    as_json: Json = False,
) -> None:
    """Run one study for every combination of the given values.

    All studies use the same split. The best study is selected by validation loss; the others are then compared with it
    on the held-out questions. An interrupted sweep resumes where it stopped.

    Args:
        source (SOURCE): A study.yaml or a data file.
        settings (KEY=VALUE,VALUE,…): A setting and the values to try. Can be repeated. Put values that contain commas
            into brackets or quotes. A setting with one value applies to every study.
        name: Name of the sweep. Default: the name of the source. Its studies are NAME-1, NAME-2, ….
        arm: Arm whose validation loss selects the best study: {arms}, or both (the mean of all). All arms of the study
            are always trained. [default: both]
    """
    from assistant_builder.sweep import open_sweep, run_sweep
    from assistant_builder.sweep.run import estimate
    from assistant_builder.sweep.summary import comparison_rows, study_rows

    if arm is not None:
        output.check_choice("--arm", arm, ("both", *ARMS))
    settings, consent = split_consent(settings, trust_remote_code, trust_address)
    opened = open_sweep(source, name=name, settings=settings, arm=arm, before=consent)
    if as_json:
        record = run_sweep(opened, check=check_tasks)
        output.print_json(record)
    else:
        output.echo(f"{opened.name}: {estimate(opened).sentence()}")
        record = run_sweep(opened, listener=_show_trial, check=check_tasks)
        output.print_table(*study_rows(record))
        if record["comparisons"]:
            output.print_table(*comparison_rows(record))
        output.echo(record["sentence"])
        for note in record["notes"]:
            output.echo(f"note: {note}.")
        output.echo(f"Sweep: {opened.folder / 'sweep.json'}")
    _raise_for_failures(record)


@contextmanager
def _show_trial(trial: Trial) -> Iterator[Callable[[Event], None]]:
    """Print a heading, and show a progress bar for each step."""
    from assistant_builder.sweep.spec import label

    output.echo(f"{trial.name}: {label(trial.settings)}")
    with run_display() as display:
        yield display


def _raise_for_failures(record: dict[str, Any]) -> None:
    """Raise an error if studies failed; the results of the others are already printed."""
    failed = [row for row in record["studies"] if row["state"] == "failed"]
    if failed:
        why = "; ".join(f"{row['name']}: {row['error']['what']}" for row in failed[:3]) + "; …" * (
            len(failed) > 3
        )
        raise StudyError(
            m(
                "{failed} of {all} {studies} failed ({why})",
                failed=len(failed),
                all=len(record["studies"]),
                why=why,
            ),
            where=f"sweep {record['name']}",
            remedy=m("Run the sweep again; it repeats only the {studies} that failed"),
        )
