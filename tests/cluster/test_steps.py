"""Steps on a real Ray cluster: parallel, waiting, lost, cancelled and resumed; scheduling overhead."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import psutil
import pytest
from typer.testing import CliRunner

from assistant_builder.atomic_io import read_jsonl
from assistant_builder.cli import app
from assistant_builder.cluster.ray_client import connect
from assistant_builder.errors import AssistantBuilderError, Cancelled
from assistant_builder.runner.run import run_study
from assistant_builder.study import Study
from tests.cluster.conftest import ROOT, Background, Nodes, configure_step, starts, wait_until
from tests.shadowing_modules import Shadows

pytestmark = pytest.mark.cluster
TRAINS = ("train-lora", "train-qlora", "train-lora-2", "train-qlora-2")
STEPS, SLOTS, SECONDS = 24, 4, 4.0
SCORES = ("score-1", "score-2")


def on_other_node(study: Study, nodes: Nodes) -> tuple[str, str] | None:
    """A running training on a node other than the head, and the node."""
    for step in TRAINS:
        record = study.step(step)
        if record.state == "running" and any(
            node.node_id[:8] in (record.node or "") for node in nodes.others
        ):
            assert record.node is not None
            return step, record.node
    return None


def test_trainings_run_in_parallel_and_later_steps_wait(sleeping):
    study = sleeping("at-once", seeds=2)
    for step in TRAINS:
        configure_step(study, step, meets="lora qlora lora-2 qlora-2")
    for step in SCORES:
        configure_step(study, step, sleep=4)
    run_study(study)
    records = {step: study.step(step) for step in study.shown_steps}
    assert {record.state for record in records.values()} == {"succeeded"}
    assert study.state == "succeeded"
    began = {step: record.started or 0 for step, record in records.items()}
    ended = {step: began[step] + record.seconds for step, record in records.items()}
    assert min(began[step] for step in SCORES) >= max(ended[step] for step in TRAINS)
    assert max(began[step] for step in SCORES) < min(ended[step] for step in SCORES)  # both at once
    order = ("data", "data-embed", "train-lora", *SCORES[:1], "evaluate", "report")
    assert all(ended[first] <= began[then] for first, then in pairwise(order))
    assert len({records[step].node for step in TRAINS}) == 3
    assert not list(study.folder.rglob("*.lease.json"))
    output = json.loads(CliRunner().invoke(app, ["status", study.name, "--json"]).stdout)
    assert {step["name"]: step["node"] for step in output["steps"]} == {
        step: record.node for step, record in records.items()
    }
    assert str(records["evaluate"].node) in CliRunner().invoke(app, ["status", study.name]).stdout


def test_an_arm_that_waits_for_the_other_is_started_again(sleeping):
    study = sleeping("twins")
    configure_step(study, "train-lora", after="arms/qlora/train-qlora.made")
    configure_step(study, "train-qlora", sleep=3)
    run_study(study)
    assert study.state == "succeeded"
    assert (starts(study, "train-lora"), starts(study, "train-qlora")) == (2, 1)


def test_if_one_arm_fails_the_other_finishes(sleeping):
    study = sleeping("broken")
    configure_step(study, "train-lora", broken=1)
    configure_step(study, "train-qlora", sleep=3)
    with pytest.raises(AssistantBuilderError, match="train-lora: it is broken. Mend it"):
        run_study(study)
    assert study.step("train-qlora").state == "succeeded"
    assert study.step("evaluate").state == "queued"
    assert study.state == "failed"


def test_a_step_of_a_lost_node_is_resumed_elsewhere(nodes, sleeping):
    study = sleeping("lost", seeds=2)
    for step in TRAINS:
        configure_step(study, step, sleep=8)
    run = Background(study)
    step, node = wait_until(lambda: on_other_node(study, nodes))
    pid = study.step(step).pid
    wait_until(lambda: len(read_jsonl(study.step_folder(step) / f"{step}.slept")) >= 5)
    nodes.lose(node)
    wait_until(lambda: not psutil.pid_exists(pid), 10)  # the process of a lost node ends
    assert run.wait() is None
    assert study.state == "succeeded" and starts(study, step) == 2
    assert study.step(step).node != node
    slept = [record["start"] for record in read_jsonl(study.step_folder(step) / f"{step}.slept")]
    # carried on, one writer after the other
    assert len(slept) == 80 and slept == sorted(slept) and slept.count(1) >= 5


def test_cancelling_frees_the_cluster_within_ten_seconds(nodes, sleeping):
    import ray

    # six trainings on four processors: two wait in Ray's queue
    study = sleeping("cancelled", seeds=3)
    trains = [step for step in study.steps if step.startswith("train-")]
    for step in trains:
        configure_step(study, step, sleep=600, deaf=1)
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
        configure_step(study, step, sleep=0)
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


def test_a_new_run_finds_the_steps_of_a_killed_run(sleeping):
    study = sleeping("found")
    for step in TRAINS[:2]:
        configure_step(study, step, sleep=12)
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, study.name], cwd=ROOT, env=dict(os.environ)
    ) as killed:
        wait_until(lambda: all(study.step(step).state == "running" for step in TRAINS[:2]))
        killed.send_signal(signal.SIGKILL)
    time.sleep(2)
    assert study.state == "running" and study.step("train-lora").state == "running"
    run_study(study)
    assert study.state == "succeeded"
    assert [starts(study, step) for step in TRAINS[:2]] == [1, 1]


def test_workers_import_nothing_from_the_current_folder_of_the_driver(
    nodes, tmp_path_factory, monkeypatch
):
    import ray

    shadows = Shadows(tmp_path_factory.mktemp("driver") / "handed-on")
    monkeypatch.chdir(shadows.folder)
    ray.shutdown()  # another test may have connected elsewhere
    connect(nodes.address)

    def look() -> list[str]:
        import sys

        import assistant_builder.cluster.tasks  # noqa: F401 - the code of tasks

        return sys.path

    try:
        path = ray.get(ray.remote(look).options(num_cpus=1).remote(), timeout=120)
    finally:
        ray.shutdown()
    assert str(shadows.folder) not in path and shadows.run == []


def seconds_without_ray() -> float:
    """Wall time of the same processes on this machine, four at a time."""
    began = time.monotonic()
    with ThreadPoolExecutor(SLOTS) as pool:
        words = [sys.executable, "-c", f"import time; time.sleep({SECONDS})"]
        list(pool.map(lambda _: subprocess.run(words, check=True), range(STEPS)))
    return time.monotonic() - began
