"""How long a training takes and what it costs: operations counted, divided by what this machine is known to achieve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from assistant_builder.config import TrainConfig
from assistant_builder.planning.architecture import Architecture, Module
from assistant_builder.planning.storage import adapter_parameters

ACHIEVED = {"cuda": {"lora": 0.35, "qlora": 0.25, "full": 0.40}, "cpu": {"lora": 0.42, "qlora": 0.42, "full": 0.33}}
"""Share of the peak that a training step reaches, until this machine's own runs say better. GPU: what the authors of
QLoRA-style trainers publish for 7B to 70B (30 to 45 % at 16 bits; 4-bit pays a third for dequantizing). CPU: 360 of
the 860 tokens a second that the peak of two Zen 4 cores allows the default model; all weights: 281."""


@dataclass(frozen=True)
class Work:
    """Operations of a whole training.

    Attributes:
        tokens: Positions trained on, padding included.
        supervised: Positions the loss counts.
        steps: Optimizer steps.
        flops: Floating-point operations, a multiply-add counted as two.
    """

    tokens: int
    supervised: int
    steps: int
    flops: float


def flops_per_token(
    architecture: Architecture, adapted: Sequence[Module], rank: int, length: int, *, checkpointing: bool,
    full: bool = False,
) -> float:
    """Operations for each trained token, the head left out.

    A frozen weight costs 2 forwards and 2 backwards (the gradient of its input), and 2 more where the forward is
    repeated by checkpointing; a trained weight 2 more backwards. Attention adds two products over half the length
    (causal), each also twice backwards.

    Args:
        architecture: The model.
        adapted: Layers with an adapter.
        rank: Rank of the adapters.
        length: Tokens of a sequence.
        checkpointing: Whether the forward is repeated.
        full: Whether all weights are trained instead of adapters.
    """
    again = 2 if checkpointing else 0
    weights = architecture.active_weights
    adapters = 0 if full else sum(adapter_parameters(layer, rank) for layer in adapted)
    products = sum(2 * block.attention * (length / 2) for block in architecture.blocks)
    base = weights * (6 if full else 4) + weights * again
    return float(base + adapters * (6 + again) + products * (6 + again))


def head_flops_per_position(architecture: Architecture, *, full: bool = False) -> float:
    """Operations of the head for each position that the loss counts."""
    return float(architecture.hidden * architecture.vocabulary * (6 if full else 4))


def training_work(
    architecture: Architecture, adapted: Sequence[Module], train: TrainConfig, *, pairs: int, tokens_per_pair: float,
    supervised_per_pair: float, checkpointing: bool, full: bool = False,
) -> Work:
    """Operations of one arm's training.

    Args:
        architecture: The model.
        adapted: Layers with an adapter.
        train: Epochs, steps, batch, rank.
        pairs: Training pairs.
        tokens_per_pair: Mean length, padding included.
        supervised_per_pair: Mean number of positions that the loss counts.
        checkpointing: Whether activations are recomputed.
        full: Whether all weights are trained instead of adapters.
    """
    steps = max(1, math.ceil(pairs * train.epochs / train.batch_size))
    steps = min(steps, train.max_steps) if train.max_steps else steps
    sequences = steps * train.batch_size
    body = flops_per_token(architecture, adapted, train.rank, round(tokens_per_pair), checkpointing=checkpointing,
                           full=full)
    head = head_flops_per_position(architecture, full=full)
    tokens, supervised = sequences * tokens_per_pair, sequences * supervised_per_pair
    return Work(round(tokens), round(supervised), steps, tokens * body + supervised * head)
