"""Run a study's steps on this machine, one process after the other."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from assistant_builder.jobs.events import Event
from assistant_builder.jobs.queue import our_turn
from assistant_builder.jobs.standing import judge, kept
from assistant_builder.jobs.steps import command
from assistant_builder.planning.memory_check import require_study_fit
from assistant_builder.study import Study
from assistant_builder.worker import child_environment, step_back

_POLL_SECONDS = 0.25
_GRACE_SECONDS = 600.0
"""How long a cancelled step may take to finish what it is at before it is ended.

Ending it costs the work since its last checkpoint, which is at most about as much; an optimizer step of a large model
on a slow machine takes minutes, and is kept.
"""


class LocalRunner:
    """Runs steps as processes of this machine, which one study has for itself at a time."""

    dashboard = ""

    def require_room(self, study: Study) -> None:
        """Refuse a study whose training cannot fit this machine.

        Raises:
            ResourceError: It cannot.
        """
        require_study_fit(study)

    def turn(
        self, study: Study, *, now: bool, waiting: Callable[[list[str]], None]
    ) -> AbstractContextManager[None]:
        """Hold the machine, once the runs of other studies that came before are done; see :func:`our_turn`."""
        return our_turn(study, now=now, waiting=waiting)

    def run_steps(self, study: Study, on_event: Callable[[Event], None]) -> None:
        """Run every step that is not done, in order."""
        waiting = list(study.steps)
        while waiting:
            for step in list(waiting):
                if step in ("evaluate", "report") and any(other.startswith("train-") for other in waiting):
                    break  # with early stop the arms wait for each other, and what follows needs both
                done = kept(study, step)
                ours = done or _run_step(study, step, on_event)
                record = study.step(step)
                if ours:  # else look once more: it may have been started with other settings than those of now
                    on_event(Event(step, record.state, study.progress(step), kept=done))
                if ours and record.state == "succeeded":
                    waiting.remove(step)


def _run_step(study: Study, step: str, on_event: Callable[[Event], None]) -> bool:
    """Run a step, or wait for the process of a run that died; returns whether this run started it."""
    process: subprocess.Popen[bytes] | None = None
    if study.step(step).state != "running":  # else its process outlived the one that started it: wait for it
        log_file = study.log_file(step)
        log_file.parent.mkdir(parents=True, exist_ok=True)
        with log_file.open("ab") as log:
            process = subprocess.Popen(
                command(study, step), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True, env=child_environment(),
            )
        step_back(process.pid)
    cancelled_at: float | None = None
    while _alive(study, step, process):
        try:
            on_event(Event(step, "running", study.progress(step)))
            if study.cancel_requested:
                cancelled_at = cancelled_at or time.monotonic()
                if process is not None and time.monotonic() - cancelled_at > _GRACE_SECONDS:
                    process.terminate()
            time.sleep(_POLL_SECONDS)
        except KeyboardInterrupt:
            study.request_cancel()
    judge(study, step, process.returncode if process is not None else None)
    return process is not None


def _alive(study: Study, step: str, process: subprocess.Popen[bytes] | None) -> bool:
    return process.poll() is None if process is not None else study.step(step).state == "running"
