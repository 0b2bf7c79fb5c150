"""The grid of measured peaks, its predictions and its table; nothing is trained."""

from typing import Any

import pytest

from benchmarks.peak_memory import config_of, grid, predicted_bytes


def run(**changes: Any) -> dict[str, Any]:
    return {
        "arm": "lora",
        "batch": 4,
        "length": 128,
        "checkpointing": "off",
        "peak_memory_bytes": 2 * 10**9,
        **changes,
    }


def test_the_grid_has_every_combination_once():
    cases = list(grid())
    assert len(cases) == 3 * 2 * 2 * 2 == len({tuple(case.values()) for case in cases})


def test_a_case_is_trained_with_its_settings():
    train = config_of(run(checkpointing="on"), {}).train
    assert train.micro_batch_size == 4
    assert train.max_length == 128
    assert train.gradient_checkpointing == "on"


def test_predictions_depend_on_the_settings():
    plain = predicted_bytes(run(), {})
    assert (
        predicted_bytes(run(checkpointing="on"), {}) < plain < predicted_bytes(run(length=512), {})
    )
    assert plain < predicted_bytes(run(batch=8), {})
    # with enough memory a CPU trains on weights dequantized to the compute dtype
    assert predicted_bytes(run(arm="qlora"), {}) == pytest.approx(plain, rel=0.001)
