"""Rounding of weights to the values of a format, in PyTorch, fast enough for every optimizer step.

The values are those that a file of the format holds: of GGUF types as the package ``gguf`` writes them
(``gguf/quants.py``, which follows llama.cpp's ``ggml-quants.c``), scales in float16 included; of NF4 those of
bitsandbytes with double quantization. Blocks of 32 values (64 with NF4) share a scale.

Imports torch: only worker processes import this module.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from assistant_builder.quantization import METHODS
from assistant_builder.quantization.gguf_types import GGUF_TYPES

BLOCK, NF4_BLOCK = 32, 64
CACHED_VALUES = 1 << 18
"""Values that are rounded at a time, so that intermediate results stay in the cache of a core."""
GPU_VALUES = 1 << 25
"""Values that a GPU rounds at a time: all of most layers, and part of a head, whose float32 copies need gigabytes."""


def _inverse(scale: torch.Tensor) -> torch.Tensor:
    return torch.where(scale == 0, 0, 1 / scale)


def _stored(values: torch.Tensor) -> torch.Tensor:
    return values.half().float()


def _largest(x: torch.Tensor) -> torch.Tensor:
    # the value with the largest size of each block [blocks, 1]; of two with the same size the first one
    if x.device.type != "cpu":  # what follows is faster on a CPU, but would wait for a GPU at any()
        return x.gather(-1, x.abs().argmax(-1, keepdim=True))
    high, low = x.amax(-1, keepdim=True), x.amin(-1, keepdim=True)
    largest = torch.where(-low > high, low, high)
    tied = (high == -low).squeeze(-1)
    if tied.any():
        rows = x[tied]
        largest[tied] = rows.gather(-1, rows.abs().argmax(-1, keepdim=True))
    return largest


def _q4_0(x: torch.Tensor) -> torch.Tensor:
    scale = _largest(x) / -8
    return (x * _inverse(scale)).add_(8.5).trunc_().clamp_(0, 15).sub_(8).mul_(_stored(scale))


def _q8_0(x: torch.Tensor) -> torch.Tensor:
    scale = x.abs().amax(-1, keepdim=True) / 127
    levels = x * _inverse(scale)
    # halves are rounded away from zero
    return levels.abs().add_(0.5).floor_().mul_(levels.sign()).mul_(_stored(scale))


def _with_minimum(x: torch.Tensor, most: int) -> torch.Tensor:
    high, low = x.amax(-1, keepdim=True), x.amin(-1, keepdim=True)
    scale = (high - low) / most
    levels = (x - low).mul_(_inverse(scale)).add_(0.5).trunc_().clamp_(0, most)
    return levels.mul_(_stored(scale)).add_(_stored(low))


_GGUF: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "Q8_0": _q8_0,
    "Q5_1": lambda x: _with_minimum(x, 31),
    "Q4_1": lambda x: _with_minimum(x, 15),
    "Q4_0": _q4_0,
}
FORMATS = (*_GGUF, "NF4")  # the formats to which weights can be rounded


def rounded(weight: torch.Tensor, kind: str, out: torch.Tensor | None = None) -> torch.Tensor:
    """The values of a matrix in a file of a format.

    Args:
        weight: The matrix, float16 or float32 ``[rows, columns]``; ``columns`` is a multiple of :data:`BLOCK`.
        kind: A name of :data:`FORMATS`.
        out: Where the values are written, ``[rows, columns]``, in its dtype; None for a new matrix in float32.

    Returns:
        ``out``, or the new matrix.
    """
    result = torch.empty_like(weight, dtype=torch.float32) if out is None else out
    if kind == "NF4":
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit

        how = {"blocksize": NF4_BLOCK, "compress_statistics": True, "quant_type": "nf4"}
        return result.copy_(dequantize_4bit(*quantize_4bit(weight.contiguous(), **how)))
    rows, columns = weight.shape
    step = max(1, (CACHED_VALUES if weight.device.type == "cpu" else GPU_VALUES) // columns)
    for start in range(0, rows, step):
        part = weight[start : start + step].float()
        result[start : start + step] = _GGUF[kind](part.view(-1, BLOCK)).view(part.shape)
    return result


def rounded_bytes(rows: int, columns: int, kind: str) -> int:
    """Bytes of a matrix in a file of a format, block constants included."""
    if kind == "NF4":
        return METHODS["nf4"].weight_bytes(rows, columns, double_quant=True)
    return round(rows * columns * (GGUF_TYPES[kind].bits if can_round(columns, kind) else 16) / 8)


def can_round(columns: int, kind: str) -> bool:
    """Whether rows of this length consist of whole blocks; a file stores other matrices in 16 bits."""
    return kind == "NF4" or columns % BLOCK == 0
