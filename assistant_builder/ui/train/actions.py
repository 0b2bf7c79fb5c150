"""Actions of the page's buttons on a run: start, resume and pause, through files and processes only."""

from __future__ import annotations

from typing import Literal

import gradio as gr
from markupsafe import Markup

from assistant_builder.config import StudyConfig
from assistant_builder.errors import ChangedInputsError, StudyError
from assistant_builder.i18n import N_, m, t
from assistant_builder.models.remote_code import code_needing_permission
from assistant_builder.runner.open_study import create_or_update
from assistant_builder.study import Study
from assistant_builder.study.locks import process_alive, process_identity
from assistant_builder.ui.html import callout, code
from assistant_builder.ui.study_snapshot import log_tail, stamp

START_LABELS = {
    "queued": N_("Start"),
    "running": N_("Running"),
    "succeeded": N_("Run again"),
    "failed": N_("Resume"),
    "cancelled": N_("Resume"),
    "lost": N_("Resume"),
}
"""State of the study → label of the start button."""
Phase = Literal["", "starting", "refused"]
_started: dict[str, tuple[int, str | float, str]] = {}
"""Study → process id and identity of a run started from this page, and the stamp of ``run.json`` before the start."""


def start_run(name: str, *, redo: bool = False, trust: bool = False) -> None:
    """Start the study's run in a detached process.

    Args:
        name: The study.
        redo: Whether finished steps may be run again.
        trust: Whether the user has allowed the base model's own Python code.
    """
    from assistant_builder.runner.run import start_run as start_detached

    before = _run_stamp(Study.open(name))
    pid = start_detached(name, redo=redo, trust=trust)
    _started[name] = (
        pid,
        process_identity(pid),
        before,
    )  # the child is not reaped yet, so its id is still valid


def start_unless_asked(study: Study) -> bool:
    """Start a new study unless the user must allow its addresses or its code first; returns whether it was started."""
    asks = study.config.external_addresses or code_needing_permission(study.config.model)
    if not asks:
        start_run(study.name)
    return not asks


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
    lines = log_tail(study.folder / "run.log.txt").splitlines()
    return callout(
        "bad",
        t("The run did not start"),
        next((line.strip() for line in reversed(lines) if line.strip()), ""),
    )


def start_or_resume(
    study: Study, new: StudyConfig, *, replace: bool, trust: bool = False
) -> Markup:
    """Start or resume the study with the settings of the form; see :func:`start_run`.

    Returns:
        The reason why no run was started: finished steps have other settings, and ``replace`` is false; else empty.
    """
    if study.state == "running" or study.queued_behind or start_phase(study) == "starting":
        raise StudyError(
            m("the project is already running or queued"),
            remedy=m("Wait until it is done, or pause it first"),
        )
    try:
        create_or_update(new, None, redo=replace)
    except ChangedInputsError as error:
        remedy = t(
            "Save the settings as a new project, or select “Replace results” to run the changed steps again."
        )
        return callout(
            "warn", t("This project has results from other settings"), "", remedy
        ) + code("\n".join(error.changes))
    start_run(study.name, redo=replace, trust=trust)
    return Markup("")


def studies_ahead(study: Study) -> list[str]:
    """Names of the other studies that are running or queued now."""
    from assistant_builder.runner.local_runner import active_tickets

    return [ticket.study.name for ticket in active_tickets() if ticket.study != study.folder]


def pause_label(study: Study) -> str:
    """Label of the button that stops a run or removes it from the queue."""
    now, later = (
        (t("Leaving the queue…"), t("Leave the queue"))
        if study.queued_behind
        else (t("Pausing…"), t("Pause"))
    )
    return now if study.cancel_requested else later


def pause_run(name: str | None) -> dict[str, object]:
    """Request that the run stops after its current unit of work, or leaves the queue."""
    study = Study.open(name or "")
    study.request_cancel()
    return gr.update(value=pause_label(study), interactive=True)
