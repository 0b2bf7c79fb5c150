"""The stop where nothing is left to learn: when it comes, who decides it, and that arms end at the same step."""

import pytest

from assistant_builder.atomic_io import write_json
from assistant_builder.config import StudyConfig, TrainConfig
from assistant_builder.study.steps import StepRecord
from assistant_builder.training.joint_stop import schedule_hash, stop_loss, stop_of_others
from assistant_builder.training.schedule import STOP_STEPS, Stop, stop_after
from assistant_builder.training.sequences import Sequences
from tests.synthetic_study import new_study

FLOOR = [0.5] * 5 + [0.001] * 90


def first_stop(losses, below=0.01, steps=95):
    found = (stop_after(losses[:step], below, steps) for step in range(1, len(losses) + 1))
    return next(filter(None, found), None)


def test_the_stop_comes_once_most_of_the_last_steps_are_below_the_floor():
    # 9 of 16 steps are below it after step 14, but 16 steps are needed
    assert first_stop(FLOOR) == Stop(16, 24)
    spikes = [0.4 if step % 5 == 0 else 0.001 for step in range(95)]
    assert first_stop(spikes) == Stop(16, 24), "rows without their fact move no median"
    assert first_stop([0.02] * 95) is None
    assert first_stop([0.5] * 60 + [0.001] * 35) is None, "the decay would not end before the plan"
    assert first_stop(FLOOR[: STOP_STEPS - 1]) is None
    assert first_stop(FLOOR, below=0.0) is None


def test_the_learning_rate_falls_to_zero_at_the_end():
    stop = Stop(16, 24)
    assert [stop.factor(step) for step in (0, 16, 20, 24, 30)] == [1, 1, 0.5, 0, 0]
    assert Stop(95, 95).factor(95) == 1, "an arm that ended as planned"


def test_only_arms_that_look_facts_up_stop():
    grounded = StudyConfig().with_changes({"approaches": ["grounded"]})
    assert stop_loss(grounded) == 0.01
    assert stop_loss(grounded.with_changes({"approaches": ["memory"]})) == 0
    assert stop_loss(grounded.with_changes({"train.stop_loss": 0})) == 0


def trained(study, run, steps, stop):
    study.write_step(StepRecord(f"train-{run}", state="succeeded"))
    study.arm_folder(run).mkdir(parents=True, exist_ok=True)
    summary = {"steps": steps, "tokens": 1, "train_seconds": 1.0} | ({"stop": stop} if stop else {})
    write_json(study.arm_folder(run) / "summary.json", summary)


def test_the_first_arm_decides_and_the_others_wait():
    study = new_study("twins", approaches=["grounded"])
    assert stop_of_others(study, "lora", "x") == "decide"
    assert stop_of_others(study, "qlora", "x") == "wait"
    trained(study, "lora", 24, {"after": 16, "of": 95, "schedule": "x"})
    assert stop_of_others(study, "qlora", "x") == Stop(16, 24)
    assert stop_of_others(study, "qlora-2", "x") == "wait", "each seed decides"


@pytest.mark.parametrize("stop", [None, {"after": None, "of": 95, "schedule": "x"}])
def test_an_arm_that_ended_as_planned_decides_too(stop):
    study = new_study("planned", approaches=["grounded"])
    trained(study, "lora", 95, stop)
    assert stop_of_others(study, "qlora", "x") == Stop(95, 95)


def test_an_arm_that_is_added_later_ends_where_the_other_did():
    study = new_study("added", approaches=["grounded"])
    trained(study, "qlora", 24, {"after": 16, "of": 95, "schedule": "x"})
    assert stop_of_others(study, "lora", "x") == Stop(16, 24)
    assert stop_of_others(study, "lora", "other data") == "decide"


def test_the_schedule_is_that_of_settings_and_sequences():
    empty = Sequences([], [], {})
    assert schedule_hash(TrainConfig(), empty) == schedule_hash(TrainConfig(), empty)
    assert schedule_hash(TrainConfig(), empty) != schedule_hash(TrainConfig(seed=1), empty)
