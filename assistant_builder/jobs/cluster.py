"""Run a study's steps as tasks of a Ray cluster, as many at once as do not need one another and find a free node."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from assistant_builder.config import ExecutorConfig
from assistant_builder.errors import AssistantBuilderError, Cancelled
from assistant_builder.jobs.connection import Keeper, alive_nodes, connect
from assistant_builder.jobs.events import Event
from assistant_builder.jobs.following import FollowedStore
from assistant_builder.jobs.mirror import Mirror
from assistant_builder.jobs.nodes import Outcome
from assistant_builder.jobs.room import ask_of, require_node
from assistant_builder.jobs.standing import judge, kept
from assistant_builder.jobs.steps import command
from assistant_builder.steps import Progress, evaluates, needed_before, split_run, with_parts
from assistant_builder.study import Study

POLL_SECONDS = 0.25
"""How often a run looks how its steps stand."""


class RayRunner:
    """Runs steps on the nodes of a cluster, which Ray shares out among studies.

    Args:
        executor: The cluster's address, and what steps ask for.
        mirror: The study's folder and its store; None where the nodes share the folder.

    Attributes:
        dashboard: URL of Ray's dashboard, once :meth:`require_room` has asked the cluster; empty without one.
    """

    def __init__(self, executor: ExecutorConfig, mirror: Mirror | None = None) -> None:
        self._executor = executor
        self._mirror = mirror
        self.dashboard = ""

    def require_room(self, study: Study) -> None:
        """Refuse a study of which a step asks for more than any node has.

        Raises:
            ResourceError: One does.
            AssistantBuilderError: Ray is not installed, or the cluster does not answer.
        """
        self.dashboard = connect(self._executor.address)
        nodes = alive_nodes()
        parts = study.parts if study.step("evaluate").state != "succeeded" else ()
        for step in with_parts(study.steps, parts):
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
        run = _Run(study, self._executor, FollowedStore(self._mirror), on_event)
        while not run.done:
            try:
                run.go_on()
                time.sleep(POLL_SECONDS)
            except KeyboardInterrupt:
                study.request_cancel()
        run.finish()


class _Run:
    """Where one run of a study is: what still has to be done, what is under way, and what failed.

    Early stop makes an arm wait for its twin: its process ends, and is started again once that of the twin has ended.
    """

    def __init__(
        self, study: Study, executor: ExecutorConfig, store: FollowedStore, on_event: Callable[[Event], None]
    ) -> None:
        self._study = study
        self._executor = executor
        self._store = store
        self._on_event = on_event
        self._parts = study.parts
        self._order = with_parts(study.steps, self._parts)
        store.push()  # steps that are to be run again are forgotten there too
        self._keeper = Keeper(study, store.url)
        self._waiting = list(self._order)
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
        self._store.follow(self._flying, cancelled=self._study.cancel_requested)
        strangers = self._flying - set(self._order)  # parts of a run that had other settings
        self._flying -= {step for step in strangers if outcomes.get(step, Outcome()) is not None}
        for step in [step for step in self._order if step in self._flying]:
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
        # what a run of before had started, with other settings maybe, scores the same cells
        others = {step for step in self._flying - self._ours if evaluates(step)}
        for step in self._waiting:
            held_up = set(needed_before(step, self._order)) & set(self._waiting) or (evaluates(step) and others)
            if step not in self._flying and not held_up and not self._waits_for_twin(step):
                yield step

    def _waits_for_twin(self, step: str) -> bool:
        return step in self._ends and any(
            self._ends.get(twin, 0) < self._ends[step] for twin in self._waiting if _are_twins(step, twin))

    def _start(self, step: str) -> None:
        part = step in self._parts
        if kept(self._study, "evaluate" if part else step):
            self._waiting.remove(step)
            if not part:
                self._on_event(Event(step, "succeeded", self._study.progress(step), kept=True))
            return
        if part:
            self._study.write_step(replace(self._study.step(step), state="queued", error=None))
        nodes = alive_nodes()
        ask = ask_of(self._study, step, nodes)
        require_node(ask, nodes, step)
        self._store.ready(step)
        self._keeper.start(step, command(self._study, step)[1:], ask, self._executor.retries)
        self._ours.add(step)
        self._flying.add(step)

    def _start_again(self, step: str) -> None:
        """Let a step start again whose task was lost with the actor that kept it."""
        self._losses += 1
        if self._losses > self._executor.retries * len(self._order):
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
            self._store.pull(step)
            try:
                _judge(self._study, step, outcome)
            finally:
                self._store.push()
        except AssistantBuilderError as error:
            self._errors.append(error)
        record = self._study.step(step)
        self._on_event(Event(step, record.state, self._study.progress(step)))
        if step in self._ours and record.state == "succeeded":  # else look whether it had the settings of now
            self._waiting.remove(step)
        elif step not in self._ours:
            del self._ends[step]


def _are_twins(step: str, other: str) -> bool:
    """Whether two steps train different arms with the same seed; early stop makes them wait for each other."""
    if step == other or not (step.startswith("train-") and other.startswith("train-")):
        return False
    return split_run(step.removeprefix("train-"))[1] == split_run(other.removeprefix("train-"))[1]


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
