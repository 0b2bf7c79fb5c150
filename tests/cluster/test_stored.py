"""A study in a store on nodes that share nothing else: each step works in scratch of its node."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from assistant_builder.errors import Cancelled
from assistant_builder.files import read_jsonl
from assistant_builder.jobs.running import run_study
from assistant_builder.jobs.starting import open_or_create
from assistant_builder.stores import Store
from assistant_builder.study import Study
from evals.soak.subject import differences, new_subject, outcome, run
from tests.cluster.conftest import Background, Nodes, wait_until
from tests.cluster.test_steps import TRAINS, on_other_node, starts, tell
from tests.evals.export.tiny import tiny_base

Make = Callable[..., Study]
pytestmark = pytest.mark.cluster


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
    assert not [name for name in Store(f"{bucket}/stored").marks() if name.endswith(".lease.json")]
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


@pytest.mark.train
def test_nodes_that_share_nothing_end_with_the_bytes_of_one_machine(
    nodes: Nodes, bucket: str, bundled_models: Path, node_home: Path, model_cache: Path
) -> None:
    if not (node_home / "models").exists():
        (node_home / "models").symlink_to(model_cache / "models")
    base = str(tiny_base(node_home / "base"))
    study = new_subject("here", base, eval__similarity=False)
    code, said = run(study)
    assert code == 0, said
    wanted = outcome(study)
    stored = new_subject("there", base, eval__similarity=False, executor__kind="ray", executor__store=bucket,
                         executor__address=nodes.address)
    code, said = run(stored)
    assert code == 0, said
    assert differences(stored, wanted) == [] and stored.step("train-lora").node
    assert not list(stored.folder.rglob("checkpoint-*/*"))
