"""The decision about 4-bit: an intersection–union test of several bounds, and what to do about its outcome.

"No worse" needs every bound together: the interval of the harm of each metric must end within its margin. Each bound is
a one-sided test at 2.5 %, and so is their intersection, unadjusted (Berger and Hsu 1996). "Worse" is an interval
of any metric beyond its margin, or one of the primary metric on the harmful side of zero. All else is "inconclusive".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from assistant_builder.i18n import Message, joined, m
from evals.compare import MOST_ITEMS, Comparison, Verdict, times_to_decide

_DECLINES = "right_decline"  # the metric of the questions to decline, which are counted apart


@dataclass(frozen=True)
class Component:
    """One bound of the decision.

    Attributes:
        metric: Name of the metric.
        passed: Whether the interval of the harm ends within the margin.
        beyond: Whether the whole interval is beyond the margin.
        needed: Number of items at which the present difference would be decided either way, at least the present
            number; ``None`` if it is decided, if no number of items decides it, or if clusters are the limit.
        clusters: The same in clusters, where the items are clustered.
        items: The present number of items.
    """

    metric: str
    passed: bool
    beyond: bool
    needed: int | None
    clusters: int | None
    items: int


@dataclass(frozen=True)
class Decision:
    """The outcome of all bounds together.

    Attributes:
        outcome: ``no worse``, ``worse`` or ``inconclusive``.
        components: The bounds, the primary metric first.
        failed: Metrics whose bound was not shown, in the same order.
        needed: Number of items to answer at which all open bounds would be decided; ``None`` if none is open, if one
            stays open at any affordable number, or if clusters are the limit.
        clusters: The number of clusters at which they would be, where some are clustered.
        to_decline: How many more questions to decline would decide about the right declines; ``None`` as above.
    """

    outcome: Verdict
    components: tuple[Component, ...]
    failed: tuple[str, ...]
    needed: int | None
    clusters: int | None
    to_decline: int | None = None


def decide(compared: Mapping[str, Comparison], bounds: Sequence[str] = ()) -> Decision:
    """Decide by every comparison together.

    Args:
        compared: Metric → comparison with the margin of that metric; the primary metric first. At least one.
        bounds: All metrics of the decision, the primary one first; the bound of one that was not compared is not shown.
    """
    components = tuple(_component(metric, result) for metric, result in compared.items())
    primary = compared.get(bounds[0]) if bounds else next(iter(compared.values()))
    failed = (
        *(component.metric for component in components if not component.passed),
        *(metric for metric in bounds if metric not in compared),
    )
    outcome: Verdict
    if not failed:
        outcome = "no worse"
    elif (primary is not None and primary.verdict == "worse") or any(
        component.beyond for component in components
    ):
        outcome = "worse"
    else:
        outcome = "inconclusive"
    open_ones = [
        component for component in components if not component.passed and not component.beyond
    ]
    decidable = all(component.needed or component.clusters for component in open_ones)
    declines = next((component for component in open_ones if component.metric == _DECLINES), None)
    others = [component for component in open_ones if component is not declines]
    clusters = max((component.clusters or 0 for component in others), default=0)
    needed = max((component.needed or 0 for component in others), default=0)
    return Decision(
        outcome,
        components,
        failed,
        needed if decidable and needed and not clusters else None,
        clusters if decidable and clusters else None,
        (declines.needed or 0) - declines.items
        if decidable and declines and declines.needed
        else None,
    )


def _component(metric: str, result: Comparison) -> Component:
    harm, low, high = result.harm
    passed, beyond = result.verdict == "no worse", low > result.margin
    times = times_to_decide(harm, low, high, result.margin)
    clusters = None if passed or beyond else result.clusters_needed
    if metric == _DECLINES and clusters and result.n_clusters:  # counted in questions, not in facts
        times, clusters = clusters / result.n_clusters, None
    elif result.n_clusters is not None:
        times = math.inf
    needed = (
        None
        if passed or beyond or times > MOST_ITEMS
        else max(result.n, math.ceil(result.n * times))
    )
    return Component(metric, passed, beyond, needed, clusters, result.n)


def harmful(compared: Mapping[str, Comparison]) -> list[str]:
    """Metrics whose whole interval is on the harmful side of zero, unadjusted: possible harm that is always shown."""
    return [metric for metric, result in compared.items() if result.harm[1] > 0]


def action(
    decision: Decision,
    *,
    n: int,
    n_clusters: int | None = None,
    seeds: int,
    seeds_decide: bool = False,
) -> Message:
    """What to do, in one or two sentences.

    Args:
        decision: The decision.
        n: Held-out items of the headline.
        n_clusters: Their clusters, if they are clustered.
        seeds: Training seeds of the comparison.
        seeds_decide: Whether most of the uncertainty comes from training, so that more items would not help.
    """
    if decision.outcome == "no worse":
        return m("The {bits}-bit assistant can be used in place of the 16-bit one.")
    if decision.outcome == "worse":
        return m(
            "Use the 16-bit assistant, or train QLoRA again with a higher rank or more epochs and compare again."
        )
    if seeds_decide:
        more = max(2, seeds)
        return m(
            "Train {more} more seeds (--set seeds={total}): most of the uncertainty comes from training, not from the "
            "held-out questions. Until then, use the 16-bit assistant.",
            more=more,
            total=seeds + more,
        )
    advice = more_questions(decision, n, n_clusters)
    if not advice:
        return m(
            "Use the 16-bit assistant: no affordable number of further questions would decide every bound. A wider "
            "margin would, if you can justify it."
        )
    return m("{advice} Until then, use the 16-bit assistant.", advice=advice)


def more_questions(decision: Decision, n: int, n_clusters: int | None) -> Message:
    """How many more questions would decide, in a sentence for each kind; empty if no affordable number would."""
    sentences = []
    if decision.clusters is not None and n_clusters:
        more = rounded(decision.clusters - n_clusters)
        sentences.append(
            m(
                "Add held-out questions about {more:,} more facts: with {total:,} facts about half of all differences "
                "like this one are decided; more questions about the same {number:,} would not do.",
                more=more,
                total=n_clusters + more,
                number=n_clusters,
            )
        )
    elif decision.needed is not None and decision.needed > n:
        more = rounded(decision.needed - n)
        sentences.append(
            m(
                "Add about {more:,} held-out questions: with {total:,} about half of all differences like this one "
                "are decided.",
                more=more,
                total=n + more,
            )
        )
    if decision.to_decline is not None:
        sentences.append(
            m(
                "Add about {more:,} questions that should be declined: their number decides whether {bits}-bit still "
                "declines what it should.",
                more=rounded(decision.to_decline),
            )
        )
    return joined(sentences)


def rounded(count: int) -> int:
    """A count rounded up to two digits, since it is an estimate; at least 10."""
    unit = 10 ** max(1, len(str(count)) - 2)
    return max(10, -(-count // unit) * unit)
