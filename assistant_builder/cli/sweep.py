"""The command that runs many studies on one split and tells which is best, and how surely."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from assistant_builder.cli import output
from assistant_builder.cli.options import Json, TrustRemoteCode, consent_of
from assistant_builder.cli.run import check_tasks
from assistant_builder.errors import StudyError
from assistant_builder.jobs.events import Event

if TYPE_CHECKING:
    from assistant_builder.sweep.spec import Trial


def sweep(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A study.yaml or a data file.")],
    settings: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE,VALUE,…", help="A setting and the values "
                        "to try, by its dotted key; may be given several times. A value that holds commas goes into "
                        "brackets or quotes; a setting with one value is the same in every study.")],
    name: Annotated[str | None, typer.Option(help="Name of the sweep; by default the source's. Its studies are "
                                             "NAME-1, NAME-2, ….")] = None,
    arm: Annotated[str | None, typer.Option(help="Whose validation loss chooses: both (the mean), qlora or lora. Both "
                                            "arms are trained in any case. [default: both]")] = None,
    prune: Annotated[str | None, typer.Option(help="median: stop a training that is worse than the median of those "
                                              "before it (needs the extra 'sweep'); off: run all of them to the end. "
                                              "[default: median where Optuna is installed]")] = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Run every combination of some settings as a study of its own on one split; carries on where it stopped.

    The choice is by validation loss; the others are then compared with the chosen one on the held-out questions.
    """
    from assistant_builder.sweep import open_sweep, run_sweep
    from assistant_builder.sweep.page import comparison_rows, study_rows
    from assistant_builder.sweep.run import estimate
    from assistant_builder.sweep.spec import Judge, Prune, available

    for option, given, known in (("--arm", arm, get_args(Judge)), ("--prune", prune, get_args(Prune))):
        if given is not None and given not in known:
            raise typer.BadParameter(f"{given!r} is none of {', '.join(known)}", param_hint=option)
    settings, consent = consent_of(settings, trust_remote_code)
    begun = open_sweep(source, name=name, settings=settings, arm=arm, prune=prune,  # type: ignore[arg-type]
                       before=consent)
    if as_json:
        record = run_sweep(begun, check=check_tasks)
        output.print_json(record)
    else:
        typer.echo(f"{begun.name}: {estimate(begun).sentence()}")
        if prune is None and begun.prune == "off" and not available():
            typer.echo("Optuna is not installed, so every study runs to its end; with the extra 'sweep' hopeless ones "
                       "are stopped early.")
        record = run_sweep(begun, listener=_telling, check=check_tasks)
        output.print_table(*study_rows(record))
        if record["comparisons"]:
            output.print_table(*comparison_rows(record))
        typer.echo("\n".join([record["sentence"], *(f"note: {note}." for note in record["notes"]),
                              f"Sweep: {begun.folder / 'sweep.html'}"]))
    _refuse_failures(record)


@contextmanager
def _telling(trial: Trial) -> Iterator[Callable[[Event], None]]:
    """A heading, and a bar for each step."""
    typer.echo(f"{trial.name}: {trial.label}")
    with output.run_display() as display:
        yield display


def _refuse_failures(record: dict[str, Any]) -> None:
    """End with an error where studies failed: the others are done, and shown."""
    failed = [row for row in record["studies"] if row["state"] == "failed"]
    if failed:
        why = "; ".join(f"{row['name']}: {row['error']['what']}" for row in failed[:3])
        raise StudyError(
            f"{len(failed)} of {len(record['studies'])} studies failed ({why}{'; …' if len(failed) > 3 else ''})",
            where=f"sweep {record['name']}",
            remedy="Run the sweep again: it tries them once more, and keeps the others",
        )
