"""Looking up statements of a study's documents, beside the facts of its pairs.

A statement is a fact of an index of its own, whose question is its headings and text. Until questions of the documents
are trained, nothing tells which questions they answer, and the rule for declining is a threshold of the score.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from assistant_builder.documents.questions import trained_file, trained_statements
from assistant_builder.documents.store import Documents
from assistant_builder.documents.types import Statement
from assistant_builder.errors import StudyError
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.retrieval.corrections import source_record as fact_record
from assistant_builder.retrieval.decline import DeclineRule, score_rule
from assistant_builder.retrieval.grounding import Grounder
from assistant_builder.retrieval.index import (
    PASSAGE,
    Fact,
    Hit,
    Index,
    Progress,
    TextEncoder,
    fact_vectors,
)
from assistant_builder.retrieval.retriever import Chooser, Retriever
from assistant_builder.retrieval.staleness import stale_rows
from assistant_builder.study import Study

NEAR = 0.5
"""Score from which the best statement answers a question (``python -m benchmarks.documents``)."""
_INDEX = "index"


@dataclass(frozen=True)
class Passages:
    """The statements of a study's documents.

    Attributes:
        retriever: Finds them.
        rule: Declines.
        statements: The statements, those that wait for a decision included.
        waiting: Rows of the facts that wait for a decision.
    """

    retriever: Retriever
    rule: DeclineRule
    statements: tuple[Statement, ...]
    waiting: frozenset[int]

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
        if not Documents(study):
            return None
        statements, waiting = served_statements(Documents(study))
        chooser = Chooser(study.config.retrieval.facts)
        alone = study.source is None or trained_file(study).is_file()
        retriever = served_retriever(study, embedder, chooser, corrects=alone, progress=progress)
        rule = score_rule(NEAR, target=study.config.retrieval.false_declines, sentence=sentence)
        return cls(retriever, rule, tuple(statements), waiting)

    def statement(self, fact: Fact) -> Statement:
        """The statement of a fact."""
        return self.statements[_place(fact)]


def passage_facts(statements: Sequence[Statement]) -> list[Fact]:
    """The facts of statements: the n-th has the row -n."""
    return [
        Fact(-place, 0, each.searched, each.answer, "", None, f"{PASSAGE}{each.key}", True)
        for place, each in enumerate(statements, start=1)
    ]


def trained_passages(study: Study) -> list[Fact]:
    """The facts of the statements that the study's assistants are trained to read; none where they read pairs."""
    return passage_facts(trained_statements(study))


def cluster_of(keys: Collection[str]) -> str:
    """The cluster of a pair that rests on statements with these keys."""
    return " ".join(f"{PASSAGE}{key}" for key in keys)


def _place(fact: Fact) -> int:
    return -fact.row - 1


def served_statements(documents: Documents) -> tuple[list[Statement], frozenset[int]]:
    """What the documents state, and stated before undecided changes; and the rows that wait for a decision."""
    changes = documents.undecided
    new = {change.new.key for change in changes if change.new is not None}
    current = documents.statements
    statements = [*current, *(change.old for change in changes)]
    waiting = {
        -place
        for place, each in enumerate(statements, start=1)
        if each.key in new or place > len(current)
    }
    return statements, frozenset(waiting)


def served_retriever(
    study: Study,
    embedder: TextEncoder,
    grounder: Grounder | Chooser,
    *,
    corrects: bool = True,
    progress: Progress | None = None,
) -> Retriever:
    """Finds what the documents state now; what rests on an undecided change is withheld."""
    documents = Documents(study)
    statements, waiting = served_statements(documents)
    index = _index(documents, passage_facts(statements), embedder, progress)

    def record(hit: Hit) -> dict[str, Any]:
        if hit.fact.is_correction:
            return fact_record(hit.fact, hit.similarity)
        return source_record(documents, statements[_place(hit.fact)], hit.similarity)

    return Retriever(
        study, index, embedder, grounder, waiting=waiting, record=record, corrects=corrects
    )


def tuned_retriever(study: Study, prompter: ChatTokenizer | None) -> Retriever:
    """What a trained assistant looks up when it is served: with what became stale since it was trained withheld.

    An assistant that was trained to read statements reads what the documents state now.
    """
    documents = Documents(study)
    if not documents:
        return Retriever.load(study, prompter)
    if trained_file(study).is_file():
        from assistant_builder.retrieval.train_embedder import embedder_of_study

        count = study.config.retrieval.facts
        grounder = Chooser(count) if prompter is None else Grounder.of(study, prompter)
        return served_retriever(study, embedder_of_study(study), grounder)
    retriever = Retriever.load(study, prompter)
    return retriever.without(*stale_rows(documents, retriever.index))


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
