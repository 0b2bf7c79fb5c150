"""Risk over coverage: how many questions an assistant answers wrongly if it answers only those it is sure of.

The curve is over held-out questions; the chosen point is the threshold of the rule, which was fitted on validation.
A question that should be declined counts as wrong if it is answered (El-Yaniv and Wiener 2010, JMLR, for the curve).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evals.metrics import Context, score_answer
from evals.report.load import Cell

_RIGHT = "exact_match"
_MOST_POINTS = 200


def risk_coverage(cells: Mapping[str, Cell], served: Sequence[str]) -> dict[str, Any] | None:
    """The curve and the chosen point of each served assistant that has a rule; None without any.

    A point is ``{"threshold", "coverage", "risk"}``: the share of all questions that are answered if confidence is at
    least the threshold, and the share of wrong answers among them.
    """
    found = {
        name: record
        for name in served
        if name in cells and (record := _curve(cells[name])) is not None
    }
    return {"cells": found} if found else None


def _curve(cell: Cell) -> dict[str, Any] | None:
    samples = [sample for sample in cell.samples if "confidence" in sample]
    if not samples:
        return None
    ranked = sorted(
        ((float(sample["confidence"]), _right(sample)) for sample in samples), reverse=True
    )
    points, wrong = [], 0
    for place, (confidence, right) in enumerate(ranked, start=1):
        wrong += not right
        if place == len(ranked) or ranked[place][0] != confidence:
            points.append(
                {"threshold": confidence, "coverage": place / len(ranked), "risk": wrong / place}
            )
    answerable = [sample for sample in samples if sample["answerable"]]
    unanswerable = [sample for sample in samples if not sample["answerable"]]
    answered = [sample for sample in samples if not sample["declined"]]
    errors = sum(
        not (sample["answerable"] and sample["metrics"].get(_RIGHT) == 1) for sample in answered
    )
    return {
        "n": len(samples),
        "points": points[:: -(-len(points) // _MOST_POINTS)],
        "chosen": {
            "coverage": len(answered) / len(samples),
            "risk": errors / max(len(answered), 1),
        },
        "false_declines": [sum(sample["declined"] for sample in answerable), len(answerable)],
        "right_declines": [sum(sample["declined"] for sample in unanswerable), len(unanswerable)],
    }


def _right(sample: Mapping[str, Any]) -> bool:
    """Whether the answer before the decision to decline is right."""
    if not sample["answerable"]:
        return False
    context = Context(sample["question"], True, sample["prompt"])
    return score_answer(sample["generated"], sample["reference"], context).get(_RIGHT) == 1
