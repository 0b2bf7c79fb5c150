"""The linear layers of both arms: how a frozen weight is stored, and one adapter layer for either storage.

The libraries treat a 4-bit and a 16-bit base differently (other LoRA class, other rounding, other adapter dtype), which
would make the twins differ in more than the storage of the base. Here both arms run the same adapter code over a base
layer whose output has the compute dtype.

Imports torch: only worker processes import this module.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import nn


class FusedGroup(Protocol):
    """What computes an adapted layer together with others that share its input."""

    def output(self, layer: TwinLoraLinear, x: torch.Tensor) -> torch.Tensor:
        """What ``layer`` puts out for ``x`` [..., in]."""


class _MatmulFromStorage(torch.autograd.Function):
    """``x @ weight.T`` with the weight cast at use, keeping only the stored weight for the backward pass.

    Plain autograd would keep the cast copy of every layer alive until the backward pass, which doubles the memory of
    the frozen base.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        ctx.save_for_backward(weight)
        return F.linear(x, weight.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        (weight,) = ctx.saved_tensors
        return grad @ weight.to(grad.dtype), None


class CastOnUseLinear(nn.Linear):
    """A frozen linear layer whose weight is stored in one dtype (float16) and computed with in another."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x @ weight.T + bias`` in the dtype of ``x``; ``x`` is [..., in], the result [..., out]."""
        result = _MatmulFromStorage.apply(x, self.weight)
        return result if self.bias is None else result + self.bias.to(x.dtype)


class TwinLoraLinear(LoraLinear):
    """LoRA over either storage: float32 parameters, arithmetic in the dtype of the input."""

    group: FusedGroup | None = None
    """Set where training on a CPU computes the layer together with those that share its input."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return base(x) + scaling · B(A(dropout(x))); ``x`` is [..., in], the result [..., out]."""
        if self.group is not None and not self.disable_adapters:
            return self.group.output(self, x)
        result = self.base_layer(x)
        if self.disable_adapters or self.merged:
            return result
        for name in self.active_adapters:
            if name in self.lora_A:
                dropped = self.lora_dropout[name](x)
                hidden = F.linear(dropped, self.lora_A[name].weight.to(x.dtype))
                weight = self.lora_B[name].weight.to(x.dtype)
                result = result + F.linear(hidden, weight) * self.scaling[name]
        return result


ADAPTER_LAYERS: dict[type[nn.Module], type[nn.Module]] = {Linear4bit: TwinLoraLinear, nn.Linear: TwinLoraLinear}


def disable_avx512_kernel(layer: Linear4bit, compute_dtype: torch.dtype) -> None:
    """Keep a 4-bit layer to the arithmetic it is trained with, forwards and backwards, on every CPU.

    Otherwise the first evaluation on an AVX512-BF16 CPU repacks the weight for a kernel without autograd, and every
    later training step gets wrong gradients; and the backward pass rounds twice (to float16, then to the compute dtype)
    where the forward rounds once.
    """
    layer.support_avx512bf16_for_cpu = False
    layer.weight.quant_state.dtype = compute_dtype


def dequantized(layer: Linear4bit) -> torch.Tensor:
    """The [out, in] weight that a 4-bit layer stands for, in the dtype it is computed with."""
    weight: torch.Tensor = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return weight


def computed_weight(layer: nn.Module) -> torch.Tensor:
    """The [out, in] weight of a frozen linear layer of any storage; the caller casts it to the compute dtype."""
    weight: torch.Tensor = dequantized(layer) if isinstance(layer, Linear4bit) else layer.weight.data
    return weight


def stored_bytes(layer: nn.Module) -> int:
    """Bytes that the layer's own parameters occupy, with the quantization constants of a 4-bit weight."""
    total = sum(parameter.nbytes for parameter in layer.parameters(recurse=False))
    state = getattr(getattr(layer, "weight", None), "quant_state", None)
    while state is not None:  # double quantization nests a second state for the block constants
        total += state.absmax.nbytes + state.code.nbytes
        state = state.state2
    return total


def dequantize_to_compute_dtype(model: nn.Module, dtype: torch.dtype) -> None:
    """Replace every frozen 4-bit or float16 linear layer by a plain one with the same values in ``dtype``.

    Results are those of casting at every step. For evaluation and chat on a CPU both arms do this, or neither does:
    otherwise one arm would be credited with a speed that is an artefact of casting. It costs the memory that 4-bit
    saves, so it is never reported as 4-bit memory.
    """
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, Linear4bit):
                weight = dequantized(layer)
            elif isinstance(layer, CastOnUseLinear):
                weight = layer.weight.data
            else:
                continue
            plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta", dtype=dtype)
            plain.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
            if layer.bias is not None:
                plain.bias = nn.Parameter(layer.bias.data.to(dtype), requires_grad=False)
            plain.train(layer.training)
            setattr(parent, name, plain)
