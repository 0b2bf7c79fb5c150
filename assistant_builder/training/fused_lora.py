"""Adapted layers that share an input are computed together: their groups, and an autograd function for GPUs.

:class:`LoraGroup` is the common part; ``cpu_kernels`` has the function for CPUs. The one of this module works over
every storage of the frozen base, because the layers of the base multiply with their own weights.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import nn
from torch.autograd.function import once_differentiable

from assistant_builder.models.lora_layers import TwinLoraLinear, computed_weight
from assistant_builder.planning.memory import SHARED_INPUTS

ADAPTER = "default"


class LoraGroup(ABC):
    """Layers of equal input size, rank, scaling and dropout that share their input and are computed together."""

    def __init__(self, layers: Sequence[TwinLoraLinear]) -> None:
        first = layers[0]
        self.layers = layers
        self.inputs = first.in_features
        self.outputs = [layer.out_features for layer in layers]
        self.rank = first.r[ADAPTER]
        self.scaling = first.scaling[ADAPTER]
        self.rounds = first.rounding is not None
        self.ranks = self.rank * len(layers)
        self._pending: tuple[torch.Tensor, dict[int, torch.Tensor]] | None = None
        self._state: tuple[object, ...] = ()

    def output(self, layer: TwinLoraLinear, x: torch.Tensor) -> torch.Tensor:
        """Output of ``layer`` for ``x`` [..., in].

        The first call computes the outputs of the whole group; the others are cached until their layers are called.
        """
        if self._pending is not None and self._pending[0] is x and id(layer) in self._pending[1]:
            result = self._pending[1].pop(id(layer))
            if not self._pending[1]:
                self._pending = None
            return result
        first = self.layers[0]
        p = getattr(first.lora_dropout[ADAPTER], "p", 0.0) if first.training else 0.0
        outputs = dict(zip(map(id, self.layers), self.compute(x, p), strict=True))
        own = outputs.pop(id(layer))
        self._pending = (x, outputs) if outputs else None
        return own

    @abstractmethod
    def compute(self, x: torch.Tensor, p: float) -> Sequence[torch.Tensor]:
        """Outputs [..., out] of all layers for ``x`` [..., in], biases included; ``p``: probability of dropout."""

    def adapters(self) -> list[torch.Tensor]:
        """The float32 parameters: A [rank, in] of all layers, then B [out, rank] of all layers."""
        down = [layer.lora_A[ADAPTER].weight for layer in self.layers]
        return [*down, *(layer.lora_B[ADAPTER].weight for layer in self.layers)]

    def adapters_changed(self, dtype: torch.dtype) -> bool:
        """Whether a parameter was written to since the last call, or ``dtype`` is another; a step writes once.

        The parameters must not be sharded: FSDP gathers them without a new version.
        """
        before = self._state
        self._state = (dtype, *((each.data_ptr(), each._version) for each in self.adapters()))
        return before != self._state


class SharedInputLora(torch.autograd.Function):
    """The outputs ``base(x) + s · dropout(x) @ A.T @ B.T`` of a group, with one dropout mask for all its layers.

    Each layer of the base computes its own product in the forward pass, outside of autograd, and the backward pass
    dequantizes each weight once, as the layer's own backward pass would (bitsandbytes' ``MatMul4Bit``), so that all
    gradients of the input are summed within matrix products. Saved are the input, the mask (a byte per value) and the
    products with A, never a weight. The dropped input is computed again: it would be as large as the input, which the
    function before may have saved already.

    In an arm that is trained through the rounding of a format, the base is the rounded sum Q(W + s BA), and only what
    dropout changes is added: ``s · (dropout(x) - x) @ A.T @ B.T``. The gradients of A and B are those of LoRA
    (straight-through estimator).
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: torch.Tensor, p: float, group: GpuLoraGroup, *adapters: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Return one output [..., out] per layer of the group; ``adapters`` are all A, then all B."""
        down, *ups = group.cast_adapters(x.dtype)
        dropped, mask = torch.native_dropout(x, p, True) if p else (x, None)
        hidden = torch.mm(dropped.reshape(-1, group.inputs), down.t())
        added: torch.Tensor | None = hidden
        if group.rounds and mask is None:
            added = None
        elif group.rounds:
            added = torch.addmm(hidden, x.reshape(-1, group.inputs), down.t(), alpha=-1)
        del dropped
        outputs = []
        for layer, up, columns in zip(group.layers, ups, group.columns, strict=True):
            result = group.base_output(layer, x)
            if added is not None:
                flat = result.reshape(-1, result.shape[-1])
                flat = flat.addmm_(added[:, columns], up.t(), alpha=group.scaling)
                result = flat.view(result.shape)
            # not a view, which a model could not change in place (clip_qkv of OLMo)
            outputs.append(result.data)
        ctx.save_for_backward(x, mask, hidden, down, *ups)
        ctx.set_materialize_grads(False)
        ctx.group, ctx.keep = group, 1 - p
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of the input and of the adapters' float32 weights."""
        x, mask, hidden, down, *ups = ctx.saved_tensors
        group: GpuLoraGroup = ctx.group
        inner = torch.zeros_like(hidden)  # gradient of the products with A
        for_input: torch.Tensor | None = None
        for_up: list[torch.Tensor | None] = []
        for layer, up, columns, given in zip(group.layers, ups, group.columns, grads, strict=True):
            if given is None:  # the output was not used
                for_up.append(None)
                continue
            grad = given.reshape(-1, given.shape[-1])
            inner[:, columns] = torch.mm(grad, up)
            for_up.append(torch.mm(grad.t(), hidden[:, columns]).float().mul_(group.scaling))
            if ctx.needs_input_grad[0]:
                weight = group.base_weight(layer, grad.dtype)
                if for_input is None:
                    for_input = torch.mm(grad, weight)
                else:
                    for_input.addmm_(grad, weight)
        inner.mul_(group.scaling)
        dropped = x
        if mask is not None:
            dropped = torch.ops.aten.native_dropout_backward(x, mask, 1 / ctx.keep)
        for_down = torch.mm(inner.t(), dropped.reshape(-1, group.inputs)).float().split(group.rank)
        del dropped
        if for_input is not None:
            if mask is not None:
                share = torch.mm(inner, down)
                for_input.addcmul_(share, mask.view(for_input.shape), value=1 / ctx.keep)
                if group.rounds:
                    for_input.sub_(share)
            elif not group.rounds:
                for_input.addmm_(inner, down)
            for_input = for_input.view(x.shape)
        return for_input, None, None, *for_down, *for_up


class GpuLoraGroup(LoraGroup):
    """A group over any storage of the frozen base, computed by :class:`SharedInputLora`."""

    def __init__(self, layers: Sequence[TwinLoraLinear]) -> None:
        super().__init__(layers)
        starts = range(0, self.ranks, self.rank)
        self.columns = [slice(start, start + self.rank) for start in starts]
        self._cast: tuple[torch.Tensor, ...] = ()

    def compute(self, x: torch.Tensor, p: float) -> Sequence[torch.Tensor]:
        """See :meth:`LoraGroup.compute`."""
        outputs: tuple[torch.Tensor, ...] = SharedInputLora.apply(x, p, self, *self.adapters())
        return outputs

    @torch.no_grad()
    def cast_adapters(self, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        """A of all layers [rank · layers, in] and B of each layer [out, rank] in ``dtype``, cast once a step."""
        if self.adapters_changed(dtype):
            parameters, count = self.adapters(), len(self.layers)
            down = torch.cat([each.to(dtype) for each in parameters[:count]])
            self._cast = (down, *(each.detach().to(dtype) for each in parameters[count:]))
        return self._cast

    def base_output(self, layer: TwinLoraLinear, x: torch.Tensor) -> torch.Tensor:
        """The product of the frozen base and its bias, a new tensor [..., out]."""
        if layer.rounding is None:
            result: torch.Tensor = layer.base_layer(x)
            return result
        bias, weight = layer.base_layer.bias, layer.rounding.values(layer, x.dtype)
        return F.linear(x, weight, None if bias is None else bias.to(x.dtype))

    def base_weight(self, layer: TwinLoraLinear, dtype: torch.dtype) -> torch.Tensor:
        """The weight [out, in] with which the base computes, in ``dtype``; a quantized one is dequantized."""
        if layer.rounding is not None:
            return layer.rounding.values(layer, dtype)
        return computed_weight(layer.base_layer).to(dtype)


def lora_groups(model: nn.Module) -> Iterator[list[TwinLoraLinear]]:
    """The adapted layers of a model in groups that share their input; a layer that shares it with none is one alone."""
    for parent in model.modules():
        groups: dict[object, list[TwinLoraLinear]] = defaultdict(list)
        for name, layer in parent.named_children():
            if isinstance(layer, TwinLoraLinear) and ADAPTER in layer.lora_A:
                shared = next(
                    (index for index, names in enumerate(SHARED_INPUTS) if name in names), name
                )
                dropout = getattr(layer.lora_dropout[ADAPTER], "p", 0.0)
                shape = layer.in_features, layer.r[ADAPTER], layer.scaling[ADAPTER]
                groups[(shared, *shape, dropout)].append(layer)
        yield from groups.values()


def fuse_lora(model: nn.Module) -> None:
    """Let the adapted layers of a model on a GPU be computed in groups; the adapters are named ``default``."""
    for layers in lora_groups(model):
        group = GpuLoraGroup(layers)
        for layer in layers:
            layer.group = group
