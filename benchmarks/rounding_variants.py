"""Variants of training through the rounding of Q4_0 that were tried: ``through_rounding --variant NAME``.

They replace parts of the product while they train, and are not offered by it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import torch

from assistant_builder.arms import QAT
from assistant_builder.config import StudyConfig
from assistant_builder.config.train import TrainConfig
from assistant_builder.models import rounding
from assistant_builder.models.lora_layers import merged_weight
from assistant_builder.training.cpu_kernels import FusedLoraLinear

SOFTNESS = 0.2
"""How much the gradient of a weight changes at the edge of its rounding interval (δ of Lee et al. 2021)."""


class _Activations(torch.autograd.Function):
    """Activations as llama.cpp multiplies them with blocks of Q4_0: rounded to Q8_0; the gradient passes unchanged."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return rounding._q8_0(x.reshape(-1, rounding.BLOCK).float()).to(x.dtype).view(x.shape)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad


def activations() -> AbstractContextManager[Any]:
    """Round the inputs of the adapted layers too."""
    plain = FusedLoraLinear.apply
    return patch.object(
        FusedLoraLinear, "apply", lambda x, *rest: plain(_Activations.apply(x), *rest)
    )


def soft() -> AbstractContextManager[Any]:
    """Scale the gradient of each weight by its distance from its rounded value.

    Element-wise gradient scaling (Lee, Kim and Ham 2021, arXiv 2104.00903): g (1 + δ sign(g) (w - Q(w))), the distance
    in units of half a step. It needs the gradient of the whole weight.
    """
    plain = FusedLoraLinear.backward

    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        found = list(plain(ctx, *grads))
        x, group = ctx.saved_tensors[0], ctx.group
        flat = torch.cat([grad.reshape(-1, grad.shape[-1]) for grad in grads], dim=1)
        wide, row = torch.mm(flat.t(), x).float() * ctx.scale, 0
        for place, layer in enumerate(group.layers):
            rows = slice(row, row := row + group.outputs[place])
            weight = merged_weight(layer).float()
            apart = (weight - group._fused_weight[rows, : group.inputs].float()).view(
                -1, rounding.BLOCK
            )
            apart = (apart / apart.abs().amax(-1, keepdim=True).clamp_min(1e-12)).view(weight.shape)
            grad = wide[rows] * (1 + SOFTNESS * wide[rows].sign() * apart)
            down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            found[4 + place], found[4 + len(group.layers) + place] = up.t() @ grad, grad @ down.t()
        return tuple(found)

    return patch.object(FusedLoraLinear, "backward", staticmethod(backward))


def fitted() -> AbstractContextManager[Any]:
    """Choose the scale of each block by least squares once its values are rounded, in training and in the file.

    The file then holds these scales: the value of the largest size is 8 of them, from which the rounding of Q4_0 finds
    the same scale again.
    """

    def q4_0(x: torch.Tensor) -> torch.Tensor:
        values = plain(x)
        scale = values.abs().amax(-1, keepdim=True) / 8
        levels = (values * rounding._inverse(scale)).round_()
        best = (levels * x).sum(-1, keepdim=True) / levels.square().sum(-1, keepdim=True).clamp_min(
            1
        )
        return levels * rounding._stored(best)

    plain = rounding._q4_0
    return patch.dict(rounding._GGUF, {"Q4_0": q4_0})


def learning_rate(factor: float) -> AbstractContextManager[Any]:
    """Another learning rate of the continued arm, as a multiple of the product's."""
    plain = StudyConfig.train_of

    def train_of(config: StudyConfig, arm: str) -> TrainConfig:
        train = plain(config, arm)
        return (
            train.model_copy(update={"learning_rate": train.learning_rate * factor})
            if arm == QAT.name
            else train
        )

    return patch.object(StudyConfig, "train_of", train_of)


VARIANTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "activations": activations,
    "soft": soft,
    "fitted": fitted,
    "faster": lambda: learning_rate(2.0),
    "slower": lambda: learning_rate(0.5),
}
"""Name → context in which the arm is trained and its file is written."""
