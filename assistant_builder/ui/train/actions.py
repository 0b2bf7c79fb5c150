"""Actions of the page's buttons on a run: start, resume and pause, through files and processes only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import gradio as gr
from markupsafe import Markup

from assistant_builder.config import StudyConfig
from assistant_builder.errors import ConfigError, StudyError
from assistant_builder.study import Study
from assistant_builder.study.locks import process_alive, process_identity
from assistant_builder.study.steps import changed_inputs
from assistant_builder.ui.html import callout
from assistant_builder.ui.study_snapshot import stamp
from assistant_builder.ui.train.view import invalid_settings, refused_changes

START_LABELS = {
    "queued": "Start",
    "running": "Running",
    "succeeded": "Run again",
    "failed": "Resume",
    "cancelled": "Resume",
    "lost": "Resume",
}
"""State of the study → label of the start button."""


Phase = Literal["", "starting", "refused"]
_started: dict[str, tuple[int, str | float, str]] = {}
"""Study → process id and identity of a run started from this page, and the stamp of ``run.json`` before the start."""


def start_run(name: str, *, redo: bool = False, now: bool = False, trust: bool = False) -> None:
    """Start the study's run in a detached process.

    Args:
        name: The study.
        redo: Whether finished steps may be run again.
        now: Whether to start although other studies are running.
        trust: Whether the user has allowed the base model's own Python code.
    """
    from assistant_builder.runner.run import start_run as start_detached

    before = _run_stamp(Study.open(name))
    pid = start_detached(name, redo=redo, now=now, trust=trust)
    _started[name] = (pid, process_identity(pid), before)  # the child is not reaped yet, so its id is still valid


def start_phase(study: Study) -> Phase:
    """State of a start before the run writes its first file: ``starting``, or ``refused`` if the process has ended."""
    if study.name not in _started:
        return ""
    pid, identity, before = _started[study.name]
    if _run_stamp(study) != before:
        del _started[study.name]
        return ""
    return "starting" if process_alive(pid, identity) else "refused"


def _run_stamp(study: Study) -> str:
    return stamp([study.folder / "run.json"])


def start_refusal(study: Study) -> Markup:
    """A message with the last line of the run's log if the run did not start; else empty."""
    if start_phase(study) != "refused":
        return Markup("")
    path = study.folder / "run.log.txt"
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    reason = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return callout("bad", "The run did not start", reason)


def start_or_resume(
    study: Study, read: Callable[[StudyConfig], StudyConfig], *, replace: bool, now: bool = False, trust: bool = False,
) -> tuple[Markup, bool]:
    """Start or resume the study with the settings of the form.

    Args:
        study: The study.
        read: Applies the form's settings to those of the study.
        replace: Whether finished steps may be run again with changed settings.
        now: Whether to start although other studies are running.
        trust: Whether the user has allowed the base model's own Python code.

    Returns:
        Message for the user, and whether a run was started.
    """
    if study.state == "running" or study.queued_behind or start_phase(study) == "starting":
        raise StudyError("the study is already running or queued", remedy="Wait until it is done, or pause it first")
    old = study.config
    try:
        new = read(old)
    except ConfigError as error:
        return invalid_settings(error), False
    if new != old:
        study.write_config(new)
    stale = [] if replace else stale_changes(study)
    if stale:
        study.write_config(old)
        return refused_changes(stale), False
    start_run(study.name, redo=replace, now=now, trust=trust)
    return Markup(""), True


def stale_changes(study: Study) -> list[str]:
    """Differences between the settings and the inputs of the first stale finished step; empty if no step is stale.

    Steps after the first unfinished one are not checked: they will run with the present settings.
    """
    from assistant_builder.runner.invalidation import step_inputs

    for step in study.steps:
        record = study.step(step)
        if record.state != "succeeded":
            break
        changes = changed_inputs(record.inputs, step_inputs(study, step))
        if changes:
            return changes
    return []


def studies_ahead(study: Study) -> list[str]:
    """Names of the other studies that are running or queued now."""
    from assistant_builder.runner.local_runner import active_tickets

    return [ticket.study.name for ticket in active_tickets() if ticket.study != study.folder]


def pause_label(study: Study) -> str:
    """Label of the button that stops a run or removes it from the queue."""
    if study.queued_behind:
        return "Leaving the queue…" if study.cancel_requested else "Leave the queue"
    return "Pausing…" if study.cancel_requested else "Pause"


def pause_run(name: str | None) -> dict[str, object]:
    """Request that the run stops after its current unit of work, or leaves the queue."""
    study = Study.open(name or "")
    study.request_cancel()
    return gr.update(value=pause_label(study), interactive=True)
