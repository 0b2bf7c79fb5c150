"""Run a study's steps as tasks of a Ray cluster, as many at once as do not need one another and find a free node."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from assistant_builder.config import ExecutorConfig
from assistant_builder.errors import AssistantBuilderError, Cancelled
from assistant_builder.jobs.events import Event
from assistant_builder.jobs.nodes import Outcome, TaskKeeper
from assistant_builder.jobs.room import Ask, Node, ask_of, require_node
from assistant_builder.jobs.standing import judge, kept
from assistant_builder.jobs.steps import command
from assistant_builder.steps import Progress, needed_before
from assistant_builder.study import Study, home

_NAMESPACE = "assistant-builder"
_POLL_SECONDS = 0.25
_ANSWER_SECONDS = 60.0
"""How long the cluster may take to answer; an actor's process starts in seconds, also on a busy node."""
_CONNECT_SECONDS = 5.0


class RayRunner:
    """Runs steps on the nodes of a cluster, which Ray shares out among studies.

    Args:
        executor: The cluster's address, and what steps ask for.
    """

    def __init__(self, executor: ExecutorConfig) -> None:
        self._executor = executor

    def require_room(self, study: Study) -> None:
        """Refuse a study of which a step asks for more than any node has.

        Raises:
            ResourceError: One does.
            AssistantBuilderError: Ray is not installed, or the cluster does not answer.
        """
        connect(self._executor.address)
        nodes = _nodes()
        for step in study.steps:
            if study.step(step).state != "succeeded":
                require_node(ask_of(study, step, nodes), nodes, step)

    def turn(
        self, study: Study, *, now: bool, waiting: Callable[[list[str]], None]
    ) -> AbstractContextManager[None]:
        """Nothing to wait for: Ray's own queue is before the nodes, and this machine only watches."""
        return nullcontext()

    def run_steps(self, study: Study, on_event: Callable[[Event], None]) -> None:
        """Run every step that is not done; those of an earlier run that are still under way are waited for.

        Raises:
            AssistantBuilderError: A step failed, or the cluster is gone; told once no other step computes any more.
            Cancelled: The user asked for it.
        """
        connect(self._executor.address)
        run = _Run(study, self._executor, on_event)
        while not run.done:
            try:
                run.go_on()
                time.sleep(_POLL_SECONDS)
            except KeyboardInterrupt:
                study.request_cancel()
        run.finish()


class _Run:
    """Where one run of a study is: what still has to be done, what is under way, and what failed.

    Early stop makes an arm wait for its twin: its process ends, and is started again once that of the twin has ended.
    """

    def __init__(self, study: Study, executor: ExecutorConfig, on_event: Callable[[Event], None]) -> None:
        self._study = study
        self._executor = executor
        self._on_event = on_event
        self._keeper = Keeper(study)
        self._waiting = list(study.steps)
        self._ours: set[str] = set()
        self._flying = {step for step, outcome in self._keeper.look().items() if outcome is None}
        self._ends: dict[str, int] = {}
        self._losses = 0
        self._errors: list[AssistantBuilderError] = []

    @property
    def done(self) -> bool:
        """Whether nothing is under way, and nothing is left or something failed."""
        return not self._flying and (not self._waiting or bool(self._errors))

    def finish(self) -> None:
        """Free the cluster, and raise what failed first."""
        self._keeper.end()
        if self._errors:
            raise next((error for error in self._errors if not isinstance(error, Cancelled)), self._errors[0])

    def go_on(self) -> None:
        """Start what can be started, and look at what is under way."""
        try:
            for step in list(self._ready()):
                self._start(step)
            if not self._flying:
                self._study.raise_if_cancelled()
        except AssistantBuilderError as error:
            self._errors.append(error)
        outcomes = self._keeper.look()
        for step in sorted(self._flying, key=self._study.steps.index):
            if step not in outcomes:
                self._start_again(step)
            elif (outcome := outcomes[step]) is None:
                self._tell(step)
            else:
                self._ended(step, outcome)

    def _ready(self) -> Iterator[str]:
        """Steps that nothing holds up."""
        if self._errors or self._study.cancel_requested:
            return
        steps = self._study.steps
        for step in self._waiting:
            held_up = set(needed_before(step, steps)) & set(self._waiting)
            if step not in self._flying and not held_up and not self._waits_for_twin(step):
                yield step

    def _waits_for_twin(self, step: str) -> bool:
        twin = _twin(step)
        return step in self._ends and twin in self._waiting and self._ends.get(twin, 0) < self._ends[step]

    def _start(self, step: str) -> None:
        if kept(self._study, step):
            self._waiting.remove(step)
            self._on_event(Event(step, "succeeded", self._study.progress(step), kept=True))
            return
        nodes = _nodes()
        ask = ask_of(self._study, step, nodes)
        require_node(ask, nodes, step)
        self._keeper.start(step, command(self._study, step)[1:], ask, self._executor.retries)
        self._ours.add(step)
        self._flying.add(step)

    def _start_again(self, step: str) -> None:
        """Let a step start again whose task was lost with the actor that kept it."""
        self._losses += 1
        if self._losses > self._executor.retries * len(self._study.steps):
            self._ended(step, Outcome(lost="the node that kept the study's tasks was lost too often"))
        self._flying.discard(step)

    def _tell(self, step: str) -> None:
        if self._study.step(step).state == "running":
            self._on_event(Event(step, "running", self._study.progress(step)))
        else:
            self._on_event(Event(step, "queued", Progress(0, 0, "nodes", "waits for a free node")))

    def _ended(self, step: str, outcome: Outcome) -> None:
        self._flying.discard(step)
        self._ends[step] = max(self._ends.values(), default=0) + 1
        try:
            _judge(self._study, step, outcome)
        except AssistantBuilderError as error:
            self._errors.append(error)
        record = self._study.step(step)
        self._on_event(Event(step, record.state, self._study.progress(step)))
        if step in self._ours and record.state == "succeeded":  # else look whether it had the settings of now
            self._waiting.remove(step)
        elif step not in self._ours:
            del self._ends[step]


def _twin(step: str) -> str:
    """The training that early stop makes one wait for."""
    arm, dash, seed = step.removeprefix("train-").partition("-")
    return f"train-{'lora' if arm == 'qlora' else 'qlora'}{dash}{seed}"


def _judge(study: Study, step: str, outcome: Outcome) -> None:
    """Raise what a step's task ended with, unless it is done or waits for its twin."""
    error = None
    if outcome.lost:
        error = AssistantBuilderError(
            f"the cluster lost it: {outcome.lost}", where=f"step {step}",
            remedy="Running again carries on from its last checkpoint",
        )
    elif outcome.error is not None:
        error = AssistantBuilderError(
            outcome.error["what"], where=outcome.error["where"] or f"step {step}", remedy=outcome.error["remedy"]
        )
    record = study.step(step)
    if error is None or study.cancel_requested or record.state == "succeeded":
        judge(study, step, outcome.returncode)
        return
    study.write_step(replace(record, state="failed", error=error.to_record()))
    raise error


class Keeper:
    """The actor that keeps a study's tasks, found by the study's folder, made where there is none.

    Where its node is lost its tasks are lost with it; it is made anew, and the steps start again.
    """

    def __init__(self, study: Study) -> None:
        self._folder = str(study.folder.resolve())
        self._actor = self._find()

    def _find(self) -> Any:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        actor = ray.remote(TaskKeeper).options(
            name=self._folder, namespace=_NAMESPACE, lifetime="detached", get_if_exists=True, num_cpus=0,
            scheduling_strategy=here,  # where this process is, so that another node's loss does not touch it
        )
        return actor.remote(self._folder)

    def start(self, step: str, words: list[str], ask: Ask, retries: int) -> None:
        """Start the task of a step, whose command is ``words`` after the interpreter."""
        options = {
            "name": step, "num_cpus": ask.cpus, "num_gpus": ask.gpus, "memory": ask.memory_bytes or None,
            "max_retries": retries,
        }
        threads = str(max(1, int(ask.cpus)))
        environment = {"ASSISTANT_BUILDER_HOME": str(home().resolve()), "OMP_NUM_THREADS": threads}
        self._ask(lambda actor: actor.start.remote(step, words, options, environment))

    def look(self) -> dict[str, Outcome | None]:
        """What each task ended with, None while it is under way."""
        found: dict[str, Outcome | None] = self._ask(lambda actor: actor.look.remote())
        return found

    def end(self) -> None:
        """Take the actor away, once no task is left."""
        import ray

        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(self._actor)

    def _ask(self, call: Callable[[Any], Any]) -> Any:
        """Ask the actor; what is asked may be asked twice."""
        import ray
        from ray.exceptions import ActorUnavailableError, RayActorError, RayError

        deadline = time.monotonic() + _ANSWER_SECONDS
        while True:
            try:
                return ray.get(call(self._actor), timeout=max(1.0, deadline - time.monotonic()))
            except RayActorError as error:
                if time.monotonic() > deadline:
                    raise _gone(str(error)) from error
                if not isinstance(error, ActorUnavailableError):  # that one may come back, or turn out to be dead
                    self._actor = self._find()
                time.sleep(_POLL_SECONDS)
            except RayError as error:
                raise _gone(str(error)) from error


def connect(address: str) -> None:
    """Become a driver of the cluster, once for this process.

    Raises:
        AssistantBuilderError: Ray is not installed, or the cluster does not answer.
    """
    try:
        import ray
    except ImportError as error:
        raise AssistantBuilderError(
            f"executor.kind=ray needs Ray, which cannot be imported: {error}", where="executor",
            remedy="Install it with pip install 'assistant-builder[ray]', on every node",
        ) from error
    if ray.is_initialized():
        return
    _knock(address)
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "1")  # tries, each of most of a minute; else twenty
    try:
        ray.init(address=address, namespace=_NAMESPACE, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # it raises what its many layers do: ConnectionError, RuntimeError, ValueError, …
        raise _silent(address, str(error)) from error


def _knock(address: str) -> None:
    """Find out within seconds whether anybody listens; Ray itself tries for much longer."""
    host, colon, port = address.rpartition(":")
    if not colon or "/" in address or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _silent(address, str(error)) from error


def _silent(address: str, said: str) -> AssistantBuilderError:
    first = (said.strip().splitlines() or [""])[0]
    return AssistantBuilderError(
        f"no Ray cluster answers at executor.address={address}: {first}", where="executor",
        remedy="Start one with 'ray start --head', join this machine to one with 'ray start --address=HOST:PORT', or "
        "set executor.kind=local",
    )


def _gone(said: str) -> AssistantBuilderError:
    return AssistantBuilderError(
        f"the Ray cluster no longer answers: {said.strip().splitlines()[0]}", where="executor",
        remedy="Once it does, running again carries on; what its nodes still compute is found again",
    )


def _nodes() -> list[Node]:
    import ray

    return [
        Node(node["NodeManagerAddress"], node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0),
             int(node["Resources"].get("memory", 0)))
        for node in ray.nodes() if node["Alive"]
    ]


