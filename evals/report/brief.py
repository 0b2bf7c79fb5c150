"""What the first page of a report adds to the conclusion: what the assistant is, examples of its answers, and risks.

The page is for readers who decide about the assistant and know no statistics.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from assistant_builder.arms import ARMS
from assistant_builder.i18n import t, tc, tn
from evals.declaration import EXACT, LOSS
from evals.report.audience import declined_rightly, wrong_by_overlap
from evals.report.conclusion import Conclusion
from evals.report.counts import total, wrong_answers
from evals.report.number_format import count, number, shown
from evals.report.own_questions import decides, own_counts
from evals.report.schema import Report

Tone = Literal["good", "warn", "bad"]
_SHORT = 160
"""Characters of a question with its answers up to which it is preferred as an example."""
_FEW = 100
"""Number of test questions below which the share of right answers is called uncertain."""
MOST_RISKS = 4


@dataclass(frozen=True)
class Example:
    """A test question with the right answer and the answer of the assistant; ``tone`` repeats ``verdict``."""

    row: int | None  # row of the data file, as it is stored
    question: str
    reference: str
    answer: str
    verdict: str
    tone: Tone
    cluster: str | None
    declined: bool = False


def about(report: Report) -> str:
    """What the assistant is and what it was trained on."""
    config, counts = report.config, (report.data.get("split") or {}).get("counts") or {}
    source = str(report.data.get("source") or config["data"]["source"] or "")
    train, values = counts.get("train"), {"file": PurePath(source).name}
    if train is None:
        first = (
            t("An assistant trained on question–answer pairs of {file}.", **values)
            if source
            else t("An assistant trained on question–answer pairs.")
        )
    elif source:
        first = tn(
            "An assistant trained on {count} question–answer pair of {file}.",
            "An assistant trained on {count} question–answer pairs of {file}.",
            train,
            **values,
        )
    else:
        first = tn(
            "An assistant trained on {count} question–answer pair.",
            "An assistant trained on {count} question–answer pairs.",
            train,
        )
    base = t("Its base model is {model}.", model=PurePath(config["model"]["base"]).name)
    way = (
        t("It looks up the facts for each question.")
        if report.approach == "grounded"
        else t("It answers from what it learned in training.")
    )
    return f"{first} {base} {way}"


def examples(report: Report, conclusion: Conclusion) -> list[Example]:
    """Up to three answers: a right one, then wrong ones, one of them declined; more right ones if none is wrong."""
    found = list(_answers(report, conclusion))
    best, worst = found[::-1], found
    if conclusion.metric == EXACT:
        best, worst = (
            [each for each in found if (each.tone == "good") == right] for right in (True, False)
        )
    answered, refused = (
        [each for each in worst if each.declined == said] for said in (False, True)
    )
    chosen: list[Example] = []
    for wanted in (best, answered, refused, answered, refused, best, best):
        chosen += _readable(wanted, chosen)
    return chosen[:3]


def misses(report: Report, conclusion: Conclusion) -> list[Example]:
    """The test questions that the assistant did not answer right, the worst first."""
    return list(_answers(report, conclusion, missed=True))


def risks(report: Report, conclusion: Conclusion) -> list[str]:
    """What can go wrong if the assistant is used, in plain words; the gravest first."""
    return list(_risks(report, conclusion))[:MOST_RISKS]


def _answers(report: Report, conclusion: Conclusion, *, missed: bool = False) -> Iterator[Example]:
    """The answers to the questions that the conclusion is about, or only the missed ones, the worst first."""
    cell, metric = ARMS[conclusion.arm].cell, conclusion.metric
    if decides(report, conclusion.arm):
        yield from _own_answers(report, conclusion.arm, missed=missed)
        return
    if metric == LOSS:
        return
    rows = [
        row
        for row in report.items
        if row["answerable"]
        and not row.get("uncovered")
        and cell in row["answers"]
        and metric in row["metrics"].get(cell, {})
    ]
    found = []
    for row, wrong in zip(rows, wrong_by_overlap(rows, cell, metric), strict=True):
        score, refused = row["metrics"][cell][metric], bool(row["declined"].get(cell))
        bad = score < 1 if metric == EXACT else bool(wrong) or refused
        if bad or not missed:
            found.append((not bad, score, row["row"] or 0, wrong, row))
    for _, score, _, wrong, row in sorted(found, key=lambda each: each[:3]):
        refused, overlap = False, f"{shown(metric).phrase} {number(score, metric)}"
        verdict: tuple[str, Tone] = (
            (tc("answer", "wrong"), "bad")
            if metric == EXACT
            else (t("far from it, {metric}", metric=overlap), "bad")
            if wrong == "far"
            else (t("other numbers, {metric}", metric=overlap), "bad")
            if wrong
            else (overlap, "warn")
        )
        if row["metrics"][cell].get(EXACT) == 1:
            verdict = tc("answer", "right"), "good"
        elif row["declined"].get(cell):
            verdict, refused = (tc("answer", "declined"), "bad"), True
        yield Example(
            row["row"],
            row["question"],
            row["reference"] or "",
            row["answers"][cell] or "",
            *verdict,
            row["cluster"],
            refused,
        )


def _own_answers(report: Report, arm: str, *, missed: bool) -> Iterator[Example]:
    """The answers to the owner's wordings, the wrong ones first."""
    rows = report.own_questions.questions if report.own_questions else []
    asked = [row for row in rows if row["row"] is not None and not (missed and row["right"][arm])]
    for row in sorted(asked, key=lambda row: row["right"][arm]):
        right, refused = row["right"][arm], row["declined"][arm]
        said = "right" if right else "declined" if refused else "wrong"
        yield Example(
            row["row"],
            row["question"],
            row["reference"] or "",
            row["answers"][arm],
            tc("answer", said),
            "good" if right else "bad",
            None,
            refused,
        )


def _readable(examples: Sequence[Example], chosen: Sequence[Example]) -> list[Example]:
    """One of the examples: a short one about another subject than the chosen ones if there is any."""
    clusters = {each.cluster for each in chosen if each.cluster}
    left = [each for each in examples if each not in chosen]
    other = [each for each in left if each.cluster not in clusters] or left
    short = [each for each in other if len(each.question + each.reference + each.answer) <= _SHORT]
    return (short or other)[:1]


def _risks(report: Report, conclusion: Conclusion) -> Iterator[str]:
    rightly, unknown = declined_rightly(report, conclusion.arm)
    if decides(report, conclusion.arm):
        own = own_counts(report, conclusion.arm)
        asked = own.wordings
        wrong = asked - own.right - own.declined_wrongly
    else:
        asked = total(report, conclusion.metric)
        wrong = (
            wrong_answers(report, conclusion.arm)
            if conclusion.metric == EXACT
            else sum(not each.declined for each in misses(report, conclusion))
        )
    if rightly < unknown:
        yield tn(
            "It answered {answered} of {count} question that it should have declined. Such answers read like right "
            "ones.",
            "It answered {answered} of {count} questions that it should have declined. Such answers read like right "
            "ones.",
            unknown,
            answered=count(unknown - rightly),
        )
    if conclusion.tested and wrong:
        yield tn(
            "{count} of its answers is wrong. A wrong answer reads like a right one.",
            "{count} of its answers are wrong. A wrong answer reads like a right one.",
            wrong,
        )
    codes = {warning["code"] for warning in report.warnings}
    if "leaks_left" in codes:
        yield tn(
            "{count} test question also occurred in training in nearly the same words, so the result may look "
            "better "
            "than it is.",
            "{count} test questions also occurred in training in nearly the same words, so the result "
            "may look better than it is.",
            report.data.leaks.left,
        )
    if conclusion.tested and asked < _FEW:
        yield tn(
            "Only {count} question was tested. With other questions the result may be quite different.",
            "Only {count} questions were tested. With other questions the result may be quite different.",
            asked,
        )
    if "tuning_did_not_help" in codes:
        yield t("Training did not make the right answers likelier than the base model does.")
    if "not_better_than_retrieval" in codes:
        yield t("The untrained base model is about as good if it is given the most similar pairs.")
    if len(report.trained_arms) > 1 and "base_requantized" in codes:
        yield " ".join(
            (
                t("The base model had been rounded to {bits} bits before.", bits=4),
                t("With another base model {bits}-bit may cost more."),
            )
        )
