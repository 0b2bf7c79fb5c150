"""The runner of this machine: one step at a time, each in its own process."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from assistant_builder.child_process import compute_environment, lower_priority
from assistant_builder.config import ExecutorConfig
from assistant_builder.planning.memory_check import require_study_fit
from assistant_builder.runner.backend import Event
from assistant_builder.runner.invalidation import queue_if_stale, raise_for_step_result
from assistant_builder.runner.queue import machine_lock
from assistant_builder.runner.step_process import step_command
from assistant_builder.study import Study

_POLL_SECONDS = 0.25
_GRACE_SECONDS = 600.0
"""Time that a cancelled step has to finish its optimizer step, which takes minutes for a large model on a slow machine.

Termination loses the work since the last checkpoint.
"""


class LocalRunner:
    """Runs steps as processes of this machine, one study at a time; the arguments are those of all runners."""

    dashboard = ""

    def __init__(self, executor: ExecutorConfig | None = None, synced: object = None) -> None:
        pass

    def check_resources(self, study: Study) -> None:
        """Raise ResourceError if the training does not fit into the memory of this machine."""
        require_study_fit(study)

    def acquire(
        self, study: Study, *, now: bool, waiting: Callable[[list[str]], None]
    ) -> AbstractContextManager[None]:
        """Acquire the machine after the earlier runs of other studies; see :func:`machine_lock`."""
        return machine_lock(study, now=now, waiting=waiting)

    def run_steps(self, study: Study, on_event: Callable[[Event], None]) -> None:
        """Run every step that is not done, in order.

        If an earlier run started a step, wait for it and then check it again, because it may have had other settings.
        """
        pending = list(study.steps)
        while pending:
            for step in list(pending):
                if step in ("evaluate", "report") and any(other.startswith("train-") for other in pending):
                    break  # with early stopping the arms wait for each other, and these steps need all arms
                done = not queue_if_stale(study, step)
                ours = done or _run_step(study, step, on_event)
                record = study.step(step)
                if ours:
                    on_event(Event(step, record.state, study.progress(step), reused=done))
                if ours and record.state == "succeeded":
                    pending.remove(step)


def _run_step(study: Study, step: str, on_event: Callable[[Event], None]) -> bool:
    """Run a step or wait for the process that an earlier run started; returns whether this run started it."""
    process: subprocess.Popen[bytes] | None = None
    if study.step(step).state != "running":
        log_file = study.log_file(step)
        log_file.parent.mkdir(parents=True, exist_ok=True)
        with log_file.open("ab") as log:
            process = subprocess.Popen(
                step_command(study, step), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True, env=compute_environment(),
            )
        lower_priority(process.pid)
    cancelled_at: float | None = None
    while process.poll() is None if process is not None else study.step(step).state == "running":
        try:
            on_event(Event(step, "running", study.progress(step)))
            if study.cancel_requested:
                cancelled_at = cancelled_at or time.monotonic()
                if process is not None and time.monotonic() - cancelled_at > _GRACE_SECONDS:
                    process.terminate()
            time.sleep(_POLL_SECONDS)
        except KeyboardInterrupt:
            study.request_cancel()
    raise_for_step_result(study, step, process.returncode if process is not None else None)
    return process is not None
