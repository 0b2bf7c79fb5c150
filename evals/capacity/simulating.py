"""Studies on a cluster as a discrete-event simulation: what waits for whom, what is lost and done again."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from assistant_builder.config import ExecutorConfig
from assistant_builder.errors import EvaluationError
from assistant_builder.jobs.room import Node
from assistant_builder.leases import TAKEOVER_SECONDS
from evals.capacity.fleet import Fleet
from evals.capacity.workload import Arrival, Task

if TYPE_CHECKING:
    import simpy


@dataclass(frozen=True)
class Cluster:
    """Nodes and what befalls them.

    Attributes:
        nodes: The nodes.
        overhead_seconds: Time of a slot that a step takes besides its own.
        loss_seconds: Mean time between two losses of a node; infinity: none is lost.
        back_seconds: Until a lost node is back.
        noticed_seconds: Until a loss is noticed.
        retries: How often a step is tried again after a loss.
    """

    nodes: tuple[Node, ...]
    overhead_seconds: float = 0.0
    loss_seconds: float = math.inf
    back_seconds: float = 600.0
    noticed_seconds: float = 30.0
    retries: int = ExecutorConfig().retries


@dataclass(frozen=True)
class Ended:
    """A study that came and went.

    Attributes:
        at: When it came in.
        done: When its last step ended.
        waits: Of each step: when it asked for a node, and for how many seconds it waited for one.
        failed: Whether a step was lost too often.
    """

    at: float
    done: float
    waits: tuple[tuple[float, float], ...]
    failed: bool

    @property
    def seconds(self) -> float:
        """From coming in to the end."""
        return self.done - self.at


@dataclass
class Run:
    """What a simulation came to.

    Attributes:
        studies: Every study, in the order in which they ended.
        used: Processors that were held, and from when to when.
        losses: Nodes that were lost.
    """

    studies: list[Ended] = field(default_factory=list)
    used: list[tuple[float, float, float]] = field(default_factory=list)
    losses: int = 0


def simulate(arrivals: Sequence[Arrival], cluster: Cluster, seed: int = 0, repetition: int = 0) -> Run:
    """Let studies run on a cluster until the last has ended.

    Args:
        arrivals: The studies.
        cluster: The cluster.
        seed: Seed of the losses; each node has its own, so that one node more changes nothing for the others.
        repetition: Which repetition.

    Raises:
        EvaluationError: SimPy is not installed.
    """
    env = _environment()
    fleet = Fleet(env, cluster.nodes)
    run = Run()
    if math.isfinite(cluster.loss_seconds):
        for number in range(len(cluster.nodes)):
            rng = np.random.default_rng([seed, repetition, 1, number])
            env.process(fleet.fail(number, _lazily(rng, cluster.loss_seconds), cluster.back_seconds))
    studies = [env.process(_study(env, fleet, cluster, arrival, run)) for arrival in arrivals]
    env.run(env.all_of(studies))
    run.used, run.losses = fleet.used, fleet.losses
    return run


def _environment() -> simpy.Environment:
    try:
        import simpy
    except ImportError as error:
        raise EvaluationError(f"the simulation needs SimPy, which cannot be imported: {error}",
                              remedy="Install it with pip install 'assistant-builder[capacity]'") from error
    return simpy.Environment()


def _lazily(rng: np.random.Generator, mean: float) -> Iterable[float]:
    while True:
        yield float(rng.exponential(mean))


def _study(
    env: simpy.Environment, fleet: Fleet, cluster: Cluster, arrival: Arrival, run: Run
) -> Generator[simpy.Event, Any, None]:
    yield env.timeout(arrival.at)
    waits: list[tuple[float, float]] = []
    failed = False
    for stage in arrival.stages:
        steps = [env.process(_step(env, fleet, cluster, task, waits)) for task in stage]
        ends = yield env.all_of(steps)
        failed = not all(ends.values())
        if failed:
            break
    run.studies.append(Ended(arrival.at, env.now, tuple(waits), failed))


def _step(
    env: simpy.Environment, fleet: Fleet, cluster: Cluster, task: Task, waits: list[tuple[float, float]]
) -> Generator[simpy.Event, Any, bool]:
    """Compute a step to its end; returns whether it came to one."""
    from simpy import Interrupt

    kept = again = 0.0
    for _ in range(cluster.retries + 1):
        asked, began = env.now, math.inf
        try:
            node = yield fleet.room(task.ask)
            began = env.now
            waits.append((asked, began - asked))
            yield env.timeout(cluster.overhead_seconds + again + task.seconds - kept)
            fleet.give_back(node)
            return True
        except Interrupt:
            worked = max(0.0, env.now - began - cluster.overhead_seconds - again)
            kept = max(kept, math.floor((kept + worked) / task.kept_seconds) * task.kept_seconds)
            again = TAKEOVER_SECONDS
            yield env.timeout(cluster.noticed_seconds)
    return False
