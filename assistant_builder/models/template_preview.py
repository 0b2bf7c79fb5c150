"""What training makes of pairs, for people to look at: the text with its marks, and how long it is; no torch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from assistant_builder.config import ModelConfig
from assistant_builder.data import Pair
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.models import bundled, hub
from assistant_builder.models.catalog import resolve
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.models.remote_code import allows_code

MAX_MEASURED_PAIRS = 3_000
"""Pairs that are measured at most: tokenizing twelve thousand takes several seconds."""

Part = Literal["given", "learned", "cut"]
_UNCUT = 2**31


@dataclass(frozen=True)
class Segment:
    """A stretch of a training sequence.

    Attributes:
        part: ``given`` to the model, ``learned`` (the loss counts it), or ``cut`` off beyond the longest length.
        text: As the tokens spell it.
        control: Whether it is one of the template's control tokens.
    """

    part: Part
    text: str
    control: bool = False


@dataclass(frozen=True)
class RenderedSequence:
    """One training sequence of a pair.

    Attributes:
        segments: Its text from beginning to end.
        tokens: Tokens in all, uncut.
        learned: Tokens that the loss counts, after the cut.
    """

    segments: tuple[Segment, ...]
    tokens: int
    learned: int


@dataclass(frozen=True)
class Lengths:
    """How long pairs are under a template.

    Attributes:
        pairs: Pairs of the data.
        tokens: Tokens of each measured pair, uncut; at most :data:`MEASURED`, evenly spaced over the data.
        answers: Tokens of its last answer.
        max_length: Tokens after which training cuts.
        cut: Measured pairs that are longer.
        dropped: Those of ``cut`` that are left out, for nothing to learn from remains.
    """

    pairs: int
    tokens: tuple[int, ...]
    answers: tuple[int, ...]
    max_length: int
    cut: int
    dropped: int


def local_model_folder(model: ModelConfig) -> Path | None:
    """The folder of a base model that is on this machine, None if it would have to be fetched or does not exist."""
    try:
        ref = resolve(model.base, trust_remote_code=allows_code(model))
        if ref.kind == "bundled":
            return bundled.BASE.folder if bundled.BASE.is_ready() else None
        if ref.hub_id is not None:
            return hub.cached_snapshot(ref.hub_id, model.revision, code=allows_code(model))
        return ref.folder
    except (AssistantBuilderError, ValueError):
        return None


def render(prompter: ChatTokenizer, pair: Pair, max_length: int) -> list[RenderedSequence]:
    """The training sequences of a pair, those that the cut leaves nothing to learn from included."""
    return [
        _sequence(prompter, example.input_ids, example.supervised, max_length)
        for example in prompter.examples(pair, _UNCUT)
    ]


def _sequence(prompter: ChatTokenizer, ids: Sequence[int], marks: Sequence[bool], max_length: int) -> RenderedSequence:
    controls = prompter.special_ids

    def kind(place: int) -> tuple[Part, bool]:
        part: Part = "cut" if place >= max_length else "learned" if marks[place] else "given"
        return part, ids[place] in controls

    segments = tuple(
        Segment(part, prompter.decode_with_special_tokens([ids[place] for place in places]), control)
        for (part, control), places in itertools.groupby(range(len(ids)), kind)
    )
    return RenderedSequence(segments, len(ids), sum(marks[:max_length]))


def sample_pairs(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs that are measured: at most :data:`MEASURED`, evenly spaced over the data."""
    stride = -(-len(pairs) // MAX_MEASURED_PAIRS) or 1
    return list(pairs[::stride])


def measure_lengths(prompter: ChatTokenizer, pairs: Sequence[Pair], max_length: int) -> Lengths:
    """Tokens of pairs, and what the cut at ``max_length`` does to them."""
    measured = sample_pairs(pairs)
    lengths = prompter.lengths(measured)
    over = [
        (pair, prompt) for pair, (prompt, answer) in zip(measured, lengths, strict=True) if prompt + answer > max_length
    ]
    return Lengths(
        pairs=len(pairs),
        tokens=tuple(prompt + answer for prompt, answer in lengths),
        answers=tuple(answer for _, answer in lengths),
        max_length=max_length,
        cut=len(over),
        dropped=sum(_nothing_to_learn(prompter, pair, prompt, max_length) for pair, prompt in over),
    )


def _nothing_to_learn(prompter: ChatTokenizer, pair: Pair, prompt: int, max_length: int) -> bool:
    if prompt < max_length:  # some of the last answer is learned
        return False
    return pair.turns == 1 or not prompter.examples(pair, max_length)
