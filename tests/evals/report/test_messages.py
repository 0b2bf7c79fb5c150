"""The pieces below the report: items and flips, twins, curves, marks in texts, numbers in words, charts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistant_builder.atomic_io import append_jsonl, read_json, write_json
from assistant_builder.i18n import render
from evals.report.build import build_report
from evals.report.charts import Scale, interval_panels, loss_chart, ticks
from evals.report.items import changed_words, pieces, word_diff
from evals.report.number_format import decimals, difference, duration, interval, p_value, size, span
from evals.report.study_facts import curves
from tests.evals.report.synthetic_study import DECLINE, Recipe, write_study


def test_differing_items_come_first():
    report = build_report(write_study(Recipe(flips=0.2)))
    changes = [row["change"] for row in report["items"]]
    assert len(changes) == 208
    assert changes == sorted(changes, key=["lost", "gained", "different", "same"].index)
    flips = report["flips"]
    assert flips["lost"] and flips["gained"]
    for flip in flips["lost"]:
        assert flip["answers"]["L16"] == flip["reference"] != flip["answers"]["Q4"]
    assert len(flips["lost"]) == changes.count("lost")
    assert len(flips["gained"]) == changes.count("gained")


def test_declining_counts_both_ways(report):
    cells = report["declining"]["cells"]
    assert cells["B16"] == {
        "unanswerable_items": 8,
        "declined": 0,
        "answerable_items": 200,
        "false_declines": 0,
    }
    rows = report["items"]
    assert cells["L16"]["declined"] == sum(
        row["answers"]["L16"] == DECLINE for row in rows if not row["answerable"]
    )


def test_twins(report):
    twins = report["twins"]
    assert twins["matched"]
    assert [row["setting"] for row in twins["differences"]] == ["arm", "base_storage"]
    assert twins["same"]["train.rank"] == 16


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("config.json", "compute_dtype", "float32"),
        ("config.json", "base_storage", "float16"),
        ("summary.json", "steps", 59),
    ],
)
def test_arms_that_are_not_twins_are_reported(study, file, key, value):
    path = study.arm_folder("qlora") / file
    write_json(path, {**read_json(path), key: value})
    report = build_report(study)
    assert not report["twins"]["matched"]
    assert any(
        entry["code"] == "twins_differ" and entry["level"] == "serious"
        for entry in report["warnings"]
    )


@pytest.mark.parametrize(
    ("cards", "said"),
    [(("RTX 4090", "RTX 4090"), False), (("RTX 4090", "A100"), True), (("RTX 4090", None), False)],
)
def test_arms_of_different_cards_are_not_paired_by_dropout(study, cards, said):
    for arm, card in zip(("lora", "qlora"), cards, strict=True):
        path = study.arm_folder(arm) / "summary.json"
        write_json(path, {**read_json(path), "device": "cuda", "device_name": card})
    report = build_report(study)
    assert [report["resources"][arm]["cards"] for arm in ("lora", "qlora")] == [
        [card] for card in cards
    ]
    texts = [entry["text"] for entry in report["warnings"] if entry["code"] == "cards_differ"]
    assert bool(texts) == said
    assert all("A100, RTX 4090" in text and "dropout" in text for text in texts)


def test_a_step_logged_twice_counts_once(study):
    append_jsonl(
        study.arm_folder("lora") / "metrics.jsonl",
        {"event": "step", "step": 60, "steps": 60, "loss": 0.5},
    )
    steps = curves(study)["lora"]["steps"]
    assert [row["step"] for row in steps] == list(range(1, 61))
    assert steps[-1]["loss"] == 0.5


def test_changed_words_are_marked():
    ours, theirs = changed_words("It has 31 metres, I think.", "It has 13 metres.")
    assert ("31", True) in ours and ("13", True) in theirs
    assert changed_words("same", "same") == ([("same", False)], [("same", False)])
    assert changed_words("", "text") == ([], [("text", True)])


@given(st.text(), st.text())
def test_marked_runs_give_the_texts_back(first, second):
    runs = changed_words(first, second)
    assert ["".join(text for text, _ in side) for side in runs] == [first, second]


@given(st.text(), st.text())
def test_an_alignment_holds_both_texts(first, second):
    found = word_diff(first, second)
    assert "".join(text for text, side in found if side != "second") == first
    assert "".join(text for text, side in found if side != "first") == second
    assert all(text for text, _ in found)


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        (
            "the cat sat",
            "the dog sat",
            [("the ", "both"), ("cat", "first"), ("dog", "second"), (" sat", "both")],
        ),
        ("one two three", "one 2 3", [("one ", "both"), ("two three", "first"), ("2 3", "second")]),
        ("明日は晴れ", "今日は晴れ", [("明", "first"), ("今", "second"), ("日は晴れ", "both")]),
        ("น้ำเย็น", "น้ำร้อน", [("น้ำ", "both"), ("เย็", "first"), ("ร้อ", "second"), ("น", "both")]),
        ("हिन्दी में पानी", "हिन्दी में आग", [("हिन्दी में ", "both"), ("पानी", "first"), ("आग", "second")]),
        ("שלום עולם", "שלום לך", [("שלום ", "both"), ("עולם", "first"), ("לך", "second")]),
    ],
)
def test_words_are_aligned_in_any_script(first, second, found):
    assert word_diff(first, second) == found


def test_combining_characters_stay_with_their_base_character():
    assert pieces("cafe\u0301!  👩‍🔬👍🏽") == ["cafe\u0301", "!", "  ", "👩‍🔬", "👍🏽"]
    assert pieces("हिन्दी") == ["हिन्दी"]


def test_very_long_texts_are_not_aligned():
    first, second = "a b " * 3000, "a c " * 3000
    assert word_diff(first, second) == [(first, "first"), (second, "second")]


def test_numbers_in_words():
    row = {"delta": 0.0041, "ci_low": -0.0031, "ci_high": 0.0112}
    assert difference(row["delta"], "nll_per_token", row) == "+0.004"
    assert interval(row, "nll_per_token") == "−0.003 to +0.011"
    assert render(span(row, "nll_per_token")) == "−0.003 to 0.011"
    assert difference(-0.0484, "exact_match", {"ci_low": -0.077, "ci_high": -0.018}) == "−4.8"
    assert difference(-1e-9, "nll_per_token", row) == "0.000"
    assert decimals("nll_per_token", {"ci_low": -0.0001, "ci_high": 0.0001}) == 5
    assert decimals("nll_per_token", {"ci_low": 0.1, "ci_high": 0.1}) == 3
    assert (p_value(0.0), p_value(0.0417), p_value(None)) == ("< 0.001", "0.042", "–")
    assert [size(n) for n in (269e6, 2.95e9, 12, None)] == ["269 MB", "2.95 GB", "12 bytes", "–"]
    assert [duration(s) for s in (4.25, 141.3, 7300)] == ["4.2 s", "2 min 21 s", "2 h 1 min"]


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 8))
def test_ticks_lie_inside(low, width, wanted):
    found = ticks(low, low + width, wanted)
    assert len(found) <= wanted + 1
    slack = 1e-6 * width + 1e-9  # a float of 1e6 is no finer than 1e-10
    assert all(low - slack <= tick <= low + width + slack for tick in found)


def test_right_is_worse_on_every_axis():
    rows = [
        {
            "metric": "nll_per_token",
            "delta": 0.02,
            "ci_low": 0.01,
            "ci_high": 0.03,
            "higher_is_better": False,
        },
        {
            "metric": "exact_match",
            "delta": -0.02,
            "ci_low": -0.03,
            "ci_high": -0.01,
            "higher_is_better": True,
        },
    ]
    loss, shares = interval_panels(rows, "nll_per_token", 0.05)
    for panel in (loss, shares):
        mark = panel["rows"][0]
        assert panel["zero"] == 50 < mark["low"] < mark["at"] < mark["high"] <= 100
    assert loss["rows"][0]["margin"] > loss["rows"][0]["high"]
    assert shares["rows"][0]["margin"] is None
    exact = interval_panels(rows, "exact_match", 0.05)[1]["rows"][0]
    assert exact["margin"] > exact["high"]


def test_a_difference_of_nothing_can_be_drawn():
    rows = [
        {
            "metric": "exact_match",
            "delta": 0.0,
            "ci_low": 0.0,
            "ci_high": 0.0,
            "higher_is_better": True,
        }
    ]
    assert interval_panels(rows, "nll_per_token", 0.0)[0]["rows"][0]["at"] == 50


def test_curves_are_thinned_and_stay_inside():
    steps = [{"step": step, "loss": 3 / step} for step in range(1, 5001)]
    chart = loss_chart({"lora": {"steps": steps, "validation": [{"step": 5000, "loss": 0.1}]}})
    assert chart is not None
    train, validation = chart["lines"]
    assert len(train["points"]) <= 240 and validation["points"][0][0] == 100
    assert all(0 <= x <= 100 and 0 <= y <= 100 for x, y in train["points"])
    assert loss_chart({}) is None


def test_mirrored_scale():
    assert [Scale(-1, 1)(0.5), Scale(-1, 1, mirrored=True)(0.5)] == [75, 25]
