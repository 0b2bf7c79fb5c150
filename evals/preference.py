"""What a judge's verdicts add up to: counts, and how far QLoRA is preferred."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

from assistant_builder.errors import EvaluationError
from evals.compare import paired_comparison

Outcome = Literal["Q4", "L16", "tie", "failed"]
BASELINE: Outcome = "L16"
CANDIDATE: Outcome = "Q4"
"""The two cells that a judge compares, float16 LoRA and QLoRA as served."""


def counts(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts over items and over single judgements; ``seconds`` is the waiting of all items added up."""
    outcomes = Counter(line["outcome"] for line in lines)
    choices = Counter(order["choice"] for line in lines for order in line["orders"] if order["choice"])
    identical = sum(not line["orders"] for line in lines)
    agreed = sum(line["outcome"] == "tie" and all(order["choice"] == "tie" for order in line["orders"])
                 for line in lines)
    return {
        "items": len(lines), "wins": outcomes[CANDIDATE], "losses": outcomes[BASELINE], "ties": outcomes["tie"],
        "failures": outcomes["failed"], "disagreements": outcomes["tie"] - agreed, "identical": identical,
        "judgements": choices.total(),
        "first_preferred": choices["first"] / choices.total() if choices else None,
        "second_preferred": choices["second"] / choices.total() if choices else None,
        "seconds": round(sum(line["seconds"] for line in lines), 3),
    }


def preference(
    outcomes: Sequence[str], *, clusters: Sequence[Hashable] | None = None, seed: int = 0
) -> dict[str, Any]:
    """How far the judge prefers QLoRA: the mean of win 1, tie ½, loss 0, with a 95 % interval.

    It is half of one plus the paired difference of two right/wrong scores, "QLoRA preferred" and "LoRA preferred", so
    interval and test are those of :func:`evals.compare.paired_comparison`: without clusters Bonett–Price and McNemar's
    exact test, which is the sign test over the decided items; with clusters both go by whole clusters.

    Args:
        outcomes: Of each item, as in ``judge.jsonl``; failed ones are left out.
        clusters: Label of each item, as in ``paired_comparison``.
        seed: Seed of random sign flips.

    Returns:
        ``preference`` (None without items), ``ci`` and ``p_value`` (None with fewer than two units), ``n``,
        ``decided``, ``n_clusters``, ``method`` and ``warnings``.
    """
    places = [place for place, outcome in enumerate(outcomes) if outcome != "failed"]
    wins, losses = ([float(outcomes[place] == cell) for place in places] for cell in (CANDIDATE, BASELINE))
    labels = None if clusters is None else [clusters[place] for place in places]
    found: dict[str, Any] = {
        "preference": None, "ci": None, "p_value": None, "n": len(places), "decided": int(sum(wins) + sum(losses)),
        "n_clusters": None, "method": None, "warnings": [],
    }
    if not places:
        return found
    found["preference"] = 0.5 + (sum(wins) - sum(losses)) / (2 * len(places))
    try:
        result = paired_comparison(losses, wins, clusters=labels, seed=seed)
    except EvaluationError:  # a single item or cluster has no interval
        return found
    return found | {
        "ci": [0.5 + result.ci_low / 2, 0.5 + result.ci_high / 2], "p_value": result.p_value,
        "n_clusters": result.n_clusters, "method": result.method,
        "warnings": [text for text in result.warnings if text.startswith("too few")],
    }
