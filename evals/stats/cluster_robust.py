"""Cluster-robust standard errors of a paired difference, for one label or for two crossed ones.

One label: CR2 (Bell and McCaffrey 2002; Pustejovsky and Tipton, arXiv 1601.01981) for the weighted mean, which is a
weighted least-squares fit of a constant. The working covariance is that of independent items whose variance is the
inverse of their weight (for ``nll_per_token``: independent tokens). With h_g = w_g/Σw, the weight share of cluster g,
and r_g = s_g − delta·w_g, its residual sum:

    V  = Σ r_g² / (1 − h_g) / (Σw)²
    df = 1 / (Σ h_g² + (Σ q_g)² − Σ q_g²),  q_g = h_g² / (1 − h_g)    (Satterthwaite)

Clusters of equal weight give the usual G/(G − 1) and G − 1. For clusters of unequal size, G − 1 is too many degrees of
freedom: with one cluster that holds 30 % of the items, the usual interval covers 89 to 94 % and this one 94 to 96 %.

Two crossed labels: V1 + V2 − V12 (Cameron, Gelbach and Miller 2011), not below the larger of V1 and V2.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from evals.stats.units import Floats, Units, is_blank, make_units


@dataclass(frozen=True)
class StandardError:
    """Standard error of a difference with the degrees of freedom of its t distribution."""

    value: float
    degrees_of_freedom: float

    def half_width(self, level: float) -> float:
        """Half of the two-sided t interval of a level such as 0.95."""
        return float(special.stdtrit(self.degrees_of_freedom, 0.5 + level / 2)) * self.value

    def p_value(self, delta: float) -> float:
        """Two-sided p-value of the t test that the true difference is zero."""
        if self.value == 0:
            return 1.0 if delta == 0 else 0.0
        return float(2 * special.stdtr(self.degrees_of_freedom, -abs(delta) / self.value))


def cr2_standard_error(units: Units) -> StandardError:
    """CR2 standard error and Satterthwaite degrees of freedom of ``units.delta``.

    Args:
        units: At least two.
    """
    total = float(units.weights.sum())
    share = units.weights / total
    variance = float((np.square(units.residuals) / (1 - share)).sum()) / total**2
    leverage = np.square(share) / (1 - share)
    denominator = np.square(share).sum() + leverage.sum() ** 2 - np.square(leverage).sum()
    return StandardError(math.sqrt(variance), float(1 / denominator))


def crossed_standard_error(
    differences: Floats, weights: Floats, first: Sequence[Hashable], second: Sequence[Hashable]
) -> StandardError:
    """Standard error under two crossed labels, with the fewest degrees of freedom of both, at most min(G) − 1.

    Args:
        differences: Candidate minus baseline, shape ``[n]``.
        weights: Positive weights, shape ``[n]``.
        first: A label for each item; two clusters or more.
        second: Another label for each item; two clusters or more.
    """
    one, other = (make_units(differences, weights, labels) for labels in (first, second))
    both = make_units(differences, weights, intersection(first, second))
    errors = [cr2_standard_error(units) for units in (one, other)]
    squares = [error.value**2 for error in errors]
    variance = max(sum(squares) - cr2_standard_error(both).value ** 2, *squares)
    degrees = min(*(error.degrees_of_freedom for error in errors), one.count - 1, other.count - 1)
    return StandardError(math.sqrt(variance), float(degrees))


def intersection(first: Sequence[Hashable], second: Sequence[Hashable]) -> list[Hashable]:
    """Labels of the items that share both labels; an item that is alone under one of them is alone."""
    return [
        None if is_blank(one) or is_blank(other) else (one, other)
        for one, other in zip(first, second, strict=True)
    ]


def coarsest(labels: Mapping[str, Sequence[Hashable]]) -> list[str]:
    """Names of the labels to cluster by: those that are not nested in another one, in the given order.

    A label is nested in another if every two items that share it also share the other. Of two equal labels the first
    stays.
    """
    names = [name for name, values in labels.items() if _repeats(values)]
    return [
        name
        for name in names
        if not any(
            _nested(labels[name], labels[other])
            and (not _nested(labels[other], labels[name]) or names.index(other) < names.index(name))
            for other in names
            if other != name
        )
    ]


def _repeats(values: Sequence[Hashable]) -> bool:
    seen = [value for value in values if not is_blank(value)]
    return len(set(seen)) < len(seen)


def _nested(finer: Sequence[Hashable], coarser: Sequence[Hashable]) -> bool:
    """Whether the items of every cluster of ``finer`` are in one cluster of ``coarser``."""
    parents: dict[Hashable, set[Hashable]] = {}
    sizes: dict[Hashable, int] = {}
    for position, (label, parent) in enumerate(zip(finer, coarser, strict=True)):
        if not is_blank(label):
            parents.setdefault(label, set()).add(
                ("alone", position) if is_blank(parent) else ("cluster", parent)
            )
            sizes[label] = sizes.get(label, 0) + 1
    return all(len(found) == 1 for label, found in parents.items() if sizes[label] > 1)
