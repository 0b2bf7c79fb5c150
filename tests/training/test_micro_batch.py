"""The pairs per pass on a GPU: as many as the plan fits, the same for all runs of a study and after a resume."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from assistant_builder.config import StudyConfig
from assistant_builder.errors import ResourceError
from assistant_builder.planning.hardware import Machine
from assistant_builder.runner.invalidation import step_inputs
from assistant_builder.study import Study
from assistant_builder.training import train as training
from assistant_builder.training import trainer as training_loop
from assistant_builder.training.micro_batch import CHOICES_FILE, MicroBatchTooLarge
from assistant_builder.training.train import _prepare
from tests.export.tiny import tiny_base
from tests.synthetic_study import new_study, with_data
from tests.training.test_determinism import trainer
from tests.training.test_planned import seeing

CARD = Machine("a card", "cuda", 24 * 10**9, 24 * 10**9, is_local=True, flops=1e14)


@pytest.fixture
def chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Pairs per pass of a run of the study on a machine, after some settings were changed."""
    base = tiny_base(tmp_path / "base")
    study = with_data(new_study("rows", model__base=str(base)))

    def choose(machine: Machine = CARD, **changes: Any) -> int:
        study.write_config(
            study.config.with_changes(
                {key.replace("__", "."): value for key, value in changes.items()}
            )
        )
        seeing(machine, monkeypatch)
        prepared = _prepare(study)
        rows = prepared.config.train.micro_batch_size
        assert rows == prepared.planned.config.train.micro_batch_size == prepared.planned.batch.rows
        assert rows is not None
        assert study.config.train.batch_size % (rows * prepared.spread.devices) == 0
        choose.planned = prepared.planned
        return rows

    choose.study = study
    return choose


def test_a_gpu_computes_all_pairs_of_a_step_at_once_if_they_fit(chosen):
    assert chosen() == 16
    assert chosen(train__batch_size=12) == 12
    assert chosen(replace(CARD, devices=2), train__batch_size=64) == 32


def test_where_memory_is_short_fewer_fit(chosen):
    assert chosen(train__batch_size=64) == 64
    assert chosen(train__micro_batch_size=32) == 32
    # comfortably for 32
    free = round(max(arm.expected_bytes for arm in chosen.planned.arms) / 0.9) + 1
    (chosen.study.folder / CHOICES_FILE).unlink()
    assert chosen(replace(CARD, free_bytes=free), train__micro_batch_size=None) == 32
    assert all(arm.fit == "room" and not arm.checkpointing for arm in chosen.planned.arms)
    (chosen.study.folder / CHOICES_FILE).unlink()
    assert chosen(replace(CARD, free_bytes=10**6)) == 8  # whatever else is done about it


def test_other_runs_and_a_resume_keep_what_the_first_run_chose(chosen):
    assert chosen(train__batch_size=64) == 64
    assert chosen(replace(CARD, free_bytes=10**6)) == 64
    assert chosen(replace(CARD, free_bytes=10**6), train__rank=8) == 8  # another training
    assert chosen(train__rank=16) == 64


def test_fewer_pairs_are_recorded_when_memory_runs_out(chosen, monkeypatch):
    """The training starts again with half of the pairs, and the twin begins with them; one's own number is an error."""
    tried: list[int] = []

    def train(study: Study, run: str, prepared: Any) -> None:
        tried.append(prepared.config.train.micro_batch)
        if tried[-1] > 16:
            raise MicroBatchTooLarge

    assert chosen(train__batch_size=64) == 64
    monkeypatch.setattr(training, "_train", train)
    monkeypatch.setattr(training, "_require_planned_device", lambda machine: None)
    training.train_arm(chosen.study, "lora")
    training.train_arm(chosen.study, "qlora")
    assert tried == [64, 32, 16, 16]
    tried.clear()
    chosen(train__micro_batch_size=32)
    with pytest.raises(ResourceError, match="memory ran out with 32 pairs per pass") as caught:
        training.train_arm(chosen.study, "lora")
    assert "Lower train.micro_batch_size, which is 32" in str(caught.value.remedy) and tried == [32]


def test_one_pair_that_does_not_fit_is_an_error(chosen, monkeypatch):
    def train(*_: Any) -> None:
        raise MicroBatchTooLarge

    monkeypatch.setattr(training, "_train", train)
    monkeypatch.setattr(training, "_require_planned_device", lambda machine: None)
    chosen(train__batch_size=2)
    with pytest.raises(ResourceError, match="with 1 pair per pass") as caught:
        training.train_arm(chosen.study, "lora")
    assert "micro_batch_size" not in str(caught.value.remedy)


def test_the_largest_batch_is_tried_before_the_first_step(tmp_path, monkeypatch):
    """Where a pass over it runs out of memory, there is no step; gradients of the trial are not kept."""
    made = trainer(tmp_path, "cuda", **{"train.micro_batch_size": 2})
    tried: list[tuple[int, ...]] = []
    plain = training_loop.summed_nll

    def short_of_memory(model: Any, inputs: Any) -> Any:
        tried.append(tuple(inputs["input_ids"].shape))
        if fails:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(model, inputs)

    monkeypatch.setattr(training_loop, "summed_nll", short_of_memory)
    fails = False
    longest = max(len(example.input_ids) for example in made.plan.train_examples)
    assert made._largest_batch_fits() and tried == [(2, longest)]
    assert all(value.grad is None for value in made.model.parameters())
    fails = True
    assert not made._largest_batch_fits()
    monkeypatch.setattr(made, "_probe_step", lambda: None)
    with pytest.raises(MicroBatchTooLarge):
        made.run()
    assert made.state.global_step == 0


def test_a_cpu_and_a_setting_of_ones_own_choose_nothing(chosen):
    assert chosen(replace(CARD, device="cpu", cores=2)) == 8
    assert chosen(replace(CARD, device="cpu", cores=2), train__batch_size=12) == 6
    assert chosen(train__micro_batch_size=4) == 4
    assert not (chosen.study.folder / CHOICES_FILE).exists()


def test_an_empty_setting_is_not_a_change_of_a_finished_run(chosen):
    study: Study = chosen.study
    inputs = step_inputs(study, "train-lora")
    assert StudyConfig().train.micro_batch_size is None and inputs["train.micro_batch_size"] == 8
    changed = study.config.with_changes({"train.micro_batch_size": 8, "train.kernels": "plain"})
    assert step_inputs(study, "train-lora", config=changed) == inputs
