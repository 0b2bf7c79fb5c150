"""Paired comparison of two arms on the same items: difference, interval (95 % by default), test and verdict.

| data | interval | test |
| --- | --- | --- |
| right/wrong, no clusters, equal weights | Tango's score interval, extended to Bonett–Price | exact McNemar |
| other scores, no clusters | BCa bootstrap, extended to the t interval if that is wider | sign flips |
| the same, skewed | the same, also extended to bootstrap-t | sign flips |
| no clusters, few or equal differences | t with unseen differences; without bounds an extension | sign flips |
| clusters | cluster-robust t (CR2, Satterthwaite degrees of freedom) | sign flips of whole clusters |
| clusters with skewed sums | the same, extended to the whole-cluster bootstrap-t | the same |
| clusters, few or equal differences | the same, with unseen differences; without bounds an extension | the same |
| two crossed labels | V1 + V2 − V12, at least the interval by each label | t test, at least the sign flips by each |

"Few" is fewer than 20 and fewer than half; "skewed" is a sample skewness beyond 0.5. Of nested labels the coarser
counts. The extensions are needed because plain BCa covers only 92 % on lognormal differences at n = 100, 89 % with
weights by uneven answer lengths, and 88 % if nine differences in ten are zero (measured).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from assistant_builder.errors import EvaluationError
from assistant_builder.i18n import Message, joined, m, written
from evals.stats.cluster_checks import (
    correlation_p_value,
    crossed_correlation_p_value,
)
from evals.stats.cluster_robust import (
    StandardError,
    coarsest,
    cr2_standard_error,
    crossed_standard_error,
)
from evals.stats.intervals import (
    LEVEL,
    RESAMPLES,
    Interval,
    cluster_interval,
    flip_interval,
    item_interval,
    outer,
    rare_interval,
)
from evals.stats.significance import holm, mcnemar_exact, sign_flip_test
from evals.stats.units import Floats, Units, crosses, joint_labels, make_units, units_of_items

__all__ = ["Comparison", "Verdict", "holm", "paired_comparison"]

Verdict = Literal["no worse", "worse", "inconclusive"]
Labels = Sequence[Hashable]
ENOUGH_ITEMS = 100
ENOUGH_CLUSTERS = 20
SKEWNESS_FACTOR = 30.0
"""Units needed, as a multiple of the squared skewness; 25 in Cochran's rule (Sampling Techniques, 1977)."""
BOUNDED_SKEWNESS_FACTOR = 10.0
"""The same for bounded scores, whose rare large differences are not far beyond those that were seen."""
_ROUNDING = 1e-5  # a float32 cosine may pass 1 by that much
MOST_ITEMS = 20  # more than this many times the present number of items is no advice
SATURATED = 0.05
"""A score between 0 and 1 whose mean is worse than this in both arms cannot give the verdict "no worse"."""
CORRELATED = 0.05
"""Level of the test of correlation within labels that are no clusters, divided by the number of labels."""


@dataclass(frozen=True)
class Comparison:
    """Candidate against baseline on one metric.

    Attributes:
        delta: Σw(candidate − baseline)/Σw, in the metric's units; ``ci_low`` and ``ci_high`` are its interval.
        p_value: Two-sided, for "no difference"; not adjusted for other metrics (see ``holm``).
        method: Description of interval and test.
        n_clusters: Number of clusters; ``None`` if items are the units; of several labels the smallest number.
        clustered_by: Names of the labels by which the items were clustered.
        correlation: Label that is no cluster → p-value of the permutation test whether differences within it are alike.
        limits: Limitations, one sentence each.
        within_margin_but_worse: The verdict is ``no worse``, but the whole interval is on the harmful side of zero.
        margin: Largest harm that counts as no worse.
        clusters_needed: Clusters at which the present differences would be decided; further items of the same clusters
            would not. ``None`` without clusters, if they are decided, or if no affordable number decides them.
    """

    delta: float
    ci_low: float
    ci_high: float
    p_value: float
    n: int
    verdict: Verdict
    method: str
    n_clusters: int | None
    limits: tuple[Message, ...]
    within_margin_but_worse: bool
    margin: float
    higher_is_better: bool
    clustered_by: tuple[str, ...] = ()
    correlation: Mapping[str, float] = field(default_factory=dict)
    clusters_needed: int | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """``limits`` in English."""
        return tuple(written(limit)[0] for limit in self.limits)

    @property
    def harm(self) -> tuple[float, float, float]:
        """Harm (positive: the candidate is worse) and the ends of its interval: ``(harm, low, high)``."""
        if self.higher_is_better:
            return 0.0 - self.delta, 0.0 - self.ci_high, 0.0 - self.ci_low
        return self.delta, self.ci_low, self.ci_high


def paired_comparison(
    baseline: ArrayLike,
    candidate: ArrayLike,
    *,
    clusters: Labels | Sequence[Labels] | Mapping[str, Labels] | None = None,
    weights: ArrayLike | None = None,
    margin: float | None = None,
    higher_is_better: bool = True,
    seed: int = 0,
    bounds: tuple[float, float] | None = None,
    resamples: int = RESAMPLES,
    related: Mapping[str, Labels] | None = None,
    strata: Labels | None = None,
    level: float = LEVEL,
    floor: bool = True,
) -> Comparison:
    """Compare two arms, item by item; the same input gives the same result, bit for bit.

    Args:
        baseline: Scores of the baseline, shape ``[n]``.
        candidate: Scores of the candidate on the same items in the same order, shape ``[n]``. If both contain only 0
            and 1, the metric is treated as right/wrong.
        clusters: A label for each item, shape ``[n]``; items with the same label (phrasings of one fact, turns of one
            conversation) count as one unit. An item with the label ``None``, ``""`` or NaN is a unit by itself.
            Several labels, as a sequence of label sequences or by name: nested ones count as the coarser, crossed
            ones give a two-way interval.
        weights: Positive weights, shape ``[n]``; for ``nll_per_token`` the answers' token counts, so that ``delta`` is
            the difference of the two token-weighted figures.
        margin: Largest harm that counts as no worse, in the metric's units. ``None`` means 0: ``no worse`` then needs
            an interval that excludes any harm.
        higher_is_better: Whether a larger score is better.
        seed: Seed of the bootstrap and of the random sign flips.
        bounds: Lowest and highest possible score; an infinite bound is no limit. ``None``: 0 and 1 if all scores are
            within them and one of them occurs, otherwise unlimited.
        resamples: Number of bootstrap samples and of random sign patterns.
        related: Further labels by name, which are no clusters. Where the differences within one are correlated, the
            interval is at least the one that is clustered by this label, too, and a warning names it.
        strata: A label for each item whose mean difference is no part of the claim, so that the correlation within
            ``related`` is that of the differences from it.
        level: Coverage of the interval; above 0.95 where several comparisons share an error rate.
        floor: Whether two arms whose mean is below :data:`SATURATED` are not shown to be no worse.

    Raises:
        EvaluationError: Fewer than two items or clusters, different shapes, a score or weight that is not finite, a
            weight that is not positive, a score outside ``bounds``, or a negative margin.
    """
    margin = 0.0 if margin is None else float(margin)
    labels = _named_labels(clusters)
    related = dict(related or {})
    before, after, weight = _checked(
        baseline, candidate, {**labels, **related}, weights, margin, bounds, resamples
    )
    names = coarsest(labels)
    change = after - before
    ways = [make_units(change, weight, labels[name]) for name in names]
    units = min(ways or [make_units(change, weight, None)], key=lambda way: way.count)
    if units.count < 2:
        raise EvaluationError(
            m("all items belong to one cluster"),
            where=m("paired comparison"),
            remedy=m("An interval needs at least two clusters"),
        )
    binary = bool(np.isin(before, (0, 1)).all() and np.isin(after, (0, 1)).all())
    span = _span(before, after, bounds)
    table = binary and not ways and bool((weight == weight[0]).all())
    if table:
        gained, lost = int(np.count_nonzero(change > 0)), int(np.count_nonzero(change < 0))
        interval = flip_interval(gained, lost, len(before), level)
        p_value = mcnemar_exact(gained, lost)
        method = "Tango's score interval, at least the Bonett–Price interval; exact McNemar test"
    else:
        by_unit = partial(_compare_units, span=span, seed=seed, resamples=resamples, level=level)
        if len(ways) > 1:
            errors = [
                crossed_standard_error(change, weight, labels[one], labels[other])
                for one, other in combinations(names, 2)
            ]
            interval, p_value, method = _compare_crossed(ways, errors, by_unit, level)
        else:
            interval, p_value, method = by_unit(units)
        if span is not None:  # the part that is possible for bounded scores
            interval = max(-span, interval[0]), min(span, interval[1])
    correlation: dict[str, float] = {}
    if len(ways) < 2:
        residuals = change - units.delta
        residuals = weight * (residuals if strata is None else _within(residuals, strata))
        clustered = labels[names[0]] if names else None
        correlation = _correlation(units, clustered, related, seed, residuals)
    alike = [name for name, p in correlation.items() if p <= CORRELATED / len(correlation)]
    for name in alike:
        wider = paired_comparison(
            before,
            after,
            clusters={**labels, name: related[name]},
            weights=weight,
            seed=seed,
            bounds=bounds,
            resamples=resamples,
            level=level,
        )
        interval = outer(interval, (wider.ci_low, wider.ci_high))
        p_value = max(p_value, wider.p_value)
    low, high = (0.0 - interval[1], 0.0 - interval[0]) if higher_is_better else interval
    rates = [float(np.average(scores, weights=weight)) for scores in (before, after)]
    saturated = (
        floor
        and span == 1
        and (max(rates) < SATURATED if higher_is_better else min(rates) > 1 - SATURATED)
    )
    verdict: Verdict = "worse" if low > 0 else "inconclusive"
    if high <= margin and not saturated:
        verdict = "no worse"
    related_alike = [
        m(
            "the differences within each {label} are alike (permutation test, p = {p_value:.2g}), so that the "
            "interval is at least the one that is clustered by {label}, too",
            label=name,
            p_value=correlation[name],
        )
        for name in alike
    ]
    needed = None
    if ways:
        limit = span if len(ways) == 1 and not alike else None
        needed = _clusters_needed(units, limit, low, high, margin, higher_is_better, level)
    return Comparison(
        delta=units.delta,
        ci_low=interval[0] + 0.0,
        ci_high=interval[1] + 0.0,
        p_value=p_value,
        n=len(before),
        verdict=verdict,
        method=method,
        n_clusters=units.count if ways else None,
        limits=(*_limits(units, interval, span, saturated, table), *related_alike),
        within_margin_but_worse=verdict == "no worse" and low > 0,
        margin=margin,
        higher_is_better=higher_is_better,
        clustered_by=tuple(names),
        correlation=correlation,
        clusters_needed=needed,
    )


def times_to_decide(harm: float, low: float, high: float, margin: float) -> float:
    """How many times the units decide, if an interval shrinks with their square root around the same harm.

    Args:
        harm: Estimated harm.
        low: Lower end of its interval.
        high: Upper end of its interval.
        margin: Largest harm that counts as no worse; the interval is to end within it or beyond 0.

    Returns:
        The factor, infinite if no number decides.
    """
    within = ((high - harm) / (margin - harm)) ** 2 if margin > harm else math.inf
    return min(within, ((harm - low) / harm) ** 2 if harm > 0 else math.inf)


def _clusters_needed(
    units: Units,
    span: float | None,
    low: float,
    high: float,
    margin: float,
    higher_is_better: bool,
    level: float,
) -> int | None:
    if high <= margin or low > margin:
        return None
    harm = -units.delta if higher_is_better else units.delta
    if span is None or not (units.rare or units.spread_is_zero):
        times = times_to_decide(harm, low, high, margin)
        return math.ceil(units.count * times) if times <= MOST_ITEMS else None
    step = units.count if units.differing else max(1, units.count // 10)
    for count in range(units.count + step, MOST_ITEMS * units.count + 1, step):
        ends = rare_interval(units.repeated(count), span, level)
        low, high = (-ends[1], -ends[0]) if higher_is_better else ends
        if high <= margin or low > 0:
            return count
    return None


def _named_labels(
    clusters: Labels | Sequence[Labels] | Mapping[str, Labels] | None,
) -> dict[str, Labels]:
    if clusters is None:
        return {}
    if isinstance(clusters, Mapping):
        return dict(clusters)
    if len(clusters) and all(isinstance(values, list | np.ndarray) for values in clusters):
        return {f"cluster {number}": values for number, values in enumerate(clusters, start=1)}  # type: ignore[misc]
    return {"cluster": clusters}


def _checked(
    baseline: ArrayLike,
    candidate: ArrayLike,
    labels: Mapping[str, Labels],
    weights: ArrayLike | None,
    margin: float,
    bounds: tuple[float, float] | None,
    resamples: int,
) -> tuple[Floats, Floats, Floats]:
    """Scores and weights as float arrays; one error lists all problems of the input."""
    before, after = (np.asarray(scores, dtype=np.float64) for scores in (baseline, candidate))
    weight = np.ones_like(before) if weights is None else np.asarray(weights, dtype=np.float64)
    problems = []
    if before.ndim != 1 or before.shape != after.shape:
        problems.append(
            m(
                "baseline and candidate must be two lists of equal length, not {shape}, {shape_2}",
                shape=before.shape,
                shape_2=after.shape,
            )
        )
    elif len(before) < 2:
        problems.append(m("at least two items are needed, not {before}", before=len(before)))
    if weight.shape != before.shape:
        problems.append(
            m(
                "weights have shape {shape}, scores {shape_2}",
                shape=weight.shape,
                shape_2=before.shape,
            )
        )
    problems += [
        m(
            "{values} {name} labels for {before} items",
            values=len(values),
            name=name,
            before=len(before),
        )
        for name, values in labels.items()
        if len(values) != len(before)
    ]
    for name, values in (("baseline", before), ("candidate", after), ("weights", weight)):
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            problems.append(
                m(
                    "{bad} values of {name} are not finite, the first at position {bad_2}",
                    bad=len(bad),
                    name=name,
                    bad_2=bad[0],
                )
            )
        elif name == "weights":
            problems += [
                m("weights must be positive, position {position} is not", position=position)
                for position in np.flatnonzero(values <= 0)[:1]
            ]
        elif bounds and (abs(values - np.clip(values, *bounds)) > _ROUNDING).any():
            problems.append(
                m(
                    "{name} has scores outside {bounds} … {bounds_2}",
                    name=name,
                    bounds=bounds[0],
                    bounds_2=bounds[1],
                )
            )
    if not 0 <= margin < math.inf:
        problems.append(m("the margin must be 0 or more, not {margin}", margin=margin))
    if resamples < 1:
        problems.append(m("resamples must be 1 or more, not {resamples}", resamples=resamples))
    if problems:
        raise EvaluationError(
            joined(problems, "; "),
            where=m("paired comparison"),
            remedy=m("Pass the same items, each scored once, for both arms"),
        )
    return before, after, weight


def _span(before: Floats, after: Floats, bounds: tuple[float, float] | None) -> float | None:
    if bounds is not None:
        return bounds[1] - bounds[0] if math.isfinite(bounds[1] - bounds[0]) else None
    scores = np.concatenate([before, after])
    limited = scores.min() >= 0 and scores.max() <= 1 and (scores.min() == 0 or scores.max() == 1)
    return 1.0 if limited else None


def _compare_units(
    units: Units, *, span: float | None, seed: int, resamples: int, level: float
) -> tuple[Interval, float, str]:
    p_value = sign_flip_test(units, flips=resamples, seed=seed)
    base = f"cluster-robust t interval (CR2, {cr2_standard_error(units).degrees_of_freedom:.3g} degrees of freedom)"
    test = "whole-cluster sign-flip test" if units.clustered else "sign-flip permutation test"
    if span is not None and (units.rare or units.spread_is_zero):
        kind = base if units.clustered else "t interval"
        return rare_interval(units, span, level), p_value, f"{kind} with unseen differences; {test}"
    if units.spread_is_zero:
        none = f"no interval, all differences are equal; {test}"
        return (units.delta, units.delta), p_value, none
    if units.clustered:
        interval, skewed = cluster_interval(units, resamples=resamples, seed=seed, level=level)
        kind = f"{base}{', at least the whole-cluster bootstrap-t interval' if skewed else ''}"
    else:
        interval, skewed = item_interval(units, resamples=resamples, seed=seed, level=level)
        also = " and bootstrap-t" if skewed else ""
        kind = f"BCa bootstrap interval ({resamples:,} resamples), at least the t{also} interval"
    if units.rare:
        interval = outer(interval, rare_interval(units, units.largest, level))
        kind += " and that with unseen differences"
    return interval, p_value, f"{kind}; {test}"


def _compare_crossed(
    ways: Sequence[Units],
    errors: Sequence[StandardError],
    by_unit: Callable[[Units], tuple[Interval, float, str]],
    level: float,
) -> tuple[Interval, float, str]:
    delta = ways[0].delta
    interval, p_value = (delta, delta), 0.0
    for way in ways:
        one_way, p, _ = by_unit(way)
        interval, p_value = outer(interval, one_way), max(p_value, p)
    for error in errors:
        half = error.half_width(level)
        interval = outer(interval, (delta - half, delta + half))
        p_value = max(p_value, error.p_value(delta))
    degrees = min(error.degrees_of_freedom for error in errors)
    method = (
        f"two-way cluster-robust t interval ({degrees:.3g} degrees of freedom), at least the interval by each label; "
        "t test, at least the whole-cluster sign-flip test by each label"
    )
    return interval, p_value, method


def _correlation(
    units: Units,
    clusters: Labels | None,
    related: Mapping[str, Labels],
    seed: int,
    residuals: Floats,
) -> dict[str, float]:
    """The p-value of each label that joins several units: of permutations, or of sign flips if it crosses them."""
    found = {}
    member = units_of_items(clusters) if clusters is not None and units.clustered else None
    for name, values in related.items():
        if member is not None and crosses(member, values):
            found[name] = crossed_correlation_p_value(residuals, member, values, seed=seed)
        else:
            label = list(values) if member is None else joint_labels(member, values, units.count)
            found[name] = correlation_p_value(
                residuals if member is None else units.residuals, label, seed=seed
            )
    return {name: p_value for name, p_value in found.items() if p_value < 1}


def _within(differences: Floats, strata: Labels) -> Floats:
    """The differences from the mean of their stratum; an item that is alone in one keeps its own."""
    _, member = np.unique(units_of_items(strata), return_inverse=True)
    counts = np.bincount(member)
    means = np.where(counts > 1, np.bincount(member, differences) / counts, 0.0)
    within = differences - np.asarray(means[member])
    return np.where(np.abs(within) > 1e-12 * np.abs(differences).max(initial=0.0), within, 0.0)


def _limits(
    units: Units, interval: Interval, span: float | None, saturated: bool, exact: bool
) -> list[Message]:
    found = []
    bounded = 0.0 if units.rare else BOUNDED_SKEWNESS_FACTOR
    factor = 0.0 if exact else SKEWNESS_FACTOR if span is None else bounded
    few = _too_few(units, factor)
    if few:
        found.append(few)
    if span is None and units.rare and units.items_differing:
        found.append(
            m(
                "too few items: only {differing} of {count} independent ones differ, and for a score without limits a "
                "95% interval then covers less than 95%",
                differing=units.differing,
                count=units.count,
            )
        )
    if not units.items_differing:
        found.append(m("no item differs between the two"))
    elif interval[0] == interval[1]:
        found.append(m("all differences are equal, so the interval cannot show any uncertainty"))
    if saturated:
        found.append(
            m(
                "in both arms the mean score by this metric is below {share:g}%, so that it cannot show on these items "
                "that nothing was lost",
                share=100 * SATURATED,
            )
        )
    return found


def _too_few(units: Units, factor: float) -> Message | None:
    """Why the units are too few for a 95 % interval, if they are: their number, weights or skewness.

    ``factor`` times the squared skewness is the number of units needed.
    """
    enough = ENOUGH_CLUSTERS if units.clustered else ENOUGH_ITEMS
    # half a standard error more, because few units show less skewness than there is
    needed = factor * (abs(units.skewness) + math.sqrt(1.5 / units.count)) ** 2
    if units.count < enough:
        return m(
            "too few items: {count} independent ones, and with fewer than {enough} similar ones a 95% interval covers "
            "less than 95%",
            count=units.count,
            enough=enough,
        )
    if units.effective < (0.75 if units.clustered else 0.5) * enough:
        return m(
            "too few items: the weights of the {count} independent ones are so uneven that they count as only "
            "{effective:.0f} equal ones",
            count=units.count,
            effective=units.effective,
        )
    if units.count < needed:
        return m(
            "too few items: the differences of the {count} independent ones are so uneven (skewness {skewness:.1f}) "
            "that with fewer than about {needed:.0f} of them a 95% interval covers less than 95%",
            count=units.count,
            skewness=units.skewness,
            needed=needed,
        )
    return None
