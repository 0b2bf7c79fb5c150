"""What an export holds: an adapter merged into its base in 16 bits, and that quantized again.

Merging happens in float32 and is rounded once, to the float16 in which checkpoints are stored. A 4-bit base is
dequantized first: merging into a 4-bit layer would round the sum to 16 values and lose most of what was trained.

Imports torch: only worker processes import this module.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit, Params4bit
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from assistant_builder.models.lora_layers import CastOnUseLinear, TwinLoraLinear, disable_avx512_kernel


def merge(adapted: PeftModel, name: str = "default") -> PreTrainedModel:
    """Merge an adapter into the base it is attached to, every linear layer of the body ending up in float16.

    Args:
        adapted: The base with its adapters; it is taken apart.
        name: The adapter to merge; others are dropped.

    Returns:
        The base model without adapters.
    """
    model: PreTrainedModel = adapted.get_base_model()
    for parent, child, layer in _children(model):
        if isinstance(layer, TwinLoraLinear):
            weight = _float32_weight(layer.base_layer)
            if name in layer.lora_A:
                weight += layer.scaling[name] * (layer.lora_B[name].weight.float() @ layer.lora_A[name].weight.float())
            setattr(parent, child, _stored(layer.base_layer, weight))
        elif isinstance(layer, Linear4bit):
            setattr(parent, child, _stored(layer, _float32_weight(layer)))
    return model


def quantize(model: PreTrainedModel, quant_type: str, *, double_quant: bool, compute_dtype: torch.dtype) -> None:
    """Store the float16 linear layers of a merged model in 4 bits, as loading its checkpoint in 4-bit would.

    Args:
        model: What :func:`merge` returned; changed in place.
        quant_type: ``nf4`` or ``fp4``.
        double_quant: Whether the block constants are quantized too.
        compute_dtype: Dtype of the arithmetic.
    """
    for parent, child, layer in _children(model):
        if isinstance(layer, CastOnUseLinear):
            quantized = Linear4bit(
                layer.in_features, layer.out_features, bias=False, compute_dtype=compute_dtype,
                compress_statistics=double_quant, quant_type=quant_type, device="meta",
            )
            quantized.weight = Params4bit(
                layer.weight.data, requires_grad=False, compress_statistics=double_quant, quant_type=quant_type,
                module=quantized,
            ).to(layer.weight.device)
            quantized.bias = layer.bias
            disable_avx512_kernel(quantized, compute_dtype)
            setattr(parent, child, quantized.train(layer.training))


def _children(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Every layer with its parent and its name there; the inside of an adapted layer is not entered."""
    for parent in [layer for layer in model.modules() if not isinstance(layer, TwinLoraLinear)]:
        for name, layer in list(parent.named_children()):
            yield parent, name, layer


def _float32_weight(layer: nn.Module) -> torch.Tensor:
    """The [out, in] weight that a stored or 4-bit layer stands for, as a new float32 tensor."""
    if isinstance(layer, Linear4bit):
        state = copy.copy(layer.weight.quant_state)
        state.dtype = torch.float32
        weight: torch.Tensor = dequantize_4bit(layer.weight.data, state)
        return weight
    return layer.weight.data.to(torch.float32, copy=True)


def _stored(layer: nn.Module, weight: torch.Tensor) -> CastOnUseLinear:
    merged = CastOnUseLinear(layer.in_features, layer.out_features, bias=False, device="meta", dtype=torch.float16)
    merged.weight = nn.Parameter(weight.to(torch.float16), requires_grad=False)
    merged.bias = layer.bias
    return merged.train(layer.training)
