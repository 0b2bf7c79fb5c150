"""Merging of an adapter into its base for export, and quantization of the result.

Weights are merged in float32 and rounded once to float16, the dtype of checkpoints. A quantized base is dequantized
first, because a 4-bit sum would lose most of the trained difference.

Imports torch: only worker processes import this module.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from assistant_builder.models.lora_layers import CastOnUseLinear, TwinLoraLinear
from assistant_builder.quantization import METHODS, method_of


def merge(adapted: PeftModel, name: str = "default") -> PreTrainedModel:
    """Merge an adapter into its base with float16 linear layers.

    Args:
        adapted: The base with its adapters; it is modified.
        name: The adapter to merge; others are removed.

    Returns:
        The base model without adapters.
    """
    model: PreTrainedModel = adapted.get_base_model()
    for parent, child, layer in _children(model):
        if isinstance(layer, TwinLoraLinear):
            weight = method_of(layer.base_layer).dequantize(layer.base_layer, torch.float32)
            if name in layer.lora_A:
                weight += layer.scaling[name] * (layer.lora_B[name].weight.float() @ layer.lora_A[name].weight.float())
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
