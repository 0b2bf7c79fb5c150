"""The runner of a Ray cluster: steps are tasks, and independent steps run in parallel."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from assistant_builder.cluster.ray_client import TaskRegistryClient, alive_nodes, connect
from assistant_builder.cluster.resources import require_node, resources_for_step
from assistant_builder.cluster.tasks import TaskResult
from assistant_builder.cluster.workspace import StoreSync
from assistant_builder.config import ExecutorConfig
from assistant_builder.errors import AssistantBuilderError, Cancelled, error_texts
from assistant_builder.i18n import m
from assistant_builder.runner.backend import Event
from assistant_builder.runner.invalidation import queue_if_stale, raise_for_step_result
from assistant_builder.runner.step_process import step_command
from assistant_builder.store.mirror import Mirror
from assistant_builder.study import Study
from assistant_builder.study.steps import (
    Progress,
    evaluates,
    insert_shards,
    needed_before,
    split_run,
)

POLL_SECONDS = 0.25  # interval of the checks of a run


class RayRunner:
    """Runs steps on the nodes of a cluster, which Ray shares among studies; ``mirror`` is None on a shared path."""

    def __init__(self, executor: ExecutorConfig, mirror: Mirror | None = None) -> None:
        self._executor = executor
        self._mirror = mirror
        self.dashboard = ""

    def check_resources(self, study: Study) -> None:
        """Connect to the cluster; raises ResourceError unless a node has the resources of each step."""
        self.dashboard = connect(self._executor.address)
        nodes = alive_nodes()
        shards = study.shards if study.step("evaluate").state != "succeeded" else ()
        for step in insert_shards(study.steps, shards):
            if study.step(step).state != "succeeded":
                require_node(resources_for_step(study, step, nodes), nodes, step)

    def acquire(
        self, study: Study, *, now: bool, waiting: Callable[[list[str]], None]
    ) -> AbstractContextManager[None]:
        """Acquire nothing, because Ray queues tasks for the nodes."""
        return nullcontext()

    def run_steps(self, study: Study, on_event: Callable[[Event], None]) -> None:
        """Run every step that is not done, and wait for running steps of an earlier run.

        An error is raised after all running steps have ended.
        """
        connect(self._executor.address)
        run = _Run(study, self._executor, StoreSync(self._mirror), on_event)
        while not run.done:
            try:
                run.poll()
                time.sleep(POLL_SECONDS)
            except KeyboardInterrupt:
                study.request_cancel()
        run.finish()


class _Run:
    """One run of a study: its pending steps, the steps in flight and the errors.

    With early stopping an arm waits for the other one: its process ends, and is started again after the process of the
    other arm has ended.
    """

    def __init__(
        self,
        study: Study,
        executor: ExecutorConfig,
        store: StoreSync,
        on_event: Callable[[Event], None],
    ) -> None:
        self._study = study
        self._executor = executor
        self._store = store
        self._on_event = on_event
        self._shards = study.shards
        self._order = insert_shards(study.steps, self._shards)
        store.push()  # also removes the outputs of stale steps there
        self._client = TaskRegistryClient(study, store.url)
        self._pending = list(self._order)
        self._own_steps: set[str] = set()
        results = self._client.results()
        self._in_flight = {step for step, result in results.items() if result is None}
        self._end_order: dict[str, int] = {}
        self._losses = 0
        self._errors: list[AssistantBuilderError] = []

    @property
    def done(self) -> bool:
        """Whether no step is in flight, and none is pending or one has failed."""
        return not self._in_flight and (not self._pending or bool(self._errors))

    def finish(self) -> None:
        """Stop the actor, and raise the first error."""
        self._client.shut_down()
        if self._errors:
            others = [error for error in self._errors if not isinstance(error, Cancelled)]
            raise (others or self._errors)[0]

    def poll(self) -> None:
        """Start the steps that are ready, and check the steps in flight."""
        try:
            for step in list(self._ready()):
                self._start(step)
            if not self._in_flight:
                self._study.raise_if_cancelled()
        except AssistantBuilderError as error:
            self._errors.append(error)
        results = self._client.results()
        self._store.poll(self._in_flight, cancelled=self._study.cancel_requested)
        orphaned = self._in_flight - set(self._order)  # shards of a run with other settings
        self._in_flight -= {step for step in orphaned if results.get(step, TaskResult())}
        for step in [step for step in self._order if step in self._in_flight]:
            if step not in results:
                self._handle_loss(step)
            elif (result := results[step]) is None:
                self._report(step)
            else:
                self._handle_end(step, result)

    def _ready(self) -> Iterator[str]:
        if self._errors or self._study.cancel_requested:
            return
        # scoring steps of an earlier run write the same cells, possibly with other settings
        foreign = {step for step in self._in_flight - self._own_steps if evaluates(step)}
        for step in self._pending:
            blocked = set(needed_before(step, self._order)) & set(self._pending) or (
                evaluates(step) and foreign
            )
            waits_for_other_arm = step in self._end_order and any(
                self._end_order.get(other, 0) < self._end_order[step]
                for other in self._pending
                if _same_seed(step, other) and step not in needed_before(other, self._order)
            )
            if step not in self._in_flight and not blocked and not waits_for_other_arm:
                yield step

    def _start(self, step: str) -> None:
        is_shard = step in self._shards
        if not queue_if_stale(self._study, "evaluate" if is_shard else step):
            self._pending.remove(step)
            if not is_shard:
                self._on_event(Event(step, "succeeded", self._study.progress(step), reused=True))
            return
        if is_shard:
            self._study.write_step(replace(self._study.step(step), state="queued", error=None))
        nodes = alive_nodes()
        request = resources_for_step(self._study, step, nodes)
        require_node(request, nodes, step)
        self._store.prepare(step)
        command = step_command(self._study, step)[1:]
        self._client.start(step, command, request, self._executor.retries)
        self._own_steps.add(step)
        self._in_flight.add(step)

    def _handle_loss(self, step: str) -> None:
        self._losses += 1
        if self._losses > self._executor.retries * len(self._order):
            lost = "the node of the study's actor was lost too often"
            self._handle_end(step, TaskResult(lost=lost))
        self._in_flight.discard(step)

    def _report(self, step: str) -> None:
        if self._study.step(step).state == "running":
            self._on_event(Event(step, "running", self._study.progress(step)))
        else:
            self._on_event(
                Event(step, "queued", Progress.saying(0, 0, "nodes", m("waits for a free node")))
            )

    def _handle_end(self, step: str, result: TaskResult) -> None:
        self._in_flight.discard(step)
        self._end_order[step] = max(self._end_order.values(), default=0) + 1
        try:
            self._store.pull(step)
            try:
                _raise_for_task_result(self._study, step, result)
            finally:
                self._store.push()
        except AssistantBuilderError as error:
            self._errors.append(error)
        record = self._study.step(step)
        self._on_event(Event(step, record.state, self._study.progress(step)))
        if step not in self._own_steps:  # steps of earlier runs are checked again
            del self._end_order[step]
        elif record.state == "succeeded":
            self._pending.remove(step)


def _same_seed(step: str, other: str) -> bool:
    if step == other or not (step.startswith("train-") and other.startswith("train-")):
        return False
    runs = [name.removeprefix("train-") for name in (step, other)]
    return len({(split_run(run)[1], run.partition("+")[2]) for run in runs}) == 1


def _raise_for_task_result(study: Study, step: str, result: TaskResult) -> None:
    """Raise the error of a step whose task has ended, unless the step is done or waits for the other arm."""
    error = None
    if result.lost:
        error = AssistantBuilderError(
            m("the cluster lost it: {lost}", lost=result.lost),
            where=m("step {step}", step=step),
            remedy=m("Run again to resume from its last checkpoint"),
        )
    elif result.error is not None:
        error = AssistantBuilderError(**error_texts(result.error, where=f"step {step}"))
    record = study.step(step)
    if error is None or study.cancel_requested or record.state == "succeeded":
        raise_for_step_result(study, step, result.returncode)
        return
    study.write_step(replace(record, state="failed", error=error.to_record()))
    raise error
