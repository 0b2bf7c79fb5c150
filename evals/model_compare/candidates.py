"""What can be compared: GGUF files, models in transformers' format, endpoints, and logs of other harnesses.

A candidate is named by one word (:mod:`evals.model_compare.parse`). It answers items and, if it can, gives
the loss of their reference answers; how it does that is that of its kind.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Item = Mapping[str, Any]
MAX_ANSWER = 100_000
"""Characters of an answer; some metrics take time in proportion to the square of its length."""


@dataclass(frozen=True)
class Result:
    """What a candidate did with an item.

    Attributes:
        item: Name of the item.
        answer: The answer; empty after an error.
        finish: ``length`` if it stopped at the limit of tokens.
        error: Why there is no answer; it counts as wrong.
        nll: Loss of the reference answer, summed over its tokens, in nats; None if the candidate gives none.
        tokens: Tokens of the reference answer; 0 if the candidate gives no loss.
    """

    item: str
    answer: str
    finish: str = "stop"
    error: str | None = None
    nll: float | None = None
    tokens: int = 0

    def to_record(self) -> dict[str, Any]:
        """A line of ``answers.jsonl``."""
        return {name: value for name, value in vars(self).items() if value not in (None, 0)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Result:
        """The inverse of :meth:`to_record`."""
        return cls(**{key: record[key] for key in cls.__dataclass_fields__ if key in record})


Receive = Callable[[Result], None]
"""Keeps a result as soon as there is one."""


@dataclass(frozen=True)
class Prompts:
    """The prompts that a local candidate makes of the items, by name: their text and their tokens."""

    texts: Mapping[str, str]
    ids: Mapping[str, Sequence[int]]


@dataclass
class Candidate(abc.ABC):
    """One of the compared models.

    Attributes:
        letter: ``A`` for the reference, then ``B``, ….
        given: What the user wrote.
    """

    letter: str
    given: str
    kind: str = field(default="", init=False)

    @property
    def name(self) -> str:
        """What reports call it."""
        return self.given

    @property
    @abc.abstractmethod
    def gives_loss(self) -> bool:
        """Whether it gives the loss of reference answers."""

    @abc.abstractmethod
    def identity(self) -> dict[str, Any]:
        """What identifies it: hashes and sizes of files, or address and name; without keys.

        Raises:
            AssistantBuilderError: It is not there, or damaged.
        """

    def prompts(self, items: Sequence[Item]) -> Prompts | None:
        """The prompts of a local candidate; None where they are made elsewhere."""
        return None

    @abc.abstractmethod
    def score(self, items: Sequence[Item], limit: int, receive: Receive) -> None:
        """Answer items greedily with at most ``limit`` tokens each.

        Raises:
            AssistantBuilderError: It stopped answering; what it answered was received.
        """
