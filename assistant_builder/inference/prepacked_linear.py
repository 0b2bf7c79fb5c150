"""Linear layers for inference on a CPU with prepacked weights, in the memory layout of oneDNN's matrix product.

Without prepacking, torch reorders the weight at every call, which takes longer than the product for a single row.
Results are bit-identical in bfloat16; in float32 the order of summation differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from peft.tuners.lora.layer import LoraLayer
from torch import nn

from assistant_builder.devices import multiplies_bfloat16

_ROWS = 64  # number of rows for which oneDNN chooses the layout; it works for any number


class PrepackedLinear(nn.Module):
    """A frozen linear layer for inference; the weight of the layer that it replaces is not kept."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias = layer.bias
        self._weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.data, _ROWS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x @ weight.T + bias``; ``x`` is [..., in], the result [..., out]."""
        multiply: Callable[..., torch.Tensor] = torch.ops.mkldnn._linear_pointwise
        return multiply(x.contiguous(), self._weight, self.bias, "none", [], "")

    def __deepcopy__(self, memo: dict[int, Any]) -> PrepackedLinear:
        """Return the layer itself: it is immutable, and the prepacked weight cannot be copied."""
        return self


def prepack(*models: nn.Module, batches: bool = False) -> None:
    """Replace every frozen linear layer on a CPU whose dtype benefits from prepacking.

    The models can no longer be trained or merged. A head that shares its weight with the embeddings keeps a second
    copy. Layers that several models share remain shared. With ``batches``, many rows are computed at once; float32 is
    prepacked only then, since single rows get slower.
    """
    supported = {
        torch.float32: batches and torch.backends.mkldnn.is_available(),
        torch.bfloat16: multiplies_bfloat16(),
    }
    dtypes = {dtype for dtype, packs in supported.items() if packs}
    places: dict[tuple[int, int], list[tuple[nn.Module, str]]] = {}
    for model in models:
        for parent, name, layer in _plain_layers(model, dtypes):
            places.setdefault((id(layer.weight), id(layer.bias)), []).append((parent, name))
    for shared in places.values():
        parent, name = shared[0]
        packed = PrepackedLinear(getattr(parent, name))
        for parent, name in shared:
            setattr(parent, name, packed)


def _plain_layers(
    model: nn.Module, dtypes: set[torch.dtype]
) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    lora = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
    parts = (parts for layer in lora for parts in (layer.lora_A, layer.lora_B))
    adapters = {id(part) for each in parts for part in each.values()}
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            plain = type(layer) is nn.Linear and id(layer) not in adapters
            if plain and layer.weight.dtype in dtypes and layer.weight.device.type == "cpu":
                yield parent, name, layer


def cast_adapters(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast adapters to the compute dtype, so that they are not cast for every token."""
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(dtype)
