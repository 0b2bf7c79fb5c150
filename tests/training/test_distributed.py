"""Two processes that share a training, over gloo on this machine, compute what one process computes."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.distributed.tensor import DTensor

from assistant_builder.atomic_io import file_hash, read_json, read_jsonl
from assistant_builder.config import StudyConfig
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.planning.memory import ParallelStrategy
from assistant_builder.runner.data_steps import prepare_data
from assistant_builder.runner.step_process import run_as_step, step_command
from assistant_builder.study import Study
from assistant_builder.training import checkpoints
from assistant_builder.training.distributed import train_distributed
from assistant_builder.training.train import train_in_process
from assistant_builder.training.trainer import TwinTrainer
from tests.export.tiny import tiny_base
from tests.training.conftest import SMALL

pytestmark = pytest.mark.train
STEPS = 20
TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}
"""How far loss curves may lie apart, in nats a token."""


def a_study(name: str, base: Path, dtype: str, **changes: Any) -> Study:
    """A study of 20 steps of eight pairs, its data prepared."""
    config = StudyConfig(name=name).with_changes(
        {
            "approaches": ["memory"],
            "data.source": str(SMALL),
            "data.max_heldout": 4,
            "model.base": str(base),
            "model.compute_dtype": dtype,
            "model.allow_float32_compute": True,
            "train.max_steps": STEPS,
            "train.epochs": 8,
            "train.batch_size": 8,
            "train.micro_batch_size": 2,
            "train.evaluations": 2,
            "train.rank": 4,
            "train.sample_answers": 1,
            **{key.replace("__", "."): value for key, value in changes.items()},
        }
    )
    study = Study.create(config, SMALL)
    assert run_as_step(study, "data", lambda: prepare_data(study)) == 0
    return study


def train_all(folders: list[str], spread: ParallelStrategy) -> None:
    """What each process does: both arms of each study, one after the other."""
    for folder in folders:
        for arm in ("lora", "qlora"):
            train_in_process(Study(Path(folder)), arm, spread)


def train_sharded(folders: list[str], spread: ParallelStrategy) -> list[float]:
    """The same; returns the share of the decoder blocks' weights that this process holds, at each checkpoint."""
    shares: list[float] = []
    save = TwinTrainer._save_optimizer_and_scheduler

    def measure(trainer: TwinTrainer, output_dir: str) -> None:
        blocks = [value for name, value in trainer.model.named_parameters() if ".layers." in name]
        local = [value.to_local() if isinstance(value, DTensor) else value for value in blocks]
        shares.append(
            sum(value.numel() for value in local) / sum(value.numel() for value in blocks)
        )
        save(trainer, output_dir)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TwinTrainer, "_save_optimizer_and_scheduler", measure)
        train_all(folders, spread)
    return shares


def launch(
    studies: list[Study], spread: ParallelStrategy, work: Callable[..., Any] = train_all
) -> dict[int, Any]:
    config = LaunchConfig(
        1,
        1,
        spread.devices,
        run_id="test",
        max_restarts=0,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        ended: dict[int, Any] = elastic_launch(config, work)(
            [str(study.folder) for study in studies], spread
        )
    return ended


def curves(study: Study, arm: str) -> dict[str, list[float]]:
    """Losses of the steps and of the validations, and what else must not depend on the number of processes."""
    events = read_jsonl(study.arm_folder(arm) / "metrics.jsonl")
    steps = [event for event in events if event["event"] == "step"]
    return {
        "loss": [event["loss"] for event in steps],
        "validation": [event["loss"] for event in events if event["event"] == "validation"],
        "tokens": [event["tokens"] for event in steps],
        "learning_rate": [event["learning_rate"] for event in steps],
    }


def assert_same_curves(alone: Study, shared: Study, arm: str, tolerance: float) -> None:
    one, two = curves(alone, arm), curves(shared, arm)
    assert len(one["loss"]) == len(two["loss"]) == STEPS
    assert one["loss"][-1] < one["loss"][0] - 10 * tolerance  # something was learnt
    assert two["loss"] == pytest.approx(one["loss"], abs=tolerance)
    assert two["validation"] == pytest.approx(one["validation"], abs=tolerance)
    assert two["tokens"] == one["tokens"] and two["learning_rate"] == one["learning_rate"]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_base(tmp_path / "base")


@pytest.mark.timeout(400)
@pytest.mark.cluster
def test_ddp_gives_the_loss_curve_of_one_process(base):
    """With dropout, whose draws do not depend on which process makes them."""
    alone = {dtype: a_study(f"alone-{dtype}", base, dtype) for dtype in TOLERANCE}
    shared = {dtype: a_study(f"shared-{dtype}", base, dtype) for dtype in TOLERANCE}
    train_all([str(study.folder) for study in alone.values()], ParallelStrategy())
    launch(list(shared.values()), ParallelStrategy("ddp", 2))
    for dtype, tolerance in TOLERANCE.items():
        for arm in ("lora", "qlora"):
            assert_same_curves(alone[dtype], shared[dtype], arm, tolerance)
            summary = read_json(shared[dtype].arm_folder(arm) / "summary.json")
            assert summary["devices"] == 2
            assert summary["spread"] == "ddp"
            assert summary["compute_dtype"] == dtype
            asked = [
                event["question"]
                for event in read_jsonl(shared[dtype].arm_folder(arm) / "metrics.jsonl")
                if event["event"] == "sample"
            ]
            assert len(asked) == 2  # one at each validation: only the first process writes


@pytest.mark.timeout(400)
@pytest.mark.cluster
def test_fsdp_gives_the_loss_curve_of_one_process(base):
    """4-bit weights in words of the compute dtype; without dropout, which the plain arithmetic draws otherwise."""
    alone = a_study("alone", base, "bfloat16", train__dropout=0)
    shared = a_study("shared", base, "bfloat16", train__dropout=0)
    train_all([str(alone.folder)], ParallelStrategy())
    shares = launch([shared], ParallelStrategy("fsdp", 2), train_sharded)
    assert len(shares) == 2
    assert all(share == pytest.approx(0.5, abs=0.01) for each in shares.values() for share in each)
    for arm in ("lora", "qlora"):
        assert_same_curves(alone, shared, arm, TOLERANCE["bfloat16"])
    one, two = (
        {
            path.name
            for path in checkpoints.checkpoint_folder(
                study.arm_folder("qlora") / "checkpoints", STEPS
            ).iterdir()
        }
        for study in (alone, shared)
    )
    assert {name for name in two if not name.startswith("rng_state")} == one - {"rng_state.pth"}


@pytest.mark.cluster
@pytest.mark.timeout(600)
@pytest.mark.parametrize("spread", ["ddp", "fsdp"])
def test_a_killed_training_of_two_processes_resumes_to_the_same_bytes(base, spread):
    changes = {"executor__devices": 2, "executor__spread": spread}
    calm, killed = (a_study(name, base, "float32", **changes) for name in ("calm", "killed"))
    assert subprocess.run(step_command(calm, "train-qlora"), check=False).returncode == 0
    process = subprocess.Popen(step_command(killed, "train-qlora"))
    metrics = killed.arm_folder("qlora") / "metrics.jsonl"
    while not any(event["step"] > STEPS // 2 for event in read_jsonl(metrics)):
        assert process.poll() is None, "the step ended before it could be killed"
        time.sleep(0.02)
    ranks = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert psutil.wait_procs(ranks, timeout=10)[1] == []
    assert checkpoints.complete_steps(killed.arm_folder("qlora") / "checkpoints")[-1] >= STEPS // 2
    assert subprocess.run(step_command(killed, "train-qlora"), check=False).returncode == 0
    hashes = {
        file_hash(study.arm_folder("qlora") / "adapter" / "adapter_model.safetensors")
        for study in (calm, killed)
    }
    assert len(hashes) == 1
    assert curves(calm, "qlora") == curves(killed, "qlora")


@pytest.mark.cluster
def test_a_failure_of_one_process_is_reported_in_one_line(base):
    study = a_study("broken", base, "float32", executor__devices=2)
    (study.folder / "data" / "validation.jsonl").write_text("{", encoding="utf-8")
    with pytest.raises(AssistantBuilderError) as raised:
        train_distributed(train_in_process, study, "lora", ParallelStrategy("ddp", 2))
    assert "validation.jsonl" in str(raised.value)
    assert "Traceback" not in str(raised.value)
