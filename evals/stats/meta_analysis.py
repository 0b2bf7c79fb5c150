"""Random-effects meta-analysis: one mean of the effects of several studies, and how far a new study may be from it.

The variance between the studies is the REML estimate, the interval of the mean is that of Hartung and Knapp (2001,
Statistics in Medicine 20), never narrower than the normal one, the prediction interval is that of Higgins, Thompson and
Spiegelhalter (2009, JRSS-A 172), and the heterogeneity is Cochran's Q with Higgins and Thompson's I².
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

from evals.stats.intervals import LEVEL, Interval

Floats = NDArray[np.float64]
_LEAST_VARIATION = 1e-9
"""Range of a moderator, as a share of its largest value, from which a slope is fitted."""


@dataclass(frozen=True)
class Pooled:
    """A pooled mean, in the unit of the effects.

    Attributes:
        mean: The mean effect.
        standard_error: Its standard error.
        ci: Its 95 % interval.
        prediction: The 95 % interval of the effect in a new study like these; None with fewer than three studies. With
            eight it covers about 86 %, because the spread is often estimated as 0 (tests/evals/test_meta_analysis.py).
        tau: Standard deviation of the effects between studies.
        q: Cochran's Q.
        p_heterogeneity: The p-value of Q, chi-squared with k - 1 degrees of freedom.
        i_squared: Share of the variation that is between studies, between 0 and 1.
        weights: Share of each study in the mean, shape ``[k]``.
    """

    mean: float
    standard_error: float
    ci: Interval
    prediction: Interval | None
    tau: float
    q: float
    p_heterogeneity: float
    i_squared: float
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Slope:
    """How the effect changes with a moderator: the change per unit, its 95 % interval, and p-value."""

    slope: float
    ci: Interval
    p_value: float


def pool(effects: Sequence[float], standard_errors: Sequence[float]) -> Pooled:
    """Pool independent effects.

    Args:
        effects: Shape ``[k]``, two or more.
        standard_errors: Of each effect, above 0, shape ``[k]``.
    """
    y, v = np.asarray(effects, np.float64), np.asarray(standard_errors, np.float64) ** 2
    k, design = len(y), np.ones((len(y), 1))
    between = _reml(y, v, design)
    weights = 1 / (v + between)
    mean = float(weights @ y / weights.sum())
    error = _adjusted(y - mean, weights, k - 1) / float(np.sqrt(weights.sum()))
    tail = (1 + LEVEL) / 2
    fixed = 1 / v
    q = float(fixed @ (y - fixed @ y / fixed.sum()) ** 2)
    typical = (k - 1) * fixed.sum() / (fixed.sum() ** 2 - (fixed**2).sum())
    reach = float(stats.t.ppf(tail, k - 1)) * error
    spread = float(np.sqrt(between + error**2))
    new = float(stats.t.ppf(tail, k - 2)) * spread if k > 2 else None
    return Pooled(
        mean,
        error,
        (mean - reach, mean + reach),
        None if new is None else (mean - new, mean + new),
        float(np.sqrt(between)),
        q,
        float(stats.chi2.sf(q, k - 1)),
        float(between / (between + typical)),
        tuple((weights / weights.sum()).tolist()),
    )


def slope(
    effects: Sequence[float], standard_errors: Sequence[float], moderator: Sequence[float]
) -> Slope | None:
    """How the effects change with one moderator; None with fewer than four studies, or if it varies too little."""
    y, v = np.asarray(effects, np.float64), np.asarray(standard_errors, np.float64) ** 2
    x = np.asarray(moderator, np.float64)
    k = len(y)
    if k < 4 or np.ptp(x) <= _LEAST_VARIATION * np.abs(x).max():
        return None
    # centred and scaled, because sums of squares of large numbers lose the digits in which they differ
    scale = float(np.ptp(x))
    design = np.column_stack([np.ones(k), (x - x.mean()) / scale])
    weights = 1 / (v + _reml(y, v, design))
    inverse = np.linalg.inv(design.T * weights @ design)
    found = inverse @ (design.T * weights) @ y
    error = _adjusted(y - design @ found, weights, k - 2) * float(np.sqrt(inverse[1, 1]))
    value, reach = float(found[1]), float(stats.t.ppf((1 + LEVEL) / 2, k - 2)) * error
    p = 2 * float(stats.t.sf(abs(value) / error, k - 2))
    return Slope(value / scale, ((value - reach) / scale, (value + reach) / scale), p)


def leave_one_out(effects: Sequence[float], standard_errors: Sequence[float]) -> list[Pooled]:
    """The pooled mean without each of the effects, of which there are three or more."""
    return [
        pool(
            [*effects[:place], *effects[place + 1 :]],
            [*standard_errors[:place], *standard_errors[place + 1 :]],
        )
        for place in range(len(effects))
    ]


def _adjusted(residuals: Floats, weights: Floats, freedom: int) -> float:
    # the factor of Hartung and Knapp, at least 1
    return max(1.0, float(np.sqrt(weights @ residuals**2 / freedom)))


def _reml(y: Floats, v: Floats, design: ArrayLike) -> float:
    x = np.asarray(design, np.float64)

    def loss(between: float) -> float:
        weights = 1 / (v + between)
        information = x.T * weights @ x
        found = np.linalg.solve(information, (x.T * weights) @ y)
        residuals = y - x @ found
        return float(
            -np.log(weights).sum() + np.linalg.slogdet(information)[1] + weights @ residuals**2
        )

    most = 10 * float(np.var(y, ddof=1)) or 1.0
    grid = np.concatenate([[0.0], np.geomspace(1e-6 * most, most, 60)])
    best = int(np.argmin([loss(each) for each in grid]))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    found = optimize.minimize_scalar(
        loss, bounds=(low, high), method="bounded", options={"xatol": 1e-12 * most}
    )
    return float(found.x) if loss(float(found.x)) < loss(0.0) else 0.0
