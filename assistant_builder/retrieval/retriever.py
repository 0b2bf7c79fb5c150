"""Looking up the facts for a conversation: the index of a study with its sentence embedder and prompt format."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from assistant_builder.data import Message, Pair
from assistant_builder.errors import StudyError
from assistant_builder.i18n import m
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.retrieval.answering import Look
from assistant_builder.retrieval.build import served_index_folder, with_missing_answers
from assistant_builder.retrieval.decline import Retrieved
from assistant_builder.retrieval.grounding import DEPTH, Grounder, shown_facts
from assistant_builder.retrieval.index import Fact, Hit, Index, TextEncoder
from assistant_builder.retrieval.ranking import SHARPNESS
from assistant_builder.study import Study

SUGGESTED, NEAR = 2, 0.25
"""Questions that are offered where a question is declined, and the score that each needs. Of the declined messages of
tests/chat/messages_observatory.jsonl, those with a fact reach it, and those far from the sheet do not."""

TIE = 0.02
"""Difference of two scores that is none. Of the held-out questions of the shipped campsite 11 of 152 are such ties by
their cosines, and 3 of these have the right fact first and 6 second; of the demo's 286 none is, but 15 of its 66
questions to decline."""


@dataclass(frozen=True)
class Found:
    """A conversation with facts in its prompt.

    Attributes:
        messages: The conversation with the facts in its system prompt.
        sources: Those facts with their similarity, the best first.
        evidence: What the search says about whether the question can be answered.
        near: The facts of the two best answers, whether or not they are in the prompt.
        withheld: Whether the best fact rests on a change that nobody has decided on.
        record: A source as it is shown.
    """

    messages: list[Message]
    sources: list[Hit]
    evidence: Retrieved
    near: tuple[Hit, ...] = ()
    withheld: bool = False
    record: Callable[[Hit], dict[str, Any]] | None = None

    @property
    def best(self) -> Fact | None:
        """The best fact in the prompt; ``None`` if none was found or none fits."""
        return self.sources[0].fact if self.sources else None

    @property
    def nearest(self) -> tuple[str, float] | None:
        """Question and similarity of the best fact."""
        return (self.sources[0].fact.question, self.sources[0].similarity) if self.sources else None

    @property
    def suggestions(self) -> list[str]:
        """The questions of :attr:`near`, without those that are far from everything."""
        return [
            hit.fact.question for hit in self.near if hit.score >= NEAR and not hit.fact.history
        ]

    @property
    def tied(self) -> bool:
        """Whether the two best answers are equally good, and the best is less likely than all others together."""
        if len(self.suggestions) < SUGGESTED or self.evidence.certainty >= np.log(0.5):
            return False
        return self.near[0].score - self.near[1].score <= TIE

    def source_records(self) -> list[dict[str, Any]]:
        """Row, question, answer and similarity of each source; a statement has no row, but document and page."""
        return [*map(self.record or source_record, self.sources)]


def source_record(hit: Hit) -> dict[str, Any]:
    """A fact as a source of an answer."""
    fact = hit.fact
    return {
        "row": None if fact.is_passage else fact.row,
        "question": fact.question,
        "answer": fact.answer,
        "similarity": round(hit.similarity, 4),
    }


@dataclass(frozen=True)
class Chooser:
    """Chooses at most ``count`` facts and writes them into no prompt: a grounder without a tokenizer."""

    count: int

    def ground(
        self, messages: Sequence[Message], facts: Sequence[Fact], context: int | None = None
    ) -> tuple[list[Message], list[Fact]]:
        """The conversation as it is, and the facts; arguments as of :meth:`Grounder.ground`."""
        return list(messages), list(facts[: self.count])


class Retriever:
    """Finds facts and writes them into prompts; with a :class:`Chooser` it only finds them.

    Attributes:
        waiting: Rows of facts that rest on a change which nobody has decided on. One that is found first withholds the
            answer; others are left out.
        dropped: Rows of facts that are not used.
    """

    def __init__(
        self,
        study: Study,
        index: Index,
        embedder: TextEncoder,
        grounder: Grounder | Chooser,
        *,
        waiting: frozenset[int] = frozenset(),
        dropped: frozenset[int] = frozenset(),
        record: Callable[[Hit], dict[str, Any]] | None = None,
    ) -> None:
        self.study, self.index, self.embedder, self._grounder = study, index, embedder, grounder
        self.waiting, self.dropped, self._record = waiting, dropped, record

    @classmethod
    def load(
        cls, study: Study, prompter: ChatTokenizer | None, *, served: bool = True
    ) -> Retriever:
        """The retriever of a study; loads the sentence embedder, so that only worker processes call it.

        Without ``served`` it has the index that is measured, else the final one if there is one. Without a tokenizer
        (``prompter``) it writes no prompts.

        Raises:
            StudyError: The study has no index, or one of another embedder.
        """
        from assistant_builder.retrieval.train_embedder import embedder_of_study

        folder = served_index_folder(study) if served else study.retrieval_folder
        index, embedder = Index.load(folder), embedder_of_study(study)
        if embedder.sha256 != index.embedder["sha256"]:
            raise StudyError(
                m(
                    "the index was made with {name}, not with {name_2} as it is now",
                    name=index.embedder["name"],
                    name_2=embedder.name,
                ),
                where=str(folder),
                remedy=m("Run 'assistant-builder run {name} --redo'", name=study.name),
            )
        count = study.config.retrieval.facts
        return cls(
            study,
            index,
            embedder,
            Chooser(count) if prompter is None else Grounder.of(study, prompter),
        )

    def with_wordings(self, pairs: Sequence[Pair]) -> Retriever:
        """A retriever whose index has the questions and answers of further pairs, too."""
        index, _ = with_missing_answers(self.index, pairs, self.embedder, wordings=True)
        return Retriever(self.study, index, self.embedder, self._grounder)

    def without(self, waiting: frozenset[int], dropped: frozenset[int]) -> Retriever:
        """A retriever that withholds and leaves out facts, see the attributes."""
        how: Any = {"waiting": waiting, "dropped": dropped, "record": self._record}
        return Retriever(self.study, self.index, self.embedder, self._grounder, **how)

    @property
    def waiting_facts(self) -> list[Fact]:
        """The facts of :attr:`waiting`."""
        return [fact for fact in self.index.facts if fact.row in self.waiting]

    def find(
        self,
        looks: Sequence[Look],
        *,
        exclude: Sequence[Collection[int]] | None = None,
        context: int | None = None,
    ) -> list[Found]:
        """Look facts up.

        Args:
            looks: What is searched, and the prompts that the facts are written into.
            exclude: For each look, rows whose facts are not used.
            context: Tokens that a prompt and its answer may have together; facts beyond them are left out.
        """
        queries = [look.query for look in looks]
        vectors = self.embedder.encode([query.text for query in queries])
        if self.dropped:
            exclude = [{*self.dropped, *out} for out in exclude or [()] * len(queries)]
        ranked = self.index.search(queries, vectors, DEPTH, exclude=exclude)
        declined = self.index.nearest_to_decline(queries, vectors, exclude)
        results = []
        for look, hits, nearest in zip(looks, ranked, declined, strict=True):
            usable = [hit for hit in hits if hit.fact.answerable]
            withheld = bool(usable) and usable[0].fact.row in self.waiting
            if self.waiting and not withheld:
                hits = [hit for hit in hits if hit.fact.row not in self.waiting]
                usable = [hit for hit in usable if hit.fact.row not in self.waiting]
            grounded, facts = self._grounder.ground(look.messages, shown_facts(hits), context)
            best, share = (usable[0].score, usable[0].log_share) if usable else (0.0, -SHARPNESS)
            evidence = Retrieved(best, share, best - nearest, [fact.answer for fact in facts])
            sources, near = usable[: len(facts)], tuple(usable[:SUGGESTED])
            results.append(Found(grounded, sources, evidence, near, withheld, self._record))
        return results
