"""Other questions for the training of grounded assistants, which learn to read facts and not the facts themselves.

A file of 60 pairs gives ten optimizer steps, too few to learn that: pairs are repeated with other facts around them and
other spellings. In some rows a piece of another question is added to the question. People ask in other words than the
data, and without such rows an assistant takes words of an unusual question for the answer.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

from assistant_builder.data import Message, Pair
from assistant_builder.data.respell import as_typed

LEAST_ROWS = 320  # training rows of an epoch up to which pairs are repeated


MIXED = 0.3  # share of the training rows whose question has a piece of another question


def repetitions(pairs: int) -> int:
    """How often each of so many pairs is in an epoch of the grounded approach."""
    return max(1, math.ceil(LEAST_ROWS / pairs)) if pairs else 1


def asked_otherwise(pairs: Sequence[Pair], seed: int, *, typed: bool) -> list[Pair]:
    """The pairs with other last questions: :data:`MIXED` of them with a piece of another pair's last question.

    Args:
        pairs: Pairs that end with an answer.
        seed: Seed of the changes.
        typed: Also change all questions to what people type: fewer capitals, marks and words, and typing errors.
    """
    places = [_last_question(pair) for pair in pairs]
    questions = [
        pair.messages[at].content for pair, at in zip(pairs, places, strict=True) if at is not None
    ]
    changed = []
    for pair, at in zip(pairs, places, strict=True):
        rng = random.Random(f"{seed}/{pair.row}")
        if at is not None:
            messages = list(pair.messages)
            text = messages[at].content
            if rng.random() < MIXED:
                text = mixed(text, rng.choice(questions), rng)
            messages[at] = Message("user", as_typed(text, rng) if typed else text)
            pair = replace(pair, messages=tuple(messages))
        changed.append(pair)
    return changed


def _last_question(pair: Pair) -> int | None:
    asked = (index for index, message in enumerate(pair.messages) if message.role == "user")
    return max(asked, default=None)


def mixed(question: str, other: str, rng: random.Random) -> str:
    """At least half of a question, with at most as many consecutive words of another before or after it."""
    words, others = question.split(), other.split()
    own = _piece(words, rng.randrange((len(words) + 1) // 2, len(words) + 1), rng)
    piece = _piece(others, rng.randrange(1, max(min(len(others), len(own)), 1) + 1), rng)
    return " ".join([*piece, *own] if rng.random() < 0.5 else [*own, *piece]) or question


def _piece(words: Sequence[str], count: int, rng: random.Random) -> Sequence[str]:
    start = rng.randrange(max(len(words) - count, 0) + 1)
    return words[start : start + count]
