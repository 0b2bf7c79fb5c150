"""What a simulation says: figures of one repetition, and of several with their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from scipy import stats

from evals.capacity.assumptions import DAY_SECONDS, Assumptions
from evals.capacity.simulating import Cluster, Run, simulate
from evals.capacity.workload import Stages, arrivals

LEVEL = 0.95


@dataclass(frozen=True)
class Figures:
    """One repetition, from the end of the first day to that of the last day on which studies come in.

    Attributes:
        utilisation: Share of all processors that steps held, lost nodes included.
        wait_50: Seconds that the middle step waited for a node.
        wait_95: What 95 % of the steps waited at most.
        wait_99: The same of 99 %.
        turnaround_50: Seconds from coming in to the report, of the middle study.
        turnaround_95: What 95 % of the studies took at most.
        turnaround_99: The same of 99 %.
        within: Share of the studies that were done within the goal.
        failed: Share of the studies of which a step was lost too often.
        under_way: Studies that had come in and not ended, on average.
        losses_a_day: Nodes lost in a day.
    """

    utilisation: float
    wait_50: float
    wait_95: float
    wait_99: float
    turnaround_50: float
    turnaround_95: float
    turnaround_99: float
    within: float
    failed: float
    under_way: float
    losses_a_day: float


@dataclass(frozen=True)
class Interval:
    """A mean over repetitions with its 95 % interval (Student's t)."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        """The interval of at least two values."""
        mean = float(np.mean(values))
        half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
        return cls(mean, mean - half, mean + half)


@dataclass(frozen=True)
class Estimate:
    """What the repetitions say of one cluster.

    Attributes:
        nodes: Its nodes.
        by_name: Each of the :class:`Figures`.
    """

    nodes: int
    by_name: dict[str, Interval]

    def __getitem__(self, name: str) -> Interval:
        return self.by_name[name]


def figures_of(run: Run, cluster: Cluster, goal_seconds: float, begin: float, end: float) -> Figures:
    """The figures of a simulation.

    Args:
        run: The simulation.
        cluster: Its cluster.
        goal_seconds: Within how long a study is to be done.
        begin: From when studies, waits and processors count, in seconds.
        end: Until when.
    """
    counted = [study for study in run.studies if begin <= study.at < end]
    turnarounds = [study.seconds for study in counted]
    waits = [wait for study in run.studies for at, wait in study.waits if begin <= at < end]
    cpus = sum(node.cpus for node in cluster.nodes)
    held = sum(used * _overlap(since, until, begin, end) for used, since, until in run.used)
    there = sum(_overlap(study.at, study.done, begin, end) for study in run.studies)
    last = max(study.done for study in run.studies)
    return Figures(
        utilisation=held / (cpus * (end - begin)),
        wait_50=_percentile(waits, 50), wait_95=_percentile(waits, 95), wait_99=_percentile(waits, 99),
        turnaround_50=_percentile(turnarounds, 50), turnaround_95=_percentile(turnarounds, 95),
        turnaround_99=_percentile(turnarounds, 99),
        within=float(np.mean([not study.failed and study.seconds <= goal_seconds for study in counted])),
        failed=float(np.mean([study.failed for study in counted])), under_way=there / (end - begin),
        losses_a_day=run.losses / last * DAY_SECONDS,
    )


def _percentile(values: Sequence[float], share: float) -> float:
    return float(np.percentile(values, share))


def _overlap(since: float, until: float, begin: float, end: float) -> float:
    return max(0.0, min(until, end) - max(since, begin))


def estimate(stages: Stages, cluster: Cluster, assumptions: Assumptions) -> Estimate:
    """Simulate a cluster several times, always with the same studies for the same repetition."""
    found = []
    for repetition in range(assumptions.repetitions):
        run = simulate(arrivals(stages, assumptions, repetition), cluster, assumptions.seed, repetition)
        end = (assumptions.days + 1) * DAY_SECONDS
        found.append(figures_of(run, cluster, assumptions.goal_hours * 3600, DAY_SECONDS, end))
    return Estimate(len(cluster.nodes), {
        field.name: Interval.of([getattr(each, field.name) for each in found]) for field in fields(Figures)
    })
