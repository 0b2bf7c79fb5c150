"""Linear layers for answering on a CPU, their weights kept in the order in which the multiplication reads them.

Torch otherwise brings a weight into that order at every call; for one row that takes longer than the multiplication.
In bfloat16 the results are the same to the last digit; in float32 the sums run in another order.

Imports torch: only worker processes import this module.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from peft.tuners.lora.layer import LoraLayer
from torch import nn

from assistant_builder.devices import multiplies_bfloat16

_ROWS = 64
"""Rows that the order is chosen for; others compute with it as well."""


class PrepackedLinear(nn.Module):
    """A frozen linear layer for inference.

    Args:
        layer: What it stands for; its weight is not kept.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias = layer.bias
        self.packed_bytes = layer.weight.nbytes
        self._weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.data, _ROWS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x @ weight.T + bias``; ``x`` is [..., in], the result [..., out]."""
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), self._weight, self.bias, "none", [],
                                                                  "")
        return result

    def __deepcopy__(self, memo: dict[int, Any]) -> PrepackedLinear:
        """Itself: nothing in it changes, and the packed weight cannot be copied."""
        return self


def prepack(*models: nn.Module, batches: bool = False) -> None:
    """Replace every frozen linear layer on a CPU in a dtype that it computes in fast.

    What trains or merges must be done before.

    The head keeps its weight too where the embeddings share it. What several models share they share afterwards.

    Args:
        models: Changed in place; adapters stay as they are.
        batches: Whether many rows are computed at once; then it pays in float32 too, where single rows are slower.
    """
    dtypes = _prepacked_dtypes(batches)
    places: dict[tuple[int, int], list[tuple[nn.Module, str]]] = {}
    for model in models:
        for parent, name, layer in _plain_layers(model, dtypes):
            places.setdefault((id(layer.weight), id(layer.bias)), []).append((parent, name))
    for shared in places.values():
        parent, name = shared[0]
        packed = PrepackedLinear(getattr(parent, name))
        for parent, name in shared:
            setattr(parent, name, packed)


def _prepacked_dtypes(batches: bool) -> set[torch.dtype]:
    supported = {torch.float32: batches and torch.backends.mkldnn.is_available(),
                 torch.bfloat16: multiplies_bfloat16()}
    return {dtype for dtype, packs in supported.items() if packs}


def _plain_layers(model: nn.Module, dtypes: set[torch.dtype]) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """The layers to pack, each with its parent and its name there."""
    adapters = {id(part) for layer in model.modules() if isinstance(layer, LoraLayer)
                for parts in (layer.lora_A, layer.lora_B) for part in parts.values()}
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            plain = type(layer) is nn.Linear and id(layer) not in adapters
            if plain and layer.weight.dtype in dtypes and layer.weight.device.type == "cpu":
                yield parent, name, layer


def prepacked_bytes(model: nn.Module) -> int:
    """Bytes of the weights that :func:`pack` has taken over."""
    return sum(layer.packed_bytes for layer in model.modules() if isinstance(layer, PrepackedLinear))


def cast_adapters(model: nn.Module, dtype: torch.dtype) -> None:
    """Keep adapters in the dtype of the arithmetic, so that they are not cast at every token."""
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(dtype)
