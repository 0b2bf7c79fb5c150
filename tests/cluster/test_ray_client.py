"""Environment variables of steps and replicas on a cluster node."""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from assistant_builder.cluster.ray_client import TaskRegistryClient, connect
from assistant_builder.cluster.resources import ResourceRequest
from assistant_builder.config import ModelConfig
from assistant_builder.errors import ConfigError
from assistant_builder.study import Study
from tests.synthetic_study import new_study


class Actor:
    """Records the tasks that it is actor to start."""

    def __init__(self) -> None:
        self.environments: list[dict[str, str]] = []
        self.start = self

    def remote(
        self, folder: str, step: str, words: list[str], options: Any, environment: dict[str, str]
    ) -> None:
        self.environments.append(environment)


@pytest.fixture
def actor(monkeypatch: pytest.MonkeyPatch) -> Actor:
    actor = Actor()
    monkeypatch.setattr(TaskRegistryClient, "_find", lambda self: actor)
    monkeypatch.setattr(TaskRegistryClient, "_call", lambda self, call: call(actor))
    return actor


def test_node_environment_passes_on_permission_for_remote_code(actor, tmp_path, monkeypatch):
    from assistant_builder.models.remote_code import VARIABLE, allow_code

    monkeypatch.setenv(VARIABLE, "[]")
    allow_code(ModelConfig(base=str(tmp_path)))
    TaskRegistryClient(new_study()).start("train-lora", ["-m", "evals"], ResourceRequest(1.0), 0)
    monkeypatch.delenv(VARIABLE)
    TaskRegistryClient(Study.open("library")).start(
        "train-lora", ["-m", "evals"], ResourceRequest(1.0), 0
    )
    assert json.loads(actor.environments[0][VARIABLE]) == [str(tmp_path)]
    assert VARIABLE not in actor.environments[1]


def test_steps_without_gpu_request_see_no_gpu(actor):
    keeper = TaskRegistryClient(new_study())
    for gpus in (0.0, 0.5, 2.0):
        keeper.start("train-lora", ["-m", "evals"], ResourceRequest(1.0, gpus), 0)
    seen = [
        environment.get("CUDA_VISIBLE_DEVICES", "as Ray sets it")
        for environment in actor.environments
    ]
    assert seen == ["", "as Ray sets it", "as Ray sets it"]


def test_replicas_without_gpu_request_see_no_gpu(tmp_path):
    pytest.importorskip("ray.serve")
    from assistant_builder.config.serving import ServingConfig
    from assistant_builder.serving.ray_serve import application
    from assistant_builder.serving.registry import ModelRegistry, ServedModel

    models = ModelRegistry((ServedModel("library-lora", tmp_path, "lora", 0),), {})

    def environment(gpus: float) -> dict[str, str]:
        app = application(models, ServingConfig(backend="ray", gpus=gpus), None)
        variables: dict[str, str] = app._bound_deployment.ray_actor_options["runtime_env"][
            "env_vars"
        ]
        return variables

    assert environment(0.0)["CUDA_VISIBLE_DEVICES"] == ""
    assert "CUDA_VISIBLE_DEVICES" not in environment(1.0)


@pytest.mark.skipif(
    os.name != "posix" or os.getuid() != 0, reason="starts a process of another user"
)
def test_auto_joins_no_cluster_of_another_user(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        program = shutil.copy(shutil.which("sleep") or "/bin/sleep", Path(folder, "raylet"))
        with subprocess.Popen([program, "60"], user=65534) as other:
            try:
                with pytest.raises(ConfigError, match="another user runs a Ray cluster"):
                    connect("auto")
            finally:
                other.kill()
