"""Studies that cannot run on a cluster are refused in one line with a remedy; no cluster is needed."""

import socket
import sys
from dataclasses import replace

import pytest

from assistant_builder.cluster import ray_runner
from assistant_builder.cluster.resources import (
    Node,
    ResourceRequest,
    require_node,
    resources_for_step,
)
from assistant_builder.config import StudyConfig
from assistant_builder.errors import AssistantBuilderError, ResourceError
from assistant_builder.planning.memory_check import step_memory
from assistant_builder.runner.backend import open_runner
from assistant_builder.runner.invalidation import step_inputs
from assistant_builder.runner.local_runner import LocalRunner
from assistant_builder.runner.run import run_study
from tests.synthetic_study import new_study, with_data

LARGE = Node("10.0.0.1", 8, 0, 64 * 10**9)
SMALL = Node("10.0.0.2", 2, 1, 10**9)


def test_missing_ray_is_reported_with_the_install_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    study = new_study("without", executor__kind="ray")
    with pytest.raises(AssistantBuilderError, match=r"needs Ray.*pip install -e '\.\[ray\]'"):
        run_study(study)
    assert study.state == "failed"


def test_unreachable_address_is_reported_at_once():
    pytest.importorskip("ray")
    with socket.socket() as taken:  # bound but not listening
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        study = new_study("nobody", executor__kind="ray", executor__address=address)
        with pytest.raises(
            AssistantBuilderError, match=f"no Ray cluster answers at .*{address}.*ray start"
        ):
            run_study(study)


def test_too_large_request_is_refused_with_the_available_nodes(monkeypatch):
    require_node(ResourceRequest(8, 0, 60 * 10**9), [SMALL, LARGE], "train-lora")
    for request, words in (
        (ResourceRequest(9), "9 CPUs"),
        (ResourceRequest(4, 1), "4 CPUs, 1 GPU"),
        (ResourceRequest(1, 0, 65 * 10**9), "1 CPU, 65"),
    ):
        with pytest.raises(
            ResourceError, match=f"requests {words}.*nodes with .*8 CPUs.*executor.train_cpus"
        ):
            require_node(request, [SMALL, LARGE], "train-lora")
    monkeypatch.setattr(ray_runner, "connect", lambda address: None)
    monkeypatch.setattr(ray_runner, "alive_nodes", lambda: [LARGE])
    study = new_study("greedy", executor__kind="ray", executor__evaluate_cpus=16)
    with pytest.raises(ResourceError, match="step score-1.*16 CPUs.*executor.evaluate_cpus"):
        run_study(study)


def test_requested_memory_is_the_planned_or_the_configured_memory(bundled_models):
    study = with_data(new_study("planned", executor__kind="ray", executor__train_cpus=2))
    request = resources_for_step(study, "train-qlora-2", [replace(SMALL, gpus=0), LARGE])
    planned = step_memory(study, "train-qlora", LARGE.memory_bytes)
    assert planned is not None and planned.expected_bytes > 10**9
    assert request == ResourceRequest(2, 0, planned.expected_bytes)
    assert all(
        resources_for_step(study, step, [LARGE]) == ResourceRequest(1)
        for step in ("data", "report")
    )
    complete, shard = (
        resources_for_step(study, step, [LARGE]).memory_bytes for step in ("evaluate", "score-1")
    )
    assert 0 < shard == complete < LARGE.memory_bytes  # both load one base at a time
    assert resources_for_step(study, "train-lora", [LARGE, SMALL]) == ResourceRequest(2, 1)
    assert resources_for_step(study, "score-1", [SMALL]) == ResourceRequest(1, 1)
    study.write_config(study.config.with_changes({"executor.devices": "2"}))
    assert resources_for_step(
        study, "train-lora", [Node("pair", 8, 2, 0), SMALL]
    ) == ResourceRequest(2, 2)
    assert resources_for_step(study, "train-lora", [LARGE, SMALL]).gpus == 0  # no node has two
    study.write_config(
        study.config.with_changes({"executor.devices": "null", "executor.train_gpus": "0"})
    )
    with pytest.raises(ResourceError, match="at the very least, and no node.*allow_low_memory"):
        resources_for_step(study, "train-lora", [SMALL])
    study.write_config(study.config.with_changes({"train.allow_low_memory": "true"}))
    assert resources_for_step(study, "train-lora", [SMALL]).memory_bytes == SMALL.memory_bytes
    study.write_config(
        study.config.with_changes({"executor.train_memory_gb": "3", "executor.evaluate_gpus": "1"})
    )
    assert resources_for_step(study, "train-lora", [SMALL]) == ResourceRequest(2, 0, 3 * 10**9)
    assert resources_for_step(study, "evaluate", [SMALL]) == ResourceRequest(1, 1)


def test_executor_shorthand_and_executor_is_no_input(bundled_models):
    short = StudyConfig.model_validate({"executor": "ray"})
    assert short == StudyConfig().with_changes({"executor": "ray"}) and short.executor.kind == "ray"
    other = short.with_changes({"executor.address": "10.0.0.1:6379", "executor": "local"})
    assert other.executor.address == "10.0.0.1:6379" and other.executor.kind == "local"
    study = with_data(new_study("same"))
    with (
        open_runner(study) as local,
        open_runner(new_study("there", executor__kind="ray")) as there,
    ):
        assert isinstance(local, LocalRunner) and isinstance(there, ray_runner.RayRunner)
    changed = study.config.with_changes(
        {"executor": "ray", "executor.train_cpus": "8", "executor.retries": "0"}
    )
    for step in ("data", "train-lora"):
        assert step_inputs(study, step) == step_inputs(study, step, config=changed)
