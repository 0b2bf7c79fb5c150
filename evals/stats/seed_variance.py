"""Interval of a difference for assistants that are trained again with other seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from evals.stats.cluster_robust import StandardError
from evals.stats.intervals import LEVEL, Interval


@dataclass(frozen=True)
class TrainedAgain:
    """Uncertainty of the difference if both arms are trained again.

    Attributes:
        interval: Interval for the difference averaged over the seeds.
        seed_share: Share of its variance that comes from the seeds, 0 … 1.
        degrees_of_freedom: Satterthwaite's.
    """

    interval: Interval
    seed_share: float
    degrees_of_freedom: float


MOST_SEEDS = 50  # more seeds than this are not asked for


def trained_again(
    delta: float, items: StandardError, deltas: Sequence[float], level: float = LEVEL
) -> TrainedAgain:
    """V_items + V_seeds / S, with Satterthwaite degrees of freedom.

    The intervals over items are about these trained assistants; a claim about the method needs the variance of training
    as well (Bouthillier et al. 2021, arXiv 2103.03098).

    Args:
        delta: Difference averaged over the seeds.
        items: Its standard error over items or clusters.
        deltas: The difference of each seed; two or more.
        level: Coverage of the interval.
    """
    return _interval(delta, items, float(np.var(deltas, ddof=1)), len(deltas), level)


def seeds_needed(
    delta: float,
    items: StandardError,
    deltas: Sequence[float],
    *,
    margin: float,
    higher_is_better: bool,
    level: float = LEVEL,
) -> int | None:
    """The number of seeds at which the interval would be within the margin or beyond zero, at the spread of these.

    Args:
        delta: Difference averaged over the seeds.
        items: Its standard error over items or clusters, which further seeds do not change.
        deltas: The difference of each seed; two or more.
        margin: Largest harm that counts as no worse.
        higher_is_better: Whether a negative difference is harm.
        level: Coverage of the interval.

    Returns:
        At least the present number; ``None`` if more than :data:`MOST_SEEDS` or no number would do.
    """
    variance = float(np.var(deltas, ddof=1))
    for count in range(len(deltas), MOST_SEEDS + 1):
        low, high = _interval(delta, items, variance, count, level).interval
        best, worst = (-high, -low) if higher_is_better else (low, high)
        if worst <= margin or best > 0:
            return count
    return None


def _interval(
    delta: float, items: StandardError, variance: float, count: int, level: float
) -> TrainedAgain:
    seeds = variance / count
    total = items.value**2 + seeds
    if total == 0:
        return TrainedAgain((delta, delta), 0.0, items.degrees_of_freedom)
    degrees = total**2 / (items.value**4 / items.degrees_of_freedom + seeds**2 / (count - 1))
    half = float(stats.t.ppf(0.5 + level / 2, degrees)) * math.sqrt(total)
    return TrainedAgain((delta - half, delta + half), seeds / total, degrees)
