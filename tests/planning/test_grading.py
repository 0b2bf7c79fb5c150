"""Predicted beside measured, and what a machine learns from its finished runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from assistant_builder.config import StudyConfig
from assistant_builder.files import write_json
from assistant_builder.models.catalog import CATALOG
from assistant_builder.planning.activations import Batch
from assistant_builder.planning.grading import grades, largest_batch, plan_run, prediction
from assistant_builder.planning.history import Experience, learn
from assistant_builder.planning.machines import CARDS, this_machine
from assistant_builder.planning.planner import plan_study

PARAMETERS = CATALOG["smollm2-135m-instruct"].parameters


def run_of(folder: Path, name: str, arm: str = "lora", **record: Any) -> None:
    write_json(folder / "study.yaml", {})
    write_json(folder / "arms" / name / "summary.json", {
        "arm": arm, "device": "cpu", "peak_memory_bytes": 3_000_000_000, "train_seconds": 100.0,
        "total_parameters": 139_399_488, "predicted": {"peak_memory_bytes": 2_500_000_000, "flops": 2e13}, **record,
    })


def test_grades_are_signed_and_relative_to_what_was_measured():
    rows = grades({"peak_memory_bytes": 100, "train_seconds": 50.0, "base_bytes": 10,
                   "predicted": {"peak_memory_bytes": 90, "train_seconds": 60.0, "base_bytes": 10}})
    assert {row["quantity"]: row["error"] for row in rows} == {
        "base_bytes": 0.0, "peak_memory_bytes": pytest.approx(-0.1), "train_seconds": pytest.approx(0.2)}
    assert grades({"peak_memory_bytes": 100}) == []  # of a run that was not planned


def test_a_machine_learns_the_median_of_its_runs(home: Path):
    for number, peak in enumerate((2_600_000_000, 3_000_000_000, 9_900_000_000)):
        run_of(home / "studies" / f"s{number}", "lora", peak_memory_bytes=peak)
    seen = learn(PARAMETERS)
    assert seen.runs == 3 and seen.memory[("cpu", "lora")] == pytest.approx(1.2)
    assert seen.speed[("cpu", "lora")] == pytest.approx(2e11)


def test_damaged_and_unplanned_runs_teach_nothing(home: Path):
    run_of(home / "studies" / "old", "lora", predicted=None)
    (home / "studies" / "old" / "arms" / "qlora").mkdir()
    (home / "studies" / "old" / "arms" / "qlora" / "summary.json").write_text("{")
    assert learn(PARAMETERS) == Experience()


def test_a_model_of_another_size_and_a_run_of_seconds_teach_nothing(home: Path):
    run_of(home / "studies" / "large", "lora", total_parameters=8_000_000_000)
    assert learn(PARAMETERS) == Experience()
    run_of(home / "studies" / "short", "lora", train_seconds=5.0)
    assert learn(PARAMETERS).speed == {} and learn(PARAMETERS).runs == 1


def test_what_is_learnt_here_is_said_here_and_not_of_a_rented_card(home: Path):
    run_of(home / "studies" / "s", "lora")
    here = replace(this_machine(), device="cpu", flops=1e11)
    plan = replace(plan_study(StudyConfig()), machine=here, experience=learn(PARAMETERS))
    assert plan.lora.expected_bytes == round(1.2 * plan.lora.total_bytes)
    assert plan.lora.seconds == pytest.approx(plan.lora.work.flops / 2e11)
    assert replace(plan, machine=CARDS["L4 24 GB"]).lora.factor == 1.0


def test_corrections_are_never_learnt_from_themselves(home: Path):
    run_of(home / "studies" / "s", "lora")
    here = replace(this_machine(), device="cpu")
    plan = replace(plan_study(StudyConfig()), machine=here, experience=learn(PARAMETERS))
    told = prediction(plan, "lora")
    assert told["peak_memory_bytes"] == plan.lora.total_bytes
    assert told["corrected_peak_bytes"] == plan.lora.expected_bytes != plan.lora.total_bytes


def test_the_largest_batch_is_the_one_with_most_positions():
    batches = [[(10, 5), (12, 4)], [(30, 3)], [(15, 9), (15, 2)], [(15, 9), (15, 8)]]
    assert largest_batch(batches) == Batch(2, 15, 17, 9, padded=False)
    assert largest_batch([[(10, 5), (12, 4)]]) == Batch(2, 12, 9, 5, padded=True)


def test_a_run_is_planned_from_the_sequences_it_trains_on(tmp_path: Path, home: Path):
    entry = CATALOG["smollm2-135m-instruct"]
    write_json(tmp_path / "config.json", {**entry.config, "architectures": ["LlamaForCausalLM"]})
    config = StudyConfig().with_changes({"train.micro_batch_size": 2, "train.batch_size": 4, "train.epochs": 1})
    sequences = [(20, 5), (40, 10), (22, 6), (21, 4)]
    plan = plan_run(config, tmp_path, sequences, [0, 3, 2, 1])
    assert plan.batch == Batch(2, 40, 16, 10, padded=True)
    assert plan.lora.work.tokens == 2 * 21 + 2 * 40  # padding counts
    told = prediction(plan, "qlora")
    assert told["base_bytes"] == plan.qlora.weights_bytes and told["train_seconds"]
