"""What an export holds: an adapter merged into its base in 16 bits, and that quantized again.

Merging happens in float32 and is rounded once, to the float16 in which checkpoints are stored. A quantized base is
dequantized first: merging into a 4-bit layer would round the sum to 16 values and lose most of what was trained.

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
            weight = method_of(layer.base_layer).dequantize(layer.base_layer, torch.float32)
            if name in layer.lora_A:
                weight += layer.scaling[name] * (layer.lora_B[name].weight.float() @ layer.lora_A[name].weight.float())
            setattr(parent, child, _stored(layer.base_layer, weight))
        elif method_of(layer).quantizes:
            setattr(parent, child, _stored(layer, method_of(layer).dequantize(layer, torch.float32)))
    return model


def quantize(model: PreTrainedModel, quant_type: str, *, double_quant: bool, compute_dtype: torch.dtype) -> None:
    """Quantize the float16 linear layers of a merged model, as loading its checkpoint would.

    Args:
        model: What :func:`merge` returned; changed in place.
        quant_type: Name of the quantization method.
        double_quant: Whether the block constants are quantized too.
        compute_dtype: Dtype of the arithmetic.
    """
    method = METHODS[quant_type]
    for parent, child, layer in _children(model):
        if isinstance(layer, CastOnUseLinear):
            setattr(parent, child, method.quantize(layer, double_quant=double_quant, compute_dtype=compute_dtype))


def _children(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Every layer with its parent and its name there; the inside of an adapted layer is not entered."""
    for parent in [layer for layer in model.modules() if not isinstance(layer, TwinLoraLinear)]:
        for name, layer in list(parent.named_children()):
            yield parent, name, layer


def _stored(layer: nn.Module, weight: torch.Tensor) -> CastOnUseLinear:
    merged = CastOnUseLinear(layer.in_features, layer.out_features, bias=False, device="meta", dtype=torch.float16)
    merged.weight = nn.Parameter(weight.to(torch.float16), requires_grad=False)
    merged.bias = layer.bias
    return merged.train(layer.training)
