"""What rests on statements of documents that changed: pairs, test questions and answers to visitors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from assistant_builder.chat.visitor_log import log_file, read_questions
from assistant_builder.data import Pair, load_pairs, load_split
from assistant_builder.documents.changes import Change
from assistant_builder.documents.questions import PEOPLE, Questions
from assistant_builder.i18n import N_
from assistant_builder.retrieval.index import facts_of
from assistant_builder.retrieval.staleness import Changes
from assistant_builder.study import Study

Kind = Literal["pair", "test question", "visitor"]
KINDS: dict[Kind, str] = {
    "pair": N_("pair"),
    "test question": N_("test question"),
    "visitor": N_("visitor's question"),
}
"""Kind of an answer → what it is called."""


@dataclass(frozen=True)
class StaleAnswer:
    """An answer that rests on what a statement no longer says; ``row`` is that of a pair in its data file."""

    kind: Kind
    question: str
    answer: str
    row: int | None = None

    def to_record(self) -> dict[str, Any]:
        """The answer as JSON."""
        return asdict(self)


def answers_resting_on(study: Study, changes: Sequence[Change]) -> list[list[StaleAnswer]]:
    """The answers that rest on each change: pairs first, then test questions, then visitors' questions."""
    resting: list[list[StaleAnswer]] = [[] for _ in changes]
    known = Changes(changes)
    for each in _answers(study) if changes else ():
        for number in known.under(each.question, each.answer):
            resting[number].append(each)
    return resting


def _answers(study: Study) -> Iterator[StaleAnswer]:
    if study.step("data").state == "succeeded":
        folder = study.folder / "data"
        yield from _of_pairs([*load_split(folder, "train"), *load_split(folder, "validation")])
        yield from _of_pairs(load_split(folder, "heldout"), "test question")
    elif study.source is not None:
        yield from _of_pairs(load_pairs(study.source, columns=study.config.data.columns).pairs)
    else:
        for each in Questions(study).all():
            if each.answer and each.state in ("accepted", "training"):
                kind: Kind = "test question" if each.origin == PEOPLE else "pair"
                yield StaleAnswer(kind, each.question, each.answer)
    if log_file(study).is_file():
        for asked in read_questions(study):
            if asked.question and asked.answer and not asked.declined:
                yield StaleAnswer("visitor", asked.question, asked.answer)


def _of_pairs(pairs: Iterable[Pair], kind: Kind = "pair") -> Iterator[StaleAnswer]:
    for pair in pairs:
        if pair.answerable and pair.respelled is None:
            for fact in facts_of(pair):
                yield StaleAnswer(kind, fact.question, fact.answer, fact.row)
