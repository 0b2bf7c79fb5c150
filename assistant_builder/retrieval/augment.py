"""More training rows for small data: each pair several times, with other facts around it and other spellings.

A file of 60 pairs gives ten optimizer steps, too few to learn to read facts. A grounded assistant does not learn the
answers but how to read them, so that repeated pairs with other contexts are new examples of that.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

from assistant_builder.data import Message, Pair

LEAST_ROWS = 320
"""Training rows of an epoch up to which pairs are repeated."""


def repetitions(pairs: int) -> int:
    """How often each of so many pairs is in an epoch of the grounded approach."""
    return max(1, math.ceil(LEAST_ROWS / pairs)) if pairs else 1


def respelled(pairs: Sequence[Pair], seed: int) -> list[Pair]:
    """The pairs with their last questions as people type them: fewer capitals, marks and words, and typing errors.

    Args:
        pairs: Pairs that end with an answer.
        seed: Seed of the changes, which do not depend on other rows.
    """
    return [_respelled(pair, random.Random(f"respelled/{seed}/{pair.row}")) for pair in pairs]


def _respelled(pair: Pair, rng: random.Random) -> Pair:
    at = max((index for index, message in enumerate(pair.messages) if message.role == "user"), default=None)
    if at is None:
        return pair
    text = as_typed(pair.messages[at].content, rng)
    return replace(pair, messages=(*pair.messages[:at], Message("user", text), *pair.messages[at + 1:]))


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
    return rng.choice((word[:at] + word[at + 1] + word[at] + word[at + 2:], word[:at] + word[at + 1:],
                       word[:at] + word[at] + word[at:]))
