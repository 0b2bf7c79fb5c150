"""The groups of a profile of training."""

from __future__ import annotations

import pytest

from benchmarks.step_profile import report, shares


def test_each_operation_counts_for_one_group_and_the_largest_comes_first():
    found = shares(
        {
            "aten::mm": 5.0,
            "aten::addmm": 1.0,
            "aten::mul": 2.0,
            "FusedLoraLinearBackward": 1.0,
            "Optimizer.step#AdamW.step": 1.0,
        }
    )
    assert list(found)[:2] == ["matrix products", "other elementwise operations"]
    assert found["matrix products"] == pytest.approx(0.6) and found["optimizer"] == pytest.approx(
        0.1
    )
    assert found["Python and autograd"] == pytest.approx(0.1) and sum(
        found.values()
    ) == pytest.approx(1.0)


def test_the_report_compares_the_step_with_what_the_processors_can_do():
    text = report(
        {
            "seconds": {"aten::mm": 1.0, "aten::mul": 3.0},
            "dtype": "bfloat16",
            "speed": 6e11,
            "step_speed": 1.5e11,
            "limit": 1e12,
            "threads": 2,
            "cpu": "AVX512",
        }
    )
    assert "matrix products                   25.0%" in text
    assert (
        " 600 GFLOP/s, 60% of 1000 in products of square matrices" in text
        and " 150 GFLOP/s, 15% of" in text
    )
