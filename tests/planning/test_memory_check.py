"""Refusal of trainings that cannot fit, predicted against measured values, and corrections from finished runs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from assistant_builder.atomic_io import write_json
from assistant_builder.config import StudyConfig
from assistant_builder.errors import ConfigError, ResourceError
from assistant_builder.models.catalog import CATALOG
from assistant_builder.planning import hardware, memory_check
from assistant_builder.planning.hardware import CARDS, Machine, this_machine
from assistant_builder.planning.memory import Batch
from assistant_builder.planning.memory_check import (
    largest_batch,
    least_bytes,
    memory_note,
    methods_over_budget,
    plan_run,
    prediction,
    require_device,
    require_fit,
    require_study_fit,
    step_memory,
    where_both_fit,
)
from assistant_builder.planning.plan import Plan, plan_study
from assistant_builder.planning.training_time import MeasuredRuns, load_measured_runs
from assistant_builder.runner.run import run_study
from tests.synthetic_study import new_study, trained

LAPTOP = Machine("a laptop", "cpu", 16 * 10**9, 9 * 10**9)


def plan_for(model: str, machine: Machine, **train: object) -> Plan:
    changes = {"model.base": model, **{f"train.{key}": value for key, value in train.items()}}
    return plan_study(StudyConfig().with_changes(changes), machine=machine)


def sized(machine: Machine, memory: float) -> Machine:
    return replace(machine, memory_bytes=int(memory), free_bytes=int(memory))


def test_only_a_training_whose_lower_bound_does_not_fit_is_refused():
    plan = plan_for("llama-3.1-8b-instruct", CARDS["A100 80 GB"])
    low, expected = least_bytes(plan.lora), plan.lora.expected_bytes
    assert low < expected
    require_fit(plan)
    between = replace(plan, machine=sized(plan.machine, (low + expected) / 2))
    assert between.lora.checkpointing or between.lora.fit == "no"
    require_fit(between)
    with pytest.raises(ResourceError, match="16-bit LoRA.*at the very least"):
        require_fit(replace(plan, machine=sized(plan.machine, 15e9)))


def test_arms_are_checked_separately_and_the_remedy_names_the_settings():
    plan = plan_for("llama-3.3-70b-instruct", CARDS["A100 80 GB"])
    require_fit(plan, "qlora")
    assert [method.method for method in methods_over_budget(plan)] == ["lora"]
    with pytest.raises(ResourceError) as error:
        require_fit(plan)
    assert "QLoRA alone fits" in str(error.value.remedy)
    assert "train.allow_low_memory=true" in str(error.value.remedy)
    require_fit(plan_for("llama-3.3-70b-instruct", CARDS["A100 80 GB"], allow_low_memory=True))


def test_memory_in_use_by_other_programs_causes_a_warning_only(monkeypatch):
    study = new_study()
    busy = replace(LAPTOP, free_bytes=10**9)
    monkeypatch.setattr(memory_check, "this_machine", lambda: busy)
    require_study_fit(study)
    assert "1 GB are free" in memory_note(study)
    monkeypatch.setattr(memory_check, "this_machine", lambda: LAPTOP)
    assert memory_note(study) == ""


def test_a_run_is_refused_before_any_download(monkeypatch):
    study = new_study()
    study.write_config(study.config.with_changes({"model.base": "llama-3.3-70b-instruct"}))
    monkeypatch.setattr(memory_check, "this_machine", lambda: LAPTOP)
    with pytest.raises(ResourceError, match="70b.*a laptop has 16 GB"):
        run_study(study, now=True)
    assert study.step("data").state == "queued"
    runner = study.run_record()
    assert runner is not None and runner["error"]["remedy"].endswith("Advanced)")
    study.write_config(study.config.with_changes({"train.allow_low_memory": "true"}))
    require_study_fit(study)


def test_a_trained_study_can_be_scored_with_little_memory(monkeypatch):
    study = trained(new_study())
    monkeypatch.setattr(memory_check, "this_machine", lambda: sized(LAPTOP, 10**8))
    require_study_fit(study)


def test_counted_lengths_replace_the_assumed_ones(monkeypatch):
    study = new_study()
    study.write_config(study.config.with_changes({"train.gradient_checkpointing": "off"}))
    monkeypatch.setattr(memory_check, "this_machine", lambda: sized(LAPTOP, 4e9))
    require_study_fit(study)
    write_json(
        study.folder / "data" / "findings.json", {"token_lengths": {"mean": 300.0, "max": 512}}
    )
    with pytest.raises(ResourceError):
        require_study_fit(study)
    study.write_config(study.config.with_changes({"train.max_length": 64}))
    require_study_fit(study)  # they are cut


def test_an_unknown_base_is_reported_by_the_step_that_downloads_it():
    study = new_study()
    study.write_config(study.config.with_changes({"model.base": "/nowhere/at-all"}))
    require_study_fit(study)
    assert memory_note(study) == ""


def test_the_memory_limit_of_a_container_counts(tmp_path, monkeypatch):
    limit, none = tmp_path / "memory.max", tmp_path / "none"
    none.write_text("max\n", encoding="ascii")
    limit.write_text("2000000000\n", encoding="ascii")
    monkeypatch.setattr(hardware, "_gpu", lambda: None)
    monkeypatch.setattr(hardware, "_LIMITS", (tmp_path / "missing", none))
    whole = hardware.this_machine().memory_bytes
    monkeypatch.setattr(hardware, "_LIMITS", (none, limit))
    here = hardware.this_machine()
    assert here.memory_bytes == 2_000_000_000 < whole and here.free_bytes <= here.memory_bytes


@pytest.mark.parametrize(
    ("base", "spread", "says"),
    [
        ("smollm2-135m-instruct", "fsdp", "executor.spread=fsdp, set or selected"),
        ("llama-3.3-70b-instruct", "auto", "an arm does not fit one device"),
    ],
)
@pytest.mark.parametrize("optimizer", ["paged_adamw_32bit", "paged_adamw_8bit"])
def test_a_paged_optimizer_is_refused_with_fsdp(optimizer, base, spread, says, monkeypatch):
    study = new_study(
        "paged", model__base=base, executor__spread=spread, train__optimizer=optimizer
    )
    eight = replace(CARDS["A100 80 GB"], devices=8)
    monkeypatch.setattr(memory_check, "this_machine", lambda: eight)
    message = f"train.optimizer={optimizer} cannot be sharded.*{says}.*=adamw"
    with pytest.raises(ConfigError, match=message):
        require_study_fit(study)
    with pytest.raises(ConfigError, match=message):
        run_study(study, now=True)
    assert study.state == "failed" and study.step("data").state == "queued"
    config = study.config.with_changes({"train.allow_low_memory": True})
    study.write_config(config)
    with pytest.raises(ConfigError):  # independent of memory
        require_study_fit(study)
    with pytest.raises(ConfigError):  # as checked by the training step
        require_fit(plan_study(config, machine=eight), "qlora")
    study.write_config(config.with_changes({"train.optimizer": "adamw"}))
    require_study_fit(study)


def test_a_paged_optimizer_is_allowed_with_ddp(monkeypatch):
    study = new_study("paged", train__optimizer="paged_adamw_8bit")
    for devices in (1, 8):
        machine = replace(CARDS["A100 80 GB"], devices=devices)
        monkeypatch.setattr(memory_check, "this_machine", lambda machine=machine: machine)
        require_study_fit(study)


def test_settings_that_need_a_gpu_are_refused_without_one(monkeypatch):
    study = new_study("paged", train__optimizer="paged_adamw_8bit")
    monkeypatch.setattr(memory_check, "this_machine", lambda: LAPTOP)
    with pytest.raises(ConfigError, match="paged_adamw_8bit needs a GPU.*Set train.optimizer="):
        run_study(study)
    assert study.state == "failed" and study.step("data").state == "queued"
    require_device(study.config, "cuda")


def test_a_study_of_qlora_alone_needs_memory_for_qlora_alone(monkeypatch):
    study = new_study(model__base="llama-3.3-70b-instruct")
    monkeypatch.setattr(memory_check, "this_machine", lambda: CARDS["A100 80 GB"])
    with pytest.raises(ResourceError, match="16-bit LoRA") as error:
        require_study_fit(study)
    assert "--set arms=qlora" in str(error.value.remedy)
    assert "fits the float16 twin" in str(error.value.remedy)
    study.write_config(study.config.with_changes({"arms": "qlora"}))
    require_study_fit(study)
    assert memory_note(study) == ""
    # the only card of the catalog that holds 141 GB of weights
    assert where_both_fit(study) == "B200 180 GB"
    # a report may be written anywhere
    study.write_config(study.config.with_changes({"executor.devices": 4}))
    assert where_both_fit(study) == "B200 180 GB"
    study.write_config(study.config.with_changes({"executor.devices": "null"}))
    monkeypatch.setattr(memory_check, "this_machine", lambda: LAPTOP)
    with pytest.raises(ResourceError, match="QLoRA of .*a laptop has 16 GB"):
        require_study_fit(study)


def test_the_evaluation_needs_memory_for_its_larger_base():
    study = new_study(model__base="llama-3.1-8b-instruct")
    both = step_memory(study, "evaluate", 10**11)
    study.write_config(study.config.with_changes({"arms": "qlora"}))
    alone = step_memory(study, "evaluate", 10**11)
    assert both is not None and alone is not None
    plan = plan_for("llama-3.1-8b-instruct", Machine("a node", "cpu", 10**11, 10**11))
    assert both.least_bytes == plan.lora.weights_bytes + plan.lora.adapter_bytes
    assert (
        alone.least_bytes == plan.qlora.weights_bytes + plan.qlora.adapter_bytes < both.least_bytes
    )


PARAMETERS = CATALOG["smollm2-135m-instruct"].parameters


def run_of(folder: Path, name: str, arm: str = "lora", **record: Any) -> None:
    write_json(folder / "study.yaml", {})
    write_json(
        folder / "arms" / name / "summary.json",
        {
            "arm": arm,
            "device": "cpu",
            "peak_memory_bytes": 3_000_000_000,
            "train_seconds": 100.0,
            "total_parameters": 139_399_488,
            "predicted": {"peak_memory_bytes": 2_500_000_000, "flops": 2e13},
            **record,
        },
    )


def test_correction_is_the_median_over_the_runs(home):
    for number, peak in enumerate((2_600_000_000, 3_000_000_000, 9_900_000_000)):
        run_of(home / "studies" / f"s{number}", "lora", peak_memory_bytes=peak)
    seen = load_measured_runs(PARAMETERS)
    assert seen.runs == 3 and seen.memory[("cpu", "lora")] == pytest.approx(1.2)
    assert seen.speed[("cpu", "lora")] == pytest.approx(2e11)


def test_damaged_and_unplanned_runs_are_ignored(home):
    run_of(home / "studies" / "old", "lora", predicted=None)
    (home / "studies" / "old" / "arms" / "qlora").mkdir()
    (home / "studies" / "old" / "arms" / "qlora" / "summary.json").write_text("{")
    assert load_measured_runs(PARAMETERS) == MeasuredRuns()


def test_other_model_sizes_and_short_runs_are_ignored(home):
    run_of(home / "studies" / "large", "lora", total_parameters=8_000_000_000)
    assert load_measured_runs(PARAMETERS) == MeasuredRuns()
    run_of(home / "studies" / "short", "lora", train_seconds=5.0)
    assert load_measured_runs(PARAMETERS).speed == {} and load_measured_runs(PARAMETERS).runs == 1


def test_corrections_apply_to_this_machine_only(home):
    run_of(home / "studies" / "s", "lora")
    here = replace(this_machine(), device="cpu", flops=1e11)
    plan = replace(
        plan_study(StudyConfig()), machine=here, measured_runs=load_measured_runs(PARAMETERS)
    )
    assert plan.lora.expected_bytes == round(1.2 * plan.lora.total_bytes)
    assert plan.lora.seconds == pytest.approx(plan.lora.work.flops / 2e11)
    assert replace(plan, machine=CARDS["L4 24 GB"]).lora.factor == 1.0


def test_the_recorded_prediction_is_uncorrected(home):
    run_of(home / "studies" / "s", "lora")
    here = replace(this_machine(), device="cpu")
    plan = replace(
        plan_study(StudyConfig()), machine=here, measured_runs=load_measured_runs(PARAMETERS)
    )
    predicted = prediction(plan, "lora")
    assert predicted["peak_memory_bytes"] == plan.lora.total_bytes
    assert predicted["corrected_peak_bytes"] == plan.lora.expected_bytes != plan.lora.total_bytes


def test_the_largest_batch_has_the_most_positions():
    batches = [[(10, 5), (12, 4)], [(30, 3)], [(15, 9), (15, 2)], [(15, 9), (15, 8)]]
    assert largest_batch(batches) == Batch(2, 15, 17, 9, padded=False)
    assert largest_batch([[(10, 5), (12, 4)]]) == Batch(2, 12, 9, 5, padded=True)


def test_a_run_is_planned_from_its_sequences(tmp_path, home):
    entry = CATALOG["smollm2-135m-instruct"]
    write_json(tmp_path / "config.json", {**entry.config, "architectures": ["LlamaForCausalLM"]})
    config = StudyConfig().with_changes(
        {"train.micro_batch_size": 2, "train.batch_size": 4, "train.epochs": 1}
    )
    sequences = [(20, 5), (40, 10), (22, 6), (21, 4)]
    plan = plan_run(config, tmp_path, sequences, [0, 3, 2, 1])
    assert plan.batch == Batch(2, 40, 16, 10, padded=True)
    assert plan.lora.work.tokens == 2 * 21 + 2 * 40  # padding counts
    predicted = prediction(plan, "qlora")
    assert predicted["base_bytes"] == plan.qlora.weights_bytes and predicted["train_seconds"]
