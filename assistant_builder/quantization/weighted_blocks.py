"""Quantization to Q5_1, Q4_1 and Q4_0 with scales that minimise a weighted squared error.

The layout of the blocks is that of llama.cpp (``block_q5_1``, ``block_q4_1`` and ``block_q4_0`` in ``ggml-common.h``),
so that the result is a plain file of these types. Only the scales are chosen otherwise: of each block a few are tried,
each with the least-squares scale for its levels, where the package ``gguf`` takes the scale that just covers the
largest value. Q8_0 has 255 levels and gains nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

BLOCK = 32  # values that share a scale
# parts of the range of a block that its levels cover; the first one is that of the package ``gguf``
_RANGES = (1.0, 0.8, 0.85, 0.9, 0.95, 1.05)
_GAIN = 1e-6  # share by which the error must fall, so that rounding in its sum decides nothing


@dataclass(frozen=True)
class _Levels:
    # the levels of a type: a value is ``scale · level``, with an offset ``scale · level + minimum``
    low: int
    high: int
    offset: bool


_TYPES = {"Q5_1": _Levels(0, 31, True), "Q4_1": _Levels(0, 15, True), "Q4_0": _Levels(-8, 7, False)}
WEIGHTED_TYPES = tuple(_TYPES)  # the types that can be written


def quantize_weighted(rows: Floats, kind: str, weights: NDArray[Any]) -> NDArray[np.uint8]:
    """Quantize a matrix; the weighted squared error is at most that of the package ``gguf``, in every block.

    Args:
        rows: The matrix, shape ``[n, columns]``; ``columns`` is a multiple of 32.
        kind: A name of :data:`WEIGHTED_TYPES`.
        weights: Weight of the squared error in each column, shape ``[columns]``, not negative.

    Returns:
        The blocks, shape ``[n, bytes of a row]``.
    """
    levels = _TYPES[kind]
    x = rows.reshape(len(rows), -1, BLOCK)
    w = np.asarray(weights, np.float32).reshape(1, -1, BLOCK)
    largest = w.max(axis=-1, keepdims=True)  # the weights of a block count relative to one another
    scale, minimum = _search(x, (w / np.where(largest > 0, largest, 1)).astype(np.float32), levels)
    q = _nearest(x, scale, minimum, levels)
    parts: list[NDArray[Any]] = [_bytes(scale.astype(np.float16))]
    if levels.offset:
        parts.append(_bytes(minimum.astype(np.float16)))
    nibbles = (q - levels.low).astype(np.uint8)
    if kind == "Q5_1":
        parts.append(np.packbits(nibbles >> 4, axis=-1, bitorder="little"))
    half = BLOCK // 2
    parts.append(nibbles[..., :half] & 15 | nibbles[..., half:] << 4)
    return np.concatenate(parts, axis=-1).reshape(len(rows), -1)


def _bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(values).view(np.uint8)


def _search(x: Floats, w: Floats, levels: _Levels) -> tuple[Floats, Floats]:
    if levels.offset:
        low, high = x.min(axis=-1, keepdims=True), x.max(axis=-1, keepdims=True)
    else:
        largest = np.take_along_axis(x, np.abs(x).argmax(axis=-1, keepdims=True), axis=-1)
        unit = largest / levels.low
    best: Any = None
    for part in _RANGES:
        if levels.offset:
            margin = (1 - part) / 2 * (high - low)
            scale, minimum = (high - low - 2 * margin) / levels.high, low + margin
        else:
            scale, minimum = unit * part, np.zeros_like(unit)
        for refined in (False, True):
            if refined:
                scale, minimum = _least_squares(x, w, _nearest(x, scale, minimum, levels), levels)
            scale, minimum = _stored(scale), _stored(minimum)
            rest = x - _nearest(x, scale, minimum, levels) * scale - minimum
            tried = (w * np.square(rest)).sum(-1, keepdims=True), scale, minimum
            best = best or tried
            better = tried[0] < best[0] * (1 - _GAIN)
            best = tuple(np.where(better, new, old) for new, old in zip(tried, best, strict=True))
    return best[1], best[2]


def _stored(values: Floats) -> Floats:
    return np.clip(values, -65504, 65504).astype(np.float16).astype(np.float32)


def _nearest(x: Floats, scale: Floats, minimum: Floats, levels: _Levels) -> Floats:
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
    return np.clip(np.rint((x - minimum) * inverse), levels.low, levels.high)


def _least_squares(x: Floats, w: Floats, q: Floats, levels: _Levels) -> tuple[Floats, Floats]:
    def total(values: Any) -> Any:
        return (w * values).sum(axis=-1, keepdims=True)

    def ratio(above: Any, below: Any) -> Any:
        return np.divide(above, below, out=np.zeros_like(above), where=below > 0)

    if not levels.offset:
        return ratio(total(q * x), total(q * q)), np.zeros_like(x[..., :1])
    sums = total(np.ones_like(x))
    mean_x, mean_q = ratio(total(x), sums), ratio(total(q), sums)
    scale = ratio(total((q - mean_q) * (x - mean_x)), total(np.square(q - mean_q)))
    return scale, mean_x - scale * mean_q
