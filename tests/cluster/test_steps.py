"""Steps on the nodes of a real cluster: at once, waiting for a twin, struck down, cancelled, found again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise

import psutil
import pytest
from typer.testing import CliRunner

from assistant_builder.atomic_io import read_jsonl
from assistant_builder.cli import app
from assistant_builder.errors import AssistantBuilderError, Cancelled
from assistant_builder.runner.run import run_study
from assistant_builder.study import Study
from tests.cluster.conftest import ROOT, Background, Nodes, starts, tell, wait_until

Make = Callable[..., Study]
pytestmark = pytest.mark.cluster
TRAINS = ("train-lora", "train-qlora", "train-lora-2", "train-qlora-2")
SCORES = ("score-1", "score-2")


def on_other_node(study: Study, nodes: Nodes) -> tuple[str, str] | None:
    """A running training, and its node, that is not on the head."""
    for step in TRAINS:
        record = study.step(step)
        if record.state == "running" and any(node.node_id[:8] in (record.node or "") for node in nodes.others):
            assert record.node is not None
            return step, record.node
    return None


def test_all_trainings_run_at_once_and_what_follows_waits(sleeping: Make) -> None:
    study = sleeping("at-once", seeds=2)
    for step in TRAINS:
        tell(study, step, meets="lora qlora lora-2 qlora-2")
    for step in SCORES:
        tell(study, step, sleep=4)
    run_study(study)
    records = {step: study.step(step) for step in study.shown_steps}
    assert {record.state for record in records.values()} == {"succeeded"} and study.state == "succeeded"
    began = {step: record.started or 0 for step, record in records.items()}
    ended = {step: began[step] + record.seconds for step, record in records.items()}
    assert min(began[step] for step in SCORES) >= max(ended[step] for step in TRAINS)
    assert max(began[step] for step in SCORES) < min(ended[step] for step in SCORES)  # both at once
    order = ("data", "data-embed", "train-lora", *SCORES[:1], "evaluate", "report")
    assert all(ended[first] <= began[then] for first, then in pairwise(order))
    assert len({records[step].node for step in TRAINS}) == 3
    assert not list(study.folder.rglob("*.lease.json"))
    said = json.loads(CliRunner().invoke(app, ["status", study.name, "--json"]).stdout)
    assert {step["name"]: step["node"] for step in said["steps"]} == {
        step: record.node for step, record in records.items()
    }
    assert str(records["evaluate"].node) in CliRunner().invoke(app, ["status", study.name]).stdout


def test_an_arm_that_waits_for_its_twin_is_started_again(sleeping: Make) -> None:
    study = sleeping("twins")
    tell(study, "train-lora", after="arms/qlora/train-qlora.made")
    tell(study, "train-qlora", sleep=3)
    run_study(study)
    assert study.state == "succeeded"
    assert (starts(study, "train-lora"), starts(study, "train-qlora")) == (2, 1)


def test_one_arm_fails_and_the_other_is_let_finish(sleeping: Make) -> None:
    study = sleeping("broken")
    tell(study, "train-lora", broken=1)
    tell(study, "train-qlora", sleep=3)
    with pytest.raises(AssistantBuilderError, match="train-lora: it is broken. Mend it"):
        run_study(study)
    assert study.step("train-qlora").state == "succeeded" and study.step("evaluate").state == "queued"
    assert study.state == "failed"


def test_a_lost_node_costs_its_step_a_new_start_and_no_work(nodes: Nodes, sleeping: Make) -> None:
    study = sleeping("lost", seeds=2)
    for step in TRAINS:
        tell(study, step, sleep=8)
    run = Background(study)
    step, node = wait_until(lambda: on_other_node(study, nodes))
    pid = study.step(step).pid
    wait_until(lambda: len(read_jsonl(study.step_folder(step) / f"{step}.slept")) >= 5)
    nodes.lose(node)
    wait_until(lambda: not psutil.pid_exists(pid), 10)  # nothing on a lost node goes on writing
    assert run.wait() is None
    assert study.state == "succeeded" and starts(study, step) == 2
    assert study.step(step).node != node
    slept = [record["start"] for record in read_jsonl(study.step_folder(step) / f"{step}.slept")]
    assert len(slept) == 80 and slept == sorted(slept) and slept.count(1) >= 5  # carried on, one writer after the other


def test_cancelling_frees_the_cluster_within_ten_seconds(nodes: Nodes, sleeping: Make) -> None:
    import ray

    study = sleeping("cancelled", seeds=3)  # six trainings on four processors: two wait in Ray's queue
    trains = [step for step in study.steps if step.startswith("train-")]
    for step in trains:
        tell(study, step, sleep=600, deaf=1)
    run = Background(study)
    wait_until(lambda: sum(study.step(step).state == "running" for step in trains) == 4)
    pids = [study.step(step).pid for step in trains if study.step(step).state == "running"]
    asked = time.monotonic()
    assert CliRunner().invoke(app, ["cancel", study.name]).exit_code == 0
    assert isinstance(run.wait(30), Cancelled)
    wait_until(lambda: ray.available_resources().get("CPU") == 4, 30)
    assert time.monotonic() - asked < 10
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
    assert study.state == "cancelled" and not study.cancel_requested
    for step in trains:
        tell(study, step, sleep=0)
    run_study(study)
    assert study.state == "succeeded"


DRIVER = """
import sys
from assistant_builder.cluster import ray_runner
from assistant_builder.runner import invalidation
from assistant_builder.cluster.resources import ResourceRequest
from assistant_builder.runner.run import run_study
from assistant_builder.study import Study
from tests.cluster.conftest import fake_command
invalidation.step_inputs = lambda study, step, **_: {}
ray_runner.step_command = fake_command
ray_runner.resources_for_step = lambda study, step, nodes: ResourceRequest(1.0)
run_study(Study.open(sys.argv[1]))
"""


def test_a_run_that_was_killed_is_found_again(sleeping: Make) -> None:
    study = sleeping("found")
    for step in TRAINS[:2]:
        tell(study, step, sleep=12)
    with subprocess.Popen([sys.executable, "-c", DRIVER, study.name], cwd=ROOT, env=dict(os.environ)) as killed:
        wait_until(lambda: all(study.step(step).state == "running" for step in TRAINS[:2]))
        killed.send_signal(signal.SIGKILL)
    time.sleep(2)
    assert study.state == "running" and study.step("train-lora").state == "running"
    run_study(study)
    assert study.state == "succeeded"
    assert [starts(study, step) for step in TRAINS[:2]] == [1, 1]
