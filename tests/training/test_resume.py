"""A run that is killed or cancelled ends with the same adapter, byte for byte, as one that was not."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest

from assistant_builder.atomic_io import file_hash, read_json, read_jsonl
from assistant_builder.runner.data_steps import prepare_data
from assistant_builder.runner.run import run_study
from assistant_builder.runner.step_process import run_as_step, step_command
from assistant_builder.study import CHECKPOINT_MARKER, Study
from assistant_builder.training import checkpoints
from tests.export.tiny import tiny_base

pytestmark = pytest.mark.train


def start(study: Study, step: str) -> subprocess.Popen[bytes]:
    log = study.log_file(step)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        return subprocess.Popen(
            step_command(study, step), stdout=file, stderr=file, stdin=subprocess.DEVNULL
        )


def steps_done(study: Study) -> int:
    events = read_jsonl(study.arm_folder("qlora") / "metrics.jsonl")
    return max((event["step"] for event in events if event["event"] == "step"), default=0)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    while not condition():
        assert process.poll() is None, "the step ended before it could be disturbed"
        time.sleep(0.02)


def events(study: Study) -> list[tuple[str, int, float | str]]:
    """What the metrics tell but times: losses, and the sample answers word by word."""
    lines = read_jsonl(study.arm_folder("qlora") / "metrics.jsonl")
    return [
        (line["event"], line["step"], line["answer"] if line["event"] == "sample" else line["loss"])
        for line in lines
    ]


def taken(study: Study, step: int) -> bool:
    return steps_done(study) > step


def adapter(study: Study) -> str:
    return file_hash(study.arm_folder("qlora") / "adapter" / "adapter_model.safetensors")


@pytest.mark.long
def test_killed_and_cancelled_runs_resume_to_the_same_bytes(small_study, tmp_path):
    """On a base of two layers, whose trainings start sooner; tests.fault_injection kills those of the bundled one."""
    half = 60
    base = str(tiny_base(tmp_path / "base"))
    small_study.write_config(
        small_study.config.with_changes(
            {"model.base": base, "train.max_steps": 2 * half, "train.epochs": 100}
        )
    )
    assert run_as_step(small_study, "data", lambda: prepare_data(small_study)) == 0
    copies = {name: Study(tmp_path / name / "small") for name in ("killed", "cancelled")}
    for copy in copies.values():
        shutil.copytree(small_study.folder, copy.folder)
    assert start(small_study, "train-qlora").wait() == 0
    undisturbed = read_json(small_study.arm_folder("qlora") / "summary.json")
    assert undisturbed["steps"] == 2 * half
    assert undisturbed["adapter_sha256"] == adapter(small_study)

    killed = copies["killed"]
    process = start(killed, "train-qlora")
    wait_for(lambda: steps_done(killed) > half, process)  # past a checkpoint
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert killed.step("train-qlora").state == "lost"
    assert checkpoints.complete_steps(killed.arm_folder("qlora") / "checkpoints") == [half]
    assert start(killed, "train-qlora").wait() == 0
    assert adapter(killed) == adapter(small_study)

    # and without sample answers: what is shown changes no byte of the adapter
    cancelled = copies["cancelled"]
    cancelled.write_config(cancelled.config.with_changes({"train.sample_answers": 0}))
    process = start(cancelled, "train-qlora")
    wait_for(lambda: steps_done(cancelled) >= 1, process)
    cancelled.request_cancel()
    assert process.wait() == 3
    assert cancelled.step("train-qlora").state == "cancelled"
    assert steps_done(cancelled) < half  # within the steps that were under way
    cancelled.clear_cancel()
    assert start(cancelled, "train-qlora").wait() == 0
    assert adapter(cancelled) == adapter(small_study)

    wanted = events(small_study)
    assert [step for kind, step, answer in wanted if kind == "sample" and answer] == [half] * 3 + [
        2 * half
    ] * 3
    assert events(killed) == wanted
    assert events(cancelled) == [event for event in wanted if event[0] != "sample"]


def test_an_incomplete_checkpoint_is_not_used(tmp_path):
    for step in (2, 4, 6):
        folder = checkpoints.checkpoint_folder(tmp_path, step)
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_bytes(b"weights" * step)
        checkpoints.mark_complete(folder)
    os.truncate(checkpoints.checkpoint_folder(tmp_path, 6) / "adapter_model.safetensors", 3)
    (checkpoints.checkpoint_folder(tmp_path, 4) / CHECKPOINT_MARKER).write_text("{")
    assert checkpoints.complete_steps(tmp_path) == [2]
    checkpoints.prune_checkpoints(tmp_path, {2})
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


@pytest.mark.long
def test_the_stop_at_the_floor_of_the_loss_is_the_same_for_both_arms_and_after_a_kill(
    small_study, tmp_path
):
    """With a floor above every loss both arms end after 24 steps, whose last 8 have a falling learning rate."""
    changes = {
        "approaches": ["grounded"],
        "retrieval.train_embedder": False,
        "model.base": str(tiny_base(tmp_path / "base")),
        "train.stop_loss": 1000.0,
        "train.max_steps": 40,
        "train.epochs": 100,
        "train.evaluations": 20,  # a checkpoint after every other step
        "train.sample_answers": 0,
    }
    small_study.write_config(small_study.config.with_changes(changes))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Study, "steps", ("data", "data-embed", "train-lora", "train-qlora"))
        run_study(small_study)
    summaries = {
        arm: read_json(small_study.arm_folder(arm) / "summary.json") for arm in ("lora", "qlora")
    }
    for summary in summaries.values():
        assert (summary["steps"], summary["best_step"]) == (24, 24)
        assert (summary["stop"]["after"], summary["stop"]["of"]) == (16, 40)
    for arm in summaries:
        log = read_jsonl(small_study.arm_folder(arm) / "metrics.jsonl")
        rates = [line["learning_rate"] for line in log if line["event"] == "step"]
        assert rates[-1] == 0 and all(one > next for one, next in pairwise(rates[15:]))

    before = adapter(small_study)
    shutil.rmtree(small_study.arm_folder("qlora"))
    process = start(small_study, "train-qlora")
    wait_for(partial(taken, small_study, 18), process)  # while the learning rate falls
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert start(small_study, "train-qlora").wait() == 0
    assert adapter(small_study) == before
