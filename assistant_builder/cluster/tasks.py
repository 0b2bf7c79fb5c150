"""Code that runs on the nodes of a Ray cluster: tasks that supervise steps, and the actor that owns a study's tasks.

A step is the same process as on a single machine. Its task renews the step's lease and kills the process a few seconds
after a cancellation. The process also ends when its task ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assistant_builder.child_process import compute_environment, lower_priority
from assistant_builder.cluster.workspace import Workspace, open_workspace
from assistant_builder.error_record import ErrorRecord
from assistant_builder.error_translation import TRAINING_MEMORY, translate_error
from assistant_builder.errors import AssistantBuilderError, ResourceError, StoreError, StudyError
from assistant_builder.i18n import m
from assistant_builder.runner.step_process import NODE_VARIABLE
from assistant_builder.store.lease import Lease
from assistant_builder.store.object_store import ObjectStore, retry_until_timeout
from assistant_builder.store.sync import is_cancel_requested, write_cancel_flag
from assistant_builder.study import Study

GRACE_SECONDS = 6.0
"""Time that a cancelled step has to finish its unit of work; short, because other users wait for the nodes."""
POLL_SECONDS = 0.25  # interval of a task's checks whether its step has ended or is cancelled
CANCEL_CHECK_SECONDS = 1.0  # interval of the actor's checks whether waiting tasks are cancelled
_IDLE_SECONDS = 60.0  # time without tasks and requests after which the actor exits


@dataclass(frozen=True)
class TaskResult:
    """The result of a task."""

    returncode: int | None = None  # exit code of the step's process; None if it did not run
    # ``AssistantBuilderError.to_record()`` of an error before the step's process started
    error: ErrorRecord | None = None
    lost: str = ""  # Ray's message if the nodes of the task were lost too often; else empty


def run_on_node(
    folder: str,
    url: str,
    step: str,
    arguments: list[str],
    environment: dict[str, str],
    max_attempts: int,
) -> TaskResult:
    """Run a step of a study on this node and wait for it; the body of a Ray task.

    ``url`` is that of the study in its store; it is empty if the nodes share the folder. ``max_attempts`` limits the
    starts, because Ray's own limit does not count tasks that it kills for lack of memory.
    """
    import ray

    name = f"{ray.util.get_node_ip_address()} ({ray.get_runtime_context().get_node_id()[:8]})"
    try:
        with open_workspace(folder, url, step, name) as workspace:
            arguments = [
                str(workspace.study.folder) if word == folder else word for word in arguments
            ]
            lease = Lease(workspace.lease_backend, uuid.uuid4().hex, name)
            retry_until_timeout(lease.acquire)
            try:
                if workspace.cancel_requested:
                    return TaskResult()
                if lease.attempt > max_attempts:
                    raise ResourceError(
                        m(
                            "it was lost {max_attempts} times with its node, or because memory ran out and Ray killed "
                            "it",
                            max_attempts=max_attempts,
                        ),
                        where=m("step {step}", step=step),
                        remedy=m(
                            "Add nodes with more memory. {training_memory}",
                            training_memory=TRAINING_MEMORY,
                        ),
                    )
                environment = {**environment, NODE_VARIABLE: name}
                with workspace.sync(lease):
                    return TaskResult(_run_process(workspace, step, lease, arguments, environment))
            finally:
                with contextlib.suppress(StoreError):  # the lease expires by itself
                    lease.release()
    except (AssistantBuilderError, OSError) as error:
        return TaskResult(error=translate_error(error).to_record())


def _run_process(
    workspace: Workspace, step: str, lease: Lease, arguments: list[str], environment: dict[str, str]
) -> int:
    log_file = workspace.study.log_file(step)
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**compute_environment(), **environment},
        )
    cancelled_at: float | None = None
    try:
        lower_priority(process.pid)
        while process.poll() is None:
            # the step reports a full disk; a store is retried
            with contextlib.suppress(OSError, StoreError):
                if not lease.renew():
                    raise StudyError(
                        m("another node has taken it over"), where=m("step {step}", step=step)
                    )
            if workspace.cancel_requested:
                cancelled_at = cancelled_at or time.monotonic()
                if time.monotonic() - cancelled_at > GRACE_SECONDS:
                    break
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(POLL_SECONDS)
    finally:
        _kill(process)
    return process.returncode


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.stdin is not None
    process.stdin.close()
    process.wait()


class TaskRegistryActor:
    """Detached actor that owns the Ray tasks of a study, so that they outlive the run; arguments as in run_on_node."""

    def __init__(self, folder: str, url: str = "") -> None:
        self._study = Study(Path(folder))
        self._url = url
        self._tasks: dict[str, Any] = {}
        self._last_request = time.monotonic()
        threading.Thread(target=self._watch, daemon=True).start()

    def start(
        self,
        folder: str,
        step: str,
        arguments: list[str],
        options: dict[str, Any],
        environment: dict[str, str],
    ) -> None:
        """Start the task of a step unless it is running; arguments as for :func:`run_on_node`, and Ray's options."""
        import ray

        self._last_request = time.monotonic()
        if self._result(step, missing=TaskResult()) is not None:
            task = ray.remote(run_on_node).options(**options)
            attempts = options["max_retries"] + 1
            own = (folder, self._url, step, arguments, environment, attempts)
            self._tasks[step] = task.remote(*own)

    def results(self) -> dict[str, TaskResult | None]:
        """Step → result of its task, None while it is running or waits for a node."""
        self._last_request = time.monotonic()
        return {step: self._result(step) for step in list(self._tasks)}

    def _result(self, step: str, missing: TaskResult | None = None) -> TaskResult | None:
        import ray
        from ray.exceptions import RayError, RayTaskError, TaskCancelledError

        if step not in self._tasks:
            return missing
        if not ray.wait([self._tasks[step]], timeout=0)[0]:
            return None
        try:
            result: TaskResult = ray.get(self._tasks[step])
            return result
        except TaskCancelledError:
            return TaskResult()
        except RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            return TaskResult(error=translate_error(cause).to_record())
        except RayError as error:
            return TaskResult(lost=str(error).strip().splitlines()[0])

    def _watch(self) -> None:
        """Cancel waiting tasks when the run is cancelled, and exit when the actor is idle."""
        import ray

        while True:
            time.sleep(CANCEL_CHECK_SECONDS)
            unfinished = [step for step in list(self._tasks) if self._result(step) is None]
            if unfinished and self._cancel_requested():
                for step in unfinished:
                    if not self._has_started(step):
                        ray.cancel(self._tasks[step])
            if not unfinished and time.monotonic() - self._last_request > _IDLE_SECONDS:
                ray.kill(ray.get_runtime_context().current_actor)

    def _cancel_requested(self) -> bool:
        if not self._url:
            return self._study.cancel_requested
        with contextlib.suppress(StoreError):
            store = ObjectStore(self._url)
            if self._study.cancel_requested:
                write_cancel_flag(store)
            return is_cancel_requested(store)
        return False

    def _has_started(self, step: str) -> bool:
        """Whether a node has started the step."""
        path = self._study.lease_file(step)
        if not self._url:
            return path.exists()
        with contextlib.suppress(StoreError):
            name = path.relative_to(self._study.folder).as_posix()
            return ObjectStore(self._url).read(name) is not None
        return True
