"""Where the marks of the pictures lie: each position is that of its value on the axis that is drawn below it."""

import copy
from typing import Any

import pytest

from evals.report.charts import (
    Scale,
    axis,
    contrast_panels,
    preference_bar,
    reliability_chart,
    seed_dots,
    seed_panel,
    task_panel,
    waterfall,
)
from evals.report.schema import Attribution, Report, Task
from tests.evals.report.additions import additions, contrast


def value_at(ticks: list[dict[str, Any]], position: float) -> float:
    """The value at a position, read off the printed axis as a reader would."""
    values = [float(tick["text"].replace("−", "-")) for tick in ticks]
    first, last = ticks[0]["at"], ticks[-1]["at"]
    return values[0] + (position - first) * (values[-1] - values[0]) / (last - first)


def test_waterfall_steps_start_where_the_last_one_ended():
    chart = waterfall(Attribution.model_validate(additions()["attribution"]))
    assert chart is not None
    low, stored, trained, high = chart["rows"]
    assert [row["label"] for row in chart["rows"]] == [
        "Full (LoRA, 16-bit)",
        "Storing the base in 4 bits",
        "Training in 4 bits",
        "Compact (QLoRA, 4-bit)",
    ]
    assert stored["from_"] == low["end"]
    assert trained["from_"] == stored["end"]
    assert high["from_"] == trained["end"]
    assert high["end"] == pytest.approx(trained["end"], abs=1e-3), (
        "the steps lead from one level to the other"
    )
    for position, value in (
        (low["end"], 0.900),
        (stored["end"], 0.960),
        (trained["end"], 0.944),
        (high["end"], 0.944),
        (stored["low"], 0.940),
        (stored["high"], 0.980),
        (trained["low"], 0.930),
    ):
        assert value_at(chart["ticks"], position) == pytest.approx(value, abs=1e-4)
    assert stored["harm"] and not trained["harm"]
    assert stored["text"] == "+0.060"
    assert stored["interval"] == "+0.040 to +0.080"
    assert low["text"] == "0.900"


def test_waterfall_of_a_score_is_mirrored():
    score = additions()["attribution"]
    score["metric"] = "exact_match"
    for step, value in zip(score["steps"], (0.72, -0.05, 0.01, 0.68), strict=True):
        step["value" if step["kind"] == "level" else "delta"] = value
        step |= {"ci_low": value - 0.01, "ci_high": value + 0.01} if step["kind"] == "step" else {}
    chart = waterfall(Attribution.model_validate(score))
    assert chart is not None
    _, stored, trained, _ = chart["rows"]
    assert stored["harm"] and stored["end"] > stored["from_"] and not trained["harm"]
    assert value_at(chart["ticks"], stored["end"]) == pytest.approx(67.0, abs=0.01)


def test_a_waterfall_without_a_difference_can_be_drawn():
    same = additions()["attribution"]
    for step in same["steps"]:
        step |= (
            {"value": 0.9}
            if step["kind"] == "level"
            else {"delta": 0.0, "ci_low": 0.0, "ci_high": 0.0}
        )
    chart = waterfall(Attribution.model_validate(same))
    assert chart is not None and {row["end"] for row in chart["rows"]} == {50.0}
    assert waterfall(None) is None


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


def test_reliability_points_lie_at_probability_and_share_right():
    chart = reliability_chart(additions()["reliability"])
    assert chart is not None
    assert [line["arm"] for line in chart["lines"]] == ["lora", "qlora"]
    points = chart["lines"][0]["points"]
    assert [(point["x"], point["y"]) for point in points] == [(30, 75), (70, 20)], "y runs down"
    assert (points[0]["low"], points[0]["high"]) == (86, 60)
    assert [(tick["at"], tick["text"]) for tick in chart["y"]][::4] == [(100, "0%"), (0, "100%")]
    assert reliability_chart(None) is None


def test_seeds_lie_on_one_axis():
    chart, panel = seed_dots(additions()["seeds"]), seed_panel(additions()["seeds"], 0.03)
    assert chart is not None and panel is not None
    lora, qlora = chart["rows"]
    assert [value_at(chart["ticks"], dot["at"]) for dot in lora["dots"]] == pytest.approx(
        [0.90, 0.91, 0.92], abs=1e-4
    )
    assert value_at(chart["ticks"], qlora["mean"]) == pytest.approx(0.94, abs=1e-4)
    assert [
        row["label"] for row in panel["rows"]
    ] == "Seed 0 | Seed 1 | Seed 2 | Mean of the runs".split(" | ")
    assert value_at(panel["ticks"], panel["rows"][-1]["low"]) == pytest.approx(0.025, abs=1e-4)
    one = copy.deepcopy(additions()["seeds"]) | {"count": 1, "spread": None}
    assert seed_dots(one) is None and seed_panel(one, 0.03) is None


def test_preference():
    bar = preference_bar(additions()["judge"])
    assert bar is not None and (bar["at"], bar["low"], bar["high"]) == (44.8, 33, 57)
    assert preference_bar(None) is None
    assert preference_bar({**additions()["judge"], "preference": None, "ci": None}) is None


def test_ticks_of_an_axis_have_the_same_decimals():
    assert [tick["text"] for tick in axis(Scale(0.89, 0.99))] == "0.90 0.92 0.94 0.96 0.98".split()
    assert [
        tick["text"] for tick in axis(Scale(-0.05, 0.05), 4)
    ] == "−0.050 −0.025 0 0.025 0.050".split()
