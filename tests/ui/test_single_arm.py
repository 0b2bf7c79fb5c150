"""The page of a study that trains one arm: every tab, without the other arm."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from assistant_builder.chat.client import WorkerPool
from assistant_builder.chat.conversation import (
    Answer,
    Conversation,
    Turn,
    default_sides,
)
from assistant_builder.planning.advice import advise
from assistant_builder.study import Study
from assistant_builder.ui.chat.tab import ChatTab
from assistant_builder.ui.chat.view import PaneState, pane
from assistant_builder.ui.evaluate.item_filters import comparable_studies, shared_items
from assistant_builder.ui.evaluate.tab import EvaluateTab
from assistant_builder.ui.evaluate.view import evaluation_state, results_frame, verdict_picture
from assistant_builder.ui.plan.tab import study_plan
from assistant_builder.ui.plan.view import plan_panel, verdict
from assistant_builder.ui.refresh import StudyView
from assistant_builder.ui.study_snapshot import take_snapshot
from assistant_builder.ui.train.preflight import run_preflight
from assistant_builder.ui.train.preflight_view import preflight_card
from assistant_builder.ui.train.tab import TrainTab
from evals.study_compare import compare_studies
from tests.synthetic_study import LARGE, finished_study, new_study
from tests.typed_report import as_report
from tests.ui.blocks import inside_blocks


def drawn(tab: Any, study: Study) -> dict[str, Sequence[Any]]:
    """What the sections of a tab draw for a study."""
    look = StudyView(study.name)
    return {section.key: [section.mark(look), *section.values(look)] for section in tab.sections()}


@pytest.fixture
def alone() -> Study:
    return finished_study("alone", LARGE, arms=["qlora"])


def test_before_a_start_it_is_planned_and_described_by_the_one_arm():
    study = new_study("fresh", arms=["qlora"])
    seen = run_preflight(study, study.config)
    assert seen.plan is not None and seen.needed_bytes == seen.plan.qlora.expected_bytes
    assert seen.training_seconds == seen.plan.qlora.seconds
    card = preflight_card(seen)
    assert "in one training run" in card
    assert "so nothing is compared" in card
    assert "last run" not in card
    assert "The Q4_0 file of the last run answers worse" in preflight_card(
        replace(seen, losing="Q4_0")
    )
    plan = study_plan(study)
    assert "select both under Arms" in verdict(plan, advise(plan)) and plan_panel(plan)
    tab = inside_blocks(TrainTab)
    assert tab.settings.form.components["arms"].value == ["lora", "qlora"]


def test_evaluate_shows_what_tuning_changed(alone):
    seen = take_snapshot(alone)
    report = seen.report
    assert report is not None
    page = results_frame(as_report(report))
    assert "trained, alone" in page or "trained alone" in page
    assert "Tuned − untuned" in page and not verdict_picture(as_report(report))
    assert not evaluation_state(seen)
    shown = drawn(inside_blocks(lambda: EvaluateTab(WorkerPool(["false"]))), alone)
    assert shown["evaluate"][-1]["visible"] and "<iframe" in shown["evaluate-result"][1]
    assert shown["evaluate-conclusion"][1]["visible"]
    assert "ab-intervals" not in shown["evaluate-conclusion"][3]


def test_two_studies_are_compared_in_what_both_have(alone):
    both = finished_study("both", LARGE)
    record = compare_studies(both, alone)
    assert [found["cell"] for found in record["verdicts"]] == ["Q4"]
    assert {row["cell"] for row in record["contrasts"]} == {"Q4", "B4"}
    assert shared_items(both, alone).pair == ("A:Q4", "B:Q4")
    assert comparable_studies(alone)["both"] == comparable_studies(both)["alone"] > 0
    other = finished_study("other", LARGE, arms=["lora"])
    record = compare_studies(other, alone)
    assert not record["verdicts"] and any("alone" in text for text in record["warnings"])
    assert shared_items(other, alone).pair == ("A:B4", "B:B4")


def test_chat_has_one_pane_for_the_assistant_and_one_for_its_base(alone):
    arms = alone.config.arms
    talk = Conversation(
        (Turn("Where?", {"qlora": Answer("Here."), "base": Answer("Hm.")}, default_sides(arms)),)
    )
    shown = PaneState(talk, arms=arms)
    assert "Compact (QLoRA, 4-bit)" in pane("a", shown) and "Here." in pane("a", shown)
    base = pane("base", shown)
    assert "untuned (4-bit)" in base and "16-bit" not in base
    assert "Full (LoRA, 16-bit)" in pane("a", PaneState(Conversation(), arms=["lora"]))
    tab = inside_blocks(ChatTab_)
    settings = tab.settings.read(
        {**tab.settings.restored(None, {}), tab.settings.base: True, tab.settings.longest: 16}
    )
    updates = tab.talk.updates(alone, talk, settings)
    visible = {side: updates[box]["visible"] for side, box in tab.talk.panes.items()}
    assert visible == {
        "a": True,
        "b": False,
        "qat": False,
        "base": True,
        "copy": False,
    }


def ChatTab_() -> ChatTab:  # noqa: N802 - made like a class
    return ChatTab(WorkerPool(["false"]))
