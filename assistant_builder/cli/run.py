"""The commands ``run``, ``example``, ``status``, ``cancel`` and ``list``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from assistant_builder import api
from assistant_builder.atomic_io import read_json
from assistant_builder.cli import output
from assistant_builder.cli.data import once_line
from assistant_builder.cli.documents import read_documents
from assistant_builder.cli.options import (
    Json,
    Name,
    Settings,
    TrustAddress,
    TrustRemoteCode,
    documented,
    parse_settings,
    split_consent,
    user_consent,
)
from assistant_builder.error_translation import translate_error
from assistant_builder.errors import AssistantBuilderError, StudyError, error_texts
from assistant_builder.i18n import m, render
from assistant_builder.runner.backend import Event, waiting_message
from assistant_builder.runner.display import MARKS, human_seconds, run_display
from assistant_builder.study import Study
from assistant_builder.study.contents import Split


@documented()
def run(
    source: list[str] = [],
    *,
    site: str | None = None,
    pages: Annotated[int | None, typer.Option(min=1)] = None,
    name: str | None = None,
    like: Annotated[str | None, typer.Option("--from")] = None,
    settings: Settings = [],
    redo: bool = False,
    now: bool = False,
    first_verdict: bool = False,
    trust_remote_code: TrustRemoteCode = False,
    trust_address: TrustAddress = [],
    as_json: Json = False,
) -> None:
    """Run a study: train its arms, evaluate them and write the report. Documents are read, and answered from at once.

    An interrupted run resumes where it stopped. One study runs at a time; others wait in the order of their start. The
    verdict comes first, and then what does not change it: further cells and GGUF files. The last lines say how good the
    assistant is and what to do next.

    Args:
        source (SOURCE): A data file, a study.yaml, the name of a study, or its URL in a store; or a folder with
            documents (PDF, DOCX, PPTX, HTML, Markdown, text), or several of them.
        site (URL): Read the pages of this website as documents, as its robots.txt allows.
        pages: Pages of the website that are read at most. Default: 200.
        name: Name of the study. Default: the name of the file.
        like (STUDY): Take over the settings of this study, where SOURCE is a data file.
        redo: Run the steps whose inputs changed, and all later steps, again. If no inputs changed, run every step
            again.
        now: Start at once, without waiting for other studies.
        first_verdict: End with the first verdict; a process in the background runs the rest.
    """
    from assistant_builder.runner.document_training import can_train, reads_documents
    from assistant_builder.runner.open_documents import names_documents
    from assistant_builder.runner.open_study import open_or_create

    if not source and site is None:
        raise typer.BadParameter("name what to run, or use --site", param_hint="SOURCE")
    settings, consent = split_consent(settings, trust_remote_code, trust_address)
    changes = parse_settings(settings)
    if site is not None or names_documents(source):
        how = {"site": site, "pages": pages, "name": name, "changes": changes, "before": consent}
        opened, record = read_documents(source, as_json=as_json, **how)
        ready = reads_documents(opened) and can_train(opened)
        if not ready or (opened.state == "succeeded" and not redo):
            if as_json:
                output.print_json({**opened.status(), **record})
            elif ready:
                output.echo(f"It is trained. Train it again: run {opened.name} --redo")
            return
    else:
        record = {}
        opened = open_or_create(
            source[0], name=name, like=like, changes=changes, redo=redo, before=consent
        )
    study = api.Study(opened)
    run_until = partial(_run, opened, redo, now, trust_remote_code, first_verdict)
    if as_json:
        try:
            run_until(lambda event: None)
        finally:
            output.print_json({**study.status(), **record})
        return
    with run_display() as display:
        run_until(_event_handler(opened, display))
    _print_conclusion(study)


class _FirstVerdict(Exception):
    """Ends a run whose first verdict is there."""


def _run(
    study: Study,
    redo: bool,
    now: bool,
    trust: bool,
    first_verdict: bool,
    show: Callable[[Event], None],
) -> None:
    """Run a study; with ``first_verdict`` until there is one, and the rest in a process that outlives this one.

    On a cluster it is run to its end, because the runner there has no steps that outlive it.
    """
    ends = first_verdict and study.config.executor.kind == "local"
    if ends and study.state == "running" and study.first_verdict_seconds is not None:
        return  # by an earlier call of this command

    def on_event(event: Event) -> None:
        show(event)
        # the next run waits for a step whose process has recorded that it runs
        if ends and event.state == "running" and study.step(event.step).state == "running":
            if study.first_verdict_seconds is not None:
                raise _FirstVerdict

    try:
        api.Study(study).run(redo=redo, now=now, on_event=on_event)
    except _FirstVerdict:
        from assistant_builder.runner.run import start_run

        start_run(study.name, now=now, trust=trust)
        output.echo(
            f"The rest runs in the background: 'assistant-builder status {study.name}' shows it, and "
            f"'assistant-builder cancel {study.name}' stops it.",
            err=True,
        )


def _print_conclusion(study: api.Study) -> None:
    for line in output.conclusion(study):
        output.echo(line)
    output.echo(f"Report: {study.report_path()}")


def _event_handler(study: Study, display: Callable[[Event], None]) -> Callable[[Event], None]:
    """Display events, and print what is known after each step, once: all arms leave out the same rows."""
    printed: set[str] = set()
    known = study.first_verdict_seconds

    def show(event: Event) -> None:
        nonlocal known
        display(event)
        before, known = known, study.first_verdict_seconds
        if known not in (before, None) and event.state == "running":
            after = human_seconds(known)
            output.echo(f"First verdict after {after}: {api.Study(study).report.sentence}")
        if event.state == "succeeded" and not event.reused:
            for line in _notes_after(study, event.step):
                if line and line not in printed:
                    printed.add(line)
                    output.echo(line)

    return show


def _notes_after(study: Study, step: str) -> Iterable[str]:
    """The verdict's rules, its power and memory after the data step, later the approach, and the rows left out."""
    if step == "data":
        from assistant_builder.data.wordings import count_wordings
        from assistant_builder.planning.memory_check import memory_note
        from evals.report.declared import explain_study
        from evals.stats.power import power_sentence, split_power

        split = read_json(study.folder / "data" / "split.json", Split)
        once = count_wordings(split)
        if once is not None and once.occurs_once:
            yield once_line(once, study.source)
        if study.config.compares:  # power is defined for the comparison
            power = split_power(split)
            yield explain_study(study)
            yield power_sentence(power.to_record()) if power else ""
        yield memory_note(study)
    elif step == "data-embed":
        from assistant_builder.retrieval.embedder_choice import embedder_warning
        from assistant_builder.retrieval.recall import recommended_approach

        yield render(embedder_warning(study))
        yield recommended_approach(study)
    elif step.startswith("train-"):
        from assistant_builder.training.sequences import left_out_note

        run = step.removeprefix("train-")
        yield left_out_note(study.of_run(run), run)


@documented()
def example(*, name: str | None = None, as_json: Json = False) -> None:
    """Open the finished example: a small study that is trained and scored already.

    A second call opens the same study.

    Args:
        name: Name of the study. Default: example.
    """
    study = api.example(name)
    if as_json:
        return output.print_json(study.status())
    _print_conclusion(study)


def status(name: Name, as_json: Json = False) -> None:
    """Show the state of a study and its steps."""
    study = Study.open(name)
    document = study.status()
    if as_json:
        return output.print_json(document)
    waiting = waiting_message(document["behind"])
    output.echo(f"{study.name}: {document['state']}{waiting and f', {waiting}'}")
    on_nodes = any("node" in step for step in document["steps"])
    output.print_table(
        ["step", "state", "time", *(["node"] if on_nodes else [])],
        [
            [
                f"{MARKS[step['state']]} {step['name']}",
                step["state"],
                human_seconds(step["seconds"]),
                *([step.get("node", "")] if on_nodes else []),
            ]
            for step in document["steps"]
        ],
    )
    if document["dashboard"]:
        output.echo(f"The cluster's dashboard: {document['dashboard']}")
    if why := _why_stopped(study):
        output.echo(why)


def _why_stopped(study: Study) -> str:
    """Why the run ended, and what to do; empty unless the study failed or was lost."""
    if study.state not in ("failed", "lost"):
        return ""
    run = study.run_record() or {}
    errors = (run.get("error"), *(study.step(step).error for step in study.shown_steps))
    error = next(filter(None, errors), None)
    if error is not None:
        return output.said(AssistantBuilderError(**error_texts(error)))
    return (
        "the process ended unexpectedly: the machine was restarted, or memory ran out and the system killed it. "
        f"Resume it with 'assistant-builder run {study.name}'"
    )


def cancel(name: Name, trust_address: TrustAddress = []) -> None:
    """Pause a running study, or remove a waiting study from the queue.

    A running study stops after the current optimizer step. No files are deleted.
    """
    study = Study.open(name)
    idle = study.state != "running" and not study.queued_behind
    executor = study.config.executor
    cancelled_nodes = False
    if idle and executor.kind != "local" and executor.store is not None:
        from assistant_builder.store.sync import cancel_nodes

        consent = user_consent(False, trust_address)
        consent.note(f"reads {executor.store} (executor.store)")
        consent.connect({"executor.store": executor.store})
        cancelled_nodes = cancel_nodes(study)
    if idle and not cancelled_nodes:
        raise StudyError(
            m("the {study} is not running ({state})", state=study.state),
            where=m("{study} {name}", name=name),
            remedy=m("Start it with 'assistant-builder run {name}'", name=name),
        )
    study.request_cancel()
    output.echo(
        f"{name}: the study will stop after the current optimizer step. "
        f"Resume it with 'assistant-builder run {name}'."
    )


def list_studies(as_json: Json = False) -> None:
    """List all studies, the most recently changed first."""
    documents = [_status_or_damaged(study) for study in api.studies()]
    if as_json:
        return output.print_json(documents)
    if not documents:
        return output.echo("No studies yet. Start one with 'assistant-builder run FILE'.")
    output.print_table(
        ["study", "state", "folder"], [[d["name"], d["state"], d["folder"]] for d in documents]
    )


def _status_or_damaged(study: api.Study) -> dict[str, Any]:
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


@documented()
def step(step: str, *, study: Path) -> None:
    """Run one step in this process; used by the run command.

    Args:
        step: data, data-embed, or a training step such as train-lora.
        study: The study's folder.
    """
    from assistant_builder.runner.step_process import run_as_step

    subject = Study(study)
    trained = [known for known in subject.steps if known.startswith("train-")]
    output.check_choice("STEP", step, ["data", "data-embed", *trained])
    raise SystemExit(run_as_step(subject, step, partial(_work, subject, step)))


def _work(study: Study, step: str) -> Iterable[Path] | None:
    """Do the work of a step; each step imports its own libraries alone."""
    if step == "data":
        from assistant_builder.runner.data_steps import prepare_data

        return prepare_data(study)
    if step == "data-embed":
        from assistant_builder.runner.data_steps import embed_data

        return embed_data(study)
    from assistant_builder.training.train import train_arm

    run = step.removeprefix("train-")
    return train_arm(study.of_run(run), run)
