"""Looking up statements of a study's documents, beside the facts of its pairs.

A statement is a fact of an index of its own, whose question is its headings and text. Nothing tells which questions the
documents answer, so the rule for declining is a threshold of the score.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from assistant_builder.documents.store import Documents
from assistant_builder.documents.types import Statement
from assistant_builder.errors import StudyError
from assistant_builder.retrieval.corrections import source_record as fact_record
from assistant_builder.retrieval.decline import DeclineRule, score_rule
from assistant_builder.retrieval.index import Fact, Index, Progress, TextEncoder, fact_vectors
from assistant_builder.retrieval.retriever import Chooser, Found, Retriever
from assistant_builder.study import Study

NEAR = 0.5
"""Score from which the best statement answers a question (``python -m benchmarks.documents``)."""
_INDEX = "index"


@dataclass(frozen=True)
class Passages:
    """The statements of a study's documents.

    Attributes:
        retriever: Finds them; the row of a fact is the place of its statement.
        rule: Declines.
        statements: The statements, those that wait for a decision included.
        waiting: Places of those that wait for a decision.
        documents: The documents.
    """

    retriever: Retriever
    rule: DeclineRule
    statements: tuple[Statement, ...]
    waiting: frozenset[int]
    documents: Documents

    @classmethod
    def load(
        cls,
        study: Study,
        embedder: TextEncoder,
        sentence: str,
        progress: Progress | None = None,
    ) -> Passages | None:
        """The statements of a study; ``None`` if it has no documents.

        Args:
            study: The study.
            embedder: The sentence embedder of its pairs.
            sentence: What is said instead of an answer.
            progress: Called with the texts that are embedded and their total.
        """
        documents = Documents(study)
        if not documents:
            return None
        changes = documents.undecided
        new = {change.new.key for change in changes if change.new is not None}
        current = documents.statements
        statements = (*current, *(change.old for change in changes))
        waiting = {place for place, each in enumerate(statements) if each.key in new}
        waiting |= set(range(len(current), len(statements)))
        facts = [
            Fact(place, 0, each.searched, each.answer, "", each.document, None, True)
            for place, each in enumerate(statements)
        ]
        index = _index(documents, facts, embedder, progress)
        chooser, alone = Chooser(study.config.retrieval.facts), study.source is None
        retriever = Retriever(study, index, embedder, chooser, corrects=alone)
        rule = score_rule(NEAR, target=study.config.retrieval.false_declines, sentence=sentence)
        return cls(retriever, rule, statements, frozenset(waiting), documents)

    def source_records(self, found: Found) -> list[dict[str, Any]]:
        """The statements that were found, each with document, page and the passage that it is from."""
        return [
            fact_record(hit.fact, hit.similarity)
            if hit.fact.row < 0  # a correction
            else source_record(self.documents, self.statements[hit.fact.row], hit.similarity)
            for hit in found.sources
            if hit.fact.row not in self.waiting
        ]


def source_record(documents: Documents, statement: Statement, similarity: float) -> dict[str, Any]:
    """A statement as a source of an answer: ``row`` is None, and ``question`` is its headings."""
    before, passage, after = documents.passage(statement)
    return {
        "row": None,
        "question": statement.heading,
        "answer": statement.text,
        "similarity": round(similarity, 4),
        "document": statement.document,
        "page": statement.page,
        "before": before,
        "passage": passage,
        "after": after,
    }


def _index(
    documents: Documents, facts: list[Fact], embedder: TextEncoder, progress: Progress | None
) -> Index:
    """The index of statements; kept beside them, because the vectors of many take minutes."""
    folder = documents.folder / _INDEX
    with suppress(StudyError, OSError):
        known = Index.load(folder)
        if known.facts == facts and known.embedder == _model(embedder):
            return known
    index = Index(facts, fact_vectors(facts, embedder, progress), _model(embedder))
    with suppress(OSError):  # it is embedded again
        index.save(folder)
    return index


def _model(embedder: TextEncoder) -> Mapping[str, str]:
    return {"name": embedder.name, "sha256": embedder.sha256}
