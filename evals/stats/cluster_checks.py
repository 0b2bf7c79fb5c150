"""Checks of the clusters of a comparison: correlation that they miss, and the influence of single clusters."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from evals.stats.draws import in_pieces
from evals.stats.significance import swaps
from evals.stats.units import Floats, is_blank

PERMUTATIONS = 4_999


def correlation_p_value(
    residuals: Floats,
    labels: Sequence[Hashable],
    *,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> float:
    """One-sided permutation test that units with the same label have similar residuals.

    The statistic is the sum of the products of all pairs of residuals that share a label; the labels are permuted.
    A small p-value says that the units are not independent, so that an interval that takes them as independent is too
    short, and that clusters by this label are needed.

    Args:
        residuals: Residual of each unit of the comparison, shape ``[G]``.
        labels: A label for each unit, shape ``[G]``; blank ones (None, "", NaN) are alone.
        permutations: Number of random permutations.
        seed: Their seed.

    Returns:
        The p-value, the observed order counted as one permutation; 1 if no two units share a label, or all do.
    """
    code = _codes(labels)
    count, shared = int(code.max(initial=-1)) + 1, code >= 0
    if count == shared.sum() or (count == 1 and shared.all()):
        return 1.0
    centered = residuals - residuals.mean()
    member = np.zeros((count, len(code)))
    member[code[shared], np.flatnonzero(shared)] = 1.0

    squares, alone = float(np.square(centered).sum()), np.flatnonzero(~shared)

    def statistic(values: Floats) -> Floats:
        """Sum of the products of pairs, for values of shape ``[rows, G]``."""
        sums, blank = values @ member.T, values[:, alone]
        return (
            np.einsum("ij,ij->i", sums, sums) - squares + np.einsum("ij,ij->i", blank, blank)
        ) / 2

    observed = float(statistic(centered[None])[0])
    bar = observed - 1e-9 * squares
    reached = sum(
        int(np.count_nonzero(statistic(centered[order]) >= bar))
        for order in _orders(len(code), permutations, seed)
    )
    return (reached + 1) / (permutations + 1)


@in_pieces(2_000_000, keep=2)
def _orders(rng: np.random.Generator, rows: int, count: int) -> NDArray[np.int64]:
    return rng.permuted(np.broadcast_to(np.arange(count), (rows, count)), axis=1)


def _codes(labels: Sequence[Hashable]) -> NDArray[np.int64]:
    """Number of each label, in the order in which they first occur; -1 for blank ones."""
    codes: dict[Hashable, int] = {}
    return np.array(
        [-1 if is_blank(label) else codes.setdefault(label, len(codes)) for label in labels]
    )


def crossed_correlation_p_value(
    residuals: Floats,
    unit: NDArray[np.int64],
    labels: Sequence[Hashable],
    *,
    draws: int = PERMUTATIONS,
    seed: int = 0,
) -> float:
    """One-sided sign-flip test that items of different clusters with the same label have similar residuals.

    For labels that cross the clusters. The statistic is the sum of the products of the residuals of all pairs of items
    that share a label but no cluster; the signs of whole clusters are drawn at random.

    Args:
        residuals: Residual of each item, ``w · (d − delta)``, shape ``[n]``.
        unit: Number of each item's cluster, shape ``[n]``.
        labels: A label for each item, shape ``[n]``; blank ones (None, "", NaN) are alone.
        draws: Number of random sign patterns.
        seed: Their seed.

    Returns:
        The p-value, the observed signs counted as one pattern; 1 if no two clusters share a label.
    """
    code = _codes(labels)
    count, shared = int(code.max(initial=-1)) + 1, code >= 0
    sums = np.zeros((int(unit.max()) + 1, count))
    np.add.at(sums, (unit[shared], code[shared]), residuals[shared])
    own = float(np.square(sums).sum())
    observed = float(np.square(sums.sum(axis=0)).sum()) - own
    if not (np.count_nonzero(sums, axis=0) > 1).any():
        return 1.0
    reached = sum(
        int(
            np.count_nonzero(
                np.square((1 - 2 * swapped) @ sums).sum(axis=1) - own >= observed - 1e-9 * own
            )
        )
        for swapped in swaps(len(sums), draws, seed)
    )
    return (reached + 1) / (draws + 1)
