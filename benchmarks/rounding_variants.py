"""Variants of training through the rounding of Q4_0 that were tried: ``through_rounding --variant NAME``.

They replace parts of the product while they train, and are not offered by it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import torch

from assistant_builder.models import rounding
from assistant_builder.training.cpu_kernels import FusedLoraLinear


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
    return patch.object(FusedLoraLinear, "apply", lambda x, *rest: plain(_Activations.apply(x), *rest))


VARIANTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {"activations": activations}
"""Name → context in which the arm is trained and its file is written."""
