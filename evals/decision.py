"""The decision about 4-bit: an intersection–union test of several bounds, and what to do about its outcome.

"No worse" needs every bound together: the interval of the harm of each metric must end within its margin. Each bound is
a one-sided test at 2.5 %, and so is their intersection, unadjusted (Berger and Hsu 1996). "Worse" is an interval
of any metric beyond its margin, or one of the primary metric on the harmful side of zero. All else is "inconclusive".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evals.compare import Comparison, Verdict

MOST_ITEMS = 20
"""More than this many times the present number of items is no advice."""


@dataclass(frozen=True)
class Component:
    """One bound of the decision.

    Attributes:
        metric: Name of the metric.
        passed: Whether the interval of the harm ends within the margin.
        beyond: Whether the whole interval is beyond the margin.
        needed: Number of items at which the present difference would be decided either way, at least the present
            number; ``None`` if it is decided, or if no number of items decides it.
    """

    metric: str
    passed: bool
    beyond: bool
    needed: int | None


@dataclass(frozen=True)
class Decision:
    """The outcome of all bounds together.

    Attributes:
        outcome: ``no worse``, ``worse`` or ``inconclusive``.
        components: The bounds, the primary metric first.
        failed: Metrics whose bound was not shown, in the same order.
        needed: Number of items at which all open bounds would be decided; ``None`` if none is open, or if one stays
            open at any affordable number.
    """

    outcome: Verdict
    components: tuple[Component, ...]
    failed: tuple[str, ...]
    needed: int | None


def decide(compared: Mapping[str, Comparison]) -> Decision:
    """Decide by every comparison together.

    Args:
        compared: Metric → comparison with the margin of that metric; the primary metric first. At least one.
    """
    components = tuple(_component(metric, result) for metric, result in compared.items())
    primary = next(iter(compared.values()))
    failed = tuple(component.metric for component in components if not component.passed)
    outcome: Verdict
    if not failed:
        outcome = "no worse"
    elif primary.verdict == "worse" or any(component.beyond for component in components):
        outcome = "worse"
    else:
        outcome = "inconclusive"
    open_ones = [component.needed for component in components if not component.passed and not component.beyond]
    affordable = [number for number in open_ones if number is not None]
    complete = bool(open_ones) and len(affordable) == len(open_ones)
    return Decision(outcome, components, failed, max(affordable) if complete else None)


def _component(metric: str, result: Comparison) -> Component:
    harm, low, high = result.harm
    passed = result.verdict == "no worse"
    beyond = low > result.margin
    return Component(metric, passed, beyond, None if passed or beyond else _items_to_decide(result.n, harm, low, high,
                                                                                         result.margin))


def _items_to_decide(n: int, harm: float, low: float, high: float, margin: float) -> int | None:
    """Items at which an interval that shrinks with √n, around the same difference, ends within the margin or beyond 0.

    Args:
        n: Present number of items.
        harm: Estimated harm.
        low: Lower end of its interval.
        high: Upper end of its interval.
        margin: Largest harm that counts as no worse.
    """
    factors = []
    if margin > harm:
        factors.append(((high - harm) / (margin - harm)) ** 2)
    if harm > 0:
        factors.append(((harm - low) / harm) ** 2)
    factor = min(factors, default=math.inf)
    return max(n, math.ceil(n * factor)) if factor <= MOST_ITEMS else None


def harmful(compared: Mapping[str, Comparison]) -> list[str]:
    """Metrics whose whole interval is on the harmful side of zero, unadjusted: possible harm that is always shown."""
    return [metric for metric, result in compared.items() if result.harm[1] > 0]


def action(decision: Decision, *, n: int, seeds: int, seeds_decide: bool = False) -> str:
    """What to do, in one or two sentences.

    Args:
        decision: The decision.
        n: Held-out items of the headline.
        seeds: Training seeds of the comparison.
        seeds_decide: Whether most of the uncertainty comes from training, so that more items would not help.
    """
    if decision.outcome == "no worse":
        return "The 4-bit assistant can be used in place of the 16-bit one."
    if decision.outcome == "worse":
        return "Use the 16-bit assistant, or train QLoRA again with a higher rank or more epochs and compare again."
    if seeds_decide:
        more = max(2, seeds)
        return (f"Train {more} more seeds (--set seeds={seeds + more}): most of the uncertainty comes from training, "
                "not from the held-out questions. Until then, use the 16-bit assistant.")
    if decision.needed is None:
        return ("Use the 16-bit assistant: no affordable number of further questions would decide this. A wider margin "
                "would, if you can justify it.")
    more = rounded(decision.needed - n)
    return (f"Add about {more:,} held-out questions: with {n + more:,} about half of all differences like this one are "
            "decided. Until then, use the 16-bit assistant.")


def rounded(count: int) -> int:
    """A count rounded up to two digits, since it is an estimate; at least 10."""
    unit = 10 ** max(1, len(str(count)) - 2)
    return max(10, -(-count // unit) * unit)


def seed_averaged(values: Sequence[Sequence[float]]) -> list[float]:
    """Mean over the seeds of each item's score.

    Args:
        values: One list of scores for each seed, the same items in the same order.
    """
    return [math.fsum(scores) / len(scores) for scores in zip(*values, strict=True)]
