"""Answers a message as people write it: small talk, several questions at once, questions for yes or no.

Every client and both modes come through here: a session answers single questions, and this divides a message into them
and puts their answers together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from assistant_builder.data import Message
from assistant_builder.data.language import language_of
from assistant_builder.data.words import bare_words
from assistant_builder.i18n import N_, t, use_language
from assistant_builder.inference.chunks import Chunk, Finish
from assistant_builder.retrieval.parts import SmallTalk, parts_of, small_talk
from assistant_builder.retrieval.yes_no import said_yes_or_no

if TYPE_CHECKING:
    from assistant_builder.retrieval.retriever import Retriever
    from assistant_builder.study import Study

Ask = Callable[[Sequence[Message], int], Iterator[Chunk]]
"""Answers a conversation that ends with one question, in so many tokens at most."""
Cut = Callable[[str, int], "tuple[str, int, Finish]"]
"""Cuts a text to so many tokens: the text, its tokens, and ``length`` if it was cut."""
SEVERAL = 0.02
"""Share of the data's own questions that would be divided, from which no message is: their authors write so."""
EXAMPLES, _LONGEST_EXAMPLE = 3, 80
"""Example questions of a reply to small talk, and characters of each."""
_LONGEST_QUOTE = 120  # characters of a question that a reply repeats
_SUGGESTING = frozenset(("suggestions", "asks_back"))
_BETWEEN = "\n\n"
GREETING = N_("Hello! Ask me a question.")
_REPLIES = {
    "greeting": GREETING,
    "thanks": N_("You're welcome. Ask me another question."),
    "goodbye": N_("Goodbye!"),
    "abilities": N_("I am a program that answers questions from the data that I was given."),
}


@dataclass(frozen=True)
class Conversing:
    """How messages are divided and small talk is answered.

    Attributes:
        known: The questions of the data as bare words; such a message is answered as one question.
        divides: Whether messages are divided.
        greeting: What is said to small talk; empty for a reply in its language.
        examples: Questions of the data that a reply to small talk offers.
        suggests: Whether questions of the data are offered.
        retriever: Knows the questions whose answers were corrected.
    """

    known: frozenset[tuple[str, ...]]
    divides: bool
    greeting: str
    examples: tuple[str, ...]
    suggests: bool = True
    retriever: Retriever | None = None

    @classmethod
    def of(cls, study: Study, retriever: Retriever | None) -> Conversing:
        """What a study's data and settings say; statements of documents are no questions."""
        known = () if retriever is None else retriever.index.facts
        facts = [fact for fact in known if not fact.is_passage]
        config = study.config.retrieval
        several = sum(len(parts_of(fact.question)) > 1 for fact in facts)
        return cls(
            frozenset(tuple(bare_words(fact.question)) for fact in facts),
            several < SEVERAL * len(facts) or several < 2,
            config.greeting,
            tuple(config.examples) or (example_questions(facts) if config.suggestions else ()),
            config.suggestions,
            retriever,
        )

    def answer(self, messages: Sequence[Message], ask: Ask, cut: Cut, most: int) -> Iterator[Chunk]:
        """The chunks of the answer to the last message.

        Args:
            messages: A conversation that ends with a message of the user.
            ask: Answers single questions.
            cut: Cuts what is said in given words.
            most: Tokens of the answer at most.
        """
        ask = ask if self.suggests else partial(_without_suggestions, ask)
        message = messages[-1].content
        corrected = self.retriever is not None and self.retriever.corrects(message)
        if corrected or tuple(bare_words(message)) in self.known:
            yield from _one(messages, ask, most)
        elif talk := small_talk(message):
            yield self._reply(talk, cut, most)
        elif self.divides and len(parts := parts_of(message)) > 1:
            yield from _each(messages, parts, ask, cut, most)
        else:
            yield from _one(messages, ask, most)

    def _reply(self, talk: SmallTalk, cut: Cut, most: int) -> Chunk:
        started = time.perf_counter()
        with use_language(talk.language):
            text, tokens, finish = cut(self.greeting or t(_REPLIES[talk.kind]), most)
        seconds = time.perf_counter() - started
        offered = [] if talk.kind == "goodbye" else list(self.examples)
        judged = {"mode": "reply", "suggestions": offered}
        return Chunk(text, tokens, seconds, seconds, finish, judged=judged)


def example_questions(facts: Sequence[Any]) -> tuple[str, ...]:
    """Short questions with different answers, spread over the facts."""
    first = {fact.answer: fact.question for fact in reversed(facts) if _shown(fact)}
    short = list(first.values())[::-1]
    return tuple(short[:: -(-len(short) // EXAMPLES) or 1])


def _shown(fact: Any) -> bool:
    return fact.answerable and not fact.history and len(fact.question) <= _LONGEST_EXAMPLE


def _without_suggestions(ask: Ask, messages: Sequence[Message], most: int) -> Iterator[Chunk]:
    """The answer to one question, which names no other question of the data."""
    for chunk in ask(messages, most):
        left = {key: value for key, value in chunk.judged.items() if key not in _SUGGESTING}
        yield replace(chunk, judged=left)


def _one(messages: Sequence[Message], ask: Ask, most: int) -> Iterator[Chunk]:
    """The answer to one question; a fact that decides it begins with yes or no, and a tie asks back."""
    for place, chunk in enumerate(ask(messages, most)):
        if place or chunk.finish != "stop" or chunk.declined:
            yield chunk
            continue
        if chunk.judged.get("asks_back"):
            first, second = (each.strip("?？¿ ") for each in chunk.judged["suggestions"])
            with use_language(language_of(f"{first} {second}")):
                text = t("Do you mean “{first}” or “{second}”?", first=first, second=second)
            yield replace(chunk, text_delta=text, tokens=min(len(text.split()), most), sources=())
            continue
        word = None
        if any(source["answer"] == chunk.text_delta for source in chunk.sources):
            word = said_yes_or_no(messages[-1].content, chunk.text_delta)
        if word is None or chunk.tokens + 2 > most:
            yield chunk
        else:
            yield replace(chunk, text_delta=f"{word}. {chunk.text_delta}", tokens=chunk.tokens + 2)


def _each(
    messages: Sequence[Message], parts: Sequence[str], ask: Ask, cut: Cut, most: int
) -> Iterator[Chunk]:
    """The answers to the questions of a message, then those that have none; the whole message if none has one."""
    started = time.perf_counter()
    talk, said, missing = list(messages[:-1]), list[str](), list[Chunk]()
    unanswered: list[str] = []
    last: Chunk | None = None
    tokens = 0
    for part in parts:
        asked = [*talk, Message("user", part)]
        chunks = list(_one(asked, ask, most - tokens))
        text, end = "".join(chunk.text_delta for chunk in chunks), chunks[-1]
        if end.declined:
            missing.append(end)
            unanswered.append(part.strip(" ,;"))
            continue
        talk += [asked[-1], Message("assistant", text)]
        if any(text in each or each in text for each in said):
            continue
        tokens += end.tokens
        last = _joined(last, end)
        said.append(text)
        yield replace(
            last,
            text_delta=text if len(said) == 1 else f"{_BETWEEN}{text}",
            tokens=tokens,
            seconds=time.perf_counter() - started,
            finish=None,
            judged={},
        )
        if end.finish != "stop" or tokens >= most:
            yield replace(last, text_delta="", tokens=tokens, finish=end.finish)
            return
    if last is None:
        yield from _one(messages, ask, most)
        return
    rest, judged = "", last.judged
    if missing:
        lines = (
            f"“{part[:_LONGEST_QUOTE]}”: {end.text_delta}"
            for part, end in zip(unanswered, missing, strict=True)
        )
        rest, more, _ = cut(_BETWEEN + "\n".join(lines), most)
        tokens += more
        offered = missing[0].judged.get("suggestions", [])
        judged = {**judged, "missing": unanswered, "suggestions": offered}
    yield replace(
        last,
        text_delta=rest if tokens <= most else "",
        tokens=min(tokens, most),
        seconds=time.perf_counter() - started,
        finish="stop" if tokens <= most else "length",
        judged=judged,
    )


def _joined(before: Chunk | None, end: Chunk) -> Chunk:
    """The sources of both answers, and the judgement of the less certain one."""
    if before is None:
        return end
    # statements of documents have no row, and those below one heading differ by their text alone
    every = (*before.sources, *end.sources)
    sources = {(each["row"], each["question"], each["answer"]): each for each in every}
    less = min(before, end, key=lambda each: each.judged.get("confidence", 1.0))
    prompts = [each.prompt_tokens for each in (before, end) if each.prompt_tokens is not None]
    return replace(
        end,
        first_token_seconds=before.first_token_seconds,
        sources=tuple(sources.values()),
        prompt_tokens=sum(prompts) if prompts else None,
        judged=less.judged,
    )
