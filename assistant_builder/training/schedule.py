"""Training schedule as pure functions: number of steps, order of the pairs, validations, early end.

No function depends on the arm, so that all arms have the same schedule.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from assistant_builder.config import TrainConfig
from assistant_builder.planning.training_time import total_steps

CHECKPOINT_SECONDS = 600.0
"""Most seconds between two checkpoints, which bounds the work that a crash loses."""
# number of batches that are sorted by length together: little padding, and the order of batches stays random
_POOL_BATCHES = 8
_MAX_SAMPLE_STEPS = 8  # most validations with sample answers, which take seconds each


def sample_order(lengths: Sequence[int], train: TrainConfig) -> list[int]:
    """Indices of the training sequences in training order, over all epochs.

    Sequences are sorted by length within a pool of 8 batches, so that a batch needs little padding. The batches of a
    pool are shuffled. ``lengths`` are the tokens of each sequence.

    Returns:
        ``total_steps × batch_size`` indices.
    """
    count = total_steps(train, len(lengths)) * train.batch_size
    order: list[int] = []
    epoch = 0
    while len(order) < count:
        rng = random.Random(f"{train.seed}/{epoch}")
        indices = list(range(len(lengths)))
        rng.shuffle(indices)
        for start in range(0, len(indices), _POOL_BATCHES * train.batch_size):
            pool = indices[start : start + _POOL_BATCHES * train.batch_size]
            pool.sort(key=lambda index: lengths[index])
            starts = range(0, len(pool), train.batch_size)
            batches = [pool[at : at + train.batch_size] for at in starts]
            rng.shuffle(batches)
            order += [index for batch in batches for index in batch]
        epoch += 1
    return order[:count]


def validation_steps(train: TrainConfig, steps: int) -> list[int]:
    """Steps after which the validation loss is computed: ``train.evaluations``, evenly spaced, the last included."""
    count = min(train.evaluations, steps)
    return sorted({round(steps * (index + 1) / count) for index in range(count)})


def sample_steps(train: TrainConfig, steps: int) -> list[int]:
    """Validation steps with sample answers: all, or some evenly spaced, the last included."""
    at = validation_steps(train, steps)
    count = min(len(at), _MAX_SAMPLE_STEPS)
    return [at[len(at) * (index + 1) // count - 1] for index in range(count)]


def best_step(losses: Mapping[int, float]) -> int | None:
    """The step with the lowest validation loss, the earliest of equal ones; None without losses."""
    return min(losses, key=lambda step: (losses[step], step)) if losses else None


STOP_STEPS = 16
"""Successive steps whose median training loss decides that nothing is left to learn."""


class Stop(NamedTuple):
    """An early end of a training: the learning rate falls linearly to zero from step ``after`` to step ``end``."""

    after: int
    end: int

    def factor(self, step: int) -> float:
        """What the learning rate after ``step`` optimizer steps is multiplied by."""
        left = max(0, self.end - step)
        return 1.0 if step <= self.after else left / (self.end - self.after)


def stop_after(losses: Sequence[float], below: float, steps: int) -> Stop | None:
    """The end of a training of ``steps`` steps if its loss has reached its floor with the last of ``losses``.

    That is so if the median of the last 16 losses, those of steps 1, 2, …, is below ``below``, in nats per token. A few
    rows whose fact is missing in the prompt do not move a median.
    """
    step = len(losses)
    if step < STOP_STEPS or statistics.median(losses[-STOP_STEPS:]) >= below:
        return None
    end = step + (step + 1) // 2
    return Stop(step, end) if end < steps else None
