"""Where the marks of the pictures lie: each position is that of its value on the axis that is drawn below it."""

import copy
from typing import Any

import pytest

from evals.report.charts import (
    Scale,
    axis,
    seed_panel,
)
from tests.evals.report.additions import additions


def value_at(ticks: list[dict[str, Any]], position: float) -> float:
    """The value at a position, read off the printed axis as a reader would."""
    values = [float(tick["text"].replace("−", "-")) for tick in ticks]
    first, last = ticks[0]["at"], ticks[-1]["at"]
    return values[0] + (position - first) * (values[-1] - values[0]) / (last - first)


def test_seeds_lie_on_one_axis():
    panel = seed_panel(additions()["seeds"], 0.03)
    assert panel is not None
    assert [
        row["label"] for row in panel["rows"]
    ] == "Seed 0 | Seed 1 | Seed 2 | Mean of the runs".split(" | ")
    assert value_at(panel["ticks"], panel["rows"][-1]["low"]) == pytest.approx(0.025, abs=1e-4)
    one = copy.deepcopy(additions()["seeds"]) | {"count": 1, "spread": None}
    assert seed_panel(one, 0.03) is None


def test_ticks_of_an_axis_have_the_same_decimals():
    assert [tick["text"] for tick in axis(Scale(0.89, 0.99))] == "0.90 0.92 0.94 0.96 0.98".split()
    assert [
        tick["text"] for tick in axis(Scale(-0.05, 0.05), 4)
    ] == "−0.050 −0.025 0 0.025 0.050".split()
