"""What runs on the nodes of a Ray cluster: tasks that watch over steps, and the actor that keeps a study's tasks.

A step is the same process there as anywhere. The task that started it renews the step's lease, ends it when the user
cancels, and takes it along when the task itself is ended: with its node, or by Ray.
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

from assistant_builder.error_translation import TRAINING_MEMORY, translate_error
from assistant_builder.errors import AssistantBuilderError, ResourceError, StoreError, StudyError
from assistant_builder.jobs.node_copy import NodeCopy, at_hand
from assistant_builder.jobs.storing import cancel_told, tell_cancel
from assistant_builder.leases import Lease
from assistant_builder.stores import Store, patiently
from assistant_builder.study import Study
from assistant_builder.worker import NODE_VARIABLE, child_environment, step_back

GRACE_SECONDS = 6.0
"""How long a cancelled step may take to finish what it is at; other people wait for the nodes of a cluster."""
POLL_SECONDS = 0.25
"""How often a task looks whether its step has ended or is cancelled."""
MIND_SECONDS = 1.0
"""How often the actor looks whether tasks that wait are cancelled."""
_IDLE_SECONDS = 60.0
"""After how long an actor goes that has no task left, and whose study nobody runs."""


@dataclass(frozen=True)
class Outcome:
    """What a task ended with.

    Attributes:
        returncode: That of the step's process; None where there was none, or its task was ended.
        error: What kept the step from running on its node, as ``AssistantBuilderError.to_record()``.
        lost: What Ray says of a task whose nodes were lost too often; empty otherwise.
    """

    returncode: int | None = None
    error: dict[str, Any] | None = None
    lost: str = ""


def run_on_node(
    folder: str, url: str, step: str, words: list[str], environment: dict[str, str], tries: int
) -> Outcome:
    """Run a step of a study on this node and wait for it; what a Ray task does.

    Args:
        folder: The study's folder.
        url: URL of the study in its store, from which it is brought here; empty: all nodes see the folder.
        step: The step.
        words: Its command, after the interpreter, which is this node's.
        environment: Variables that the step's process has besides those of the node.
        tries: How often the step may be begun; Ray counts the nodes that were lost, but not the tasks that it ended
            itself because a node's memory ran out.
    """
    import ray

    name = f"{ray.util.get_node_ip_address()} ({ray.get_runtime_context().get_node_id()[:8]})"
    try:
        with at_hand(folder, url, step, name) as copy:
            words = [str(copy.study.folder) if word == folder else word for word in words]
            lease = Lease(copy.place, uuid.uuid4().hex, name)
            patiently(lease.take)
            try:
                if copy.cancel_requested:
                    return Outcome()
                if lease.attempt > tries:
                    raise ResourceError(
                        f"it was lost {tries} times: nodes went, or their memory ran out and Ray ended it",
                        where=f"step {step}", remedy=f"Add nodes with more memory. {TRAINING_MEMORY}",
                    )
                with copy.work(lease):
                    return Outcome(_run_process(copy, step, lease, words, {**environment, NODE_VARIABLE: name}))
            finally:
                with contextlib.suppress(StoreError):  # it ends by itself
                    lease.release()
    except (AssistantBuilderError, OSError) as error:
        return Outcome(error=translate_error(error).to_record())


def _run_process(copy: NodeCopy, step: str, lease: Lease, words: list[str], environment: dict[str, str]) -> int:
    """Run the step's process to its end."""
    log_file = copy.study.log_file(step)
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, *words], stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True, env={**child_environment(), **environment},
        )
    cancelled_at: float | None = None
    try:
        step_back(process.pid)
        while process.poll() is None:
            with contextlib.suppress(OSError, StoreError):  # a full disk is the step's to tell; a store comes back
                if not lease.renew():
                    raise StudyError("another node has taken it over", where=f"step {step}")
            if copy.cancel_requested:
                cancelled_at = cancelled_at or time.monotonic()
                if time.monotonic() - cancelled_at > GRACE_SECONDS:
                    break
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(POLL_SECONDS)
    finally:
        _end(process)
    return process.returncode


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it started, if it has not ended."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.stdin is not None
    process.stdin.close()
    process.wait()


class TaskKeeper:
    """Owns the Ray tasks of a study: a detached actor, so that they outlive the process that runs the study.

    Args:
        folder: The study's folder.
        url: URL of the study in its store; empty: all nodes see the folder.
    """

    def __init__(self, folder: str, url: str = "") -> None:
        self._study = Study(Path(folder))
        self._url = url
        self._tasks: dict[str, Any] = {}
        self._looked_at = time.monotonic()
        threading.Thread(target=self._mind, daemon=True).start()

    def start(
        self, folder: str, step: str, words: list[str], options: dict[str, Any], environment: dict[str, str]
    ) -> None:
        """Start the task of a step, unless it is under way.

        Args:
            folder: The study's folder, of the machine that asks, as it stands in ``words``.
            step: The step.
            words: Its command, after the interpreter.
            options: Ray's options of the task: what it asks for, and how often it is tried again.
            environment: Variables for the step's process.
        """
        import ray

        self._looked_at = time.monotonic()
        if self._outcome(step, missing=Outcome()) is not None:
            task = ray.remote(run_on_node).options(**options)
            tries = options["max_retries"] + 1
            self._tasks[step] = task.remote(folder, self._url, step, words, environment, tries)

    def look(self) -> dict[str, Outcome | None]:
        """What the task of each step ended with, None while it is under way."""
        self._looked_at = time.monotonic()
        return {step: self._outcome(step) for step in list(self._tasks)}

    def _outcome(self, step: str, missing: Outcome | None = None) -> Outcome | None:
        import ray
        from ray.exceptions import RayError, RayTaskError, TaskCancelledError

        if step not in self._tasks:
            return missing
        if not ray.wait([self._tasks[step]], timeout=0)[0]:
            return None
        try:
            outcome: Outcome = ray.get(self._tasks[step])
            return outcome
        except TaskCancelledError:
            return Outcome()
        except RayTaskError as error:
            return Outcome(error=translate_error(error.cause if isinstance(error.cause, Exception) else error).to_record())
        except RayError as error:
            return Outcome(lost=str(error).strip().splitlines()[0])

    def _mind(self) -> None:
        """Take tasks that still wait for a node out of Ray's queue when the user cancels, and go when nobody comes."""
        import ray

        while True:
            time.sleep(MIND_SECONDS)
            unfinished = [step for step in list(self._tasks) if self._outcome(step) is None]
            if unfinished and self._cancel_requested():
                for step in unfinished:
                    if not self._begun(step):
                        ray.cancel(self._tasks[step])
            if not unfinished and time.monotonic() - self._looked_at > _IDLE_SECONDS:
                ray.kill(ray.get_runtime_context().current_actor)

    def _cancel_requested(self) -> bool:
        """Whether the user asked for it here or, where the study is in a store, anywhere."""
        if not self._url:
            return self._study.cancel_requested
        with contextlib.suppress(StoreError):
            store = Store(self._url)
            if self._study.cancel_requested:
                tell_cancel(store)
            return cancel_told(store)
        return False

    def _begun(self, step: str) -> bool:
        """Whether a node has begun the step."""
        path = self._study.lease_file(step)
        if not self._url:
            return path.exists()
        with contextlib.suppress(StoreError):
            return Store(self._url).read(path.relative_to(self._study.folder).as_posix()) is not None
        return True
