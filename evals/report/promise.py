"""The promise: of what an assistant answers, at most a share is wrong, with 95 % certainty.

Each threshold of confidence is a hypothesis: "more than the share is wrong". They are tested as in Learn then Test
(Angelopoulos et al. 2021, arXiv 2110.01052) in fixed sequences, one that begins with the rule as it was fitted, and one
that begins with the strictest threshold and ends at the first that is not rejected. The test is by betting
(Waudby-Smith and Ramdas 2024, JRSS-B 86): the wealth of a gambler who can only lose on average if more is wrong. The
thresholds come from validation, so the held-out questions decide nothing but what is tested here. Which assistant is
recommended is decided on the same questions; for that the level is divided among all of them, so that the promises hold
together.

The units are facts, not wordings: a fact counts once, by the mean of its questions. Questions to decline are units of
their own, with the weight that keeps their share among all questions. An answer is wrong if it is not exactly right, or
if the question should be declined. The promise holds for questions like those of the test.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assistant_builder.arms import ARMS
from assistant_builder.i18n import t
from assistant_builder.retrieval.copying import COPY
from assistant_builder.retrieval.decline import FILE, rule_of
from assistant_builder.study import Study
from evals.declaration import EXACT, RIGHT_DECLINES
from evals.report.load import Cell
from evals.report.number_format import percent
from evals.report.rules import Rules
from evals.report.schema import Report

SURE = 0.95
"""Probability with which all promises of a report hold."""
SHARES = (0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3)
"""Shares of wrong answers whose price is shown."""
_BETS = (0.15, 0.35, 0.65, 0.99)
"""Shares of the wealth that are lost with a wrong answer; the wealth is divided among them."""
_MOST_UNITS = 100_000
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Asked:
    """The held-out questions as an assistant answered them, grouped by fact.

    Attributes:
        unit: Number of the fact of each question, from 0, shape ``[N]``.
        weight: Weight of each unit, at most 1, shape ``[F]``.
        confidence: Confidence of the rule; negative where it declined for another reason, shape ``[N]``.
        wrong: Whether the answer is wrong if it is given, shape ``[N]``.
    """

    unit: NDArray[np.int64]
    weight: Floats
    confidence: Floats
    wrong: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        confidence: Sequence[float],
        wrong: Sequence[bool],
        facts: Sequence[Hashable | None],
    ) -> Asked:
        """Group questions; the fact of a question to decline is None."""
        numbers: dict[tuple[str, Hashable], int] = {}
        unit = [
            numbers.setdefault(
                ("question", place) if fact is None else ("fact", fact), len(numbers)
            )
            for place, fact in enumerate(facts)
        ]
        known = [fact for fact in facts if fact is not None]
        alone = len(set(known)) / len(known) if known else 1.0
        weight = [1.0 if kind == "fact" else alone for kind, _ in numbers]
        return cls(np.array(unit), np.array(weight), np.array(confidence), np.array(wrong))

    def shares(self, threshold: float) -> tuple[float, float]:
        """The share of the questions that is answered at a threshold, and the wrong share of these."""
        answered, wrong = (
            self._means(self._given(threshold) & each) for each in (True, self.wrong)
        )
        total = float(answered @ self.weight)
        return total / float(self.weight.sum()), float(wrong @ self.weight) / (total or 1.0)

    def p_value(self, threshold: float, most: float) -> float:
        """Of the hypothesis that more than ``most`` of the answers at a threshold are wrong."""
        return p_value(self._losses(threshold, most), most)

    def units_needed(self, threshold: float, most: float, level: float) -> int | None:
        """The units with which the promise would hold at the measured shares; None if no number would do."""
        losses = self._losses(threshold, most)
        times = 1
        while p_value(losses, most, times) > level:
            times *= 2
            if times * len(losses) > _MOST_UNITS:
                return None
        low, high = times / 2, float(times)
        while high - low > 0.02 * high:
            middle = (low + high) / 2
            low, high = (low, middle) if p_value(losses, most, middle) <= level else (middle, high)
        return math.ceil(high * len(self.weight))

    def _losses(self, threshold: float, most: float) -> Floats:
        # of each unit: positive on average if more than ``most`` of the answers are wrong, and at most 1 - ``most``
        given = self._given(threshold)
        return self.weight * (self._means(given & self.wrong) - most * self._means(given))

    def _given(self, threshold: float) -> NDArray[np.bool_]:
        return self.confidence >= max(threshold, 0.0)

    def _means(self, values: NDArray[np.bool_]) -> Floats:
        count = np.bincount(self.unit, minlength=len(self.weight))
        return np.bincount(self.unit, values, minlength=len(self.weight)) / count


def p_value(losses: Floats, most: float, times: float = 1.0) -> float:
    """The p-value of the hypothesis that the mean of independent losses is above 0.

    Args:
        losses: At most 1 - ``most``, shape ``[F]``.
        most: The share of wrong answers that is promised.
        times: As if each loss had been seen so often.
    """
    growth = [times * float(np.log1p(-bet / (1 - most) * losses).sum()) for bet in _BETS]
    wealth = float(np.logaddexp.reduce(growth)) - math.log(len(_BETS))
    return math.exp(-max(wealth, 0.0))


def threshold_of(
    asked: Asked, thresholds: Sequence[float], most: float, level: float
) -> float | None:
    """The threshold at which the promise holds; None without one.

    Args:
        asked: The held-out questions.
        thresholds: The strictest first, that of the rule last.
        most: The share of wrong answers that is promised.
        level: Probability of a promise that does not hold, at most.
    """
    if asked.p_value(thresholds[-1], most) <= level / 2:
        return thresholds[-1]
    found = None
    for threshold in thresholds:
        if asked.p_value(threshold, most) > level / 2:
            break
        found = threshold
    return found


def promise(
    cells: Mapping[str, Cell],
    thresholds: Mapping[str, Sequence[float]],
    facts: Mapping[str, Hashable | None],
    most: float,
) -> dict[str, Any] | None:
    """What can be promised of each assistant; None where no answer can be exactly right, or none has a rule.

    Args:
        cells: The cells of the assistants, and of copying.
        thresholds: Those of the rule of each, as of :func:`threshold_of`.
        facts: Item → what it asks for; None for a question to decline.
        most: The share of wrong answers that is promised.
    """
    found = {
        name: asked
        for name in thresholds
        if name in cells and (asked := _asked(cells[name], facts)) is not None
    }
    known = {fact for fact in facts.values() if fact is not None}
    if not found or not known:
        return None
    level = (1 - SURE) / len(found)
    return {
        "most_wrong": most,
        "sure": SURE,
        "facts": len(known),
        "to_decline": sum(fact is None for fact in facts.values()),
        "cells": {
            name: _record(asked, thresholds[name], most, level) for name, asked in found.items()
        },
    }


def _asked(cell: Cell, facts: Mapping[str, Hashable | None]) -> Asked | None:
    samples = [cell.by_item[item] for item in facts]
    if any("confidence" not in sample for sample in samples):
        return None
    wrong = [
        fact is None or sample["metrics"].get(EXACT) != 1
        for sample, fact in zip(samples, facts.values(), strict=True)
    ]
    confidence = [-1.0 if each["declined"] else float(each["confidence"]) for each in samples]
    return Asked.of(confidence, wrong, list(facts.values()))


def _record(asked: Asked, thresholds: Sequence[float], most: float, level: float) -> dict[str, Any]:
    found, fitted = threshold_of(asked, thresholds, most, level), thresholds[-1]
    needed = None
    if found is None:
        counts = (asked.units_needed(each, most, level / 2) for each in thresholds)
        needed = min((count for count in counts if count is not None), default=None)
    return {
        **_at(asked, found),
        "as_it_is": _at(asked, fitted),
        "needed": needed,
        "price": [
            {"most_wrong": share, **_at(asked, threshold_of(asked, thresholds, share, level))}
            for share in SHARES
        ],
    }


def _at(asked: Asked, threshold: float | None) -> dict[str, float | None]:
    answered, wrong = (None, None) if threshold is None else asked.shares(threshold)
    return {"threshold": threshold, "answered": answered, "wrong": wrong}


def of_study(study: Study, cells: Mapping[str, Cell], rules: Rules) -> dict[str, Any] | None:
    """:func:`promise` of the assistants of a study, with the questions that its headline is about."""
    first = next(iter(cells.values()))
    items = dict.fromkeys((*rules.items(first, EXACT), *rules.items(first, RIGHT_DECLINES)))
    facts: dict[str, Hashable | None] = {}
    for item in items:
        sample = first.by_item[item]
        facts[item] = rules.fact(sample) if sample["answerable"] else None
    thresholds = {
        ARMS[arm].cell: rule.thresholds
        for arm in study.config.arms
        if (rule := rule_of(study.arm_folder(arm) / FILE)) is not None
    }
    if COPY in cells and "thresholds" in cells[COPY].scores:
        thresholds[COPY] = tuple(cells[COPY].scores["thresholds"])
    return promise(cells, thresholds, facts, study.config.retrieval.most_wrong)


def sentence(report: Report, arm: str) -> str:
    """What can be promised of an assistant; empty if the report does not say it."""
    found = report.promise
    if found is None or (of := found.cells.get(COPY if arm == COPY else ARMS[arm].cell)) is None:
        return ""
    most = percent(found.most_wrong, 0)
    values = {"most": most, "sure": percent(found.sure, 0)}
    fitted = of.as_it_is
    if of.threshold is not None and of.threshold == fitted.threshold:
        return t(
            "Promise: of what it answers, at most {most} is wrong ({sure} sure, for questions like those of the test).",
            **values,
        )
    if of.threshold is not None:
        return t(
            "Promise: of what it answers, at most {most} is wrong ({sure} sure, for questions like those of the test), "
            "if it answers {share} of the questions instead of {now}: set {retrieval.keep_promise} before you put it "
            "on a website.",
            share=percent(of.answered or 0.0, 0),
            now=percent(fitted.answered or 0.0, 0),
            **values,
        )
    if of.needed is not None and of.needed > found.facts + found.to_decline:
        return t(
            "It cannot be promised that at most {most} of its answers are wrong: the test is too small. About "
            "{count:,} tested facts and questions to decline would do instead of {tested:,}.",
            count=of.needed,
            tested=found.facts + found.to_decline,
            **values,
        )
    return t(
        "It cannot be promised that at most {most} of its answers are wrong: of what it answered, {wrong} was wrong.",
        wrong=percent(fitted.wrong or 0.0),
        **values,
    )


def price_rows(report: Report) -> list[dict[str, Any]]:
    """A row for each share of wrong answers: the share of the questions that each assistant then answers."""
    if report.promise is None:
        return []
    cells = report.promise.cells
    return [
        {
            "most": percent(share, 1 if share == 0.075 else 0),
            "chosen": share == report.promise.most_wrong,
            "answered": [
                "–" if (row := of.price[place]).answered is None else percent(row.answered, 0)
                for of in cells.values()
            ],
        }
        for place, share in enumerate(SHARES)
    ]
