"""All processes of a training use one plan, and only the kind of device that was planned."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from assistant_builder.errors import ResourceError
from assistant_builder.models import loading
from assistant_builder.planning import memory_check
from assistant_builder.planning.hardware import Machine
from assistant_builder.runner import step_process
from assistant_builder.study import Study
from assistant_builder.training import distributed
from assistant_builder.training import train as training_train
from tests.export.tiny import tiny_base
from tests.synthetic_study import new_study, with_data

ROOMY = Machine("a node", "cpu", 64 * 10**9, 64 * 10**9, is_local=True, cores=2, flops=1e11)
FULL = replace(ROOMY, free_bytes=10**8)
"""The same as another process sees it, once the first has loaded the base: nothing fits."""


@pytest.fixture
def study(tmp_path: Path) -> Study:
    base = tiny_base(tmp_path / "base")
    return with_data(new_study("planned", model__base=str(base), executor__devices=2))


def seeing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (training_train, memory_check):
        monkeypatch.setattr(module, "this_machine", lambda: machine)
    monkeypatch.setattr(memory_check, "with_speed", lambda given: given)


def test_every_process_uses_the_plan_of_the_first(study, monkeypatch):
    handed: list[tuple[Any, ...]] = []
    trained: list[Any] = []
    monkeypatch.setattr(distributed, "train_distributed", lambda *given: handed.append(given))
    monkeypatch.setattr(
        training_train, "_train", lambda study, run, prepared: trained.append(prepared)
    )
    seeing(ROOMY, monkeypatch)
    training_train.train_arm(study, "lora")
    seeing(FULL, monkeypatch)
    work, *given = pickle.loads(pickle.dumps(handed[0]))
    work(*given)
    (prepared,) = trained
    assert not prepared.planned.lora.checkpointing and prepared.planned.lora.dequantized
    assert prepared.planned.machine == ROOMY
    assert (
        prepared.config.train.micro_batch_size
        == prepared.planned.config.train.micro_batch_size
        == 8
    )
    assert prepared.spread.devices == 2


@pytest.mark.parametrize(
    ("planned", "seen"), [(replace(ROOMY, name="a card", device="cuda"), "cpu"), (ROOMY, "cuda")]
)
def test_a_training_on_another_device_than_planned_is_refused(study, monkeypatch, planned, seen):
    study.write_config(study.config.with_changes({"executor.devices": 1}))
    seeing(planned, monkeypatch)
    monkeypatch.setattr(loading, "pick_device", lambda: seen)
    monkeypatch.setattr(
        loading, "load_base", lambda spec: pytest.fail("it was loaded all the same")
    )
    with pytest.raises(ResourceError, match=f"planned for {planned.name}, but PyTorch uses"):
        training_train.train_arm(study, "lora")


def test_gpus_of_which_one_lacks_bfloat16_use_one_dtype(study, monkeypatch):
    new = Machine("a new card", "cuda", 24 * 10**9, 24 * 10**9, is_local=True)
    old = replace(new, name="an old card", bfloat16=False)
    seeing(replace(new, cards=(new, old)), monkeypatch)
    handed: list[tuple[Any, ...]] = []
    monkeypatch.setattr(distributed, "train_distributed", lambda *given: handed.append(given))
    training_train.train_arm(study, "lora")
    assert handed[0][4].compute_dtype == "float16"
    # or each process would ask its own card
    assert handed[0][4].config.model.compute_dtype == "float16"


def test_a_step_that_shares_the_gpu_reports_the_memory_of_its_process(monkeypatch):
    allocated = 0
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: allocated)
    assert step_process._peak_memory() > 10**7  # the resident set
    allocated = 10**12
    assert step_process._peak_memory() == 10**12
