"""What the page's buttons do to a study: start, carry on, pause, save as new; through files and processes only."""

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
from assistant_builder.ui.train.view import refused_changes

GO_LABELS = {
    "queued": "Start",
    "running": "Running",
    "succeeded": "Run again",
    "failed": "Carry on",
    "cancelled": "Carry on",
    "lost": "Carry on",
}
"""State of the study → what the one button says."""


Phase = Literal["", "starting", "refused"]
_started: dict[str, tuple[int, str | float, str]] = {}
"""Study → process id and mark of a start from this page, and the stamp of ``run.json`` before it."""


def start_run(name: str, *, redo: bool = False, now: bool = False, trust: bool = False) -> None:
    """Start the study's run as a process of its own, which outlives the page.

    Args:
        name: The study.
        redo: Whether finished steps may be run again.
        now: Whether to go ahead although other studies run.
        trust: Whether the user has ticked that the base model's own code may run.
    """
    from assistant_builder.runner.run import start_run as start_detached

    before = _told(Study.open(name))
    pid = start_detached(name, redo=redo, now=now, trust=trust)
    _started[name] = (pid, process_identity(pid), before)  # not yet waited for, so that its id is valid


def start_phase(study: Study) -> Phase:
    """Between the button and the first file of the run: ``starting``, or ``refused`` when it ended without one."""
    if study.name not in _started:
        return ""
    pid, mark, before = _started[study.name]
    if _told(study) != before:
        del _started[study.name]
        return ""
    return "starting" if process_alive(pid, mark) else "refused"


def _told(study: Study) -> str:
    return stamp([study.folder / "run.json"])


def last_words(study: Study) -> str:
    """The last line that the run's own process wrote."""
    path = study.folder / "run.log.txt"
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def go(
    study: Study, read: Callable[[StudyConfig], StudyConfig], *, replace: bool, now: bool = False, trust: bool = False,
) -> tuple[Markup, bool]:
    """Start or carry on, with the settings of the form.

    Args:
        study: The study.
        read: The form's settings over those of the study.
        replace: Whether finished steps may be run again with changed settings.
        now: Whether to go ahead although other studies run.
        trust: Whether the user has ticked that the base model's own code may run.

    Returns:
        What to tell the user, and whether a run was started.
    """
    if study.state == "running" or study.queued_behind or start_phase(study) == "starting":
        raise StudyError("the study is running already, or waits for its turn",
                         remedy="Wait until it is done, or pause it first")
    old = study.config
    try:
        new = read(old)
    except ConfigError as error:
        return callout("bad", "These settings do not fit", error.what, "Correct them and press again."), False
    if new != old:
        study.write_config(new)
    stale = [] if replace else stale_changes(study)
    if stale:
        study.write_config(old)
        return refused_changes(stale), False
    start_run(study.name, redo=replace, now=now, trust=trust)
    return Markup(""), True


def stale_changes(study: Study) -> list[str]:
    """What differs from what the first finished step was made from that no longer fits the settings; empty if none.

    Steps that failed or were cancelled do not count: they are run with the settings as they are.
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


def others_before(study: Study) -> list[str]:
    """The studies that run or wait now and that a start of this one would come after."""
    from assistant_builder.runner.local_runner import active_tickets

    return [ticket.study.name for ticket in active_tickets() if ticket.study != study.folder]


def pause_label(study: Study) -> str:
    """What the button that stops a run says: everything is kept either way."""
    if study.queued_behind:
        return "Leaving the queue…" if study.cancel_requested else "Leave the queue"
    return "Pausing…" if study.cancel_requested else "Pause"


def pause_run(name: str | None) -> dict[str, object]:
    """Ask the run to stop; the step at hand keeps what it has done, and a waiting run leaves the queue."""
    study = Study.open(name or "")
    study.request_cancel()
    return gr.update(value=pause_label(study), interactive=True)
