"""What cannot fit is refused before anything is fetched or trained, unless it is wanted all the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from assistant_builder.config import StudyConfig
from assistant_builder.errors import ConfigError, ResourceError
from assistant_builder.files import write_json
from assistant_builder.jobs.running import run_study
from assistant_builder.planning import fitting, machines
from assistant_builder.planning.fitting import (
    least_bytes,
    memory_note,
    misfits,
    require_device,
    require_fit,
    require_study_fit,
    step_memory,
    where_both_fit,
)
from assistant_builder.planning.machines import CARDS, Machine
from assistant_builder.planning.plan import Plan
from assistant_builder.planning.planner import plan_study
from tests.fabricated import new_study, trained

LAPTOP = Machine("a laptop", "cpu", 16 * 10**9, 9 * 10**9)


def plan_for(model: str, machine: Machine, **train: object) -> Plan:
    changes = {"model.base": model, **{f"train.{key}": value for key, value in train.items()}}
    return plan_study(StudyConfig().with_changes(changes), machine=machine)


def sized(machine: Machine, memory: float) -> Machine:
    return replace(machine, memory_bytes=int(memory), free_bytes=int(memory))


def test_only_what_cannot_fit_even_at_its_lowest_is_refused():
    plan = plan_for("llama-3.1-8b-instruct", CARDS["A100 80 GB"])
    low, told = least_bytes(plan.lora), plan.lora.expected_bytes
    assert low < told
    require_fit(plan)
    between = replace(plan, machine=sized(plan.machine, (low + told) / 2))
    assert between.lora.checkpointing or between.lora.fit == "no"
    require_fit(between)
    with pytest.raises(ResourceError, match="float16 LoRA.*at the very least"):
        require_fit(replace(plan, machine=sized(plan.machine, 15e9)))


def test_the_arms_are_judged_apart_and_the_remedy_says_how_to_go_on():
    plan = plan_for("llama-3.3-70b-instruct", CARDS["A100 80 GB"])
    require_fit(plan, "qlora")
    assert [method.method for method in misfits(plan)] == ["lora"]
    with pytest.raises(ResourceError) as error:
        require_fit(plan)
    assert "QLoRA alone would fit" in error.value.remedy and "train.allow_low_memory=true" in error.value.remedy
    require_fit(plan_for("llama-3.3-70b-instruct", CARDS["A100 80 GB"], allow_low_memory=True))


def test_memory_that_is_only_taken_at_the_moment_refuses_nothing_but_is_told(monkeypatch: pytest.MonkeyPatch):
    study = new_study()
    busy = replace(LAPTOP, free_bytes=10**9)
    monkeypatch.setattr(fitting, "this_machine", lambda: busy)
    require_study_fit(study)
    assert "1 GB are free" in memory_note(study)
    monkeypatch.setattr(fitting, "this_machine", lambda: LAPTOP)
    assert memory_note(study) == ""


def test_a_run_is_refused_before_anything_is_fetched(monkeypatch: pytest.MonkeyPatch):
    study = new_study()
    study.write_config(study.config.with_changes({"model.base": "llama-3.3-70b-instruct"}))
    monkeypatch.setattr(fitting, "this_machine", lambda: LAPTOP)
    with pytest.raises(ResourceError, match="70b.*a laptop has 16 GB"):
        run_study(study, now=True)
    assert study.step("data").state == "queued"
    runner = study.runner()
    assert runner is not None and runner["error"]["remedy"].endswith("All settings)")
    study.write_config(study.config.with_changes({"train.allow_low_memory": "true"}))
    require_study_fit(study)


def test_what_is_trained_already_may_be_scored_anywhere(monkeypatch: pytest.MonkeyPatch):
    study = trained(new_study())
    monkeypatch.setattr(fitting, "this_machine", lambda: sized(LAPTOP, 10**8))
    require_study_fit(study)


def test_counted_pairs_decide_once_they_are_counted(monkeypatch: pytest.MonkeyPatch):
    study = new_study()
    study.write_config(study.config.with_changes({"train.gradient_checkpointing": "off"}))
    monkeypatch.setattr(fitting, "this_machine", lambda: sized(LAPTOP, 4e9))
    require_study_fit(study)
    write_json(study.folder / "data" / "findings.json", {"token_lengths": {"mean": 300.0, "max": 512}})
    with pytest.raises(ResourceError):
        require_study_fit(study)
    study.write_config(study.config.with_changes({"train.max_length": 64}))
    require_study_fit(study)  # they are cut


def test_a_base_that_nobody_can_plan_is_left_to_the_step_that_fetches_it():
    study = new_study()
    study.write_config(study.config.with_changes({"model.base": "/nowhere/at-all"}))
    require_study_fit(study)
    assert memory_note(study) == ""


def test_a_container_has_the_memory_that_it_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    limit, none = tmp_path / "memory.max", tmp_path / "none"
    none.write_text("max\n", encoding="ascii")
    limit.write_text("2000000000\n", encoding="ascii")
    monkeypatch.setattr(machines, "_gpu", lambda: None)
    monkeypatch.setattr(machines, "_LIMITS", (tmp_path / "missing", none))
    whole = machines.this_machine().memory_bytes
    monkeypatch.setattr(machines, "_LIMITS", (none, limit))
    here = machines.this_machine()
    assert here.memory_bytes == 2_000_000_000 < whole and here.free_bytes <= here.memory_bytes


@pytest.mark.parametrize(("base", "spread", "says"), [
    ("smollm2-135m-instruct", "fsdp", "executor.spread=fsdp is set"),
    ("llama-3.3-70b-instruct", "auto", "an arm does not fit one device"),
])
@pytest.mark.parametrize("optimizer", ["paged_adamw_32bit", "paged_adamw_8bit"])
def test_a_paged_optimizer_is_refused_where_the_training_is_sharded(
    optimizer: str, base: str, spread: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = new_study("paged", model__base=base, executor__spread=spread, train__optimizer=optimizer)
    eight = replace(CARDS["A100 80 GB"], devices=8)
    monkeypatch.setattr(fitting, "this_machine", lambda: eight)
    told = f"train.optimizer={optimizer} cannot be sharded.*{says}.*=adamw"
    with pytest.raises(ConfigError, match=told):
        require_study_fit(study)
    with pytest.raises(ConfigError, match=told):
        run_study(study, now=True)
    assert study.state == "failed" and study.step("data").state == "queued"
    config = study.config.with_changes({"train.allow_low_memory": True})
    study.write_config(config)
    with pytest.raises(ConfigError):  # that is no matter of memory
        require_study_fit(study)
    with pytest.raises(ConfigError):  # as the training step asks
        require_fit(plan_study(config, machine=eight), "qlora")
    study.write_config(config.with_changes({"train.optimizer": "adamw"}))
    require_study_fit(study)


def test_a_paged_optimizer_is_allowed_where_each_device_holds_the_whole_model(monkeypatch: pytest.MonkeyPatch) -> None:
    study = new_study("paged", train__optimizer="paged_adamw_8bit")
    for devices in (1, 8):
        monkeypatch.setattr(fitting, "this_machine", lambda count=devices: replace(CARDS["A100 80 GB"], devices=count))
        require_study_fit(study)


@pytest.mark.parametrize(("setting", "value"), [("optimizer", "paged_adamw_8bit"), ("kernels", "liger"),
                                                ("kernels", "compile")])
def test_what_only_a_gpu_can_do_is_refused_without_one(
    setting: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = new_study(f"gpu-{setting}-{value}".replace("_", "-"), **{f"train__{setting}": value})
    monkeypatch.setattr(fitting, "this_machine", lambda: LAPTOP)
    with pytest.raises(ConfigError, match=rf"train.{setting}={value} needs a GPU.*Set train.{setting}="):
        run_study(study)
    assert study.state == "failed" and study.step("data").state == "queued"
    require_device(study.config.train, "cuda")


def test_a_study_that_trains_qlora_alone_needs_room_for_qlora_alone(monkeypatch: pytest.MonkeyPatch):
    study = new_study(model__base="llama-3.3-70b-instruct")
    monkeypatch.setattr(fitting, "this_machine", lambda: CARDS["A100 80 GB"])
    with pytest.raises(ResourceError, match="float16 LoRA") as error:
        require_study_fit(study)
    assert "--set arms=qlora" in error.value.remedy and "holds the float16 twin" in error.value.remedy
    study.write_config(study.config.with_changes({"arms": "qlora"}))
    require_study_fit(study)
    assert memory_note(study) == ""
    assert where_both_fit(study) == "B200 180 GB"  # the only card of the catalog that holds 141 GB of weights
    study.write_config(study.config.with_changes({"executor.devices": 4}))  # a report may be written anywhere
    assert where_both_fit(study) == "B200 180 GB"
    study.write_config(study.config.with_changes({"executor.devices": "null"}))
    monkeypatch.setattr(fitting, "this_machine", lambda: LAPTOP)
    with pytest.raises(ResourceError, match="QLoRA of .*a laptop has 16 GB"):
        require_study_fit(study)


def test_the_evaluation_of_one_arm_asks_for_one_base():
    study = new_study(model__base="llama-3.1-8b-instruct")
    both = step_memory(study, "evaluate", 10**11)
    study.write_config(study.config.with_changes({"arms": "qlora"}))
    alone = step_memory(study, "evaluate", 10**11)
    assert both is not None and alone is not None
    plan = plan_for("llama-3.1-8b-instruct", Machine("a node", "cpu", 10**11, 10**11))
    assert both.least_bytes - alone.least_bytes == plan.lora.weights_bytes + plan.lora.adapter_bytes
