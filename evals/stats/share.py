"""Interval for one share, such as that of wrong answers, on items in clusters."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from scipy import special

from evals.stats.intervals import LEVEL, Interval
from evals.stats.power import design_effect, intraclass_correlation
from evals.stats.units import units_of_items


def share_interval(successes: Sequence[bool], clusters: Sequence[Hashable]) -> Interval:
    """95 % Clopper–Pearson interval of a share with the effective number of items (Korn and Graubard 1998).

    The items count as fewer by the design effect of their clusters, and by the squared ratio of the t quantiles of the
    items and of the clusters, because the effect is estimated from these few. Without variation their correlation
    within clusters is unknown, and each cluster counts as one item; no interval is shorter than that.

    Args:
        successes: Shape ``[n]``; without any the interval is 0 to 1.
        clusters: Label of each item, shape ``[n]``; an item without a label is alone.

    Returns:
        Its ends, between 0 and 1.
    """
    if not successes:
        return 0.0, 1.0
    values = np.asarray(successes, dtype=np.float64)
    sizes = np.bincount(units_of_items(clusters))
    share, tail = float(values.mean()), (1 - LEVEL) / 2
    if share in (0.0, 1.0):
        n = float(len(sizes))
    else:
        effect = design_effect(sizes.tolist(), intraclass_correlation(values, clusters))
        of_items = special.stdtrit(max(1, len(values) - 1), tail)
        of_clusters = special.stdtrit(max(1, len(sizes) - 1), tail)
        n = len(values) / max(1.0, effect) * float(of_items / of_clusters) ** 2
    found = share * n
    low = float(special.betaincinv(found, n - found + 1, tail)) if found > 0 else 0.0
    high = float(special.betaincinv(found + 1, n - found, 1 - tail)) if found < n else 1.0
    # the end without any success, as whole clusters may be unseen
    none = 1 - tail ** (1 / len(sizes))
    return min(low, 1 - none), max(high, none)
