"""Tests of "no difference": sign flips, exact McNemar, the sign test for preferences, and Holm's adjustment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import special

from assistant_builder.errors import EvaluationError
from assistant_builder.i18n import m
from evals.stats.draws import in_pieces
from evals.stats.units import Floats, Units

FLIPS = 10_000  # number of random sign patterns where there are too many to enumerate
_EXACT_UP_TO = 13


def sign_flip_test(units: Units, *, flips: int = FLIPS, seed: int = 0) -> float:
    """Two-sided permutation test that swaps the two arms, unit by unit; with clusters, whole clusters.

    All patterns of swaps are enumerated if at most 13 units differ (the others change nothing). Otherwise ``flips``
    random ones are drawn, and the observed pattern counts as one of them, so that the p-value is valid and never zero.
    It is 1 if no unit differs.

    The test is exact when swapping the arms changes nothing. If the arms are equal on average only and the
    differences are very skewed, it rejects too often (9 % instead of 5 % on token-weighted lognormal differences at
    n = 100), so that verdicts use the interval.
    """
    values = units.sums[units.sums != 0]
    if not len(values):
        return 1.0
    # sums that differ by rounding only are ties
    bar = abs(float(values.sum())) - 1e-9 * float(np.abs(values).sum())
    if len(values) <= _EXACT_UP_TO:
        patterns = np.arange(2 ** len(values))[:, None] >> np.arange(len(values)) & 1
        return float(np.mean(np.abs((1 - 2 * patterns) @ values) >= bar))
    reached = sum(
        int(np.count_nonzero(np.abs(values.sum() - 2 * (swapped @ values)) >= bar))
        for swapped in swaps(len(values), flips, seed)
    )
    return (reached + 1) / (flips + 1)


@in_pieces(3_000_000)
def swaps(rng: np.random.Generator, rows: int, count: int) -> Floats:
    """Random patterns of 0 and 1, in pieces of shape ``[rows, count]``."""
    bits = np.frombuffer(rng.bytes(-(-rows * count // 8)), dtype=np.uint8)
    return np.unpackbits(bits, count=rows * count).reshape(rows, count).astype(np.float64)


def mcnemar_exact(gained: int, lost: int) -> float:
    """Exact two-sided McNemar test: a binomial test of the flips against one half."""
    return (
        min(1.0, 2 * float(special.bdtr(min(gained, lost), gained + lost, 0.5)))
        if gained + lost
        else 1.0
    )


def holm(p_values: Sequence[float]) -> Floats:
    """Holm's step-down adjustment for several tests (Holm 1979), in the order given.

    Raises:
        EvaluationError: A p-value lies outside 0 … 1.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise EvaluationError(
            m("p-values must lie in 0 … 1, not {tolist}", tolist=p.tolist()),
            remedy=m("Leave out what has no p-value"),
        )
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted
