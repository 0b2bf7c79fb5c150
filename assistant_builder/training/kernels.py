"""Pieces of a training step on a CPU as autograd functions, each of which replaces a chain of small operations.

On a CPU the matrix products of a small model take half of a plain training step; the rest goes into passes over memory.
Each function here computes what the plain chain computes, rounds no more often, and keeps less for its backward pass.
What is summed (norms, softmax, loss) is summed in float32.

Imports torch: only worker processes import this module.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from assistant_builder.planning.activations import LOSS_ROWS

if TYPE_CHECKING:
    from assistant_builder.training.fusing import InputGroup

_SPARE_DEVIATIONS = 6
"""Standard deviations above the expected number of places that are drawn: one time in 10⁹ they do not suffice."""


def dropped_places(count: int, p: float) -> torch.Tensor:
    """Places, of ``count``, that dropout with probability ``p`` sets to zero, in ascending order.

    The gaps between them are drawn (geometrically distributed) instead of a number for every place: at p = 0.05 that
    is a twentieth of the draws, which one thread makes.

    Returns:
        int64 [number of places]; each place is in it with probability ``p``, independently of the others.
    """
    wanted = int(count * p + _SPARE_DEVIATIONS * math.sqrt(count * p * (1 - p)) + 8)
    found, last = [], -1
    while last < count:
        # 1 - rand is in (0, 1]; the gap is the number of places kept before the next dropped one
        gaps = torch.rand(wanted).neg_().add_(1).log_().mul_(1 / math.log1p(-p)).floor_().to(torch.int64)
        places = gaps.add_(1).cumsum_(0).add_(last)
        found.append(places)
        last = int(places[-1])
    every = torch.cat(found) if len(found) > 1 else found[0]
    return every[: int(torch.searchsorted(every, count))]


class AdaptedProducts(torch.autograd.Function):
    """Outputs of frozen linear layers that share an input, with their adapters, in one matrix product.

    With the frozen weight W [out, in] and the adapter's A [rank, in] and B [out, rank], the output
    ``x @ W.T + s · dropout(x) @ A.T @ B.T`` is the product of ``[x, s · dropout(x) @ A.T]`` and ``[W, B].T``: the
    adapter's part is added before the one rounding, and costs no passes over the output. The backward pass multiplies
    by ``[W, B]`` once for the gradients of both halves.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: torch.Tensor, places: torch.Tensor | None, scale: float, group: InputGroup,
        *adapters: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """Return one output [..., out] for each layer of the group; ``adapters`` are all A, then all B."""
        flat = x.reshape(-1, x.shape[-1])
        thinned = flat
        if places is not None:
            thinned = flat.clone()
            thinned.view(-1).index_fill_(0, places, 0)
        count = len(adapters) // 2
        down = torch.cat(adapters[:count]).to(x.dtype)
        hidden = torch.mm(thinned, down.t()).mul_(scale)
        wide = group.widen(flat, hidden)
        result = F.linear(wide, group.weights(x.dtype)).view(*x.shape[:-1], -1)
        ctx.save_for_backward(thinned, places, down, hidden)
        ctx.group, ctx.scale, ctx.shape = group, scale, x.shape
        return result.split(group.outputs, dim=-1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        """Gradients of the input and of the adapters' float32 weights."""
        thinned, places, down, hidden = ctx.saved_tensors
        group: InputGroup = ctx.group
        flat = [grad.reshape(-1, grad.shape[-1]) for grad in grads]
        grad = torch.cat(flat, dim=1) if len(flat) > 1 else flat[0]
        both = torch.mm(grad, group.weights(grad.dtype))
        inner = both[:, group.inputs : group.inputs + group.ranks].mul(ctx.scale)
        for_down = torch.mm(inner.t(), thinned).float().split(group.rank)
        crossed = torch.mm(hidden.t(), grad).float().split(group.rank)
        for_up = [part.t() for layer, rows in enumerate(crossed)
                  for part in [rows.split(group.outputs, dim=1)[layer]]]
        for_input = None
        if ctx.needs_input_grad[0]:
            for_input = torch.mm(inner, down)
            if places is not None:
                for_input.view(-1).index_fill_(0, places, 0)
            for_input = for_input.add_(both[:, : group.inputs]).view(ctx.shape)
        return for_input, None, None, None, *for_down, *for_up


class RmsNorm(torch.autograd.Function):
    """``x / rms(x) · scale`` over the last dimension, scale frozen; keeps the input as it came, not in float32."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: torch.Tensor, eps: float) -> torch.Tensor:  # type: ignore[override]
        """Return the normed ``x``, in its dtype and shape; ``scale`` is float32 [last dimension of x]."""
        wide = x.float()
        inverse = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, scale, inverse)
        return (wide * inverse).mul_(scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # type: ignore[override]
        """Gradient of the input."""
        x, scale, inverse = ctx.saved_tensors
        normed = x.float() * inverse  # not in place: a float32 input is its own float()
        wide = grad.float() * scale
        along = torch.linalg.vecdot(wide, normed).div_(x.shape[-1]).unsqueeze(-1)
        return wide.addcmul_(normed, along, value=-1).mul_(inverse).to(x.dtype), None, None


class ShortAttention(torch.autograd.Function):
    """Attention that writes its weights down: for short rows faster than the library's kernel, which works by blocks.

    Query heads that share a key head are multiplied with it in one product.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Attend.

        Args:
            ctx: What the backward pass needs.
            query: [rows, heads, length, size].
            key: [rows, key heads, length, size].
            value: [rows, key heads, length, size].
            bias: float32 [rows or 1, 1, length, length], added to the scores; very negative where nothing is seen.
            scale: Of the scores.

        Returns:
            [rows, length, heads, size].
        """
        rows, heads, length, size = query.shape
        shared = key.shape[1]
        q = query.reshape(rows * shared, -1, size)
        k, v = key.reshape(rows * shared, length, size), value.reshape(rows * shared, length, size)
        scores = torch.bmm(q.float(), k.float().transpose(1, 2)).view(rows, heads, length, length)
        weights = scores.mul_(scale).add_(bias).softmax(-1).to(query.dtype).view(rows * shared, -1, length)
        ctx.save_for_backward(q, k, v, weights)
        ctx.scale, ctx.shape = scale, (rows, heads, length, size)
        return torch.bmm(weights, v).view(rows, heads, length, size).transpose(1, 2).contiguous()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        """Gradients of query, key and value."""
        q, k, v, weights = ctx.saved_tensors
        rows, heads, length, size = ctx.shape
        grad = grad.transpose(1, 2).reshape(q.shape)
        for_v = torch.bmm(weights.transpose(1, 2), grad)
        for_weights = torch.bmm(grad, v.transpose(1, 2))
        inner = torch._softmax_backward_data(for_weights, weights, -1, weights.dtype).mul_(ctx.scale)
        for_q = torch.bmm(inner, k).view(rows, heads, length, size)
        for_k = torch.bmm(inner.transpose(1, 2), q)
        return for_q, for_k.view(rows, -1, length, size), for_v.view(rows, -1, length, size), None, None


class SummedNll(torch.autograd.Function):
    """Summed negative log-likelihood of targets; keeps the gradient in the logits' dtype and nothing in float32."""

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
        """Softmax minus one at the target, times the incoming gradient."""
        (kept,) = ctx.saved_tensors
        return kept * grad.to(kept.dtype), None
