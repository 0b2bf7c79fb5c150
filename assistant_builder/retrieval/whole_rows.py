"""Rows that are too long to be trained on whole, with a fact in their prompts if the approach is grounded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from assistant_builder.data import Pair, TokenCounter
from assistant_builder.retrieval.grounding import with_own_fact

# tokens that a chat template adds to a pair at most, apart from a system prompt of its own
_TEMPLATE_TOKENS = 200


def row_limit(max_length: int | Literal["auto"], context: int) -> int:
    """Most tokens of a training row: ``train.max_length``, at most the ``context`` of the base."""
    return context if max_length == "auto" else min(max_length, context)


def may_be_longer(pair: Pair, limit: int, *, grounded: bool) -> bool:
    """Whether a row can have more than ``limit`` tokens; most data need no tokenizer, which takes seconds to start.

    A byte is one token at most, and a fact repeats at most the texts of the row.
    """
    texts = sum(len(message.content.encode()) for message in pair.messages)
    return (1 + grounded) * texts + _TEMPLATE_TOKENS > limit


def rows_longer_than(
    limit: int, pairs: Iterable[Pair], tokenizer: TokenCounter, *, grounded: bool
) -> dict[int, int]:
    """Row → tokens with what its prompt has at least, of the rows that have more than ``limit``."""
    found = {
        pair.row: tokenizer.count_tokens(with_own_fact(pair) if grounded else pair)
        for pair in pairs
        if may_be_longer(pair, limit, grounded=grounded)
    }
    return {row: tokens for row, tokens in found.items() if tokens > limit}
