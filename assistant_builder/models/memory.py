"""How much memory a training step needs, from the model's config alone; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psutil

from assistant_builder.config import TrainConfig

_BYTES = 2
"""Bytes of an activation in the compute dtype (bfloat16 or float16)."""


def activation_bytes(train: TrainConfig, config: Mapping[str, Any]) -> int:
    """Bytes of activations that one micro-batch of the longest pairs keeps for the backward pass.

    Per token and layer a Llama-like block keeps, in the compute dtype: the block's input, two normed inputs in compute
    dtype and float32, q, k, v, the attention output, gate, up, their product, and a dropped copy of the input of each
    of the seven adapted layers; and in float32 the logits, their softmax and its gradient, on the answer positions,
    here taken as half of all.

    Args:
        train: Micro-batch size and longest pair.
        config: The base's config.json.
    """
    text = config.get("text_config", config)
    hidden, wide = int(text["hidden_size"]), int(text.get("intermediate_size", 4 * int(text["hidden_size"])))
    layers, vocabulary = int(text["num_hidden_layers"]), int(text.get("vocab_size", 32_000))
    tokens = min(train.micro_batch_size, train.batch_size) * train.max_length
    per_layer = _BYTES * (18 * hidden + 5 * wide)
    return tokens * (layers * per_layer + vocabulary * 4 * 3 // 2)


def free_bytes(device: str) -> int:
    """Bytes that a process may still take on the device."""
    if device == "cuda":
        import torch

        return int(torch.cuda.mem_get_info()[0])
    return int(psutil.virtual_memory().available)


def needs_checkpointing(train: TrainConfig, config: Mapping[str, Any], base_bytes: int, device: str) -> bool:
    """Whether activations have to be recomputed: as the setting says, or where they would not fit beside the rest.

    Args:
        train: The setting, micro-batch size and longest pair.
        config: The base's config.json.
        base_bytes: Bytes of the loaded base; the adapters, their gradients and AdamW's states are taken to fit into
            as much again.
        device: ``cpu`` or ``cuda``.
    """
    if train.gradient_checkpointing != "auto":
        return train.gradient_checkpointing == "on"
    return activation_bytes(train, config) + base_bytes > 0.85 * free_bytes(device)
