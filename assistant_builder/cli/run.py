"""The commands ``run``, ``example``, ``status``, ``cancel`` and ``list``."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assistant_builder.atomic_io import read_json
from assistant_builder.cli import output
from assistant_builder.cli.data import once_line
from assistant_builder.cli.options import (
    Consent,
    Json,
    Name,
    Settings,
    TrustAddress,
    TrustRemoteCode,
    parse_settings,
    split_consent,
)
from assistant_builder.error_translation import translate_error
from assistant_builder.errors import AssistantBuilderError, StudyError, error_texts
from assistant_builder.runner.backend import Event
from assistant_builder.study import Study
from assistant_builder.study.contents import Split

if TYPE_CHECKING:
    from assistant_builder.runner.step_process import Work


def run(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A data file, a study.yaml, the name of a study, or its URL in a store.",
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="Name of the study. Default: the name of the file.")
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="STUDY",
            help="Take over the settings of this study, where SOURCE is a data file.",
        ),
    ] = None,
    settings: Settings = [],  # noqa: B006 - typer reads the default and never changes it
    redo: Annotated[
        bool,
        typer.Option(
            "--redo",
            help="Run the steps whose inputs changed, and all later steps, again. "
            "If no inputs changed, run every step again.",
        ),
    ] = False,
    now: Annotated[
        bool, typer.Option("--now", help="Start at once, without waiting for other studies.")
    ] = False,
    trust_remote_code: TrustRemoteCode = False,
    trust_address: TrustAddress = [],  # noqa: B006 - typer reads the default and never changes it
    as_json: Json = False,
) -> None:
    """Run a study: train its arms, evaluate them and write the report.

    An interrupted run resumes where it stopped. One study runs at a time; others wait in the order of their start. The
    last lines say how good the assistant is and what to do next.
    """
    from assistant_builder.runner.open_study import open_or_create
    from assistant_builder.runner.run import run_study

    settings, consent = split_consent(settings, trust_remote_code, trust_address)
    study = open_or_create(
        source, name=name, like=like, changes=parse_settings(settings), redo=redo, before=consent
    )
    try:
        if as_json:
            run_study(study, redo=redo, now=now, check=check_tasks)
        else:
            with output.run_display() as display:
                run_study(
                    study,
                    redo=redo,
                    now=now,
                    on_event=_event_handler(study, display),
                    check=check_tasks,
                )
    finally:
        if as_json:
            output.print_json(study.status())
    if not as_json:
        for line in output.conclusion_lines(study):
            output.echo(line)
        output.echo(f"Report: {study.folder / 'report.html'}")


def _event_handler(study: Study, display: Callable[[Event], None]) -> Callable[[Event], None]:
    """Display events; print the verdict's rules, its power, memory and approach after the data steps, and lost rows."""
    notes: set[str] = set()

    def show(event: Event) -> None:
        display(event)
        if event.step == "data" and event.state == "succeeded" and not event.reused:
            from assistant_builder.data.wordings import count_wordings
            from assistant_builder.planning.memory_check import memory_note
            from evals.report.verdict import explain_study
            from evals.stats.power import power_sentence, split_power

            split = read_json(study.folder / "data" / "split.json", Split)
            once = count_wordings(split)
            if once is not None and once.occurs_once:
                output.echo(
                    once_line(
                        once,
                        f"assistant-builder data draft {shlex.quote(str(study.source))} --to "
                        "drafts.csv",
                    )
                )
            power = (
                split_power(split) if study.config.compares else None
            )  # power is defined for the comparison
            declared = explain_study(study) if study.config.compares else ""
            for line in (
                declared,
                power_sentence(power.to_record()) if power else "",
                memory_note(study),
            ):
                if line:
                    output.echo(line)

        if event.step == "data-embed" and event.state == "succeeded" and not event.reused:
            from assistant_builder.retrieval import recommended_approach

            output.echo(recommended_approach(study))

        if event.step.startswith("train-") and event.state == "succeeded" and not event.reused:
            from assistant_builder.training.sequences import left_out_note

            note = left_out_note(study.of_run(run := event.step.removeprefix("train-")), run)
            if note and note not in notes:  # all arms leave out the same rows
                notes.add(note)
                output.echo(note)

    return show


def check_tasks(study: Study) -> None:
    """Raise an error for lm-eval tasks and GGUF types that cannot run, before hours are spent on training."""
    from assistant_builder.models.gguf_convert import extra_installed
    from assistant_builder.quantization.ggml import require_writer

    if (
        extra_installed()
        and "formats" in study.steps
        and study.step("formats").state != "succeeded"
    ):
        for type in study.config.formats.types:
            require_writer(type, "formats.types")
    tasks = study.config.eval.tasks
    if tasks and study.step("evaluate").state != "succeeded":
        from evals.tasks.extra import ExtraTasks

        ExtraTasks(tasks)


def example(
    name: Annotated[str | None, typer.Option(help="Name of the study. Default: example.")] = None,
    as_json: Json = False,
) -> None:
    """Open the finished example: a small study that is trained and scored already.

    A second call opens the same study.
    """
    from assistant_builder.study.example import open_example

    study = open_example(name)
    if as_json:
        return output.print_json(study.status())
    for line in output.conclusion_lines(study):
        output.echo(line)
    return output.echo(f"Report: {study.folder / 'report.html'}")


def status(name: Name, as_json: Json = False) -> None:
    """Show the state of a study and its steps."""
    from assistant_builder.runner.backend import waiting_message

    study = Study.open(name)
    document = study.status()
    if as_json:
        return output.print_json(document)
    output.echo(
        ", ".join(
            filter(
                None, (f"{study.name}: {document['state']}", waiting_message(document["behind"]))
            )
        )
    )
    columns = ["step", "state", "time", *(["node"] if output.has_nodes(document) else [])]
    output.print_table(columns, output.step_rows(document))
    if document["dashboard"]:
        output.echo(f"The cluster's dashboard: {document['dashboard']}")
    why = _why_stopped(study)
    if why:
        output.echo(why)


def _why_stopped(study: Study) -> str:
    """Why the run ended, and what to do; empty unless the study failed or was lost."""
    state, runner = study.state, study.run_record() or {}
    if state not in ("failed", "lost"):
        return ""
    errors = (runner.get("error"), *(study.step(step).error for step in study.shown_steps))
    error = next(filter(None, errors), None)
    if error is not None:
        return str(AssistantBuilderError(**error_texts(error)))
    return (
        "the process ended unexpectedly: the machine was restarted, or memory ran out and the system killed it. "
        f"Resume it with 'assistant-builder run {study.name}'"
    )


def cancel(
    name: Name,
    trust_address: TrustAddress = [],  # noqa: B006 - typer reads the default and never changes it
) -> None:
    """Pause a running study, or remove a waiting study from the queue.

    A running study stops after the current optimizer step. No files are deleted.
    """
    study = Study.open(name)
    idle = study.state != "running" and not study.queued_behind
    executor = study.config.executor
    cancelled_nodes = False
    if idle and executor.kind != "local" and executor.store is not None:
        from assistant_builder.store.sync import cancel_nodes

        consent = Consent(False, trust_address)
        consent.note(f"reads {executor.store} (executor.store)")
        consent.connect({"executor.store": executor.store})
        cancelled_nodes = cancel_nodes(study)
    if idle and not cancelled_nodes:
        raise StudyError(
            f"the study is not running ({study.state})",
            where=f"study {name}",
            remedy=f"Start it with 'assistant-builder run {name}'",
        )
    study.request_cancel()
    output.echo(
        f"{name}: the study will stop after the current optimizer step. "
        f"Resume it with 'assistant-builder run {name}'."
    )


def list_studies(as_json: Json = False) -> None:
    """List all studies, the most recently changed first."""
    documents = [_status_or_damaged(study) for study in Study.all()]
    if as_json:
        return output.print_json(documents)
    if not documents:
        output.echo("No studies yet. Start one with 'assistant-builder run FILE'.")
        return None
    output.print_table(
        ["study", "state", "folder"], [[d["name"], d["state"], d["folder"]] for d in documents]
    )


def _status_or_damaged(study: Study) -> dict[str, Any]:
    """The status of a study; that of one whose files cannot be read is ``damaged``, with the error."""
    try:
        return study.status()
    except (AssistantBuilderError, OSError) as error:
        return {
            "name": study.name,
            "state": "damaged",
            "steps": [],
            "folder": str(study.folder),
            "behind": [],
            "dashboard": "",
            "error": translate_error(error).to_record(),
        }


def step(
    step: Annotated[
        str, typer.Argument(help="data, data-embed, or a training step such as train-lora.")
    ],
    study: Annotated[Path, typer.Option(help="The study's folder.")],
) -> None:
    """Run one step in this process; used by the run command."""
    from assistant_builder.runner.step_process import run_as_step

    subject = Study(study)
    trained = [known for known in subject.steps if known.startswith("train-")]
    output.check_choice("STEP", step, ["data", "data-embed", *trained])
    raise SystemExit(run_as_step(subject, step, _work_of(subject, step)))


def _work_of(study: Study, step: str) -> Work:
    """The work of a step; it imports its libraries when it is called, so that each step imports its own alone."""

    def work() -> Iterable[Path] | None:
        if step == "data":
            from assistant_builder.runner.data_steps import prepare_data

            return prepare_data(study)
        if step == "data-embed":
            from assistant_builder.runner.data_steps import embed_data

            return embed_data(study)
        from assistant_builder.training.train import train_arm

        run = step.removeprefix("train-")
        return train_arm(study.of_run(run), run)

    return work
