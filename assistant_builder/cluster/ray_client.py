"""Connection of a run to a Ray cluster and to the actor that owns the study's tasks there."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable
from typing import Any

import psutil

from assistant_builder.cluster.resources import Node, ResourceRequest
from assistant_builder.cluster.tasks import TaskRegistryActor, TaskResult
from assistant_builder.errors import AssistantBuilderError, ConfigError, install_command
from assistant_builder.i18n import m
from assistant_builder.models.remote_code import trust_environment
from assistant_builder.study import Study, home
from assistant_builder.study.addresses import address_environment, require_allowed

_NAMESPACE = "assistant-builder"
_POLL_SECONDS = 0.25
_ANSWER_SECONDS = 60.0
"""Timeout of a request to the actor, whose process starts within seconds even on a busy node."""
_CONNECT_SECONDS = 5.0


class TaskRegistryClient:
    """Client of the actor that owns a study's tasks; finds the actor by its name or starts it.

    The name is the URL of the study in its store, or without a store the study folder, which the nodes share. If the
    node of the actor is lost, its tasks are lost too; the client then starts another actor and the steps again.
    """

    def __init__(self, study: Study, url: str = "") -> None:
        self._given, self._folder = str(study.folder), str(study.folder.resolve())
        self._url = url
        self._allowed = address_environment(study.config.addresses)
        self._actor = self._find()

    def _find(self) -> Any:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        actor = ray.remote(TaskRegistryActor).options(
            name=self._url or self._folder,
            namespace=_NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            # on the node of this process, so that no other node can take it down
            scheduling_strategy=here,
        )
        return actor.remote(self._folder, self._url)

    def start(
        self, step: str, arguments: list[str], request: ResourceRequest, retries: int
    ) -> None:
        """Start the task of a step; ``arguments`` is its command without the interpreter."""
        options = {
            "name": step,
            "num_cpus": request.cpus,
            "num_gpus": request.gpus,
            "memory": request.memory_bytes or None,
            "max_retries": retries,
        }
        environment = {
            **({} if self._url else {"ASSISTANT_BUILDER_HOME": str(home().resolve())}),
            **trust_environment(),
            **self._allowed,
            **gpu_environment(request.gpus),
            "OMP_NUM_THREADS": str(max(1, int(request.cpus))),
        }
        arguments = [self._folder if word == self._given else word for word in arguments]
        self._call(
            lambda actor: actor.start.remote(self._folder, step, arguments, options, environment)
        )

    def results(self) -> dict[str, TaskResult | None]:
        """Step → result of its task, None while it is running or waits for a node."""
        found: dict[str, TaskResult | None] = self._call(lambda actor: actor.results.remote())
        return found

    def shut_down(self) -> None:
        """Stop the actor after the last task."""
        import ray

        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(self._actor)

    def _call(self, method: Callable[[Any], Any]) -> Any:
        import ray
        from ray.exceptions import ActorUnavailableError, RayActorError, RayError

        deadline = time.monotonic() + _ANSWER_SECONDS
        while True:
            try:
                return ray.get(method(self._actor), timeout=max(1.0, deadline - time.monotonic()))
            except RayActorError as error:
                if time.monotonic() > deadline:
                    raise _disconnected_error(str(error)) from error
                if not isinstance(error, ActorUnavailableError):  # which may answer later
                    self._actor = self._find()
                time.sleep(_POLL_SECONDS)
            except RayError as error:
                raise _disconnected_error(str(error)) from error


def connect(address: str) -> str:
    """Connect this process to the cluster as a driver, and return the URL of Ray's dashboard; empty without one.

    Raises:
        ConfigError: The user has not allowed the address: replies of a cluster run code in this process. Or it is
            ``auto``, and a cluster of another user runs on this machine, which Ray would join.
        AssistantBuilderError: Ray is not installed, or the cluster does not answer.
    """
    require_allowed({"executor.address": address})
    if address == "auto" and not os.environ.get("RAY_ADDRESS"):
        _check_owner()
    try:
        # `import ray` would succeed in /tmp, where Ray's scratch folder is
        from ray import init, is_initialized
    except ImportError as error:
        raise AssistantBuilderError(
            m("executor.kind=ray needs Ray, which cannot be imported: {error}", error=error),
            where="executor",
            remedy=m(
                "Install it with {install_command}, on every node",
                install_command=install_command("ray"),
            ),
        ) from error
    if not is_initialized():
        _probe_port(address)
    # the default waits for many minutes
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "1")
    try:
        context = init(
            address=address,
            namespace=_NAMESPACE,
            log_to_driver=False,
            logging_level="ERROR",
            ignore_reinit_error=True,
            # unused by Ray Client's server
            **({} if "://" in address else {"job_config": _job_config()}),
        )
    except Exception as error:  # Ray raises ConnectionError, RuntimeError, ValueError and others
        raise _unreachable_error(address, str(error)) from error
    # Ray omits the scheme
    return f"http://{context.dashboard_url}" if context.dashboard_url else ""


def _check_owner() -> None:
    for process in psutil.process_iter(["name", "uids"]) if os.name == "posix" else ():
        name, uids = process.info["name"], process.info["uids"]
        others = uids is not None and uids.real not in (os.getuid(), 0)
        if name in ("gcs_server", "raylet") and others:
            raise ConfigError(
                m("another user runs a Ray cluster on this machine, and 'auto' could join it"),
                where="executor.address",
                remedy=m(
                    "Name your own cluster with --set executor.address=HOST:PORT, or in RAY_ADDRESS"
                ),
            )


def gpu_environment(gpus: float) -> dict[str, str]:
    """Environment variables that hide a node's GPUs from a process that requests none.

    Ray sets ``CUDA_VISIBLE_DEVICES`` for tasks that request GPUs only; all other tasks see every GPU of the node
    (Ray 2.60: ``ray/_private/utils.py:292``, unless ``RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO`` is 1).
    """
    return {} if gpus else {"CUDA_VISIBLE_DEVICES": ""}


def _job_config() -> Any:
    """A job config that keeps the driver's working directory out of the ``sys.path`` of workers.

    Ray puts that directory first, even with ``PYTHONSAFEPATH``, unless the runtime environment has a working directory
    (Ray 2.60: ``ray/_private/worker.py:2716``). Workers do not need it, because nodes have the program installed.
    """
    from ray.job_config import JobConfig

    config = JobConfig()
    config._runtime_env_has_working_dir = lambda: True  # used only there; Ray has no option for it
    return config


def _probe_port(address: str) -> None:
    """Raise within seconds if nothing listens at the address; Ray would retry for much longer."""
    host, colon, port = address.rpartition(":")
    if not colon or "/" in address or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _unreachable_error(address, str(error)) from error


def _unreachable_error(address: str, message: str) -> AssistantBuilderError:
    first = (message.strip().splitlines() or [""])[0]
    return AssistantBuilderError(
        m(
            "no Ray cluster answers at executor.address={address}: {first}",
            address=address,
            first=first,
        ),
        where="executor",
        remedy=m(
            "Start one with 'ray start --head', join this machine to one with 'ray start --address=HOST:PORT', or set "
            "executor.kind=local"
        ),
    )


def _disconnected_error(message: str) -> AssistantBuilderError:
    return AssistantBuilderError(
        m(
            "the Ray cluster no longer answers: {splitlines}",
            splitlines=message.strip().splitlines()[0],
        ),
        where="executor",
        remedy=m("Run again once it answers; the run then finds the steps that are still running"),
    )


def alive_nodes() -> list[Node]:
    """The nodes of the cluster that this process is connected to."""
    import ray

    return [
        Node(
            node["NodeManagerAddress"],
            node["Resources"].get("CPU", 0.0),
            node["Resources"].get("GPU", 0.0),
            int(node["Resources"].get("memory", 0)),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]
