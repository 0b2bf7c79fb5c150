"""Streams the answer of an assistant that looks facts up, or what it says instead of an answer."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from assistant_builder.data import Message
from assistant_builder.inference.chunks import Chunk, Finish
from assistant_builder.inference.conversing import Conversing, Cut
from assistant_builder.retrieval.answering import Judged, Look, looks, own_words, settle
from assistant_builder.retrieval.corrections import corrected_answer
from assistant_builder.retrieval.decline import FIRST_TOKENS, Evidence, evidence_of, judgement
from assistant_builder.retrieval.staleness import UNDECIDED
from assistant_builder.retrieval.values import in_one_fact

if TYPE_CHECKING:
    from assistant_builder.retrieval.decline import DeclineRule
    from assistant_builder.retrieval.retriever import Found, Retriever


@dataclass(frozen=True)
class Generation:
    """An answer that is being generated.

    Attributes:
        prompt_tokens: Tokens of its prompt.
        chunks: The answer.
        certainties: Log-probabilities of its tokens, which grow while it is generated.
    """

    prompt_tokens: int
    chunks: Iterator[Chunk]
    certainties: Sequence[float]


Find = Callable[[Look], "Found"]
GenerateMost = Callable[[Sequence[Message], int], Generation]
Generate = Callable[[Sequence[Message]], Generation]


@dataclass(frozen=True)
class Grounded:
    """How an assistant looks facts up, answers and declines; a base without an adapter has no rule."""

    retriever: Retriever
    rule: DeclineRule | None
    taught: tuple[str, ...] = ()  # answers of the data that decline
    conversations: bool = False  # whether it was trained on conversations

    @cached_property
    def conversing(self) -> Conversing:
        """How it answers messages that are more or less than one question."""
        return Conversing.of(self.retriever.study, self.retriever)

    def answer(
        self, messages: Sequence[Message], find: Find, generate: GenerateMost, cut: Cut, most: int
    ) -> Iterator[Chunk]:
        """The chunks of the answer to the last message, in ``most`` tokens at most; see :meth:`one`."""

        def one(asked: Sequence[Message], most: int) -> Iterator[Chunk]:
            return self.one(
                asked, find, lambda prompt: generate(prompt, most), lambda text: cut(text, most)
            )

        if self.rule is None:
            yield from one(messages, most)
        else:
            yield from self.conversing.answer(messages, one, cut, most)

    def one(
        self,
        messages: Sequence[Message],
        find: Find,
        generate: Generate,
        cut: Callable[[str], tuple[str, int, Finish]],
    ) -> Iterator[Chunk]:
        """The chunks of the answer to one question.

        The first tokens are held back until the rule has seen them. Sources and tokens of the prompt are in the first
        chunk and in the last one; an answer that declines has no sources.

        Args:
            messages: A conversation that ends with a question.
            find: Looks facts up.
            generate: Generates an answer.
            cut: Cuts what is said in given words.
        """
        started = time.perf_counter()
        first_look, second_look = looks(messages, conversations=self.conversations)
        found = find(first_look)
        if self.rule is not None and found.corrected is not None:
            sources, declined, judged = corrected_answer(found.corrected)
            text, tokens, finish = cut(found.corrected.answer)
            seconds = time.perf_counter() - started
            yield Chunk(text, tokens, seconds, seconds, finish, sources, None, declined, judged)
            return
        first = _Attempt(self, lambda: found, generate, started)
        if self.rule is None:
            yield from first.rest()
            return
        attempts = [first]

        def look_again() -> Judged:
            assert second_look is not None
            first.close()  # a runtime may answer one question at a time
            attempts.append(_Attempt(self, lambda: find(second_look), generate, started))
            return attempts[-1].judged

        place = settle(
            self.rule,
            messages[-1].content,
            first.judged,
            look_again if second_look else None,
            second_look.query.history if second_look else "",
        )
        if any(attempt.cancelled for attempt in attempts):
            yield from attempts[-1].rest()
        elif place is None or attempts[place].found.withheld:
            attempt = attempts[-1 if place is None else place]
            attempt.close()
            yield attempt.said(self.rule.sentence, cut, declined=True)
        elif self.rule.own_words:
            yield attempts[place].said(attempts[place].fact_words(), cut)
        elif self.rule.values != "anywhere":
            yield from attempts[place].checked(cut, each=self.rule.values == "sentence")
        else:
            yield from attempts[place].rest()


@dataclass
class _Attempt:
    grounded: Grounded
    find: Callable[[], Found]
    generate: Generate
    started: float
    held: list[Chunk] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.found = self.find()
        self._begin()

    def _begin(self) -> None:
        self.generation = self.generate(self.found.messages)
        self.offset = time.perf_counter() - self.started
        self.held, self.closed = [], False
        rule = self.grounded.rule
        while not self.complete and (
            not self.held or (rule is not None and self.held[-1].tokens < FIRST_TOKENS)
        ):
            self._read()

    def _read(self) -> None:
        chunk = next(self.generation.chunks)
        self.held.append(replace(chunk, seconds=chunk.seconds + self.offset))

    @property
    def complete(self) -> bool:
        return bool(self.held) and self.held[-1].finish is not None

    @property
    def cancelled(self) -> bool:
        return self.held[-1].finish == "cancelled"

    @property
    def text(self) -> str:
        return "".join(chunk.text_delta for chunk in self.held)

    @cached_property
    def evidence(self) -> Evidence:
        certainties, taught = self.generation.certainties, self.grounded.taught
        return evidence_of(self.found.evidence, self.text, certainties, taught)

    @property
    def judged(self) -> Judged:
        assert self.grounded.rule is not None
        return Judged(self.grounded.rule.confidence(self.evidence), self.found.best)

    def judgement(self, *, declined: bool = False) -> dict[str, Any]:
        rule, nearest = self.grounded.rule, self.found.nearest
        if rule is None:
            return {}
        withheld = self.found.withheld
        offered = () if withheld else self.found.suggestions
        return judgement(
            "tuned",
            self.evidence,
            rule,
            nearest=nearest,
            declined=declined,
            suggestions=offered,
            tied=rule.own_words and self.found.tied and not withheld,
            why=UNDECIDED if withheld and declined else None,
        )

    def close(self) -> None:
        self.generation.chunks.close()  # type: ignore[attr-defined]
        self.closed = True

    def fact_words(self) -> str:
        answers = [hit.fact.answer for hit in self.found.sources]
        while (chosen := own_words(self.text, answers, complete=self.complete)) is None:
            if self.closed:
                self._begin()
            self._read()
        self.close()
        return chosen

    def said(
        self, text: str, cut: Callable[[str], tuple[str, int, Finish]], *, declined: bool = False
    ) -> Chunk:
        text, tokens, finish = cut(text)
        seconds = time.perf_counter() - self.started
        return replace(
            self.held[-1],
            text_delta=text,
            tokens=tokens,
            first_token_seconds=seconds,
            seconds=seconds,
            finish=finish,
            declined=declined,
            judged=self.judgement(declined=declined),
            **self._extra(sources=not declined),
        )

    def rest(self) -> Iterator[Chunk]:
        if self.closed and not self.complete:
            self._begin()
        shown = self.held[-1].seconds
        self.held[0] = replace(self.held[0], **self._extra())
        more = iter(()) if self.complete else self.generation.chunks
        later = (replace(chunk, seconds=chunk.seconds + self.offset) for chunk in more)
        for chunk in itertools.chain(self.held, later):
            extra = {**self._extra(), "judged": self.judgement()} if chunk.finish else {}
            yield replace(chunk, first_token_seconds=shown, **extra)

    def checked(
        self, cut: Callable[[str], tuple[str, int, Finish]], *, each: bool
    ) -> Iterator[Chunk]:
        """The chunks of :meth:`rest`, a sentence at a time, until one has values that no fact contains."""
        facts = [(hit.fact.question, hit.fact.answer) for hit in self.found.sources]
        whole = shown = ""
        for chunk in self.rest():
            whole += chunk.text_delta
            complete = chunk.finish is not None
            text, replaced = in_one_fact(whole, facts, complete=complete, each=each)
            if replaced:
                self.close()
                text, tokens, finish = cut(text)
                extra = {**self._extra(), "judged": self.judgement()}
                chunk = replace(chunk, tokens=tokens, finish=finish, **extra)
            yield replace(chunk, text_delta=text.removeprefix(shown))
            if replaced:
                return
            shown = text

    def _extra(self, *, sources: bool = True) -> dict[str, Any]:
        return {
            "sources": tuple(self.found.source_records()) if sources else (),
            "prompt_tokens": self.generation.prompt_tokens,
        }
