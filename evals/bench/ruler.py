"""The loss after training, taken in the same way from whatever a contender trained.

Imports torch: only child processes import this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from bitsandbytes.nn import Linear4bit

from assistant_builder.inference.padded_batch import LeftPadding, supervised_logits
from assistant_builder.models.chat_template import Example
from assistant_builder.training.collate import to_dataset

_BATCH = 8


@dataclass(frozen=True)
class Trained:
    """What a contender hands back.

    Attributes:
        model: The trained model.
        losses: Training loss of each step, in nats a supervised token.
        tokens: Non-padding tokens trained on up to the end of each step, by the contender's own count.
    """

    model: Any
    losses: list[float]
    tokens: list[int]


def validation_loss(model: Any, examples: Sequence[Example], pad_id: int, device: str) -> float:
    """Mean NLL over the answers' tokens, in nats a token.

    Args:
        model: A causal language model with adapters.
        examples: Pairs that were not trained on.
        pad_id: Token that pads.
        device: ``cpu`` or ``cuda``.
    """
    model.eval()
    for layer in model.modules():
        if isinstance(layer, Linear4bit):
            layer.support_avx512bf16_for_cpu = False  # its packed kernel rounds otherwise than training did
    rows = to_dataset(sorted(examples, key=lambda example: len(example.input_ids)))
    collate = LeftPadding(pad_id)
    total, tokens = 0.0, 0
    with torch.no_grad():
        for at in range(0, len(rows), _BATCH):
            batch = collate([rows[index] for index in range(at, min(at + _BATCH, len(rows)))])
            logits, targets = supervised_logits(model, {key: value.to(device) for key, value in batch.items()})
            total += F.cross_entropy(logits, targets, reduction="sum").item()
            tokens += len(targets)
    return total / tokens
