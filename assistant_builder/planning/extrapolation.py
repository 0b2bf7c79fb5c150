"""How long a training that is under way will have taken, told from its own steps once there are five.

What lies ahead is known exactly when a run starts: its sequences, token by token, its validations and sample answers.
So the pace is taken by the token, not by the step: batches are sorted by length, and five steps tell little of others.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

MEASURED_STEPS = 5
"""From this many measured steps on their time is extrapolated, whatever was planned."""
_WARMING = 2
"""First steps that set the pace only where there are no others: kernels and buffers are made in them."""
_FORWARD = 0.3
"""Time of validating a token over that of training on one, until a validation has been measured: the forward pass alone
of the frozen base's 2 + 2, without dropout, gradients and optimizer. Measured in README.md's runs: 0.19 to 0.42,
the median 0.30."""
_WRITTEN = 15.0
"""Trained tokens that take as long as writing one token of the sample answers, until the first have been written: a
token at a time is bound by reading the weights. Measured in the same runs: 8 to 27."""


@dataclass(frozen=True)
class Ahead:
    """What a whole run does.

    Attributes:
        steps: Optimizer steps.
        tokens: Tokens trained on, padding left out, all epochs.
        validations: How often the validation pairs are scored and a checkpoint is saved.
        validation_tokens: Tokens of the validation pairs.
        samplings: How often sample questions are answered.
        sample_tokens: Tokens that are written one after the other each time.
    """

    steps: int
    tokens: int
    validations: int = 0
    validation_tokens: int = 0
    samplings: int = 0
    sample_tokens: int = 0


class Pace:
    """Takes in the events of a run and tells its whole time.

    Args:
        ahead: What the whole run does.
    """

    def __init__(self, ahead: Ahead) -> None:
        self._ahead = ahead
        self._steps = 0
        self._warm: Mapping[str, Any] | None = None
        self._last: Mapping[str, Any] | None = None
        self._elapsed = 0.0
        self._kind = ""
        self._validations: list[float] = []
        self._samplings: list[float] = []

    def add(self, event: Mapping[str, Any]) -> None:
        """Take in one event of metrics.jsonl, in order."""
        kind, elapsed = str(event["event"]), float(event["elapsed_seconds"])
        since = max(0.0, elapsed - self._elapsed)
        if kind == "step":
            if self._last is not None and self._kind != "step" and self._validations:
                own = float(event["busy_seconds"]) - float(self._last["busy_seconds"])
                self._validations[-1] += max(0.0, since - own)  # the checkpoint, saved before this step
            self._steps += 1
            if self._steps <= _WARMING:
                self._warm = event
            self._last = event
        elif kind == "validation":
            self._validations.append(since)
        elif kind == "sample":
            if self._kind == "sample":
                self._samplings[-1] += since
            else:
                self._samplings.append(since)
        self._elapsed, self._kind = elapsed, kind

    def total_seconds(self) -> float | None:
        """Seconds of the whole training, validations, sample answers and checkpoints included.

        Returns:
            None before :data:`MEASURED_STEPS` steps.
        """
        if self._steps < MEASURED_STEPS or self._warm is None or self._last is None:
            return None
        ahead = self._ahead
        trained = int(self._last["tokens"]) - int(self._warm["tokens"])
        pace = (float(self._last["busy_seconds"]) - float(self._warm["busy_seconds"])) / max(1, trained)
        validation = _mean(self._validations, pace * _FORWARD * ahead.validation_tokens)
        sampling = _mean(self._samplings, pace * _WRITTEN * ahead.sample_tokens)
        return (
            self._elapsed + pace * max(0, ahead.tokens - int(self._last["tokens"]))
            + validation * max(0, ahead.validations - len(self._validations))
            + sampling * max(0, ahead.samplings - len(self._samplings))
        )

    def left_seconds(self) -> float | None:
        """Seconds to the end; None before :data:`MEASURED_STEPS` steps."""
        total = self.total_seconds()
        return None if total is None else max(0.0, total - self._elapsed)


def _mean(measured: list[float], otherwise: float) -> float:
    return statistics.fmean(measured) if measured else otherwise


def extrapolated_seconds(events: Iterable[Mapping[str, Any]], ahead: Ahead) -> float | None:
    """Seconds of a whole training from the events so far.

    Args:
        events: Those of metrics.jsonl.
        ahead: What the whole run does.

    Returns:
        None before :data:`MEASURED_STEPS` steps.
    """
    pace = Pace(ahead)
    for event in events:
        pace.add(event)
    return pace.total_seconds()
