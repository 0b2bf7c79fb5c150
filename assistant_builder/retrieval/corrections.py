"""Corrected answers (``corrections.jsonl``), which are served at once where facts are looked up.

A correction is a further fact of the index that is served. The very question that was corrected gets
the corrected answer without a model. Facts with that question, or with the wrong answer of which the correction is an
edit, have the new answer in all their wordings. Nothing that is measured has corrections, and removing one undoes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from assistant_builder.atomic_io import read_jsonl
from assistant_builder.data.similarity import casefold_normalize
from assistant_builder.data.words import content_words
from assistant_builder.i18n import t
from assistant_builder.retrieval.index import (
    CORRECTIONS,
    Fact,
    Index,
    TextEncoder,
    fact_vectors,
)
from assistant_builder.retrieval.yes_no import without_yes_no
from assistant_builder.study import Study

EDIT = 0.5
"""Share of the words of a wrong answer that the correction has, from which it is an edit of it: “costs 16” for “costs
14”. Less is another answer, and the fact with the wrong one stays as it is for its own questions."""


@dataclass(frozen=True)
class Correction:
    """A question with a better answer, as a line of ``corrections.jsonl``."""

    time: str  # ISO 8601 time in UTC; it also identifies the correction
    question: str  # the question for training
    answer: str
    wrong: str = ""  # the assistant's answer
    arm: str = ""
    asked: str = ""  # the question that it was an answer to
    cluster: str | None = None  # the same for wordings of one question
    answerable: bool = True  # False where the question should be declined, as the answer does


def read_corrections(study: Study) -> list[Correction]:
    """Every correction, oldest first; raises StudyError if the file is damaged."""
    return read_jsonl(study.corrections_file, Correction, remedy=t("Fix or remove that line"))


def corrections_stamp(study: Study) -> str:
    """A text that changes with the corrections; empty without any."""
    try:
        found = study.corrections_file.stat()
    except OSError:
        return ""
    return f"{found.st_mtime_ns}.{found.st_size}"


@dataclass(frozen=True)
class Corrected:
    """An index with corrections.

    Attributes:
        index: The facts; a correction has a row below those of statements, and a fact that it replaces keeps its own.
        answers: Normalized question → the correction of its answer, or its answer in a row that the index lacks.
    """

    index: Index
    answers: Mapping[str, Fact] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        index: Index,
        corrections: Sequence[Correction],
        embedder: TextEncoder,
        rows: Mapping[str, Fact],
    ) -> Corrected:
        """The facts of an index and of corrections, of which a later one replaces an earlier one.

        ``rows``: normalized questions of rows that the index lacks. They are found by these very questions alone, so
        that every other question is answered as it was measured.
        """
        if not corrections:
            return cls(index, rows)
        answers: dict[str, Fact] = {}
        changed: dict[int, Fact] = {}
        known = {fact.answer_key for fact in index.facts}
        for number, each in enumerate(corrections, start=1):
            own = Fact(
                CORRECTIONS - number, 0, each.question, each.answer, "", None, None, each.answerable
            )
            keys = {casefold_normalize(text) for text in (each.question, each.asked) if text}
            answers |= dict.fromkeys(keys, own)
            if not each.answerable:
                continue
            wrong = casefold_normalize(without_yes_no(each.wrong))
            edited = own.answer_key not in known and _is_edit(each.wrong, each.answer)
            for place, fact in enumerate(index.facts):
                same = fact.query.key in keys
                if fact.answerable and (same or (edited and fact.answer_key == wrong)):
                    changed[place] = replace(fact, answer=each.answer)
        new = list({fact.row: fact for fact in answers.values()}.values())
        vectors = fact_vectors([*changed.values(), *new], embedder, weights=index.weights)
        facts, all_vectors = list(index.facts), index.vectors.copy()
        for vector, (place, fact) in zip(vectors, changed.items(), strict=False):
            facts[place], all_vectors[place] = fact, vector
        all_vectors = np.concatenate([all_vectors, vectors[len(changed) :]])
        changed_index = index.of_facts([*facts, *new], all_vectors)
        return cls(changed_index, {**rows, **answers})


def _is_edit(wrong: str, answer: str) -> bool:
    words = set(content_words(wrong))
    return bool(words) and len(words.intersection(content_words(answer))) >= EDIT * len(words)


def source_record(fact: Fact, similarity: float) -> dict[str, Any]:
    """A fact as a source; a correction is no row of the data."""
    corrected = fact.is_correction
    return {
        "row": None if corrected or fact.is_passage else fact.row,
        "question": fact.question,
        "answer": fact.answer,
        "similarity": round(similarity, 4),
        **({"corrected": True} if corrected else {}),
    }


def corrected_answer(fact: Fact) -> tuple[tuple[dict[str, Any], ...], bool, dict[str, Any]]:
    """Sources of a corrected answer, whether it declines, and how it was made."""
    sources = (source_record(fact, 1.0),) if fact.answerable else ()
    judged: dict[str, Any] = {"mode": "copy", "confidence": 1.0}
    if fact.is_correction:
        judged["corrected"] = True
    return sources, not fact.answerable, judged
