"""How the assistants answered the owner's questions: other wordings, and questions that the file does not answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from assistant_builder.arms import plain, plain_order
from assistant_builder.i18n import t, tc, tn
from assistant_builder.retrieval.copying import COPY
from assistant_builder.retrieval.own_questions import assistants, read_answers, read_questions
from assistant_builder.retrieval.yes_no import without_yes_no
from assistant_builder.study import Study
from evals.metrics.refusal import is_refusal
from evals.metrics.text import exact_match
from evals.report.number_format import count, percent
from evals.report.other_words import is_respelled
from evals.report.schema import OwnCounts, OwnQuestions, Report
from evals.stats.share import share_interval


def own_questions(study: Study) -> dict[str, Any] | None:
    """The questions with the answers so far, and the counts of each arm that was asked all; None without questions.

    An answer is right if it is that of the file by the rule of exact match.
    """
    questions = read_questions(study)
    if not questions:
        return None
    found = {arm: read_answers(study, arm) for arm in assistants(study)}
    rows: list[dict[str, Any]] = []
    for each in questions:
        given = {
            arm: answers[each.question]
            for arm, answers in found.items()
            if each.question in answers
        }
        exact = {
            arm: each.row is not None
            and any(
                exact_match(text, each.answer) == 1
                for text in (answer["text"], without_yes_no(answer["text"]))
            )
            for arm, answer in given.items()
        }
        declined = {  # the right answer may read like a refusal
            arm: not exact[arm] and (answer["declined"] or is_refusal(answer["text"]))
            for arm, answer in given.items()
        }
        rows.append(
            {
                "question": each.question,
                "row": each.row,
                "known": each.known,
                "reference": None if each.row is None else each.answer,
                "answers": {arm: answer["text"] for arm, answer in given.items()},
                "right": declined if each.row is None else exact,
                "declined": declined,
            }
        )
    complete = [arm for arm in found if all(arm in row["answers"] for row in rows)]
    return {"arms": {arm: _counts(rows, arm) for arm in complete}, "questions": rows}


def _counts(rows: Sequence[dict[str, Any]], arm: str) -> dict[str, Any]:
    asked = [row for row in rows if row["row"] is not None]
    right = [row["right"][arm] for row in asked]
    declined = [row["declined"][arm] for row in rows if row["row"] is None]
    return {
        "wordings": len(right),
        "right": sum(right),
        "right_ci": _interval(right),
        "declined_wrongly": sum(row["declined"][arm] for row in asked),
        "unanswered": len(declined),
        "declined": sum(declined),
        "declined_ci": _interval(declined),
    }


def _interval(successes: Sequence[bool]) -> list[float]:
    return list(share_interval(successes, [None] * len(successes)))


def own_counts(report: Report, arm: str) -> OwnCounts:
    """How an arm answered the owner's questions; empty before it was asked all."""
    own = report.own_questions
    return own.arms.get(arm, OwnCounts()) if own is not None else OwnCounts()


def decides(report: Report, arm: str) -> bool:
    """Whether the conclusion is about the owner's wordings: nothing else was tested in other words."""
    return is_respelled(report) and own_counts(report, arm).wordings > 0


def share_text(interval: Sequence[float]) -> str:
    """An interval of a share in words."""
    low, high = (percent(end, 0) for end in interval)
    return t("95% interval {low} to {high}", low=low, high=high)


def sentences(counts: OwnCounts, who: str) -> Iterator[str]:
    """What the counts say about an assistant, who is the subject of the first sentence."""
    if counts.wordings:
        yield tn(
            "{who} was right on {right} of your {count} own wording ({interval}).",
            "{who} was right on {right} of your {count} own wordings ({interval}).",
            counts.wordings,
            who=who,
            right=count(counts.right),
            interval=share_text(counts.right_ci),
        )
    if counts.declined_wrongly:
        yield t("It declined {wrongly} of them wrongly.", wrongly=count(counts.declined_wrongly))
    rightly = count(counts.declined) if counts.declined else tc("questions", "none")
    if counts.unanswered and counts.wordings:
        yield tn(
            "It declined {rightly} of {count} question that your file does not answer.",
            "It declined {rightly} of {count} questions that your file does not answer.",
            counts.unanswered,
            rightly=rightly,
        )
    elif counts.unanswered:
        yield tn(
            "{who} declined {rightly} of {count} question that your file does not answer.",
            "{who} declined {rightly} of {count} questions that your file does not answer.",
            counts.unanswered,
            who=who,
            rightly=rightly,
        )


@dataclass(frozen=True)
class OwnAnswered:
    """The answer of an assistant to a question of the owner; without a text it was not asked yet."""

    text: str
    verdict: str
    tone: str


@dataclass(frozen=True)
class OwnLine:
    """A question of the owner, what is expected, and the answers side by side."""

    row: int | None
    question: str
    expected: str
    answers: tuple[OwnAnswered, ...]


@dataclass(frozen=True)
class OwnTexts:
    """The section on the questions of the owner; ``columns`` are the titles of the table, the last ones of ``arms``."""

    title: str
    about: str
    lines: tuple[str, ...]
    arms: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[OwnLine, ...]


def name_of(arm: str) -> str:
    """The plain name of an arm, or what copying is called."""
    return t("Copying an answer") if arm == COPY else plain(arm)


def own_texts(report: Report) -> OwnTexts | None:
    """The section of a report; None without questions."""
    return (
        texts_of_questions(report.own_questions, [*report.trained_arms, COPY])
        if report.own_questions
        else None
    )


def texts_of_questions(own: OwnQuestions, arms: Sequence[str]) -> OwnTexts:
    """The counts in sentences, and the answers of arms side by side."""
    arms = [arm for arm in plain_order(arms) if any(arm in row["answers"] for row in own.questions)]
    return OwnTexts(
        t("Your own questions"),
        t(
            "The assistants were not trained on these questions. An answer is right if it is that of your file, apart "
            "from case, punctuation and notation."
        ),
        tuple(
            " ".join(
                sentences(
                    counts, name_of(arm) if len(arms) > 1 or arm == COPY else t("The assistant")
                )
            )
            for arm in arms
            if (counts := own.arms.get(arm)) is not None
        ),
        tuple(arms),
        (t("Question"), t("Right answer"), *map(name_of, arms)),
        tuple(
            OwnLine(
                row["row"],
                row["question"],
                row["reference"] or t("not in your file: decline"),
                tuple(_answered(row, arm) for arm in arms),
            )
            for row in own.questions
        ),
    )


def _answered(row: Any, arm: str) -> OwnAnswered:
    if arm not in row["answers"]:
        return OwnAnswered("", t("not asked yet"), "quiet")
    right, declined = row["right"][arm], row["declined"][arm]
    verdict = tc("answer", "right") if right else tc("answer", "wrong")
    if declined:
        verdict = tc("answer", "declined")
    elif row["row"] is None:
        verdict = t("should decline")
    return OwnAnswered(row["answers"][arm], verdict, "good" if right else "bad")
