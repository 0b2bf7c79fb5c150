"""Where the marks of the pictures lie: each position is that of its value on the axis that is drawn below it."""

import copy
from typing import Any

import pytest

from evals.report.charts import (
    Scale,
    axis,
    contrast_panels,
    seed_panel,
    task_panel,
)
from evals.report.schema import Report, Task
from tests.evals.report.additions import additions, contrast


def value_at(ticks: list[dict[str, Any]], position: float) -> float:
    """The value at a position, read off the printed axis as a reader would."""
    values = [float(tick["text"].replace("−", "-")) for tick in ticks]
    first, last = ticks[0]["at"], ticks[-1]["at"]
    return values[0] + (position - first) * (values[-1] - values[0]) / (last - first)


def test_every_contrast_has_the_margin_drawn_in():
    rows = [
        contrast("Q4-L16", "nll_per_token", 0.02, 0.01, 0.03),
        contrast("LM-L16", "nll_per_token", -0.01, -0.02, 0.0),
        contrast("L16-B16", "nll_per_token", -2.0, -2.1, -1.9),
    ]
    verdict = {"contrast": "Q4-L16", "margin": 0.025}
    cells = {cell: {"metrics": {"nll_per_token": 1.0}} for cell in ("B16", "L16", "LM", "Q4")}
    report = {"primary_metric": "nll_per_token", "verdict": verdict, "contrasts": rows}
    panel, far = contrast_panels(Report.model_validate({**report, "cells": cells}))
    for row, mark in zip(rows[:2], panel["rows"], strict=True):
        assert value_at(panel["ticks"], mark["margin"]) == pytest.approx(0.025, abs=1e-4)
        assert value_at(panel["ticks"], mark["at"]) == pytest.approx(row["delta"], abs=1e-4)
        assert value_at(panel["ticks"], mark["low"]) == pytest.approx(row["ci_low"], abs=1e-4)
        assert value_at(panel["ticks"], mark["high"]) == pytest.approx(row["ci_high"], abs=1e-4)
    assert [mark["label"] for mark in far["rows"]] == ["L16 − B16"]
    assert contrast_panels(Report.model_validate({"verdict": {"contrast": None}})) == []


def test_a_task_that_was_forgotten_lies_right():
    panel = task_panel(Task.model_validate(additions()["tasks"]["ab_retention"]))
    assert all(mark["at"] > panel["zero"] for mark in panel["rows"])
    assert value_at(panel["ticks"], panel["rows"][0]["at"]) == pytest.approx(-4.2, abs=0.01)


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
