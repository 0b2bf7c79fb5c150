"""The groups of a profile of training."""

import pytest

from benchmarks.step_profile import shares


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
    assert found["matrix products"] == pytest.approx(0.6)
    assert found["optimizer"] == pytest.approx(0.1)
    assert found["Python and autograd"] == pytest.approx(0.1)
    assert sum(found.values()) == pytest.approx(1.0)
