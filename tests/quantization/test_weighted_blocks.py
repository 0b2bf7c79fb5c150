"""Block scales by a weighted squared error: never worse than those of the package gguf, in the same layout."""

import itertools
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, dequantize
from gguf import quantize as quantize_plain
from hypothesis import given, settings
from hypothesis import strategies as st

from assistant_builder.quantization.weighted_blocks import BLOCK, WEIGHTED_TYPES, quantize_weighted

Array = np.ndarray[Any, Any]


def restored(blocks: Array, kind: str) -> Array:
    return dequantize(blocks, GGMLQuantizationType[kind]).astype(np.float64)


def errors(rows: Array, values: Array, weights: Array) -> Array:
    """The weighted squared error of each block."""
    return (weights * (rows.astype(np.float64) - values) ** 2).reshape(-1, BLOCK).sum(axis=1)


def both(rows: Array, kind: str, weights: Array) -> tuple[Array, Array]:
    """Errors with searched scales and with those of the package gguf."""
    own, plain = (
        quantize_weighted(rows, kind, weights),
        quantize_plain(rows, GGMLQuantizationType[kind]),
    )
    assert own.shape == plain.shape and own.dtype == plain.dtype == np.uint8
    return errors(rows, restored(own, kind), weights), errors(rows, restored(plain, kind), weights)


def matrix(seed: int, *, columns: int = 4 * BLOCK, scale: float = 0.05) -> tuple[Array, Array]:
    """A matrix with rare large values, and weights of columns over four orders of magnitude."""
    luck = np.random.default_rng(seed)
    rows = luck.standard_t(4, (50, columns)) * scale
    return rows.astype(np.float16).astype(np.float32), np.exp(luck.normal(0, 2, columns))


@pytest.mark.parametrize("kind", WEIGHTED_TYPES)
def test_the_error_of_no_block_is_above_the_plain_one(kind):
    for seed, scale in enumerate((1.0, 0.05, 1e-3, 1e-6, 1000.0)):
        rows, weights = matrix(seed, scale=scale)
        own, plain = both(rows, kind, weights)
        assert (own <= plain * (1 + 1e-6) + 1e-30).all()
        if 1e-3 <= scale <= 1:
            assert own.sum() < 0.9 * plain.sum()


@pytest.mark.parametrize("kind", WEIGHTED_TYPES)
@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(-60000, 60000, width=16), min_size=BLOCK, max_size=BLOCK),
    weights=st.lists(st.floats(0, 1e6, width=32), min_size=BLOCK, max_size=BLOCK),
)
def test_no_values_and_weights_raise_the_error(kind, values, weights):
    rows, column_weights = np.array([values], np.float32), np.array(weights)
    own, plain = both(rows, kind, column_weights)
    if np.isfinite(plain).all():
        assert (
            own[0]
            <= plain[0] * (1 + 1e-5) + 1e-6 * column_weights.max() * np.abs(rows).max() ** 2 * 1e-6
        )
    assert np.isfinite(restored(quantize_weighted(rows, kind, column_weights), kind)).all()


@pytest.mark.parametrize("kind", WEIGHTED_TYPES)
def test_equal_weights_are_plain_least_squares(kind):
    rows, _ = matrix(3)
    ones = quantize_weighted(rows, kind, np.ones(rows.shape[1]))
    assert np.array_equal(ones, quantize_weighted(rows, kind, np.full(rows.shape[1], 7.5)))
    assert (
        errors(rows, restored(ones, kind), np.ones(rows.shape[1]))
        <= errors(
            rows,
            restored(quantize_plain(rows, GGMLQuantizationType[kind]), kind),
            np.ones(rows.shape[1]),
        )
        * (1 + 1e-6)
    ).all()


def test_the_scale_of_a_block_is_close_to_the_best_of_all():
    """Every scale of float16 within the range that is searched, on ten blocks."""
    rows, weights = matrix(5, columns=BLOCK)
    for row in rows[:10]:
        own = errors(
            row[None], restored(quantize_weighted(row[None], "Q4_0", weights), "Q4_0"), weights
        )[0]
        start = np.abs(row).max() / 8
        scales = np.unique(np.linspace(0.75 * start, 1.1 * start, 2000).astype(np.float16)).astype(
            np.float64
        )
        best = min(
            (
                weights * (row - sign * scale * np.clip(np.rint(row / (sign * scale)), -8, 7)) ** 2
            ).sum()
            for scale, sign in itertools.product(scales, (1, -1))
        )
        assert own <= 1.6 * best


def test_columns_without_weight_do_not_count():
    rows = np.full((1, BLOCK), 0.1, np.float32)
    rows[0, 0], weights = 8.0, np.ones(BLOCK)
    weights[0] = 0
    found = restored(quantize_weighted(rows, "Q4_1", weights), "Q4_1")
    assert (
        np.abs(found[0, 1:] - 0.1).max()
        < np.abs(
            restored(quantize_plain(rows, GGMLQuantizationType.Q4_1), "Q4_1")[0, 1:] - 0.1
        ).max()
        + 1e-9
    )
    for kind in WEIGHTED_TYPES:
        assert not restored(
            quantize_weighted(np.zeros((2, BLOCK), np.float32), kind, np.zeros(BLOCK)), kind
        ).any()
