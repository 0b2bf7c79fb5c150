"""What a step's process on a node of a cluster is given besides the node's own environment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from assistant_builder.cluster.ray_client import TaskRegistryClient
from assistant_builder.cluster.resources import ResourceRequest
from assistant_builder.config import ModelConfig
from assistant_builder.study import Study
from tests.synthetic_study import new_study


class Actor:
    """Keeps what it is asked to start."""

    def __init__(self) -> None:
        self.environments: list[dict[str, str]] = []
        self.start = self

    def remote(self, folder: str, step: str, words: list[str], options: Any, environment: dict[str, str]) -> None:
        self.environments.append(environment)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Actor:
    actor = Actor()
    monkeypatch.setattr(TaskRegistryClient, "_find", lambda self: actor)
    monkeypatch.setattr(TaskRegistryClient, "_call", lambda self, call: call(actor))
    return actor


def test_steps_on_a_node_know_what_is_allowed(asked: Actor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from assistant_builder.models.remote_code import VARIABLE, allow_code

    monkeypatch.setenv(VARIABLE, "[]")
    allow_code(ModelConfig(base=str(tmp_path)))
    TaskRegistryClient(new_study()).start("train-lora", ["-m", "evals"], ResourceRequest(1.0), 0)
    monkeypatch.delenv(VARIABLE)
    TaskRegistryClient(Study.open("library")).start("train-lora", ["-m", "evals"], ResourceRequest(1.0), 0)
    assert json.loads(asked.environments[0][VARIABLE]) == [str(tmp_path)] and VARIABLE not in asked.environments[1]


def test_steps_that_ask_for_no_gpu_see_none(asked: Actor) -> None:
    keeper = TaskRegistryClient(new_study())
    for gpus in (0.0, 0.5, 2.0):
        keeper.start("train-lora", ["-m", "evals"], ResourceRequest(1.0, gpus), 0)
    seen = [environment.get("CUDA_VISIBLE_DEVICES", "as Ray sets it") for environment in asked.environments]
    assert seen == ["", "as Ray sets it", "as Ray sets it"]


def test_replicas_that_ask_for_no_gpu_see_none(tmp_path: Path) -> None:
    pytest.importorskip("ray.serve")
    from assistant_builder.config.serving import ServingConfig
    from assistant_builder.serving.ray_serve import application
    from assistant_builder.serving.registry import ModelRegistry, ServedModel

    models = ModelRegistry((ServedModel("library-lora", tmp_path, "lora", 0),), {})

    def environment(gpus: float) -> dict[str, str]:
        app = application(models, ServingConfig(backend="ray", gpus=gpus), None)
        variables: dict[str, str] = app._bound_deployment.ray_actor_options["runtime_env"]["env_vars"]
        return variables

    assert environment(0.0)["CUDA_VISIBLE_DEVICES"] == "" and "CUDA_VISIBLE_DEVICES" not in environment(1.0)
