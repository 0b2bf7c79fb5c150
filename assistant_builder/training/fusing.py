"""Bring a model with adapters to the fast arithmetic of :mod:`assistant_builder.training.kernels`, piece by piece.

Each piece is recognised by what it is made of and checked by what it computes; what is not recognised stays as
transformers has it, so that any causal language model trains. On a GPU nothing is changed.

Imports torch: only worker processes import this module.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from assistant_builder.models.layers import TwinLoraLinear, computed_weight
from assistant_builder.training.kernels import AdaptedProducts, RmsNorm, ShortAttention, dropped_places

ATTENTION = "short_rows"
"""Name under which transformers finds our attention."""
LONGEST_SHORT_ROW = 256
"""Tokens of a row up to which writing the attention weights down is faster, measured on two cores."""
_SIBLINGS = ({"q_proj", "k_proj", "v_proj"}, {"gate_proj", "up_proj"})
"""Layers that are called one after the other with the same input."""
_ALIGNED = 32
"""Columns of a widened weight are a multiple of this, which the matrix products like."""
_ADAPTER = "default"
_UNSEEN = -1e30


class InputGroup:
    """Adapted layers that share their input and are computed together.

    Args:
        layers: Layers of equal input size, rank, scaling and dropout.
        dtype: The compute dtype.

    Attributes:
        inputs: Size of the input.
        outputs: Size of each layer's output.
        rank: Rank of each adapter.
        ranks: Of all together.
    """

    def __init__(self, layers: Sequence[TwinLoraLinear], dtype: torch.dtype) -> None:
        self.layers = layers
        self.inputs = layers[0].in_features
        self.outputs = [layer.out_features for layer in layers]
        self.rank = layers[0].r[_ADAPTER]
        self.ranks = self.rank * len(layers)
        self._columns = -(-(self.inputs + self.ranks) // _ALIGNED) * _ALIGNED
        self._pending: tuple[torch.Tensor, dict[int, torch.Tensor]] | None = None
        self._held: torch.Tensor | None = None
        if all(type(layer.base_layer) is nn.Linear and layer.base_layer.weight.dtype == dtype for layer in layers):
            self._held = self._widened(dtype)
            for layer, rows in zip(layers, self._held.split(self.outputs), strict=True):
                layer.base_layer.weight.data = rows[:, : self.inputs]  # one copy in memory, not two

    def output(self, layer: TwinLoraLinear, x: torch.Tensor) -> torch.Tensor:
        """What ``layer`` puts out for ``x`` [..., in].

        The others of the group are computed with the first that is called, and kept until they are called.
        """
        if self._pending is not None and self._pending[0] is x and id(layer) in self._pending[1]:
            result = self._pending[1].pop(id(layer))
            if not self._pending[1]:
                self._pending = None
            return result
        first = self.layers[0]
        p = getattr(first.lora_dropout[_ADAPTER], "p", 0.0) if first.training else 0.0
        places = dropped_places(x.numel(), p) if p else None
        results = AdaptedProducts.apply(
            x, places, first.scaling[_ADAPTER] / (1 - p), self,
            *(each.lora_A[_ADAPTER].weight for each in self.layers),
            *(each.lora_B[_ADAPTER].weight for each in self.layers),
        )
        kept = {}
        for each, result in zip(self.layers, results, strict=True):
            bias = each.base_layer.bias
            kept[id(each)] = result if bias is None else result + bias.to(result.dtype)
        own = kept.pop(id(layer))
        self._pending = (x, kept) if kept else None
        return own

    def widen(self, flat: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """``[flat, hidden, 0]``: [tokens, columns]."""
        wide = flat.new_empty((len(flat), self._columns))
        wide[:, : self.inputs] = flat
        wide[:, self.inputs : self.inputs + self.ranks] = hidden
        wide[:, self.inputs + self.ranks :] = 0
        return wide

    @torch.no_grad()
    def weights(self, dtype: torch.dtype) -> torch.Tensor:
        """``[W, B, 0]`` of all layers, one below the other: [outputs, columns]."""
        wide = self._held if self._held is not None else self._widened(dtype)
        row = 0
        for place, layer in enumerate(self.layers):
            column = self.inputs + place * self.rank
            wide[row : row + self.outputs[place], column : column + self.rank] = layer.lora_B[_ADAPTER].weight
            row += self.outputs[place]
        return wide

    def _widened(self, dtype: torch.dtype) -> torch.Tensor:
        wide = torch.empty((sum(self.outputs), self._columns), dtype=dtype)
        wide[:, self.inputs :] = 0
        for layer, rows in zip(self.layers, wide.split(self.outputs), strict=True):
            rows[:, : self.inputs] = computed_weight(layer.base_layer)
        return wide


def fuse(model: PeftModel, dtype: torch.dtype) -> None:
    """Let a model on a CPU train with the fast arithmetic; it answers with it, too.

    Args:
        model: A frozen base with adapters named ``default``.
        dtype: The compute dtype.
    """
    for layers in _groups(model):
        group = InputGroup(layers, dtype)
        for layer in layers:
            layer.group = group
    for norm, scale, eps in _norms(model):
        norm.forward = lambda x, scale=scale, eps=eps: RmsNorm.apply(x, scale, eps)  # type: ignore[method-assign]
    base = model.get_base_model()
    if getattr(base.config, "_attn_implementation", None) == "sdpa":
        AttentionInterface.register(ATTENTION, short_attention)
        AttentionMaskInterface.register(ATTENTION, sdpa_mask)
        base.set_attn_implementation(ATTENTION)


def _groups(model: nn.Module) -> Iterator[list[TwinLoraLinear]]:
    for parent in model.modules():
        own = {name: layer for name, layer in parent.named_children() if isinstance(layer, TwinLoraLinear)}
        found: dict[object, list[TwinLoraLinear]] = defaultdict(list)
        for name, layer in own.items():
            if _ADAPTER in layer.lora_A:
                kin = next((place for place, names in enumerate(_SIBLINGS) if name in names), name)
                dropout = getattr(layer.lora_dropout[_ADAPTER], "p", 0.0)
                found[kin, layer.in_features, layer.r[_ADAPTER], layer.scaling[_ADAPTER], dropout].append(layer)
        yield from found.values()


def _norms(model: nn.Module) -> Iterator[tuple[nn.Module, torch.Tensor, float]]:
    """Norms that compute what :class:`RmsNorm` does, tried on random numbers, with their scale and epsilon."""
    for layer in model.modules():
        eps = getattr(layer, "variance_epsilon", getattr(layer, "eps", None))
        weight = getattr(layer, "weight", None)
        if not type(layer).__name__.endswith("RMSNorm") or not isinstance(eps, float) or weight is None:
            continue
        x = torch.randn((4, weight.shape[-1]), generator=torch.Generator().manual_seed(0)).to(weight.dtype)
        with torch.no_grad():
            wanted = layer(x).float()
            for scale in (weight.float(), weight.float() + 1):  # the latter in Gemma's family
                if weight.dim() == 1 and torch.allclose(wanted, RmsNorm.apply(x, scale, eps).float(), rtol=0.02):
                    yield layer, scale, eps
                    break


def short_attention(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
    attention_mask: torch.Tensor | None, dropout: float = 0.0, scaling: float | None = None, **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Transformers' interface to attention; what :class:`ShortAttention` does not do goes to torch's own kernel."""
    length = query.shape[2]
    plain = (dropout == 0.0 and kwargs.get("is_causal") in (None, True)
             and all(kwargs.get(name) is None for name in ("position_bias", "softcap", "s_aux")))
    if not (plain and 1 < length == key.shape[2] <= LONGEST_SHORT_ROW and query.device.type == "cpu"
            and query.shape[-1] == value.shape[-1] and getattr(module, "is_causal", True)):
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling,
                                      **kwargs)
    if attention_mask is None:
        seen = torch.ones((1, 1, length, length), dtype=torch.bool).tril_()
    else:
        seen = attention_mask
    bias = seen if seen.is_floating_point() else torch.zeros(seen.shape).masked_fill_(~seen, _UNSEEN)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return ShortAttention.apply(query, key, value, bias, scale), None
