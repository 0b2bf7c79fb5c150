"""Beginnings that several prompts share, so that their keys and values are computed once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Beginning:
    """Tokens with which at least two prompts begin.

    Attributes:
        ids: The tokens, from the first one of the prompt.
        start: How many of them an earlier beginning has read.
        parent: Place of that beginning in the list; -1: none.
    """

    ids: Sequence[int]
    start: int
    parent: int


def shared_beginnings(
    prompts: Sequence[Sequence[int]], known: int, least: int
) -> tuple[list[Beginning], list[int]]:
    """The tree of the beginnings of prompts; the last token of a prompt is never in one, since its logits are needed.

    Args:
        prompts: Token ids, in any order.
        known: Tokens that all prompts share and that are read already.
        least: Least tokens by which a beginning continues another one.

    Returns:
        The beginnings, each after the one that it continues, and for each prompt the place of its longest beginning,
        -1 for none.
    """
    order = sorted(range(len(prompts)), key=lambda place: list(prompts[place]))
    ends = [list(prompts[place][:-1]) for place in order]
    shared = [0, *(len(os.path.commonprefix(pair)) for pair in zip(ends, ends[1:], strict=False))]
    found: list[Beginning] = []
    longest = [-1] * len(prompts)
    pending = [(0, len(order), -1, known)]  # first and last prompt, their beginning, and its tokens
    while pending:
        first, last, parent, start = pending.pop()
        for place in range(first + 1, last + 1):
            if place < last and shared[place] >= start + least:
                continue
            if place - first == 1:
                longest[order[first]] = parent
            else:
                end = min(shared[first + 1 : place])
                pending.append((first, place, len(found), end))
                found.append(Beginning(ends[first][:end], start, parent))
            first = place
    return found, longest
