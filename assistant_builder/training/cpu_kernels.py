"""Fused CPU kernels of a training step as autograd functions, and their installation in a model with adapters.

On a CPU the matrix products of a small model take half of an unfused training step; the other half is memory traffic.
Each function replaces a chain of small operations, rounds no more often than it, and saves less for the backward pass.
Sums (norms, softmax, loss) are computed in float32. :func:`fuse_cpu_kernels` replaces only modules that it recognises,
so that any causal language model can be trained. Models on a GPU are not changed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from peft import PeftModel
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from assistant_builder.models.lora_layers import TwinLoraLinear, computed_weight
from assistant_builder.planning.memory import LOSS_ROWS, MAX_EAGER_TOKENS
from assistant_builder.training.fused_lora import ADAPTER, LoraGroup, lora_groups

# standard deviations above the expected number of indices that are sampled at once: enough except once in 10⁹
_MARGIN_DEVIATIONS = 6


def sample_dropout_indices(count: int, p: float) -> torch.Tensor:
    """Indices below ``count`` that dropout with probability ``p`` sets to zero, in ascending order.

    The gaps between the indices (geometrically distributed) are sampled instead of one number per element: at p = 0.05
    that is a twentieth of the samples, which a single thread generates.

    Returns:
        int64 [number of indices]; each index is included with probability ``p``, independently of the others.
    """
    samples = int(count * p + _MARGIN_DEVIATIONS * math.sqrt(count * p * (1 - p)) + 8)
    chunks, last = [], -1
    while last < count:
        # 1 - rand is in (0, 1]; a gap is the number of elements kept before the next dropped one
        gaps = torch.rand(samples).neg_().add_(1).log_().mul_(1 / math.log1p(-p))
        gaps = gaps.floor_().to(torch.int64)
        indices = gaps.add_(1).cumsum_(0).add_(last)
        chunks.append(indices)
        last = int(indices[-1])
    sampled = torch.cat(chunks) if len(chunks) > 1 else chunks[0]
    return sampled[: int(torch.searchsorted(sampled, count))]


class FusedLoraLinear(torch.autograd.Function):
    """Frozen linear layers with a common input and their LoRA adapters, computed in one matrix product.

    With the frozen weight W [out, in] and the adapter's A [rank, in] and B [out, rank], the output
    ``x @ W.T + s · dropout(x) @ A.T @ B.T`` is the product of ``[x, s · dropout(x) @ A.T]`` and ``[W, B].T``: the
    adapter's share is added before the single rounding and needs no pass over the output. The backward pass multiplies
    by ``[W, B]`` once for both gradients.

    In an arm that is trained through the rounding of a format, the rounded sum Q(W + s BA) is in W's place, and only
    what dropout changes is added: ``s · (dropout(x) - x) @ A.T @ B.T``. The gradients of A and B are those of LoRA
    (straight-through estimator).
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: torch.Tensor,
        dropped: torch.Tensor | None,
        scale: float,
        group: FusedLoraGroup,
        *adapters: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """Return one output [..., out] per layer of the group; ``adapters`` are all A, then all B."""
        flat = x.reshape(-1, x.shape[-1])
        dropout_x = flat
        if dropped is not None:
            dropout_x = flat.clone()
            dropout_x.view(-1).index_fill_(0, dropped, 0)
        count = len(adapters) // 2
        down = torch.cat(adapters[:count]).to(x.dtype)
        hidden = torch.mm(dropout_x, down.t()).mul_(scale)
        wide = flat.new_empty((len(flat), group.columns))  # [flat, hidden, 0]
        wide[:, : group.inputs] = flat
        added = wide[:, group.inputs : group.inputs + group.ranks]
        if not group.rounds:
            added.copy_(hidden)
        elif dropped is None:
            added.zero_()
        else:
            torch.sub(hidden, torch.mm(flat, down.t()).mul_(group.scaling), out=added)
        wide[:, group.inputs + group.ranks :] = 0
        result = F.linear(wide, group.weights(x.dtype)).view(*x.shape[:-1], -1)
        ctx.save_for_backward(dropout_x, dropped, down, hidden)
        ctx.group, ctx.scale, ctx.shape = group, scale, x.shape
        # not views, which a model could not change in place (clip_qkv of OLMo); their memory does not overlap
        return tuple(part.data for part in result.split(group.outputs, dim=-1))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        """Return the gradients of the input and of the adapters' float32 weights."""
        dropout_x, dropped, down, hidden = ctx.saved_tensors
        group: FusedLoraGroup = ctx.group
        flat = [grad.reshape(-1, grad.shape[-1]) for grad in grads]
        grad = torch.cat(flat, dim=1) if len(flat) > 1 else flat[0]
        both = torch.mm(grad, group.weights(grad.dtype))
        inner = both[:, group.inputs : group.inputs + group.ranks].mul(ctx.scale)
        for_down = torch.mm(inner.t(), dropout_x).float().split(group.rank)
        crossed = torch.mm(hidden.t(), grad).float().split(group.rank)
        for_up = [rows.split(group.outputs, dim=1)[layer].t() for layer, rows in enumerate(crossed)]
        for_input = None
        if ctx.needs_input_grad[0]:
            for_input = both[:, : group.inputs]
            if not group.rounds or dropped is not None:
                share = torch.mm(inner, down)
                undropped = share * (group.scaling / ctx.scale) if group.rounds else None
                if dropped is not None:
                    share.view(-1).index_fill_(0, dropped, 0)
                for_input = share.add_(for_input)
                if undropped is not None:
                    for_input.sub_(undropped)
            for_input = for_input.reshape(ctx.shape)
        return for_input, None, None, None, *for_down, *for_up


class _RmsNorm(torch.autograd.Function):
    # ``x / rms(x) · scale`` over the last dimension with a frozen scale; saves the input in its own dtype
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: torch.Tensor, eps: float) -> torch.Tensor:  # type: ignore[override]
        # Return the normalized ``x`` in its dtype and shape; ``scale`` is float32 [last dimension of x].
        wide = x.float()
        inverse = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_()
        inverse.div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, scale, inverse)
        return (wide * inverse).mul_(scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # type: ignore[override]
        x, scale, inverse = ctx.saved_tensors
        normed = x.float() * inverse  # not in place: a float32 input is its own float()
        wide = grad.float() * scale
        along = torch.linalg.vecdot(wide, normed).div_(x.shape[-1]).unsqueeze(-1)
        return wide.addcmul_(normed, along, value=-1).mul_(inverse).to(x.dtype), None, None


class EagerShortAttention(torch.autograd.Function):
    """Attention with materialized weights, which is faster than the blockwise kernel of torch for short rows.

    Query heads that share a key head are multiplied with it in one product.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        bias: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        """Return [rows, length, heads, size].

        ``query`` is [rows, heads, length, size], ``key`` and ``value`` are [rows, key heads, length, size]. ``bias``,
        float32 [rows or 1, 1, length, length], is added to the scores; it is very negative at masked positions.
        """
        rows, heads, length, size = query.shape
        shared = key.shape[1]
        q = query.reshape(rows * shared, -1, size)
        k, v = key.reshape(rows * shared, length, size), value.reshape(rows * shared, length, size)
        scores = torch.bmm(q.float(), k.float().transpose(1, 2)).view(rows, heads, length, length)
        weights = scores.mul_(scale).add_(bias).softmax(-1).to(query.dtype)
        weights = weights.view(rows * shared, -1, length)
        ctx.save_for_backward(q, k, v, weights)
        ctx.scale, ctx.shape = scale, (rows, heads, length, size)
        return torch.bmm(weights, v).view(rows, heads, length, size).transpose(1, 2).contiguous()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        """Return the gradients of query, key and value."""
        q, k, v, weights = ctx.saved_tensors
        rows, heads, length, size = ctx.shape
        grad = grad.transpose(1, 2).reshape(q.shape)
        for_v = torch.bmm(weights.transpose(1, 2), grad)
        for_weights = torch.bmm(grad, v.transpose(1, 2))
        inner = torch._softmax_backward_data(for_weights, weights, -1, weights.dtype)
        inner.mul_(ctx.scale)
        for_q, for_k = torch.bmm(inner, k), torch.bmm(inner.transpose(1, 2), q)
        grads = (each.view(rows, -1, length, size) for each in (for_q, for_k, for_v))
        return *grads, None, None


class ChunkedCrossEntropySum(torch.autograd.Function):
    """Summed negative log-likelihood of targets; saves only the gradient, in the dtype of the logits."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Return a float32 scalar; ``logits`` are [positions, vocabulary], ``targets`` [positions]."""
        total = logits.new_zeros((), dtype=torch.float32)
        grad = torch.empty_like(logits)
        rows = LOSS_ROWS[logits.device.type]
        for at in range(0, len(logits), rows):
            part = torch.log_softmax(logits[at : at + rows].float(), dim=1)
            aimed = targets[at : at + rows].unsqueeze(1)
            total -= part.gather(1, aimed).sum()
            part.exp_().scatter_add_(1, aimed, part.new_full(aimed.shape, -1.0))
            grad[at : at + rows] = part
        ctx.save_for_backward(grad)
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        """Return the gradient of the logits: softmax minus one at the target, times the incoming gradient."""
        (saved,) = ctx.saved_tensors
        return saved * grad.to(saved.dtype), None


ATTENTION = "short_rows"  # name of the attention in the registry of transformers
# the number of columns of a fused weight is a multiple of this, for fast matrix products
_COLUMN_MULTIPLE = 32
_MASKED_BIAS = -1e30


class FusedLoraGroup(LoraGroup):
    """A group on a CPU, computed by :class:`FusedLoraLinear`; its weights are stored in one matrix."""

    def __init__(self, layers: Sequence[TwinLoraLinear], dtype: torch.dtype) -> None:
        super().__init__(layers)
        self.columns = -(-(self.inputs + self.ranks) // _COLUMN_MULTIPLE) * _COLUMN_MULTIPLE
        self._fused_weight: torch.Tensor | None = None
        if self.rounds:  # the base keeps its float16 weights, from which each step rounds
            self._fused_weight = torch.zeros((sum(self.outputs), self.columns), dtype=dtype)
            return
        bases = [layer.base_layer for layer in layers]
        if all(type(base) is nn.Linear and base.weight.dtype == dtype for base in bases):
            self._fused_weight = self._build_weight(dtype)
            for base, rows in zip(bases, self._fused_weight.split(self.outputs), strict=True):
                base.weight.data = rows[:, : self.inputs]  # one copy in memory, not two

    def compute(self, x: torch.Tensor, p: float) -> Sequence[torch.Tensor]:
        """See :meth:`LoraGroup.compute`."""
        dropped = sample_dropout_indices(x.numel(), p) if p else None
        results = FusedLoraLinear.apply(x, dropped, self.scaling / (1 - p), self, *self.adapters())
        biases = (layer.base_layer.bias for layer in self.layers)
        return [
            result if bias is None else result + bias.to(result.dtype)
            for result, bias in zip(results, biases, strict=True)
        ]

    @torch.no_grad()
    def weights(self, dtype: torch.dtype) -> torch.Tensor:
        """``[W, B, 0]`` of all layers, stacked vertically: [outputs, columns]."""
        if self._fused_weight is None:
            return self._fill(self._build_weight(dtype))
        if self.adapters_changed(dtype):
            self._fill(self._fused_weight)
        return self._fused_weight

    def _fill(self, wide: torch.Tensor) -> torch.Tensor:
        row = 0
        for place, layer in enumerate(self.layers):
            column = self.inputs + place * self.rank
            rows = wide[row : row + self.outputs[place]]
            if layer.rounding is not None:
                layer.rounding.values(layer, wide.dtype, rows[:, : self.inputs])
            rows[:, column : column + self.rank] = layer.lora_B[ADAPTER].weight
            row += self.outputs[place]
        return wide

    def _build_weight(self, dtype: torch.dtype) -> torch.Tensor:
        wide = torch.empty((sum(self.outputs), self.columns), dtype=dtype)
        wide[:, self.inputs :] = 0
        for layer, rows in zip(self.layers, wide.split(self.outputs), strict=True):
            rows[:, : self.inputs] = computed_weight(layer.base_layer)
        return wide


def fuse_cpu_kernels(model: PeftModel, dtype: torch.dtype) -> None:
    """Replace the layers, norms and attention that this module can fuse, for training and generation on a CPU.

    The model is a frozen base with adapters named ``default``; ``dtype`` is the compute dtype.
    """
    for layers in lora_groups(model):
        group = FusedLoraGroup(layers, dtype)
        for layer in layers:
            layer.group = group
    for norm, scale, eps in _rms_norms(model):
        norm.forward = lambda x, scale=scale, eps=eps: _RmsNorm.apply(x, scale, eps)  # type: ignore[method-assign]
    base = model.get_base_model()
    if getattr(base.config, "_attn_implementation", None) == "sdpa":
        AttentionInterface.register(ATTENTION, _eager_short_attention)
        AttentionMaskInterface.register(ATTENTION, sdpa_mask)
        base.set_attn_implementation(ATTENTION)


def _rms_norms(model: nn.Module) -> Iterator[tuple[nn.Module, torch.Tensor, float]]:
    # Norms that are equivalent to :class:`_RmsNorm` on random numbers, with their scale and epsilon
    for layer in model.modules():
        eps = getattr(layer, "variance_epsilon", getattr(layer, "eps", None))
        weight = getattr(layer, "weight", None)
        named = type(layer).__name__.endswith("RMSNorm") and isinstance(eps, float)
        if not named or weight is None or weight.dim() != 1:
            continue
        x = torch.randn((4, weight.shape[-1]), generator=torch.Generator().manual_seed(0))
        x = x.to(weight.dtype)
        with torch.no_grad():
            expected = layer(x).float()
            for scale in (weight.float(), weight.float() + 1):  # Gemma models add one to the weight
                fused = _RmsNorm.apply(x, scale, eps).float()
                if torch.allclose(expected, fused, rtol=0.02):
                    yield layer, scale, eps
                    break


def _eager_short_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    # attention interface of transformers; unsupported cases are passed to ``sdpa_attention_forward``
    length = query.shape[2]
    plain = all(kwargs.get(name) is None for name in ("position_bias", "softcap", "s_aux"))
    supported = plain and dropout == 0.0 and kwargs.get("is_causal") in (None, True)
    if not (
        supported
        and 1 < length == key.shape[2] <= MAX_EAGER_TOKENS
        and query.device.type == "cpu"
        and query.shape[-1] == value.shape[-1]
        and getattr(module, "is_causal", True)
    ):
        kwargs |= {"dropout": dropout, "scaling": scaling}
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    bias = attention_mask
    if bias is None:
        bias = torch.ones((1, 1, length, length), dtype=torch.bool).tril_()
    if not bias.is_floating_point():
        bias = torch.zeros(bias.shape).masked_fill_(~bias, _MASKED_BIAS)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return EagerShortAttention.apply(query, key, value, bias, scale), None
