"""A study in a store on nodes without a shared path: each step works in a temporary folder."""

import subprocess
import time
from pathlib import Path

import psutil
import pytest

from assistant_builder.atomic_io import read_jsonl
from assistant_builder.errors import Cancelled, ConfigError
from assistant_builder.runner.open_study import open_or_create
from assistant_builder.runner.run import run_study
from assistant_builder.store.object_store import ObjectStore
from assistant_builder.study import CHECKPOINT_MARKER, Study
from assistant_builder.study.addresses import allow_addresses
from tests.cluster.conftest import Background, wait_until
from tests.cluster.test_steps import TRAINS, configure_step, on_other_node, starts
from tests.export.tiny import tiny_base
from tests.fault_injection.study import differences, outcome, run, small_study, start

pytestmark = pytest.mark.cluster
LONG = {
    "train__max_steps": 60,
    "train__evaluations": 6,
    "train__epochs": 50,
    "eval__similarity": False,
}
"""Long enough to be caught between its first checkpoint and its end."""


def test_a_step_of_a_lost_node_is_resumed_through_the_store(
    nodes, sleeping, bucket, tmp_path, monkeypatch
):
    study = sleeping("stored", seeds=2, executor__store=bucket)
    for step in TRAINS:
        configure_step(study, step, sleep=12)
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
    assert not [
        name for name in ObjectStore(f"{bucket}/stored").versions() if name.endswith(".lease.json")
    ]
    monkeypatch.setenv("ASSISTANT_BUILDER_HOME", str(tmp_path / "another machine"))
    other = open_or_create(f"{bucket}/stored", name=None, changes={}, redo=False)
    with pytest.raises(
        ConfigError, match="comes from a file"
    ):  # the store names the cluster, nobody here has
        run_study(other)
    allow_addresses([nodes.address])
    run_study(other)
    assert other.state == "succeeded" and starts(other, step) == 2


def test_cancelling_reaches_nodes_without_shared_path(nodes, sleeping, bucket):
    import ray

    study = sleeping("stored-cancelled", seeds=3, executor__store=bucket)
    trains = [step for step in study.steps if step.startswith("train-")]
    for step in trains:
        configure_step(study, step, sleep=600)
    going = Background(study)
    wait_until(lambda: sum(study.step(step).state == "running" for step in trains) == 4)
    asked = time.monotonic()
    study.request_cancel()
    assert isinstance(going.wait(60), Cancelled)
    wait_until(lambda: ray.available_resources().get("CPU") == 4, 30)
    assert time.monotonic() - asked < 15
    assert study.state == "cancelled"


def training(study: Study, run: subprocess.Popen[str]) -> psutil.Process | None:
    """The process that trains the LoRA arm on any node."""
    assert run.poll() is None, run.communicate()[0]
    return training_of(study)


def training_of(study: Study) -> psutil.Process | None:
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or [""]
        if "train-lora" in words and Path(words[-1]).name == study.name:
            return process
    return None


def whole_checkpoints(step: psutil.Process) -> list[Path]:
    """Markers of the complete checkpoints of a training."""
    return list(Path(step.cmdline()[-1]).glob(f"arms/lora/checkpoints/*/{CHECKPOINT_MARKER}"))


@pytest.mark.train
def test_nodes_without_shared_path_give_identical_bytes_after_a_kill(
    nodes, bucket, bundled_models, node_homes, model_cache, tmp_path
):
    for home in node_homes.iterdir():
        if not (home / "models").exists():
            (home / "models").symlink_to(model_cache / "models")
    base = str(tiny_base(tmp_path / "base"))
    here = small_study("here", base, **LONG)
    code, output = run(here)
    assert code == 0, output
    wanted = outcome(here)
    assert {"lora", "qlora", "verdict"} <= wanted.keys()

    study = small_study(
        "there",
        base,
        executor__kind="ray",
        executor__store=bucket,
        executor__address=nodes.address,
        **LONG,
    )
    store = ObjectStore(f"{bucket}/there")
    going = start(study)
    try:
        step = wait_until(lambda: training(study, going), 800)
        wait_until(lambda: whole_checkpoints(step))
        folder = step.cmdline()[-1]
        step.suspend()  # else it could end before the store has the checkpoint
        wait_until(
            lambda: any(
                "arms/lora/checkpoints/" in name and name.endswith(CHECKPOINT_MARKER)
                for name in store.versions()
            )
        )
        worker = step.parent()
        assert worker is not None and worker.name() == "ray::train-lora"
        worker.kill()
        step.resume()
        step.wait(60)  # it must not continue to write
        again = wait_until(lambda: training(study, going))
        # brought there before it began
        assert again.cmdline()[-1] != folder and whole_checkpoints(again)
        output, _ = going.communicate()
        assert going.returncode == 0, output
        assert study.step("train-lora").node and study.step("train-lora").pid == again.pid
    finally:  # a test that fails leaves nothing behind that computes, or is suspended
        going.kill()
        left = training_of(study)
        if left is not None:
            left.kill()
    assert differences(study, wanted) == []
    assert not list(study.folder.rglob("checkpoint-*/*")) and not list(node_homes.glob("*/studies"))
