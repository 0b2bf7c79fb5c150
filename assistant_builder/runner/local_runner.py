"""Run the steps of a study on this machine, one process after the other."""

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
"""Time that a cancelled step has to finish its current optimizer step before it is terminated.

Termination loses the work since the last checkpoint. An optimizer step of a large model on a slow machine takes
minutes, and its result is kept if it may finish.
"""


class LocalRunner:
    """Runs steps as processes of this machine, which runs one study at a time.

    Args:
        executor: The executor's settings; none applies to this machine.
        synced: The synced store of the study; steps read and write the study's folder.
    """

    dashboard = ""

    def __init__(self, executor: ExecutorConfig | None = None, synced: object = None) -> None:
        pass

    def check_resources(self, study: Study) -> None:
        """Reject a study whose training does not fit this machine.

        Raises:
            ResourceError: It does not fit.
        """
        require_study_fit(study)

    def acquire(
        self, study: Study, *, now: bool, waiting: Callable[[list[str]], None]
    ) -> AbstractContextManager[None]:
        """Acquire the machine once the earlier runs of other studies are done; see :func:`machine_lock`."""
        return machine_lock(study, now=now, waiting=waiting)

    def run_steps(self, study: Study, on_event: Callable[[Event], None]) -> None:
        """Run every step that is not done, in order.

        A step that an earlier run started is waited for and then checked again, since it may have had other settings.
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
    """Run a step, or wait for the process that an earlier run started; returns whether this run started it."""
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
