"""A Ray cluster of three nodes on this machine, and steps that only sleep."""

import contextlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from assistant_builder.atomic_io import read_jsonl
from assistant_builder.cluster import ray_runner as driver
from assistant_builder.cluster.resources import ResourceRequest
from assistant_builder.config import StudyConfig
from assistant_builder.runner import invalidation
from assistant_builder.runner.run import run_study
from assistant_builder.study import Study
from assistant_builder.study.addresses import allow_addresses
from tests.conftest import s3_environment
from tests.synthetic_study import SMALL, new_study

ROOT = Path(__file__).resolve().parents[2]
NODE = {"include_dashboard": False, "object_store_memory": 80 * 2**20, "memory": 8 * 10**9}
STEP = ROOT / "tests" / "cluster" / "fake_step.py"


class Nodes:
    """Three nodes with four processors together: two on the head, one on each of the others.

    Args:
        homes: Where the nodes have their homes, each its own, unless the driver tells a step another one.
    """

    def __init__(self, homes: Path) -> None:
        from ray.cluster_utils import Cluster

        self._homes = homes
        self.cluster = _start_with_retries(
            lambda: Cluster(initialize_head=True, head_node_args=self._node(2))
        )
        self.others: list[Any] = []
        self.add_missing()

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def lose(self, shown: str) -> None:
        """Kill a node other than the head, given the name in a step's record."""
        node = next(node for node in self.others if f"({node.node_id[:8]})" in shown)
        self.cluster.remove_node(node, allow_graceful=False)
        self.others.remove(node)

    def add_missing(self) -> None:
        """Add nodes until there are three."""
        while len(self.others) < 2:
            self.others.append(_start_with_retries(lambda: self.cluster.add_node(**self._node(1))))

    def _node(self, cpus: int) -> dict[str, Any]:
        home = tempfile.mkdtemp(dir=self._homes)
        return {"num_cpus": cpus, "env_vars": {"ASSISTANT_BUILDER_HOME": home}, **NODE}


def _start_with_retries(start: Callable[[], Any]) -> Any:
    """Start a node, with retries for machines that exceed Ray's timeout of 30 seconds."""
    for _ in range(4):
        with contextlib.suppress(Exception):
            return start()
    return start()


@pytest.fixture(scope="session")
def node_homes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the nodes' home folders."""
    return tmp_path_factory.mktemp("node-homes")


@pytest.fixture(scope="session")
def running_nodes(node_homes: Path, s3_endpoint: str) -> Iterator[Nodes]:
    pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_environment(s3_endpoint).items():
            patch.setenv(name, value)
        patch.setenv(
            "PYTHONPATH",
            os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        )
        patch.setenv("OMP_NUM_THREADS", "1")
        nodes = Nodes(node_homes)
        yield nodes
        import ray

        ray.shutdown()
        nodes.cluster.shutdown()


@pytest.fixture
def nodes(running_nodes: Nodes, home: Path) -> Iterator[Nodes]:
    running_nodes.add_missing()
    allow_addresses([running_nodes.address])
    yield running_nodes


@pytest.fixture
def sleeping(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Study]:
    """Factory of studies whose steps run ``fake_step.py``."""
    monkeypatch.setattr(invalidation, "step_inputs", lambda study, step, **_: {})
    monkeypatch.setattr(driver, "step_command", fake_command)
    monkeypatch.setattr(
        driver, "resources_for_step", lambda study, step, nodes: ResourceRequest(1.0)
    )

    def make(name: str, **changes: Any) -> Study:
        return new_study(
            name, SMALL, executor__kind="ray", executor__address=nodes.address, **changes
        )

    return make


def fake_command(study: Study, step: str) -> list[str]:
    return [sys.executable, str(STEP), str(study.folder), step]


class Background:
    """A run in its own thread."""

    def __init__(self, study: Study) -> None:
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(study,), daemon=True)
        self._thread.start()

    def _run(self, study: Study) -> None:
        try:
            run_study(study)
        except BaseException as error:
            self.error = error

    def wait(self, seconds: float = 400.0) -> BaseException | None:
        self._thread.join(seconds)
        assert not self._thread.is_alive(), "it has not ended"
        return self.error


def configure_step(study: Study, step: str, **words: object) -> None:
    """Write the options of a sleeping step."""
    folder = study.step_folder(step)
    folder.mkdir(parents=True, exist_ok=True)
    for name, word in words.items():
        (folder / f"{step}.{name}").write_text(str(word))


def starts(study: Study, step: str) -> int:
    """Number of starts of a sleeping step."""
    return len(read_jsonl(study.step_folder(step) / f"{step}.starts"))


def wait_until(condition: Callable[[], Any], seconds: float = 400.0) -> Any:
    """Wait until a condition returns a true value, and return it; fail after a timeout."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def executor(nodes: Nodes, **changes: Any) -> StudyConfig:
    """Settings of a study that runs on the nodes."""
    return StudyConfig().with_changes(
        {"executor": "ray", "executor.address": nodes.address, **changes}
    )
