"""Looking up the facts for a conversation: the index of a study with its sentence embedder and prompt format."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assistant_builder.data import Message
from assistant_builder.errors import StudyError
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.retrieval.decline import Retrieved
from assistant_builder.retrieval.final import served_index_folder
from assistant_builder.retrieval.grounding import DEPTH, Grounder, query_of
from assistant_builder.retrieval.index import Hit, Index, Query
from assistant_builder.retrieval.lexical import terms
from assistant_builder.study import Study

if TYPE_CHECKING:
    from assistant_builder.models.embedding import Embedder

NEAREST = 5
"""Nearest facts whose answers are compared."""


@dataclass(frozen=True)
class Found:
    """A conversation with facts in its prompt.

    Attributes:
        messages: The conversation with the facts in its system prompt.
        sources: Those facts with their similarity, the best first.
        evidence: What the search says about whether the question can be answered.
    """

    messages: list[Message]
    sources: list[Hit]
    evidence: Retrieved

    def source_records(self) -> list[dict[str, Any]]:
        """Row, question, answer and similarity of each source."""
        return [{"row": hit.fact.row, "question": hit.fact.question, "answer": hit.fact.answer,
                 "similarity": round(hit.similarity, 4)} for hit in self.sources]


class Retriever:
    """Finds facts and writes them into prompts."""

    def __init__(self, study: Study, index: Index, embedder: Embedder, grounder: Grounder) -> None:
        self.study, self.index, self._embedder, self._grounder = study, index, embedder, grounder
        # rarity of a term: facts with equal answers are one document
        documents: dict[str, set[str]] = {}
        for fact in index.facts:
            documents.setdefault(fact.answer_key, set()).update(terms(f"{fact.query.text}\n{fact.answer}"))
        counts = Counter(term for document in documents.values() for term in document)
        self._rarity = {term: math.log((1 + len(documents)) / count) for term, count in counts.items()}
        self._unknown = math.log(1 + len(documents))
        self._documents = documents

    @classmethod
    def load(cls, study: Study, prompter: ChatTokenizer, *, served: bool = True) -> Retriever:
        """The retriever of a study; loads the sentence embedder, so that only worker processes call it.

        Without ``served`` it has the index that is measured, else the final one if there is one.

        Raises:
            StudyError: The study has no index, or one of another embedder.
        """
        from assistant_builder.models.embedding import Embedder

        folder = served_index_folder(study) if served else study.retrieval_folder
        index, embedder = Index.load(folder), Embedder.of(study.config.retrieval.embedder)
        if embedder.sha256 != index.embedder["sha256"]:
            raise StudyError(f"the index was made with {index.embedder['name']}, not with {embedder.name} as it is now",
                             where=str(folder), remedy=f"Run 'assistant-builder run {study.name} --redo'")
        return cls(study, index, embedder, Grounder.of(study.config, prompter))

    def find(self, conversations: Sequence[Sequence[Message]], *,
             exclude: Sequence[Collection[int]] | None = None, context: int | None = None) -> list[Found]:
        """Look up the facts for conversations, each of which ends with a question.

        Args:
            conversations: The conversations.
            exclude: For each conversation, rows whose facts are not used.
            context: Tokens that a prompt and its answer may have together; facts beyond them are left out.
        """
        queries = [query_of(messages) for messages in conversations]
        vectors = self._embedder.encode([query.text for query in queries])
        ranked = self.index.search(queries, vectors, DEPTH, exclude=exclude)
        nearest = self.index.search(queries, vectors, NEAREST, exclude=exclude, distinct=False)
        found = []
        for messages, query, hits, near in zip(conversations, queries, ranked, nearest, strict=True):
            usable = [hit for hit in hits if hit.fact.answerable]
            grounded, facts = self._grounder.ground(messages, [hit.fact for hit in usable], context)
            found.append(Found(grounded, usable[: len(facts)], self._evidence(query, hits, near)))
        return found

    def _evidence(self, query: Query, hits: Sequence[Hit], near: Sequence[Hit]) -> Retrieved:
        usable = sorted((hit.similarity for hit in hits if hit.fact.answerable), reverse=True) or [0.0]
        declined = max((hit.similarity for hit in hits if not hit.fact.answerable), default=0.0)
        first = near[0].fact.answer_key if near else ""
        return Retrieved(similarity=usable[0], margin=usable[0] - usable[1] if len(usable) > 1 else usable[0],
                         words=self._words(query, hits), nearby=usable[0] - declined,
                         agreement=sum(hit.fact.answer_key == first for hit in near) / max(len(near), 1))

    def _words(self, query: Query, hits: Sequence[Hit]) -> float:
        """The largest share of the question's terms, weighted by rarity, that one of the facts has."""
        asked = {term: self._rarity.get(term, self._unknown) for term in terms(query.text)}
        total = sum(asked.values())
        shares = [sum(weight for term, weight in asked.items() if term in self._documents[hit.fact.answer_key])
                  for hit in hits[: self._grounder.count] if hit.fact.answerable]
        return max(shares, default=0.0) / total if total else 0.0
