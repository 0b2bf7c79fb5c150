"""What the planner selects on the page before the user does, shown with its reason and open to change."""

from dataclasses import replace
from typing import Any

import gradio as gr
import pytest

from assistant_builder.config import StudyConfig
from assistant_builder.planning import plan as planner
from assistant_builder.planning.hardware import CARDS, Machine
from assistant_builder.study import Study
from assistant_builder.ui.train.settings import (
    PLANNED_KEYS,
    TrainSettings,
    not_started,
    recommend_settings,
    recommendation_note,
    starting_config,
)
from tests.synthetic_study import LARGE, new_study, running
from tests.ui.blocks import in_order, inside_blocks


def on(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
    monkeypatch.setattr(planner, "this_machine", lambda: machine)


@pytest.fixture
def study() -> Study:
    return new_study("ferries", LARGE, **{"train.max_length": 2048})


def test_where_it_fits_nothing_is_changed_and_that_is_said(study, monkeypatch):
    on(monkeypatch, CARDS["A100 80 GB"])
    seen = recommend_settings(study)
    assert seen is not None
    assert seen.changes == {}
    assert seen.config == study.config == starting_config(study)
    said = recommendation_note(seen)
    for words in ("The settings fit into memory", "Recommended: Full (LoRA, 16-bit)", "A100 80 GB"):
        assert words in said


def test_where_memory_is_short_what_costs_least_is_selected(study, monkeypatch):
    study.write_config(study.config.with_changes({"train.gradient_checkpointing": "off"}))
    on(monkeypatch, CARDS["T4 16 GB"].with_memory(1_500_000_000))
    seen = recommend_settings(study)
    # no result changes with it
    assert seen is not None and set(seen.changes) == {"train.micro_batch_size"}
    assert "no" not in (seen.after.lora.fit, seen.after.qlora.fit)
    chosen = seen.changes["train.micro_batch_size"]
    assert (
        starting_config(study).train.micro_batch_size
        == chosen
        < study.config.train.micro_batch
        == 8
    )
    said = recommendation_note(seen)
    assert f"Micro-batch size {chosen}." in said and "You can change" in said


def test_what_has_been_started_keeps_its_settings(study, monkeypatch):
    study.write_config(study.config.with_changes({"train.gradient_checkpointing": "off"}))
    on(monkeypatch, CARDS["T4 16 GB"].with_memory(1_500_000_000))
    assert not_started(study) and starting_config(study) != study.config
    running(study, "data")
    assert not not_started(study) and starting_config(study) == study.config


def test_another_base_is_selected_for_anew(study, monkeypatch):
    on(monkeypatch, replace(CARDS["RTX 3060 12 GB"], free_bytes=6_000_000_000))
    settings = inside_blocks(TrainSettings)
    large = study.config.with_changes({"model.base": "qwen3-1.7b", "train.micro_batch_size": 16})
    picker = gr.Dropdown()
    components = [settings.form.components[key] for key in PLANNED_KEYS]

    def told(config: StudyConfig) -> dict[str, Any]:
        values = {picker: study.name, **settings.form.values(config)}
        updates = settings._model_chosen(picker, values)
        return dict(zip(PLANNED_KEYS, in_order(updates, components), strict=True))

    seen = recommend_settings(study, large)
    assert seen is not None
    assert told(large)["train.micro_batch_size"] == seen.config.train.micro_batch_size
    assert told(study.config) == {
        key: getattr(study.config.train, key.partition(".")[2]) for key in PLANNED_KEYS
    }
    notes = settings.note_updates(study, large)
    assert notes.keys() == set(settings.notes) and "GB" in str(notes[settings.selected])


def test_a_base_of_unknown_shape_is_left_alone(study):
    assert (
        recommend_settings(study, study.config.with_changes({"model.base": "nobody/nothing"}))
        is None
    )
