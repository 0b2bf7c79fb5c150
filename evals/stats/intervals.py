"""Intervals for a paired difference, by default of 95 %; ``evals.compare`` chooses among them.

``python -m benchmarks.simulate_statistics`` measures the coverage of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from evals.stats.cluster_robust import cr2_standard_error
from evals.stats.draws import in_pieces
from evals.stats.units import Floats, Units

LEVEL = 0.95
RESAMPLES = 10_000
_STUDENTIZED_UNITS = 10  # with fewer units, too many resamples have hardly any spread, which makes bootstrap-t unstable

Interval = tuple[float, float]


def look_level(look: int) -> float:
    """The level of the interval of a further look at a test: each halves the error of the one before.

    Together, however many there are, they err in at most twice 1 − :data:`LEVEL` (Bonferroni).

    Args:
        look: Number of the look, from 1.
    """
    return 1 - (1 - LEVEL) / 2 ** (look - 1)


def _z(level: float) -> float:
    return float(special.ndtri(0.5 + level / 2))


def t_interval(
    units: Units, *, degrees_of_freedom: int | None = None, level: float = LEVEL
) -> Interval:
    """Interval for the ratio ``sum(sums) / sum(weights)`` with its standard error from :mod:`.cluster_robust`.

    Without clusters and with equal weights it is the paired t interval.

    Args:
        units: At least two.
        degrees_of_freedom: Those of CR2 unless given.
        level: Coverage of the interval, as in all functions here.
    """
    error = cr2_standard_error(units)
    if degrees_of_freedom is not None:
        error = replace(error, degrees_of_freedom=min(degrees_of_freedom, error.degrees_of_freedom))
    half = error.half_width(level)
    return units.delta - half, units.delta + half


def _standard_error(units: Units) -> float:
    count = units.count
    return math.sqrt(count / (count - 1) * float(np.square(units.residuals).sum())) / float(
        units.weights.sum()
    )


@dataclass(frozen=True)
class Resamples:
    """Resamples of units, drawn with replacement.

    Attributes:
        shifts: Ratio of each resample minus that of the units, shape ``[resamples]``.
        errors: Standard error of each resample's ratio, shape ``[resamples]``.
    """

    shifts: Floats
    errors: Floats


def resample(units: Units, *, resamples: int = RESAMPLES, seed: int = 0) -> Resamples:
    """Draw units with their weights, so that the ratio's denominator varies as it would in another sample."""
    residuals, weights, count = units.residuals, units.weights, units.count
    # sums over a resample of r, w, r², r·w and w²
    values = np.stack([residuals, weights, residuals**2, residuals * weights, weights**2], axis=1)
    sums = np.concatenate([times @ values for times in _times_drawn(count, resamples, seed)])
    total, weight, squared, cross, own = sums.T
    shifts = total / weight
    # squared residuals of the resample about its own ratio, multiplied out
    squares = (squared - 2 * shifts * cross + shifts**2 * own).clip(0)
    return Resamples(shifts, np.sqrt(count / (count - 1) * squares) / weight)


@in_pieces(3_000_000)
def _times_drawn(rng: np.random.Generator, rows: int, count: int) -> Floats:
    """How often each of ``count`` units is in each resample, in pieces of shape ``[rows, count]``."""
    drawn = rng.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
    times = np.bincount(drawn.ravel(), minlength=rows * count)
    return times.reshape(rows, count).astype(np.float64)


def bca_interval(units: Units, drawn: Resamples, level: float = LEVEL) -> Interval:
    """Bias-corrected and accelerated bootstrap interval (Efron 1987) for the ratio ``sum(sums) / sum(weights)``.

    The acceleration comes from the jackknife. Equals ``scipy.stats.bootstrap(method="BCa")`` but for the draws. At
    least two units, not all alike.
    """
    count = len(drawn.shifts)
    below = (np.count_nonzero(drawn.shifts < 0) + 0.5 * np.count_nonzero(drawn.shifts == 0)) / count
    bias = special.ndtri(np.clip(below, 1 / (count + 1), count / (count + 1)))
    total, weight = float(units.sums.sum()), float(units.weights.sum())
    left_out = (total - units.sums) / (weight - units.weights)
    influence = left_out.mean() - left_out
    acceleration = float((influence**3).sum() / (6 * np.square(influence).sum() ** 1.5))
    z = bias + np.array([-_z(level), _z(level)])
    low, high = np.quantile(drawn.shifts, special.ndtr(bias + z / (1 - acceleration * z)))
    return units.delta + float(low), units.delta + float(high)


def bootstrap_t_interval(units: Units, drawn: Resamples, level: float = LEVEL) -> Interval:
    """Studentized bootstrap interval (Efron 1982, Hall 1988) for the ratio ``sum(sums) / sum(weights)``.

    The t interval with critical values taken from resamples, so that it extends further to the side on which skewed
    differences have their rare large values. Resamples with hardly any spread are left out, because they have no scale.
    """
    error = _standard_error(units)
    scaled = drawn.errors > 1e-6 * error
    low, high = np.quantile(
        drawn.shifts[scaled] / drawn.errors[scaled], [0.5 - level / 2, 0.5 + level / 2]
    )
    return units.delta - float(high) * error, units.delta - float(low) * error


def flip_interval(gained: int, lost: int, n: int, level: float = LEVEL) -> Interval:
    """Interval for the difference of two paired proportions over ``n`` items: Tango's, at least Bonett and Price's.

    Each is too short on one side of rare flips of one direction: Bonett and Price's on the side of the flips (6 %
    instead of 2.5 % beyond that end, n = 300, 2 % flips), Tango's on the other (5 %). Together at most 3.1 % of the
    intervals end short of the true difference on either side, for 30 to 500 items and flip rates of 1 to 30 %.
    """
    return outer(
        tango_interval(gained, lost, n, level), bonett_price_interval(gained, lost, n, level)
    )


def bonett_price_interval(gained: int, lost: int, n: int, level: float = LEVEL) -> Interval:
    """Adjusted Wald interval for the difference of two paired proportions over ``n`` items.

    One flip each way is added to the table: p = (flips + 1) / (n + 2). Bonett and Price, Adjusted Wald confidence
    interval for a difference of binomial proportions based on paired data, JEBS 37 (2012).
    """
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    center = up - down
    half = _z(level) * math.sqrt((up + down - center**2) / (n + 2))
    return max(-1.0, center - half), min(1.0, center + half)


def tango_interval(gained: int, lost: int, n: int, level: float = LEVEL) -> Interval:
    """Score interval for the difference of two paired proportions over ``n`` items.

    It holds the differences D that a score test does not reject: (gained − lost − nD)² ≤ z² n(2q + D(1 − D)), where q
    is the likeliest rate of losses if the difference is D. Tango, Equivalence test and confidence interval for the
    difference in proportions for the paired-sample design, Statistics in Medicine 17 (1998).
    """
    z = _z(level)

    def rejected(difference: float) -> bool:
        b = (2 * n - gained + lost) * difference - gained - lost
        root = math.sqrt(max(0.0, b * b + 8 * n * lost * difference * (1 - difference)))
        variance = n * ((root - b) / (2 * n) + difference * (1 - difference))
        return (gained - lost - n * difference) ** 2 > z**2 * variance

    estimate = (gained - lost) / n
    return _last_accepted(rejected, estimate, -1.0), _last_accepted(rejected, estimate, 1.0)


def _last_accepted(rejected: Callable[[float], bool], inside: float, outside: float) -> float:
    """The end of an interval between a point inside and one outside, by bisection."""
    if not rejected(outside):
        return outside
    for _ in range(50):
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if rejected(middle) else (middle, outside)
    return outside


def rare_interval(units: Units, span: float, level: float = LEVEL) -> Interval:
    """Interval for few differing units: the ends of t intervals with a few unseen differences added.

    The plain t, and any bootstrap, shrink to a point when nothing differed and are far too short when little did. With
    one flip added each way, as Bonett and Price (2012) do, the end on the side of the observed differences is
    x + 1.96 √(x + 2) for a rare count x, below the exact limit of a Poisson count. One and a half differences on that
    side give x + 1.5 + 1.96 √(x + 1.25), close to it: 3.7, 5.4 and 11.4 for 0, 1 and 5, where 3.7, 5.6 and 11.7 are
    exact. The end on that side is at least that of units without any difference: 5 % of harm in whole clusters stays
    unseen in 12.9 % of the tests with 40 clusters, and single flips of some clusters say nothing about it.

    Args:
        units: At least two.
        span: Largest possible difference of one item's score; the largest observed one if there is no limit.
        level: Coverage of the interval.
    """
    down, up = _rare_ends(units, span, level)
    least = _rare_ends(units.without_differences(), span, level)
    return (min(down, least[0]) if units.delta <= 0 else down), (
        max(up, least[1]) if units.delta >= 0 else up
    )


def _rare_ends(units: Units, span: float, level: float) -> Interval:
    down, up = (
        t_interval(units.with_unseen(span, unseen), degrees_of_freedom=units.count - 1, level=level)
        for unseen in (
            (-1.0, -0.5) if units.delta <= 0 else (-1.0, 1.0),
            (1.0, 0.5) if units.delta >= 0 else (-1.0, 1.0),
        )
    )
    return down[0], up[1]


def item_interval(
    units: Units, *, resamples: int = RESAMPLES, seed: int = 0, level: float = LEVEL
) -> tuple[Interval, bool]:
    """BCa interval, extended to t, and to bootstrap-t where differences are skewed; and whether they are.

    BCa alone is too short where weights are uneven or many differences are zero; the t interval is too short on the
    long side of skewed differences. Together they cover 95 % of symmetric differences, and with bootstrap-t about
    the same of lognormal ones.
    """
    drawn = resample(units, resamples=resamples, seed=seed)
    interval = outer(bca_interval(units, drawn, level), t_interval(units, level=level))
    if not _studentized(units):
        return interval, False
    return outer(interval, bootstrap_t_interval(units, drawn, level)), True


def cluster_interval(
    units: Units, *, resamples: int = RESAMPLES, seed: int = 0, level: float = LEVEL
) -> tuple[Interval, bool]:
    """Cluster-robust t interval, extended to whole-cluster bootstrap-t where sums are skewed; and whether so.

    On lognormal effects of 20 clusters t covers 87 to 89 %, BCa 90 % and bootstrap-t 91 to 93 %.
    """
    if not _studentized(units):
        return t_interval(units, level=level), False
    drawn = resample(units, resamples=resamples, seed=seed)
    return outer(t_interval(units, level=level), bootstrap_t_interval(units, drawn, level)), True


def _studentized(units: Units) -> bool:
    return units.count >= _STUDENTIZED_UNITS and units.skewed


def outer(one: Interval, other: Interval) -> Interval:
    """The smallest interval that contains both."""
    return min(one[0], other[0]), max(one[1], other[1])
