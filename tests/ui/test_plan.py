"""The Plan tab: the plan of a study on several machines as chart, tables and text."""

from dataclasses import replace

import pytest

from assistant_builder.arms import label as label_of
from assistant_builder.atomic_io import append_jsonl, write_json
from assistant_builder.config import StudyConfig
from assistant_builder.errors import ConfigError
from assistant_builder.planning.hardware import CARDS, this_machine
from assistant_builder.planning.plan import Plan, plan_study
from assistant_builder.planning.training_time import MeasuredRuns
from assistant_builder.ui.plan.tab import THIS_COMPUTER, PlanTab, study_plan
from assistant_builder.ui.plan.view import (
    PARTS,
    plan_figure,
    plan_panel,
    plan_text,
)
from assistant_builder.ui.refresh import StudyView
from evals.report.number_format import size
from tests.synthetic_study import new_study, with_data
from tests.ui.blocks import inside_blocks


def plan_for(model: str, card: str = "RTX 4090 24 GB") -> Plan:
    return plan_study(StudyConfig().with_changes({"model.base": model}), machine=CARDS[card])


def test_the_bars_of_the_chart_add_up_to_the_peak():
    plan = plan_for("llama-3.1-8b-instruct")
    figure = plan_figure(plan)
    bars = [trace for trace in figure.data if trace.type == "bar"]
    assert [bar.name for bar in bars] == list(PARTS.values())
    for place, label in enumerate(bars[0].y):
        method = next(name for name in ("qlora", "lora") if label_of(name) == label)
        assert sum(bar.x[place] for bar in bars) == pytest.approx(
            plan.methods[method].total_bytes / 1e9
        )
    assert figure.layout.shapes[0].x0 == pytest.approx(plan.memory_bytes / 1e9)


def test_the_chart_shows_the_peak_that_the_sentence_names():
    measured = MeasuredRuns(memory={("cpu", "lora"): 0.8, ("cpu", "qlora"): 0.8}, runs=2)
    plan = replace(
        plan_study(StudyConfig()),
        machine=replace(this_machine(), device="cpu"),
        measured_runs=measured,
    )
    assert plan.lora.factor == 0.8
    figure = plan_figure(plan)
    bars = [trace for trace in figure.data if trace.type == "bar"]
    place = list(bars[0].y).index(label_of("lora"))
    assert sum(bar.x[place] for bar in bars) == pytest.approx(plan.lora.expected_bytes / 1e9)
    assert f"<b>{size(plan.lora.expected_bytes)}</b>" in [
        each.text for each in figure.layout.annotations
    ]


def test_the_text_for_the_terminal_is_complete():
    plan = plan_for("llama-3.3-70b-instruct", "A100 80 GB")
    columns, rows, lines = plan_text(plan)
    assert columns[1:] == [label_of(name) for name in ("qlora", "lora")]
    assert {row[0] for row in rows} >= {*PARTS.values(), "Peak", "Training time", "Cost"}
    assert any(line.startswith("Recommended: qlora.") for line in lines)


def test_a_study_is_planned_from_its_own_data(home):
    plan = study_plan(with_data(new_study()))
    assert not plan.lengths.assumed and 10 < plan.pairs < 200
    assert plan.machine.is_local


def test_after_five_steps_the_measured_speed_is_used(home):
    study = with_data(new_study())
    for step in range(1, 8):
        append_jsonl(
            study.arm_folder("qlora") / "metrics.jsonl",
            {
                "event": "step",
                "step": step,
                "steps": 60,
                "tokens": 100 * step,
                "busy_seconds": 3.0 * step,
                "elapsed_seconds": 3.0 * step,
            },
        )
    write_json(study.arm_folder("qlora") / "plan.json", {"ahead": {"steps": 60, "tokens": 6000}})
    plan = study_plan(study)
    assert set(plan.measured) == {"qlora"} and plan.qlora.seconds == plan.measured["qlora"]
    assert plan.measured["qlora"] == pytest.approx(180), "60 steps of 3 seconds"
    assert "extrapolated" in plan_panel(plan)
    assert study_plan(study, "L4 24 GB").measured == {}, "another machine has its own speed"


def test_inputs_of_the_user_take_precedence(home):
    study = new_study()
    plan = study_plan(study, "A100 80 GB", "40GB", "3.5", "10,000")
    assert (plan.memory_bytes, plan.price_per_hour(), plan.pairs) == (40_000_000_000, 3.5, 10_000)
    assert study.config.eval.price_per_hour is None, "a plan changes nothing"


@pytest.mark.parametrize(
    ("field", "text"), [("memory", "lots"), ("price", "cheap"), ("pairs", "many")]
)
def test_an_invalid_input_is_refused(home, field, text):
    with pytest.raises(ConfigError, match=text):
        study_plan(new_study(), **{field: text})


def test_the_tab_draws_a_study_and_shows_errors(home):
    new_study("library")
    tab = inside_blocks(PlanTab)
    section = next(section for section in tab.sections() if section.key == "plan")
    drawn = section.values(StudyView("library"))
    assert len(drawn) == len(section.outputs) and "LoRA" in drawn[4]
    values = {**dict.fromkeys(tab._choices, ""), tab.machine: THIS_COMPUTER, tab.memory: "no"}
    refused = tab._planned("library", values)
    assert "not an amount of memory" in refused[tab.verdict]
    assert refused[tab.chart]["visible"] is False
