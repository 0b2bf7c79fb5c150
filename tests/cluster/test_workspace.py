"""Steps on nodes without a shared path, each in a temporary folder that is synced through the study's store.

The nodes are threads; ``tests/cluster/test_stored.py`` uses a real cluster.
"""

import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest
from typer.testing import CliRunner

from assistant_builder.cli import app
from assistant_builder.cluster import ray_runner, tasks, workspace
from assistant_builder.cluster.resources import Node, ResourceRequest
from assistant_builder.cluster.tasks import TaskResult, run_on_node
from assistant_builder.errors import AssistantBuilderError, Cancelled, StoreError, StudyError
from assistant_builder.runner.open_study import open_or_create
from assistant_builder.runner.run import run_study
from assistant_builder.store.lease import Lease, StoreLeaseFile
from assistant_builder.store.mirror import Mirror
from assistant_builder.store.object_store import ObjectStore
from assistant_builder.study import Study, locks
from tests.cluster.conftest import Background, fake_command, wait_until
from tests.store.test_sync import TRAIN, configure_step, slept, starts
from tests.synthetic_study import new_study, with_metrics

pytestmark = pytest.mark.long
DASHBOARD = "http://10.0.0.1:8265"


class Threads:
    """Replacement of the actor that owns a study's tasks."""

    left_over: ClassVar[dict[str, TaskResult | None]] = {}
    """Tasks that another run had started."""

    def __init__(self, study: Study, url: str = "") -> None:
        self._folder, self._url = str(study.folder), url
        self._tasks: dict[str, TaskResult | None] = {}

    def start(self, step: str, words: list[str], ask: ResourceRequest, retries: int) -> None:
        self._tasks[step] = None
        # a daemon, so that a test that fails does not wait for a step that sleeps for long
        threading.Thread(target=self._run, args=(step, words, retries), daemon=True).start()

    def _run(self, step: str, words: list[str], retries: int) -> None:
        self._tasks[step] = run_on_node(self._folder, self._url, step, words, {}, retries + 1)

    def results(self) -> dict[str, TaskResult | None]:
        return {**self.left_over, **self._tasks}

    def shut_down(self) -> None:
        assert None not in self._tasks.values()


@pytest.fixture(autouse=True)
def nodes_in_threads(
    monkeypatch: pytest.MonkeyPatch, sleeping_steps: None, quick_leases: None
) -> None:
    ray: Any = ModuleType("ray")
    ray.util = SimpleNamespace(get_node_ip_address=lambda: "10.0.0.1")
    ray.get_runtime_context = lambda: SimpleNamespace(get_node_id=lambda: "0123456789")
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(ray_runner, "connect", lambda address: DASHBOARD)
    monkeypatch.setattr(ray_runner, "alive_nodes", lambda: [Node("10.0.0.1", 4, 0, 10**10)])
    monkeypatch.setattr(
        ray_runner, "resources_for_step", lambda study, step, tasks: ResourceRequest(1.0)
    )
    monkeypatch.setattr(ray_runner, "step_command", fake_command)
    monkeypatch.setattr(ray_runner, "TaskRegistryClient", Threads)
    monkeypatch.setattr(tasks, "GRACE_SECONDS", 2.0)
    monkeypatch.setattr(workspace, "_PULL_SECONDS", 0.5)
    # a lease is seen here a while after it was renewed
    monkeypatch.setattr(locks, "STALE_SECONDS", 5.0)


def test_run_downloads_node_results_and_another_machine_resumes(memory, tmp_path, monkeypatch):
    study = new_study("nodes", executor__kind="ray", executor__store=memory)
    checkpoint = "arms/lora/checkpoints/checkpoint-1/complete.json"
    configure_step(study, TRAIN, sleep=5)
    (study.folder / checkpoint).parent.mkdir(parents=True)
    (study.folder / checkpoint).write_text("{}")
    with_metrics(study, "lora", 1)  # without metrics it would start from the beginning
    run = Background(study)
    # in a folder no node sees
    wait_until(lambda: len(slept(study)) >= 5 and study.step(TRAIN).state == "running")
    record = study.step(TRAIN)
    assert record.state == "running"
    assert record.node == "10.0.0.1 (01234567)"
    assert record.pid is not None
    os.kill(record.pid, signal.SIGKILL)
    error = run.wait()
    assert isinstance(error, AssistantBuilderError) and "ended by signal 9" in str(error)
    assert study.step("train-qlora").state == "succeeded"
    assert not (study.folder / checkpoint).exists()
    assert ObjectStore(f"{memory}/nodes").read(checkpoint) == b"{}"

    monkeypatch.setenv("ASSISTANT_BUILDER_HOME", str(tmp_path / "another machine"))
    other = open_or_create(f"{memory}/nodes", name=None, changes={}, redo=False)
    run_study(other)
    assert other.state == "succeeded"
    assert starts(other, TRAIN) == 2
    assert starts(other, "train-qlora") == 1
    assert len(slept(other)) == 50 and slept(other).count(1) >= 5
    assert not [
        name for name in ObjectStore(f"{memory}/nodes").versions() if name.endswith(".lease.json")
    ]
    assert not list(Path(os.environ.get("TMPDIR", "/tmp")).glob("assistant-builder-*/nodes"))

    monkeypatch.setenv("ASSISTANT_BUILDER_HOME", str(study.folder.parents[1]))
    alone = open_or_create("nodes", name=None, changes={"executor": "local"}, redo=False)
    assert (alone.folder, alone.state) == (study.folder, "succeeded")


def test_cancelling_reaches_a_node_through_the_store(memory):
    study = new_study("stopped", executor__kind="ray", executor__store=memory)
    configure_step(study, TRAIN, sleep=600)
    run = Background(study)
    wait_until(lambda: study.step(TRAIN).state == "running" and len(slept(study)))
    reported = CliRunner().invoke(app, ["status", study.name]).stdout
    assert f"dashboard: {DASHBOARD}" in reported and "10.0.0.1 (01234567)" in reported
    study.request_cancel()
    assert isinstance(run.wait(), Cancelled)  # long before the step would end
    assert study.step(TRAIN).state == "cancelled"
    # the store is ahead of the folder by now
    ObjectStore(f"{memory}/stopped").write("arms/lora/train-lora.sleep", b"0")
    run_study(study)
    assert study.state == "succeeded"


def test_changed_settings_apply_after_a_run_on_nodes(memory):
    study = new_study("changed", executor__kind="ray", executor__store=memory)
    run_study(study)
    study.write_config(study.config.with_changes({"train.rank": 4}))
    study.delete_step_outputs("evaluate")
    run_study(study)
    assert study.state == "succeeded" and study.config.train.rank == 4
    assert b"rank: 4" in (ObjectStore(f"{memory}/changed").read("study.yaml") or b"")


def test_a_restarted_training_finds_no_old_checkpoint(memory):
    study = new_study("anew", executor__kind="ray", executor__store=memory)
    store, old = ObjectStore(f"{memory}/anew"), "arms/lora/checkpoints/checkpoint-1/complete.json"
    configure_step(study, TRAIN, sleep=1)
    (study.folder / old).parent.mkdir(parents=True)
    (study.folder / old).write_text("{}")
    run_study(study)  # without metrics nothing was trained
    assert store.read(old) is None and store.read("arms/lora/train-lora.made")


def test_shards_run_before_the_evaluation_and_are_ignored_afterwards(memory):
    study = new_study("parts", executor__kind="ray", executor__store=memory)
    assert study.shards == ("score-1", "score-2")
    configure_step(study, "score-2", broken=1)
    with pytest.raises(AssistantBuilderError, match="score-2: it is broken"):
        run_study(study)
    assert study.step("score-1").state == "succeeded" and study.step("evaluate").state == "queued"
    assert "score-2" in CliRunner().invoke(app, ["status", study.name]).stdout
    ObjectStore(f"{memory}/parts").remove(["evals/score-2.broken"])
    (study.step_folder("score-2") / "score-2.broken").unlink(missing_ok=True)
    run_study(study)
    assert study.state == "succeeded" and starts(study, "evaluate") == 1
    before = [starts(study, part) for part in study.shards]
    study.write_config(study.config.with_changes({"executor.evaluate_tasks": 4}))
    run_study(study)  # settings of the executor make no step stale
    assert study.state == "succeeded"
    assert [starts(study, part) for part in ("score-1", "score-2")] == before
    assert not study.status_file("score-3").exists()
    study.delete_step_outputs("evaluate", scores=False)
    assert study.shown_steps == study.steps and study.step_folder("evaluate").is_dir()
    (study.step_folder("score-1") / "score-1.status.json").write_text("{")
    assert study.step("score-1").state == "queued"  # a part that cannot be read costs nothing


def test_evaluation_waits_for_shards_of_an_earlier_run(memory, monkeypatch):
    monkeypatch.setattr(Threads, "left_over", {"score-3": None})
    study = new_study("strangers", executor__kind="ray", executor__store=memory)
    run = Background(study)
    wait_until(
        lambda: study.step("train-lora").state == study.step("train-qlora").state == "succeeded"
    )
    time.sleep(1)
    assert not study.status_file("score-1").exists()  # no shard runs at the same time
    Threads.left_over["score-3"] = TaskResult(0)
    assert run.wait() is None and study.state == "succeeded"


def test_a_short_store_outage_does_not_end_the_run(memory, monkeypatch):
    study = new_study("away", executor__kind="ray", executor__store=memory)
    asked, whole = [], Mirror.push

    def push(self: Mirror) -> None:
        asked.append(1)
        if len(asked) == 4:
            raise StoreError("it does not answer")
        whole(self)

    monkeypatch.setattr(Mirror, "push", push)
    run_study(study)
    assert study.state == "succeeded" and len(asked) > 4


def test_without_a_store_nodes_use_the_shared_folder():
    study = new_study("shared", executor__kind="ray")
    run_study(study)
    assert study.state == "succeeded"
    assert study.step(TRAIN).node
    assert not list(study.folder.rglob("*.lease.json"))


def test_a_step_that_runs_on_a_node_is_not_run_locally(memory):
    study = new_study("elsewhere", executor__store=memory)
    backend = StoreLeaseFile(ObjectStore(f"{memory}/elsewhere"), "arms/lora/train-lora.lease.json")
    lease = Lease(backend, "x", "10.0.0.2")
    lease.acquire()
    stop = False

    def renew() -> None:
        while not stop:
            lease.acquire()
            time.sleep(0.05)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(renew)
        try:
            with pytest.raises(StudyError, match="node 10.0.0.2 is still running a step"):
                run_study(study)
        finally:
            stop = True
