"""Linear layers of the arms: storage of frozen weights, one adapter layer for every storage, and merging for export.

The libraries treat 4-bit and 16-bit bases differently (LoRA class, rounding, adapter dtype). Here all arms run the same
adapter code over a base layer whose output has the compute dtype, so that they differ only in the storage of the base.

Weights are merged in float32 and rounded once to float16, the dtype of checkpoints. A quantized base is dequantized
first, because a 4-bit sum would lose most of the trained difference.

Imports torch: only worker processes import this module.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from peft import PeftModel
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import nn
from transformers import PreTrainedModel

from assistant_builder.quantization import METHODS, method_of


class FusedGroup(Protocol):
    """Computes adapted layers that share an input together."""

    def output(self, layer: TwinLoraLinear, x: torch.Tensor) -> torch.Tensor:
        """Return the output of ``layer`` for ``x`` [..., in]."""


class _MatmulFromStorage(torch.autograd.Function):
    """``x @ weight.T`` with the weight cast at use; only the stored weight is saved for the backward pass.

    Plain autograd would save the cast copies, which doubles the memory of the frozen base.
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
    """A frozen linear layer with float16 weights that computes in the dtype of its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x @ weight.T + bias`` in the dtype of ``x``; ``x`` is [..., in], the result [..., out]."""
        result = _MatmulFromStorage.apply(x, self.weight)
        return result if self.bias is None else result + self.bias.to(x.dtype)


class TwinLoraLinear(LoraLinear):
    """LoRA over any storage with float32 parameters; it computes in the dtype of its input."""

    group: FusedGroup | None = None  # set in CPU training, where layers that share an input are computed together

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


ADAPTER_LAYERS: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: TwinLoraLinear}
"""Adapter layer by base layer; the layers of quantization methods are subclasses of ``nn.Linear``."""


def computed_weight(layer: nn.Linear) -> torch.Tensor:
    """Return the [out, in] weight of a frozen linear layer of any storage, not yet in the compute dtype."""
    return method_of(layer).dequantize(layer)


def dequantize_to_compute_dtype(model: nn.Module, dtype: torch.dtype) -> None:
    """Replace every frozen quantized or float16 linear layer by a plain one with the same values in ``dtype``.

    The results equal those of casting at every step. In evaluation and chat on a CPU all arms or none do this, because
    casting would distort the comparison of their speed. The memory that 4-bit storage saves is then in use.
    """
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if not isinstance(layer, CastOnUseLinear) and not method_of(layer).quantizes:
                continue
            plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta", dtype=dtype)
            plain.weight = nn.Parameter(computed_weight(layer).to(dtype), requires_grad=False)
            if layer.bias is not None:
                plain.bias = nn.Parameter(layer.bias.data.to(dtype), requires_grad=False)
            plain.train(layer.training)
            setattr(parent, name, plain)


def merge(adapted: PeftModel) -> PreTrainedModel:
    """Merge an adapter into its base, which is modified, with float16 linear layers; other adapters are removed."""
    model: PreTrainedModel = adapted.get_base_model()
    for parent, child, layer in _children(model):
        if isinstance(layer, TwinLoraLinear):
            weight = method_of(layer.base_layer).dequantize(layer.base_layer, torch.float32)
            if "default" in layer.lora_A:
                up, down = layer.lora_B["default"].weight.float(), layer.lora_A["default"].weight.float()
                weight += layer.scaling["default"] * (up @ down)
            setattr(parent, child, _stored(layer.base_layer, weight))
        elif method_of(layer).quantizes:
            setattr(parent, child, _stored(layer, method_of(layer).dequantize(layer, torch.float32)))
    return model


def quantize(model: PreTrainedModel, quant_type: str, *, double_quant: bool, compute_dtype: torch.dtype) -> None:
    """Quantize the float16 linear layers of a merged model in place, as loading its checkpoint would."""
    method = METHODS[quant_type]
    for parent, child, layer in _children(model):
        if isinstance(layer, CastOnUseLinear):
            setattr(parent, child, method.quantize(layer, double_quant=double_quant, compute_dtype=compute_dtype))


def _children(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Yield every layer with its parent and its name in the parent, without layers inside of adapted ones."""
    for parent in [layer for layer in model.modules() if not isinstance(layer, TwinLoraLinear)]:
        for name, layer in list(parent.named_children()):
            yield parent, name, layer


def _stored(layer: nn.Module, weight: torch.Tensor) -> CastOnUseLinear:
    merged = CastOnUseLinear(layer.in_features, layer.out_features, bias=False, device="meta", dtype=torch.float16)
    merged.weight = nn.Parameter(weight.to(torch.float16), requires_grad=False)
    merged.bias = layer.bias
    return merged.train(layer.training)
