"""What happens at which step, as pure functions: number of steps, order of the pairs, validations, early stop.

Both arms get the same answers because nothing here looks at the arm.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Literal

from assistant_builder.config import TrainConfig

CHECKPOINT_SECONDS = 600.0
"""Longest work that a crash may cost, apart from the checkpoints at each validation."""
_POOL_BATCHES = 8
"""Batches whose pairs are sorted by length together: little padding, and still a random order of batches."""

_MAX_SAMPLE_STEPS = 8
"""Sample answers cost seconds, and more of them tell a reader no more."""


def total_steps(train: TrainConfig, examples: int) -> int:
    """Optimizer steps of a full run over ``examples`` training sequences."""
    steps = max(1, math.ceil(examples * train.epochs / train.batch_size))
    return min(steps, train.max_steps) if train.max_steps else steps


def sample_order(lengths: Sequence[int], train: TrainConfig) -> list[int]:
    """Indices of the training sequences in the order they are trained on, all epochs one after the other.

    Within a pool of 8 batches sequences are sorted by length, so that a batch needs little padding; the batches of a
    pool come in random order.

    Args:
        lengths: Tokens of each sequence.
        train: The seed, batch size and number of epochs.

    Returns:
        ``total_steps × batch_size`` indices.
    """
    wanted = total_steps(train, len(lengths)) * train.batch_size
    order: list[int] = []
    epoch = 0
    while len(order) < wanted:
        rng = random.Random(f"{train.seed}/{epoch}")
        indices = list(range(len(lengths)))
        rng.shuffle(indices)
        for start in range(0, len(indices), _POOL_BATCHES * train.batch_size):
            pool = sorted(indices[start : start + _POOL_BATCHES * train.batch_size], key=lambda index: lengths[index])
            batches = [pool[at : at + train.batch_size] for at in range(0, len(pool), train.batch_size)]
            rng.shuffle(batches)
            order += [index for batch in batches for index in batch]
        epoch += 1
    return order[:wanted]


def validation_steps(train: TrainConfig, steps: int) -> list[int]:
    """Steps after which the validation loss is computed: ``train.evaluations``, evenly spaced, the last included."""
    count = min(train.evaluations, steps)
    return sorted({round(steps * (index + 1) / count) for index in range(count)})


def sample_steps(train: TrainConfig, steps: int) -> list[int]:
    """The validations at which sample answers are given: all, or, of many, a few evenly spaced, the last included."""
    at = validation_steps(train, steps)
    count = min(len(at), _MAX_SAMPLE_STEPS)
    return [at[len(at) * (index + 1) // count - 1] for index in range(count)]


def best_step(losses: Mapping[int, float]) -> int | None:
    """The step with the lowest validation loss, the earliest of equals."""
    return min(losses, key=lambda step: (losses[step], step)) if losses else None


def is_stale(losses: Mapping[int, float], step: int, patience: int) -> bool:
    """Whether the last ``patience`` validations up to ``step`` brought no improvement over the best before them."""
    seen = [losses[at] for at in sorted(losses) if at <= step]
    if len(seen) <= patience:
        return False
    return min(seen[-patience:]) >= min(seen[:-patience])


def early_stop_decision(
    own: Mapping[int, float], twins: Sequence[Mapping[int, float]], step: int, steps: int, patience: int
) -> Literal["train", "wait", "stop"]:
    """What an arm does after the validation at ``step`` when early stop is on.

    The arms stop together, at the first validation at which none has improved for ``patience`` validations. An arm
    that cannot know yet, because a twin has not come so far, waits for it; an arm without a twin decides alone.

    Args:
        own: Validation losses of this arm by step.
        twins: Those of each other arm of the study.
        step: The step this arm has reached.
        steps: The last step of a full run.
        patience: Validations without improvement.
    """
    if step >= steps:
        return "stop"
    if not is_stale(own, step, patience):
        return "train"
    if any(step in twin and not is_stale(twin, step, patience) for twin in twins):
        return "train"
    return "stop" if all(step in twin for twin in twins) else "wait"
