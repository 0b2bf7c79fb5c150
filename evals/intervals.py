"""95 % intervals for a paired difference. Which one is used when is decided in ``evals.compare``.

Coverage of each, measured: ``python -m evals.simulate``.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from evals.units import Floats, Units

LEVEL = 0.95
RESAMPLES = 10_000
SKEWED = 1.0
"""Clusters whose sums have more sample skewness than this get the wider of the t and the BCa interval."""
_DRAWS_AT_ONCE = 2_000_000

Interval = tuple[float, float]


def t_interval(units: Units, *, degrees_of_freedom: int | None = None) -> Interval:
    """Linearised interval for the ratio ``sum(sums) / sum(weights)``, t-distributed with G − 1 degrees of freedom.

    With clusters it is the cluster-robust interval (variance ``G/(G − 1) · Σ residual² / (Σ weight)²``), the same as
    that of statsmodels' least squares on a constant with ``cov_type="cluster"`` and ``use_t``; without clusters and
    with equal weights it is the paired t interval.

    Args:
        units: At least two.
        degrees_of_freedom: G − 1 unless given.
    """
    count = units.count
    variance = count / (count - 1) * float(np.square(units.residuals).sum()) / float(units.weights.sum()) ** 2
    critical = float(stats.t.ppf(0.5 + LEVEL / 2, degrees_of_freedom or count - 1))
    half = critical * math.sqrt(variance)
    return units.delta - half, units.delta + half


def bca_interval(units: Units, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Bias-corrected and accelerated bootstrap interval (Efron 1987) for the ratio ``sum(sums) / sum(weights)``.

    Units are drawn with their weights, so the ratio's denominator varies as it would in another sample; the
    acceleration comes from the jackknife. Equals ``scipy.stats.bootstrap(method="BCa")`` but for the draws.

    Args:
        units: At least two, not all alike.
        resamples: Bootstrap samples.
        seed: Seed of the draws.
    """
    shifts = _bootstrap_shifts(units, resamples, seed)
    below = (np.count_nonzero(shifts < 0) + 0.5 * np.count_nonzero(shifts == 0)) / resamples
    bias = stats.norm.ppf(np.clip(below, 1 / (resamples + 1), resamples / (resamples + 1)))
    total, weight = float(units.sums.sum()), float(units.weights.sum())
    left_out = (total - units.sums) / (weight - units.weights)
    influence = left_out.mean() - left_out
    acceleration = float((influence**3).sum() / (6 * np.square(influence).sum() ** 1.5))
    z = bias + stats.norm.ppf([0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    low, high = np.quantile(shifts, stats.norm.cdf(bias + z / (1 - acceleration * z)))
    return units.delta + float(low), units.delta + float(high)


def _bootstrap_shifts(units: Units, resamples: int, seed: int) -> Floats:
    """Bootstrap ratio minus observed ratio, shape ``[resamples]``."""
    rng = np.random.default_rng(seed)
    residuals = units.residuals
    equal = bool((units.weights == units.weights[0]).all())
    shifts = np.empty(resamples)
    at_once = max(1, _DRAWS_AT_ONCE // units.count)
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        drawn = rng.integers(units.count, size=(rows, units.count), dtype=np.int32)
        weight = units.weights[0] * units.count if equal else units.weights[drawn].sum(axis=1)
        shifts[start : start + rows] = residuals[drawn].sum(axis=1) / weight
    return shifts


def bonett_price_interval(gained: int, lost: int, n: int) -> Interval:
    """Adjusted Wald interval for the difference of two paired proportions.

    One flip each way is added to the table: p = (flips + 1) / (n + 2). Bonett and Price, Adjusted Wald confidence
    interval for a difference of binomial proportions based on paired data, JEBS 37 (2012).

    Args:
        gained: Items that only the candidate has.
        lost: Items that only the baseline has.
        n: All items.
    """
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    center = up - down
    half = float(stats.norm.ppf(0.5 + LEVEL / 2)) * math.sqrt((up + down - center**2) / (n + 2))
    return max(-1.0, center - half), min(1.0, center + half)


def rare_interval(units: Units, span: float) -> Interval:
    """Interval where few units differ and scores have limits: the t interval with one unseen difference each way.

    The plain t, and any bootstrap, shrink to a point when nothing differed and are far too short when little did.

    Args:
        units: At least two.
        span: Largest possible difference of one item's score.
    """
    low, high = t_interval(units.with_unseen(span), degrees_of_freedom=units.count - 1)
    return max(-span, low), min(span, high)


def item_interval(units: Units, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """BCa interval, carried out to the t interval on a side where that reaches further.

    BCa alone is too short where weights are uneven or many differences are zero, and just long enough on lognormal
    differences at n = 100; the t interval is too short on the long side of skewed differences. Together they keep 95 %
    on symmetric and about 94 % on lognormal differences.
    """
    return _outer(bca_interval(units, resamples=resamples, seed=seed), t_interval(units))


def cluster_interval(units: Units, *, resamples: int = RESAMPLES, seed: int = 0) -> tuple[Interval, bool]:
    """Cluster-robust t interval, widened by a whole-cluster BCa interval where the cluster sums are visibly skewed.

    Returns:
        The interval, and whether skewness brought the bootstrap in.
    """
    plain = t_interval(units)
    if abs(float(stats.skew(units.residuals))) <= SKEWED:
        return plain, False
    return _outer(plain, bca_interval(units, resamples=resamples, seed=seed)), True


def _outer(one: Interval, other: Interval) -> Interval:
    return min(one[0], other[0]), max(one[1], other[1])
