"""Statistical power: the difference that a held-out set can detect, and the items that a claim needs.

With 80 % power at the two-sided 5 % level a difference shows when it reaches (z_0.975 + z_0.8) ≈ 2.8 standard errors.
For right/wrong scores the paired difference of one item has variance close to the share of items that flip.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from evals.stats.units import make_units

FACTOR = float(stats.norm.ppf(0.975) + stats.norm.ppf(0.8))
ASSUMED_FLIP_RATE = 0.2  # assumed share of held-out answers on which the arms differ, before anything has been measured
ASSUMED_ICC = 0.5
"""Assumed correlation of flips within a cluster, before anything has been measured: phrasings of one fact often, but
not always, flip together."""
TARGET = 0.02  # difference of interest: two points


def minimum_detectable_difference(n: float, flip_rate: float) -> float:
    """Smallest difference of two right/wrong rates that shows with 80 % power: 2.8 · √(flip rate / n)."""
    return FACTOR * math.sqrt(flip_rate / n)


def minimum_detectable_mean(n: float, sd: float) -> float:
    """Smallest mean difference that shows with 80 % power: 2.8 · sd / √n, in the unit of ``sd``."""
    return FACTOR * sd / math.sqrt(n)


def items_needed(difference: float, *, variance: float, design_effect: float = 1.0) -> int:
    """Number of held-out items that detect a difference of this size, not zero, with 80 % power.

    ``variance`` is that of the paired differences: for right/wrong scores the share of items on which the arms differ.
    """
    # the margin below keeps rounding from asking for one item more than an exact square needs
    return max(2, math.ceil(FACTOR**2 * variance * design_effect / difference**2 - 1e-9))


def intraclass_correlation(values: ArrayLike, clusters: Sequence[Hashable]) -> float:
    """One-way ANOVA estimate of the correlation within clusters of values of shape ``[n]``, clipped to 0 … 1.

    It is 0 where it is undefined: no cluster has two items, there is one cluster only, or no variation.
    """
    x = np.asarray(values, dtype=np.float64)
    units = make_units(x, np.ones_like(x), clusters)
    sizes, groups, n = units.weights, units.count, len(x)
    if not units.clustered or groups < 2:
        return 0.0
    means = units.sums / sizes
    between = float((sizes * np.square(means - x.mean())).sum()) / (groups - 1)
    within = max(0.0, float(np.square(x - x.mean()).sum()) - between * (groups - 1)) / (n - groups)
    size = (n - float(np.square(sizes).sum()) / n) / (groups - 1)
    total = between + (size - 1) * within
    return min(1.0, max(0.0, (between - within) / total)) if total > 0 else 0.0


def design_effect(cluster_sizes: Sequence[int], icc: float = ASSUMED_ICC) -> float:
    """Factor by which clusters inflate the variance of a mean: 1 + (Σm² / Σm − 1) · ICC (Kish 1965)."""
    sizes = np.asarray(cluster_sizes, dtype=np.float64)
    return 1 + (float(np.square(sizes).sum() / sizes.sum()) - 1) * icc


@dataclass(frozen=True)
class Power:
    """Statistical power of a held-out set, with the assumptions on flips and their correlation within clusters.

    Attributes:
        clusters: Number of clusters; equal to ``items`` without clusters.
        effective_items: Number of independent items with the same information.
        minimum_detectable: Smallest difference in a right/wrong rate that 80 % power detects, as a share.
        target: The difference of interest, as a share.
        items_needed: Items of the same cluster structure that the target needs.
    """

    items: int
    clusters: int
    design_effect: float
    effective_items: float
    flip_rate: float
    icc: float
    minimum_detectable: float
    target: float
    items_needed: int

    def to_record(self) -> dict[str, Any]:
        """Every attribute, ready for JSON."""
        return asdict(self)


def heldout_power(items: int, *, clusters: Sequence[Hashable] | None = None) -> Power:
    """Power of this many held-out items, and the items that a claim of ``TARGET`` needs."""
    ones = np.ones(items)
    sizes = make_units(ones, ones, clusters).weights.astype(int).tolist()
    effect = design_effect(sizes)
    return Power(
        items=items,
        clusters=len(sizes),
        design_effect=effect,
        effective_items=items / effect,
        flip_rate=ASSUMED_FLIP_RATE,
        icc=ASSUMED_ICC,
        target=TARGET,
        minimum_detectable=minimum_detectable_difference(items / effect, ASSUMED_FLIP_RATE),
        items_needed=items_needed(TARGET, variance=ASSUMED_FLIP_RATE, design_effect=effect),
    )


def split_power(split: Mapping[str, Any]) -> Power | None:
    """Power of the held-out set of a split, from the counts in ``data/split.json``; ``None`` without a held-out item.

    Every assistant turn is an item. Without clusters, each conversation is one. Clusters are assumed to be of equal
    size.
    """
    pairs, items = split["counts"]["heldout"], split["turns"]["heldout"]
    clusters = split["clusters"]["heldout"] or (pairs if items > pairs else 0)
    if not items:
        return None
    return heldout_power(
        items, clusters=[place % clusters for place in range(items)] if clusters else None
    )


def power_sentence(power: Mapping[str, Any]) -> str:
    """The power of a held-out set (``Power.to_record()``) in a sentence."""
    clusters = f" in {power['clusters']:,} clusters" if power["clusters"] < power["items"] else ""
    return (
        f"{power['items']:,} held-out answers{clusters} show a difference of {100 * power['minimum_detectable']:.1f} "
        f"points in right answers (80% power), if the two assistants differ on {power['flip_rate']:.0%} of them; a "
        f"claim of {100 * power['target']:.0f} points would need {power['items_needed']:,}."
    )
