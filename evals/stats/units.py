"""Units of resampling: the items of a paired comparison, or their clusters, as sums and weights.

The arithmetic is the same for both. The compared figure is the ratio ``sum(sums) / sum(weights)``; without
clusters a unit is an item (``sums`` = w·d), with clusters it is a cluster (the sums over its items).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
RARE_UNITS = 20
"""Below this many units with any difference, an interval built from the observed spread alone is too short."""
SKEWED = 0.5  # sample skewness beyond which units count as skewed


@dataclass(frozen=True)
class Units:
    """The independent units of a paired comparison.

    Attributes:
        sums: Weighted difference of each unit, shape ``[G]``.
        weights: Weight of each unit, shape ``[G]``.
        items: Number of items in all the units.
        items_differing: Number of items with any difference; those of one cluster can cancel out in its sum.
        clustered: Whether a unit can hold several items.
    """

    sums: Floats
    weights: Floats
    items: int
    items_differing: int
    clustered: bool

    @property
    def count(self) -> int:
        """Number of units."""
        return len(self.sums)

    @property
    def kind(self) -> str:
        """What the units are."""
        return "clusters" if self.clustered else "items"

    @cached_property
    def delta(self) -> float:
        """``sum(sums) / sum(weights)``, summed without rounding loss; never a negative zero."""
        return math.fsum(self.sums) / math.fsum(self.weights) + 0.0

    @cached_property
    def residuals(self) -> Floats:
        """Contribution of each unit to the error of the linearised ratio, shape ``[G]``."""
        return self.sums - self.delta * self.weights

    @property
    def effective(self) -> float:
        """Effective number of units (Kish): ``sum(w)² / sum(w²)``."""
        return float(self.weights.sum() ** 2 / np.square(self.weights).sum())

    @property
    def differing(self) -> int:
        """Number of units with any difference."""
        return int(np.count_nonzero(self.sums))

    @property
    def largest(self) -> float:
        """Largest weighted difference of a unit, divided by the mean weight."""
        return float(np.abs(self.sums).max() / self.weights.mean())

    @property
    def spread_is_zero(self) -> bool:
        """Whether every unit shows the same difference, up to rounding."""
        size = float(np.abs(self.sums).max(initial=0.0))
        return bool(np.abs(self.residuals).max(initial=0.0) <= 1e-12 * size)

    @cached_property
    def skewness(self) -> float:
        """Sample skewness of the residuals; 0 if all units show the same difference."""
        if self.spread_is_zero:
            return 0.0
        centered = self.residuals - self.residuals.mean()
        return float((centered**3).mean() / np.square(centered).mean() ** 1.5)

    @property
    def skewed(self) -> bool:
        """Whether the sample skewness of the residuals exceeds ``SKEWED``."""
        return abs(self.skewness) > SKEWED

    @property
    def rare(self) -> bool:
        """Whether so few units differ that unseen differences matter more than the observed ones."""
        return self.differing < RARE_UNITS and 2 * self.differing < self.count

    def without_differences(self) -> Units:
        """The same units with all differences set to zero."""
        return replace(self, sums=np.zeros_like(self.sums), items_differing=0)

    def repeated(self, count: int) -> Units:
        """So many units like these, which are repeated in their order."""
        share = count / self.count
        return replace(
            self,
            sums=np.resize(self.sums, count),
            weights=np.resize(self.weights, count),
            items=round(self.items * share),
            items_differing=round(self.items_differing * share),
        )

    def with_unseen(self, span: float, unseen: Sequence[float]) -> Units:
        """These units and more that differ.

        If a whole cluster differed, whole clusters are added. If only single items of clusters differ, the next cluster
        may still differ as a whole, so half an average cluster is added: with single items, intervals cover 82 to 90 %
        where the flips of a cluster are alike. If nothing differed, whole clusters of average size are added.

        Args:
            span: Largest possible difference of one item's score, above 0.
            unseen: Sums of the added units, as multiples of a whole unit that differs by ``span``.
        """
        item_weight = float(self.weights.sum()) / self.items
        size = self.items / self.count
        if self.differing:
            largest = float(np.abs(self.sums).max()) / (span * item_weight)
            size = max(largest, (size + 1) / 2)
        extra = size * item_weight * np.array(unseen)
        return Units(
            sums=np.append(self.sums, span * extra),
            weights=np.append(self.weights, np.abs(extra)),
            items=self.items + len(extra),
            items_differing=self.items_differing + len(extra),
            clustered=self.clustered,
        )


def make_units(differences: Floats, weights: Floats, clusters: Sequence[Hashable] | None) -> Units:
    """Group paired differences (shape ``[n]``) into independent units.

    The label ``None``, ``""`` or NaN leaves an item alone. If no two items share a label, the items are the units.
    """
    sums = weights * differences
    differing = int(np.count_nonzero(sums))
    if clusters is not None:
        unit = units_of_items(clusters)
        count = int(unit.max()) + 1
        if count < len(unit):
            sums, weights = (np.bincount(unit, each).astype(np.float64) for each in (sums, weights))
            return Units(sums, weights, len(unit), differing, clustered=True)
    return Units(sums, weights, len(sums), differing, clustered=False)


def units_of_items(clusters: Sequence[Hashable]) -> NDArray[np.int64]:
    """Number of each item's unit, in the order in which the units first occur, shape ``[n]``."""
    keys = [
        ("alone", place) if is_blank(label) else ("cluster", label)
        for place, label in enumerate(clusters)
    ]
    codes = {key: code for code, key in enumerate(dict.fromkeys(keys))}
    return np.array([codes[key] for key in keys], dtype=np.int64)


def joint_labels(unit: NDArray[np.int64], labels: Sequence[Hashable], count: int) -> list[Hashable]:
    """The label of each unit; ``None`` where its items have different labels.

    Args:
        unit: The unit of each item, from :func:`units_of_items`.
        labels: A label for each item.
        count: Number of units.
    """
    found: list[set[Hashable]] = [set() for _ in range(count)]
    for number, label in zip(unit.tolist(), labels, strict=True):
        found[number].add(None if is_blank(label) else label)
    return [next(iter(values)) if len(values) == 1 else None for values in found]


def crosses(unit: NDArray[np.int64], labels: Sequence[Hashable]) -> bool:
    """Whether some unit has items with different labels; arguments as in :func:`joint_labels`."""
    pairs = {
        (number, label)
        for number, label in zip(unit.tolist(), labels, strict=True)
        if not is_blank(label)
    }
    return len({number for number, _ in pairs}) < len(pairs)


def is_blank(label: Hashable) -> bool:
    """Whether a label is missing: ``None``, ``""`` or NaN."""
    # NaN, a missing cell of a table, differs from itself
    return label is None or label == "" or label != label
