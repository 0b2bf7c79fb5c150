"""Looking up the facts for a conversation: the index of a study with its sentence embedder and prompt format."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from assistant_builder.data import Message, Pair, load_split
from assistant_builder.data.similarity import casefold_normalize
from assistant_builder.data.types import SplitName
from assistant_builder.errors import AssistantBuilderError, StudyError
from assistant_builder.i18n import m
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.retrieval.answering import Look
from assistant_builder.retrieval.build import served_index_folder, with_missing_answers
from assistant_builder.retrieval.corrections import (
    Corrected,
    corrections_stamp,
    read_corrections,
    source_record,
)
from assistant_builder.retrieval.decline import Retrieved
from assistant_builder.retrieval.grounding import DEPTH, Grounder, shown_facts
from assistant_builder.retrieval.index import Fact, Hit, Index, Query, TextEncoder, facts_of
from assistant_builder.retrieval.ranking import SHARPNESS
from assistant_builder.study import Study

SUGGESTED, NEAR = 2, 0.25
"""Questions that are offered where a question is declined, and the score that each needs. Of the declined messages of
tests/chat/messages_observatory.jsonl, those with a fact reach it, and those far from the sheet do not."""

TO_DECLINE = -0.1
"""Lead over the nearest question to decline below which nothing is offered: that question is meant. On the questions of
four owners, kept away from their sheets, those with a fact had a lead of 0.0 and more."""
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
        corrected: The correction of the answer to this very question.
    """

    messages: list[Message]
    sources: list[Hit]
    evidence: Retrieved
    near: tuple[Hit, ...] = ()
    withheld: bool = False
    record: Callable[[Hit], dict[str, Any]] | None = None
    corrected: Fact | None = None

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
        """The questions of :attr:`near`, without those that are far from everything; a statement is no question.

        One of those that are spelt alike; none where a question to decline is nearer.
        """
        if self.evidence.nearby < TO_DECLINE:
            return []
        shown = {
            casefold_normalize(hit.fact.question): hit.fact.question
            for hit in reversed(self.near)
            if hit.score >= NEAR and not hit.fact.history and not hit.fact.is_passage
        }
        return list(shown.values())[::-1]

    @property
    def tied(self) -> bool:
        """Whether the two best answers are equally good, and the best is less likely than all others together."""
        if len(self.suggestions) < SUGGESTED or self.evidence.certainty >= np.log(0.5):
            return False
        return self.near[0].score - self.near[1].score <= TIE

    def source_records(self) -> list[dict[str, Any]]:
        """Row, question, answer and similarity of each source; a statement has no row, but document and page."""
        return [*map(self.record or _record, self.sources)]


def _record(hit: Hit) -> dict[str, Any]:
    return source_record(hit.fact, hit.similarity)


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
        corrects: bool = False,
        rows: Mapping[str, Fact] | None = None,
    ) -> None:
        """``corrects``: corrections of the study are served once they are saved; ``rows``: see :meth:`Corrected.of`."""
        self.study, self.embedder, self._grounder = study, embedder, grounder
        self.waiting, self.dropped, self._record = waiting, dropped, record
        self._measured, self._corrects = index, corrects
        self._rows = rows or {}
        self._corrected, self._stamp = Corrected(index, self._rows if corrects else {}), ""

    def _like(self, index: Index | None = None, **changes: Any) -> Retriever:
        how: dict[str, Any] = {"waiting": self.waiting, "dropped": self.dropped}
        how |= {"record": self._record, "corrects": self._corrects, "rows": self._rows, **changes}
        return Retriever(self.study, index or self._measured, self.embedder, self._grounder, **how)

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
        grounder = Chooser(count) if prompter is None else Grounder.of(study, prompter)
        rows = rows_without_a_fact(study, index) if served else {}
        return cls(study, index, embedder, grounder, corrects=served, rows=rows)

    @property
    def index(self) -> Index:
        """What is searched."""
        return self._latest().index

    @property
    def measured(self) -> Retriever:
        """This retriever without corrections."""
        return self._like(corrects=False)

    @property
    def served(self) -> Retriever:
        """This retriever with the corrections of the study."""
        return self._like(corrects=True)

    def corrects(self, question: str) -> bool:
        """Whether the answer to this very question was corrected."""
        return Query(question).key in self._latest().answers

    def _latest(self) -> Corrected:
        if self._corrects and (stamp := corrections_stamp(self.study)) != self._stamp:
            # a damaged file is reported where corrections are listed, and must not end the answers
            with suppress(AssistantBuilderError):
                corrections = read_corrections(self.study)
                self._corrected = Corrected.of(
                    self._measured, corrections, self.embedder, self._rows
                )
            self._stamp = stamp
        return self._corrected

    def with_wordings(self, pairs: Sequence[Pair]) -> Retriever:
        """A retriever whose index has the questions and answers of further pairs, too."""
        index, _ = with_missing_answers(self._measured, pairs, self.embedder, wordings=True)
        return self._like(index)

    def without(self, waiting: frozenset[int], dropped: frozenset[int]) -> Retriever:
        """A retriever that withholds and leaves out facts, see the attributes."""
        return self._like(waiting=waiting, dropped=dropped)

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
        latest, is_word = self._latest(), self.embedder.is_word
        queries = [latest.index.corrected(look.query, is_word) for look in looks]
        vectors = self.embedder.encode([query.text for query in queries])
        if self.dropped:
            exclude = [{*self.dropped, *out} for out in exclude or [()] * len(queries)]
        ranked = latest.index.search(queries, vectors, DEPTH, exclude=exclude)
        declined = latest.index.nearest_to_decline(queries, vectors, exclude)
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
            corrected = latest.answers.get(look.query.key)
            results.append(
                Found(grounded, sources, evidence, near, withheld, self._record, corrected)
            )
        return results


def rows_without_a_fact(study: Study, index: Index) -> dict[str, Fact]:
    """Normalized question → fact, of the validation and held-out rows whose question is not in the index.

    Without ``retrieval.final_index`` there are none, nor for questions that the rows answer differently.
    """
    if not study.config.retrieval.final_index:
        return {}
    known, rows = {fact.query.key for fact in index.facts}, dict[str, Fact]()
    splits: tuple[SplitName, ...] = ("validation", "heldout")
    names = [name for name in splits if study.split_file(name).is_file()]
    for pair in (pair for name in names for pair in load_split(study.folder / "data", name)):
        if len(facts := facts_of(pair)) != 1 or pair.respelled is not None:
            continue
        if rows.setdefault(facts[0].query.key, facts[0]).answer_key != facts[0].answer_key:
            known.add(facts[0].query.key)
    return {key: fact for key, fact in rows.items() if key not in known}
