"""Preview of training sequences: text with supervised parts, and token counts. Does not import torch."""

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
from assistant_builder.models.catalog import resolve, weight_bytes
from assistant_builder.models.chat_template import ChatTokenizer, Example
from assistant_builder.models.remote_code import allows_code

# maximum number of measured pairs; tokenizing twelve thousand takes several seconds
MAX_MEASURED_PAIRS = 3_000

Part = Literal["given", "learned"]


@dataclass(frozen=True)
class Segment:
    """A section of a training sequence; ``control`` marks a special token of the template."""

    part: Part  # given: prompt; learned: supervised
    text: str
    control: bool = False


@dataclass(frozen=True)
class RenderedSequence:
    """One training sequence of a pair with its complete text."""

    segments: tuple[Segment, ...]
    tokens: int
    learned: int  # supervised tokens


@dataclass(frozen=True)
class Lengths:
    """Token counts of pairs."""

    pairs: int  # in the data
    tokens: tuple[int, ...]  # of each measured pair
    answers: tuple[int, ...]  # tokens of its last answer


def local_model_folder(model: ModelConfig) -> Path | None:
    """Return the folder of a base model; None if it is not on this machine."""
    try:
        ref = resolve(model.base, trust_remote_code=allows_code(model))
        if ref.kind == "bundled":
            return bundled.BASE.folder if bundled.BASE.is_ready() else None
        if ref.hub_id is not None:
            files = hub.base_files(code=allows_code(model))
            return hub.cached_snapshot(ref.hub_id, model.revision, files)
        return ref.folder
    except (AssistantBuilderError, ValueError):
        return None


def download_bytes(model: ModelConfig) -> int | None:
    """Bytes to download before a model of the hub can be used; 0 if it is here, None if that is not known."""
    try:
        ref = resolve(model.base, trust_remote_code=allows_code(model))
    except AssistantBuilderError:
        return 0  # the checks before a start report it
    if ref.kind != "hub" or local_model_folder(model) is not None:
        return 0
    return None if ref.entry is None else weight_bytes(ref.entry)


def render(prompter: ChatTokenizer, pair: Pair) -> list[RenderedSequence]:
    """Return the training sequences of a pair."""
    return [_sequence(prompter, example) for example in prompter.examples(pair)]


def _sequence(prompter: ChatTokenizer, example: Example) -> RenderedSequence:
    def kind(token: tuple[int, bool]) -> tuple[bool, bool]:
        return token[1], token[0] in prompter.special_ids

    segments = []
    tokens = zip(example.input_ids, example.supervised, strict=True)
    for (learned, control), group in itertools.groupby(tokens, kind):
        text = prompter.decode_with_special_tokens([token for token, _ in group])
        segments.append(Segment("learned" if learned else "given", text, control))
    return RenderedSequence(tuple(segments), len(example.input_ids), sum(example.supervised))


def sample_pairs(pairs: Sequence[Pair]) -> list[Pair]:
    """Return at most :data:`MAX_MEASURED_PAIRS` pairs, evenly spaced over the data."""
    stride = -(-len(pairs) // MAX_MEASURED_PAIRS) or 1
    return list(pairs[::stride])


def measure_lengths(prompter: ChatTokenizer, pairs: Sequence[Pair]) -> Lengths:
    """Count the tokens of pairs."""
    lengths = prompter.lengths(sample_pairs(pairs))
    tokens = tuple(prompt + answer for prompt, answer in lengths)
    return Lengths(len(pairs), tokens, tuple(answer for _, answer in lengths))
