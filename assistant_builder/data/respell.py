"""Questions as people type them: fewer capitals, marks and words, and typing errors."""

from __future__ import annotations

import random
from dataclasses import replace

from assistant_builder.data.similarity import casefold_normalize
from assistant_builder.data.types import Message, Pair

_TRIES = 8


def respelled(pair: Pair, row: int, seed: int) -> Pair:
    """A copy of a pair with its questions as people type them, as row ``row`` of no group and of no given split."""
    rng = random.Random(f"{seed}/{pair.compared_question}")
    messages = tuple(
        Message("user", _otherwise(message.content, rng)) if message.role == "user" else message
        for message in pair.messages
    )
    return replace(pair, row=row, messages=messages, group=None, split=None, respelled=pair.row)


def _otherwise(question: str, rng: random.Random) -> str:
    """The question as typed, with a word of it changed where that is possible."""
    typed = [as_typed(question, rng) for _ in range(_TRIES)]
    return next(
        (text for text in typed if casefold_normalize(text) != casefold_normalize(question)),
        typed[0],
    )


def as_typed(question: str, rng: random.Random) -> str:
    """A question with some of: small letters, no last mark, a word left out, a typing error in a word."""
    words = question.split()
    if rng.random() < 0.5:
        words = [word.lower() for word in words]
    if words and rng.random() < 0.5:
        words[-1] = words[-1].rstrip("?.!") or words[-1]
    if len(words) > 4 and rng.random() < 0.5:
        del words[rng.randrange(len(words))]
    long = [index for index, word in enumerate(words) if len(word) > 3]
    if long and rng.random() < 0.5:
        chosen = rng.choice(long)
        words[chosen] = mistyped(words[chosen], rng)
    return " ".join(words) or question


def mistyped(word: str, rng: random.Random) -> str:
    """A word of three letters or more with two letters swapped, one left out, or one doubled."""
    at = rng.randrange(1, len(word) - 1)
    return rng.choice(
        (
            word[:at] + word[at + 1] + word[at] + word[at + 2 :],
            word[:at] + word[at + 1 :],
            word[:at] + word[at] + word[at:],
        )
    )
