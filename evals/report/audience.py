"""Who can be given an assistant: customers, colleagues who notice a wrong answer, or nobody yet."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from assistant_builder.arms import ARMS
from assistant_builder.i18n import t, tn
from assistant_builder.retrieval.copying import COPY
from evals.declaration import ENOUGH_TO_DECLINE, EXACT, LOSS
from evals.metrics.fact_recall import has_other_numbers
from evals.report.approaches import untaught
from evals.report.number_format import count
from evals.report.other_words import is_respelled, nothing_tested
from evals.report.own_questions import decides, own_counts
from evals.report.schema import OwnCounts, Report
from evals.stats.share import share_interval

MOST_WRONG = 0.1
"""Customers are given an assistant if the 95 % interval of its share of wrong answers ends at or below this."""
NOT_READY = 0.5
"""An assistant with a smaller share of right answers, or a larger one of wrong long answers, is called not ready."""
NOT_READY_OVERLAP = 0.3
"""Least overlap of a usable answer, or of a usable assistant in the mean, by metrics of long answers such as token F1:
a good answer in other words scores far below 1."""
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
    """The audience of the assistant of ``arm``, which is judged by ``metric``; ``ready``: colleagues can use it.

    ``arm`` can be :data:`COPY`.
    """
    if not ready:
        return Audience("nobody", t("No, it is not ready yet."))
    if is_respelled(report) and not decides(report, arm):
        return Audience("colleagues", nothing_tested(report))
    if untaught(report):
        return Audience("colleagues", t("This test does not show it."))
    reasons = list(_reasons(report, arm, metric))
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


def usable(report: Report, assistant: str, metric: str, mean: float) -> bool:
    """Whether colleagues can use an assistant, or :data:`COPY`, by the mean of its metric and its wrong answers.

    The owner's wordings count with the test questions where right and wrong answers are counted.
    """
    asked = max(1, len(_judged(report, assistant, metric)))
    if metric == EXACT:
        own = own_counts(report, assistant)
        return mean * asked + own.right >= NOT_READY * (asked + own.wordings)
    if metric == LOSS:
        return True
    return mean >= NOT_READY_OVERLAP and far_answers(report, assistant, metric) <= NOT_READY * asked


def in_own_words(report: Report, assistant: str) -> OwnCounts:
    """How the owner's questions were answered by an arm or :data:`COPY`, with the test's questions to decline."""
    asked = _to_decline(report, assistant)
    declines = {
        "unanswered": len(asked.found),
        "declined": sum(asked.found),
        "declined_ci": list(asked.interval),
    }
    return own_counts(report, assistant).model_copy(update=declines)


def _answers_of(report: Report, assistant: str) -> tuple[str, Sequence[Mapping[str, Any]]]:
    """The cell of an arm or of :data:`COPY`, and the items with its answers, as if copying were a cell."""
    if assistant != COPY:
        return ARMS[assistant].cell, report.items
    return COPY, [
        {
            **item,
            "metrics": {COPY: item["copied"]["metrics"]},
            "declined": {COPY: item["copied"]["declined"]},
            "answers": {COPY: item["copied"]["answer"]},
        }
        for item in report.items
        if "copied" in item
    ]


def _reasons(report: Report, arm: str, metric: str) -> Iterator[str]:
    """Why customers are not given an assistant that colleagues can use."""
    cell, _ = _answers_of(report, arm)
    asked, own = _judged(report, arm, metric), own_counts(report, arm)
    own_wrong = own.wordings - own.right - own.declined_wrongly
    if decides(report, arm):
        wrong = [place < own_wrong for place in range(own.wordings)]
        yield from _wrong_answers(_Asked(wrong, [None] * own.wordings), own.declined_wrongly)
    elif metric == EXACT:
        yield from _wrong_answers(
            _Asked(
                [
                    item["metrics"][cell][EXACT] < 1 and not item["declined"].get(cell)
                    for item in asked
                ],
                [item["cluster"] for item in asked],
            ),
            sum(bool(item["declined"].get(cell)) for item in asked),
        )
    else:
        far = far_answers(report, arm, metric)
        if far > MOST_WRONG * len(asked):
            yield tn(
                "{wrong} of {count} answer was far from the right one or had other numbers",
                "{wrong} of {count} answers were far from the right ones or had other numbers",
                len(asked),
                wrong=count(far),
            )
        falsely = sum(bool(item["declined"].get(cell)) for item in asked)
        yield from _declined_wrongly(falsely, len(asked))
        exact = sum(item["metrics"][cell].get(EXACT) == 1 for item in asked)
        if exact + far + falsely < len(asked):
            yield t("whether answers in other words than yours are right was not judged")
    if not decides(report, arm) and own_wrong > MOST_WRONG * own.wordings:
        yield tn(
            "it answered {wrong} of your {count} own wording wrong",
            "it answered {wrong} of your {count} own wordings wrong",
            own.wordings,
            wrong=count(own_wrong),
        )
    yield from _made_up_answers(_to_decline(report, arm))


def declined_rightly(report: Report, assistant: str) -> tuple[int, int]:
    """How many questions to decline an arm or :data:`COPY` declined, of the test and of the owner, and their number."""
    found = _to_decline(report, assistant).found
    return sum(found), len(found)


def _to_decline(report: Report, assistant: str) -> _Asked:
    """Whether each of them was declined; a single one of the test has no interval, so that no metric has it."""
    cell, items = _answers_of(report, assistant)
    tested = [
        item for item in items if not item["answerable"] and item["declined"].get(cell) is not None
    ]
    own = own_counts(report, assistant)
    return _Asked(
        [
            *(bool(item["declined"][cell]) for item in tested),
            *(place < own.declined for place in range(own.unanswered)),
        ],
        [*(item["cluster"] for item in tested), *[None] * own.unanswered],
    )


def far_answers(report: Report, arm: str, metric: str) -> int:
    """The number of answers of an assistant that are wrong by :func:`wrong_by_overlap`."""
    cell, _ = _answers_of(report, arm)
    return sum(map(bool, wrong_by_overlap(_judged(report, arm, metric), cell, metric)))


def _judged(report: Report, arm: str, metric: str) -> list[Mapping[str, Any]]:
    cell, items = _answers_of(report, arm)
    return [
        item for item in items if item["answerable"] and metric in item["metrics"].get(cell, {})
    ]


def wrong_by_overlap(
    items: Iterable[Mapping[str, Any]], cell: str, metric: str
) -> Iterator[Literal["far", "numbers", ""]]:
    """Why each answer of a cell is wrong where no metric says it: far from the right one, or with other numbers.

    An answer that shares most of its words with the right one has a high overlap, whatever its price is.
    """
    for item in items:
        far = item["metrics"][cell][metric] < NOT_READY_OVERLAP
        if item["declined"].get(cell):
            yield ""
        elif far:
            yield "far"
        else:
            texts = item.get("answers", {}).get(cell) or "", item.get("reference") or ""
            yield "numbers" if has_other_numbers(*texts, item["question"]) else ""


@dataclass(frozen=True)
class _Asked:
    """Whether each question was answered wrong, or declined rightly, and its cluster."""

    found: Sequence[bool]
    clusters: Sequence[Hashable]

    @property
    def interval(self) -> tuple[float, float]:
        return share_interval(self.found, self.clusters)


def _wrong_answers(asked: _Asked, falsely: int) -> Iterator[str]:
    wrong = asked.found
    if sum(wrong) > MOST_WRONG * len(wrong):
        yield tn(
            "{wrong} of {count} answer was wrong",
            "{wrong} of {count} answers were wrong",
            len(wrong),
            wrong=count(sum(wrong)),
        )
    elif asked.interval[1] > MOST_WRONG:
        yield tn(
            "{count} test question is too few to know how often it is wrong",
            "{count} test questions are too few to know how often it is wrong",
            len(wrong),
        )
    yield from _declined_wrongly(falsely, len(wrong))


def _declined_wrongly(falsely: int, asked: int) -> Iterator[str]:
    if falsely > MOST_DECLINED * asked:
        yield tn(
            "it declined {declined} of {count} question that it should answer",
            "it declined {declined} of {count} questions that it should answer",
            asked,
            declined=count(falsely),
        )


def _made_up_answers(to_decline: _Asked) -> Iterator[str]:
    rightly = to_decline.found
    if not rightly:
        yield t("it was not tested with questions that it should decline")
        return
    few = len(rightly) < ENOUGH_TO_DECLINE
    if sum(rightly) < LEAST_DECLINED * len(rightly):
        yield tn(
            "it answered {answered} of {count} question that it should decline",
            "it answered {answered} of {count} questions that it should decline",
            len(rightly),
            answered=count(len(rightly) - sum(rightly)),
        )
    elif few or to_decline.interval[0] < LEAST_DECLINED:
        yield tn(
            "{count} question to decline is too few to know how often it declines",
            "{count} questions to decline are too few to know how often it declines",
            len(rightly),
        )
