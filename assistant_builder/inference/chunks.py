"""What is asked of a model and the chunks of its answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from assistant_builder.errors import ConfigError
from assistant_builder.i18n import joined, m

Finish = Literal["stop", "length", "cancelled"]
SEED_LIMIT = 2**32

WHOLE = 1_000_000
"""Words of a copied answer at most: it is as long as it is in the data."""


@dataclass(frozen=True)
class Sampling:
    """Sampling settings."""

    max_new_tokens: int = 256
    temperature: float = 0.0  # divisor of the logits; 0 for greedy decoding, as in the evaluation
    # sample from the smallest set of tokens with this total probability (nucleus sampling, Holtzman 2020)
    top_p: float = 1.0
    seed: int | None = None  # random seed, which reproduces an answer; None for a random seed
    look_up: bool = True  # whether a grounded assistant reads the facts that are found
    corrected: bool = True  # whether corrections are served, which nothing that is measured has

    def __post_init__(self) -> None:
        """Raise a ConfigError that lists all values out of bounds."""
        checks = {
            f"max_new_tokens={self.max_new_tokens} must be at least 1": self.max_new_tokens >= 1,
            f"temperature={self.temperature} must be between 0 and 5": 0 <= self.temperature <= 5,
            f"top_p={self.top_p} must be above 0 and at most 1": 0 < self.top_p <= 1,
            f"seed={self.seed} must be between 0 and {SEED_LIMIT - 1}": self.seed is None
            or 0 <= self.seed < SEED_LIMIT,
        }
        problems = [problem for problem, fits in checks.items() if not fits]
        if problems:
            raise ConfigError(
                joined(problems, "; "),
                where="sampling",
                remedy=m("Correct the values and ask again"),
            )


@dataclass(frozen=True)
class Chunk:
    """A chunk of an answer."""

    text_delta: str
    tokens: int  # tokens generated so far
    first_token_seconds: float | None  # seconds until the first text can be shown
    seconds: float
    # ``stop`` (complete), ``length`` (truncated) or ``cancelled``; None before the last chunk
    finish: Finish | None = None
    # of a grounded answer, in the first chunk and in the last one: the facts in the prompt, the nearest first, and its
    # tokens with them
    sources: tuple[dict[str, Any], ...] = ()
    prompt_tokens: int | None = None
    declined: bool = False  # whether the question was declined; in the last chunk
    # in the last chunk of an answer that a rule judged, see :func:`assistant_builder.retrieval.decline.judgement`
    judged: dict[str, Any] = field(default_factory=dict)
