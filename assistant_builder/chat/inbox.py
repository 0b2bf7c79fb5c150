"""The inbox of a published assistant: what visitors asked and did not get answered, in groups of one meaning.

An answer to a group becomes a correction of the study for each of its wordings, which the next version is trained on.
What visitors wrote enters training and index only in this way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from assistant_builder.chat.feedback import add_correction
from assistant_builder.chat.visitor_log import VisitorQuestion, log_file, opened, read_questions
from assistant_builder.data.similarity import casefold_normalize
from assistant_builder.errors import DataError
from assistant_builder.study import Study

Problem = Literal["declined", "voted down"]
State = Literal["accepted", "rejected", "later"]
Encode = Callable[[Sequence[str]], Any]
"""Texts → their sentence embeddings of unit length, shape ``[n, d]``."""


@dataclass(frozen=True)
class QuestionGroup:
    """Questions of one meaning that the assistant declined or whose answers were voted down.

    Attributes:
        key: The id of its oldest question, by which it is named.
        wordings: Its questions without repetitions, the most frequent first.
        count: How often it was asked.
        problem: What happened to most of them.
        suggestions: What visitors think it should have said.
        answers: What the assistant said, without repetitions.
        ids: Ids of its questions.
    """

    key: str
    wordings: tuple[str, ...]
    count: int
    problem: Problem
    suggestions: tuple[str, ...]
    answers: tuple[str, ...]
    ids: tuple[str, ...]


@dataclass(frozen=True)
class Overview:
    """Counts of what was asked within some days."""

    asked: int
    declined: int
    voted_up: int
    voted_down: int

    @property
    def answered(self) -> float | None:
        """Share of the questions that were neither declined nor voted down; None without any."""
        return 1 - (self.declined + self.voted_down) / self.asked if self.asked else None


def overview(questions: Iterable[VisitorQuestion]) -> Overview:
    """The counts of questions; one that was declined and voted down counts as declined."""
    found = list(questions)
    return Overview(len(found), sum(each.declined for each in found), sum(each.vote == 1 for each in found),
                    sum(each.vote == -1 and not each.declined for each in found))


def by_week(questions: Iterable[VisitorQuestion], now: float) -> list[tuple[int, Overview]]:
    """The counts of each week in which something was asked, by how many weeks ago it ended; the oldest first."""
    weeks: dict[int, list[VisitorQuestion]] = {}
    for each in questions:
        weeks.setdefault(int((now - each.time) // (7 * 86_400)), []).append(each)
    return [(week, overview(weeks[week])) for week in sorted(weeks, reverse=True)]


def open_groups(questions: Iterable[VisitorQuestion], encode: Encode) -> list[QuestionGroup]:
    """The groups that wait for an answer, the most frequent first."""
    from evals.stats.similar import similar_questions  # imports scipy, which is slow

    found = [each for each in questions
             if each.question and each.state in ("open", "later") and (each.declined or each.vote == -1)]
    texts = list(dict.fromkeys(each.question or "" for each in found))
    if not texts:
        return []
    numbers = similar_questions(encode(texts))
    group_of = {text: f"group {number}" if number is not None else text
                for text, number in zip(texts, numbers, strict=True)}
    groups: dict[str, list[VisitorQuestion]] = {}
    for each in found:
        groups.setdefault(group_of[each.question or ""], []).append(each)
    return sorted(map(_group, groups.values()), key=lambda group: (-group.count, group.key))


def _group(questions: Sequence[VisitorQuestion]) -> QuestionGroup:
    wordings: Counter[str] = Counter()
    shown: dict[str, str] = {}
    for each in questions:
        normal = casefold_normalize(each.question or "")
        shown.setdefault(normal, each.question or "")
        wordings[normal] += 1
    declined = sum(each.declined for each in questions)
    return QuestionGroup(
        questions[0].id, tuple(shown[text] for text, _ in wordings.most_common()), len(questions),
        "declined" if 2 * declined >= len(questions) else "voted down",
        tuple(dict.fromkeys(each.suggestion for each in questions if each.suggestion)),
        tuple(dict.fromkeys(each.answer for each in questions if each.answer)), tuple(each.id for each in questions))


def group_named(groups: Sequence[QuestionGroup], key: str) -> QuestionGroup:
    """The group with a question of this id.

    Raises:
        DataError: There is none.
    """
    found = next((group for group in groups if key in group.ids), None)
    if found is None:
        raise DataError(f"no open question has the id {key!r}", where="inbox", remedy="Use an id that the inbox lists")
    return found


def accept(study: Study, group: QuestionGroup, answer: str, wordings: Sequence[str] | None = None) -> int:
    """Make the answer a correction for each wording of a group; returns their number.

    ``wordings`` are those to use; None for all.

    Raises:
        DataError: The answer is empty, or the assistant's own.
    """
    chosen = list(group.wordings if wordings is None else wordings)
    if not chosen:
        raise DataError("no wording of the question is chosen", where="inbox", remedy="Choose one or more")
    for wording in chosen:
        add_correction(study, wording, answer, wrong=group.answers[0] if group.answers else "")
    set_state(study, group, "accepted")
    return len(chosen)


def set_state(study: Study, group: QuestionGroup, state: State) -> None:
    """Record what was decided about a group."""
    with opened(log_file(study)) as connection:
        connection.executemany("UPDATE question SET state = ? WHERE id = ?", [(state, id) for id in group.ids])


def inbox_of(study: Study, encode: Encode) -> tuple[list[VisitorQuestion], list[QuestionGroup]]:
    """Everything that is kept of a study's visitors, and the groups that wait for an answer."""
    questions = read_questions(study)
    return questions, open_groups(questions, encode)
