"""Who can be given an assistant: customers, colleagues who notice a wrong answer, or nobody yet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from assistant_builder.arms import ARMS
from assistant_builder.i18n import t, tn
from evals.declaration import ENOUGH_TO_DECLINE, EXACT, RIGHT_DECLINES
from evals.report.approaches import untaught
from evals.report.format import count
from evals.report.other_words import is_respelled, nothing_tested
from evals.report.schema import Report
from evals.stats.share import share_interval

MOST_WRONG = 0.1
"""Customers are given an assistant if the 95 % interval of its share of wrong answers ends at or below this."""
MOST_DECLINED = 0.2
"""They are not if it declines a larger share of the questions that it should answer."""
LEAST_DECLINED = 0.7
"""The interval of the share of the questions to decline that it declines must begin at or above this."""


@dataclass(frozen=True)
class Audience:
    """Who can be given an assistant, in a word and in a sentence with the reasons."""

    who: Literal["customers", "colleagues", "nobody"]
    text: str


def audience(report: Report, arm: str, metric: str, *, ready: bool) -> Audience:
    """The audience of the assistant of ``arm``, which is judged by ``metric``; ``ready``: colleagues can use it."""
    if not ready:
        return Audience("nobody", t("No, it is not ready yet."))
    if is_respelled(report):
        return Audience("colleagues", nothing_tested(report))
    if untaught(report):
        return Audience("colleagues", t("This test does not show it."))
    reasons = list(_reasons(report, ARMS[arm].cell, metric))
    if not reasons:
        return Audience(
            "customers",
            t(
                "Yes, for customers too: hardly more than one answer in ten is wrong, and most questions that it "
                "cannot "
                "answer are declined."
            ),
        )
    return Audience(
        "colleagues",
        t(
            "For colleagues who notice a wrong answer, yes. For customers not yet: {reasons}.",
            reasons="; ".join(reasons),
        ),
    )


def _reasons(report: Report, cell: str, metric: str) -> Iterator[str]:
    """Why customers are not given an assistant that colleagues can use."""
    if metric != EXACT:
        yield t("whether a long answer is right was not measured")
        return
    asked = [
        item
        for item in report.items
        if item["answerable"] and EXACT in item["metrics"].get(cell, {})
    ]
    wrong = [item["metrics"][cell][EXACT] < 1 and not item["declined"].get(cell) for item in asked]
    if sum(wrong) > MOST_WRONG * len(wrong):
        yield tn(
            "{wrong} of {count} answer was wrong",
            "{wrong} of {count} answers were wrong",
            len(wrong),
            wrong=count(sum(wrong)),
        )
    elif _interval(wrong, asked)[1] > MOST_WRONG:
        yield tn(
            "{count} test question is too few to know how often it is wrong",
            "{count} test questions are too few to know how often it is wrong",
            len(wrong),
        )
    falsely = sum(bool(item["declined"].get(cell)) for item in asked)
    if falsely > MOST_DECLINED * len(asked):
        yield tn(
            "it declined {declined} of {count} question that it should answer",
            "it declined {declined} of {count} questions that it should answer",
            len(asked),
            declined=count(falsely),
        )
    asked = [
        item
        for item in report.items
        if not item["answerable"] and RIGHT_DECLINES in item["metrics"].get(cell, {})
    ]
    if not asked:
        yield t("it was not tested with questions that it should decline")
        return
    rightly = [item["metrics"][cell][RIGHT_DECLINES] == 1 for item in asked]
    few = len(rightly) < ENOUGH_TO_DECLINE
    if sum(rightly) < LEAST_DECLINED * len(rightly):
        yield tn(
            "it made up an answer to {made_up} of {count} question that it should decline",
            "it made up an answer to {made_up} of {count} questions that it should decline",
            len(rightly),
            made_up=count(len(rightly) - sum(rightly)),
        )
    elif few or _interval(rightly, asked)[0] < LEAST_DECLINED:
        yield tn(
            "{count} question to decline is too few to know how often it makes up an answer",
            "{count} questions to decline are too few to know how often it makes up an answer",
            len(rightly),
        )


def _interval(successes: Sequence[bool], items: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    return share_interval(successes, [item["cluster"] for item in items])
