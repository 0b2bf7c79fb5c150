"""A study in a store on nodes that share nothing else: each step works in scratch of its node."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from assistant_builder.atomic_io import read_jsonl
from assistant_builder.errors import Cancelled
from assistant_builder.runner.open_study import open_or_create
from assistant_builder.runner.run import run_study
from assistant_builder.store.object_store import ObjectStore
from assistant_builder.study import CHECKPOINT_MARKER, Study
from tests.cluster.conftest import Background, Nodes, wait_until
from tests.cluster.test_steps import TRAINS, on_other_node, starts, tell
from tests.export.tiny import tiny_base
from tests.fault_injection.study import differences, outcome, run, small_study, start

Make = Callable[..., Study]
pytestmark = pytest.mark.cluster
LONG = {"train__max_steps": 60, "train__evaluations": 6, "train__epochs": 50, "eval__similarity": False}
"""Long enough to be caught between its first checkpoint and its end."""


def test_a_lost_node_costs_no_work_and_the_run_sees_all_of_it(
    nodes: Nodes, sleeping: Make, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = sleeping("stored", seeds=2, executor__store=bucket)
    for step in TRAINS:
        tell(study, step, sleep=12)
    going = Background(study)
    step, node = wait_until(lambda: on_other_node(study, nodes))
    slept = study.step_folder(step) / f"{step}.slept"
    wait_until(lambda: len(read_jsonl(slept)) >= 5)  # seen from here while it runs there
    pid = study.step(step).pid
    nodes.lose(node)
    wait_until(lambda: not psutil.pid_exists(pid), 10)
    assert going.wait() is None
    assert study.state == "succeeded" and starts(study, step) == 2 and study.step(step).node != node
    order = [record["start"] for record in read_jsonl(slept)]
    assert len(order) == 120 and order == sorted(order) and order.count(1) >= 5
    assert not [name for name in ObjectStore(f"{bucket}/stored").versions() if name.endswith(".lease.json")]
    monkeypatch.setenv("ASSISTANT_BUILDER_HOME", str(tmp_path / "another machine"))
    other = open_or_create(f"{bucket}/stored", name=None, changes={}, redo=False)
    run_study(other)
    assert other.state == "succeeded" and starts(other, step) == 2


def test_cancelling_reaches_nodes_that_share_no_path(nodes: Nodes, sleeping: Make, bucket: str) -> None:
    import ray

    study = sleeping("stored-cancelled", seeds=3, executor__store=bucket)
    trains = [step for step in study.steps if step.startswith("train-")]
    for step in trains:
        tell(study, step, sleep=600)
    going = Background(study)
    wait_until(lambda: sum(study.step(step).state == "running" for step in trains) == 4)
    asked = time.monotonic()
    study.request_cancel()
    assert isinstance(going.wait(60), Cancelled)
    wait_until(lambda: ray.available_resources().get("CPU") == 4, 30)
    assert time.monotonic() - asked < 15
    assert study.state == "cancelled"


def training(study: Study, run: subprocess.Popen[str]) -> psutil.Process | None:
    """The process that trains the LoRA arm, in scratch of whatever node, while the study is run."""
    assert run.poll() is None, run.communicate()[0]
    return training_of(study)


def training_of(study: Study) -> psutil.Process | None:
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or [""]
        if "train-lora" in words and Path(words[-1]).name == study.name:
            return process
    return None


def whole_checkpoints(step: psutil.Process) -> list[Path]:
    """Markers of the checkpoints that a training has."""
    return list(Path(step.cmdline()[-1]).glob(f"arms/lora/checkpoints/*/{CHECKPOINT_MARKER}"))


@pytest.mark.train
def test_nodes_that_share_nothing_end_with_the_bytes_of_one_machine_though_a_worker_is_killed(
    nodes: Nodes, bucket: str, bundled_models: Path, node_homes: Path, model_cache: Path, tmp_path: Path
) -> None:
    for home in node_homes.iterdir():
        if not (home / "models").exists():
            (home / "models").symlink_to(model_cache / "models")
    base = str(tiny_base(tmp_path / "base"))
    here = small_study("here", base, **LONG)
    code, said = run(here)
    assert code == 0, said
    wanted = outcome(here)
    assert {"lora", "qlora", "verdict"} <= wanted.keys()

    study = small_study("there", base, executor__kind="ray", executor__store=bucket, executor__address=nodes.address,
                        **LONG)
    store = ObjectStore(f"{bucket}/there")
    going = start(study)
    try:
        step = wait_until(lambda: training(study, going), 800)
        wait_until(lambda: whole_checkpoints(step))
        folder = step.cmdline()[-1]
        step.suspend()  # else it could end before the store has the checkpoint
        wait_until(lambda: any("arms/lora/checkpoints/" in name and name.endswith(CHECKPOINT_MARKER)
                               for name in store.versions()))
        worker = step.parent()
        assert worker is not None and worker.name() == "ray::train-lora"
        worker.kill()
        step.resume()
        step.wait(60)  # nobody would know that it still writes
        again = wait_until(lambda: training(study, going))
        assert again.cmdline()[-1] != folder and whole_checkpoints(again)  # brought there before it began
        said, _ = going.communicate()
        assert going.returncode == 0, said
        assert study.step("train-lora").node and study.step("train-lora").pid == again.pid
    finally:  # a test that fails leaves nothing behind that computes, or is suspended
        going.kill()
        left = training_of(study)
        if left is not None:
            left.kill()
    assert differences(study, wanted) == []
    assert not list(study.folder.rglob("checkpoint-*/*")) and not list(node_homes.glob("*/studies"))
