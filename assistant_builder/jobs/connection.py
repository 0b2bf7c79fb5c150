"""How a run reaches a Ray cluster: as a driver of it, and through the actor that keeps the study's tasks there."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable
from typing import Any

from assistant_builder.errors import AssistantBuilderError
from assistant_builder.jobs.nodes import Outcome, TaskKeeper
from assistant_builder.jobs.room import Ask, Node
from assistant_builder.models.remote_code import trust_environment
from assistant_builder.study import Study, home

_NAMESPACE = "assistant-builder"
_POLL_SECONDS = 0.25
_ANSWER_SECONDS = 60.0
"""How long the cluster may take to answer; an actor's process starts in seconds, also on a busy node."""
_CONNECT_SECONDS = 5.0


class Keeper:
    """The actor that keeps a study's tasks, found by the study's folder, made where there is none.

    Where its node is lost its tasks are lost with it; it is made anew, and the steps start again.

    Args:
        study: The study.
        url: Its URL in a store, by which it is then found from every machine; empty: nodes share its folder.
    """

    def __init__(self, study: Study, url: str = "") -> None:
        self._given, self._folder = str(study.folder), str(study.folder.resolve())
        self._url = url
        self._actor = self._find()

    def _find(self) -> Any:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        actor = ray.remote(TaskKeeper).options(
            name=self._url or self._folder, namespace=_NAMESPACE, lifetime="detached", get_if_exists=True, num_cpus=0,
            scheduling_strategy=here,  # where this process is, so that another node's loss does not touch it
        )
        return actor.remote(self._folder, self._url)

    def start(self, step: str, words: list[str], ask: Ask, retries: int) -> None:
        """Start the task of a step, whose command is ``words`` after the interpreter."""
        options = {
            "name": step, "num_cpus": ask.cpus, "num_gpus": ask.gpus, "memory": ask.memory_bytes or None,
            "max_retries": retries,
        }
        threads = str(max(1, int(ask.cpus)))
        shared = {} if self._url else {"ASSISTANT_BUILDER_HOME": str(home().resolve())}
        environment = {**shared, **trust_environment(), **gpu_environment(ask.gpus), "OMP_NUM_THREADS": threads}
        words = [self._folder if word == self._given else word for word in words]
        self._ask(lambda actor: actor.start.remote(self._folder, step, words, options, environment))

    def look(self) -> dict[str, Outcome | None]:
        """What each task ended with, None while it is under way."""
        found: dict[str, Outcome | None] = self._ask(lambda actor: actor.look.remote())
        return found

    def end(self) -> None:
        """Take the actor away, once no task is left."""
        import ray

        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(self._actor)

    def _ask(self, call: Callable[[Any], Any]) -> Any:
        """Ask the actor; what is asked may be asked twice."""
        import ray
        from ray.exceptions import ActorUnavailableError, RayActorError, RayError

        deadline = time.monotonic() + _ANSWER_SECONDS
        while True:
            try:
                return ray.get(call(self._actor), timeout=max(1.0, deadline - time.monotonic()))
            except RayActorError as error:
                if time.monotonic() > deadline:
                    raise _gone(str(error)) from error
                if not isinstance(error, ActorUnavailableError):  # that one may come back, or turn out to be dead
                    self._actor = self._find()
                time.sleep(_POLL_SECONDS)
            except RayError as error:
                raise _gone(str(error)) from error


def connect(address: str) -> str:
    """Become a driver of the cluster, once for this process.

    Returns:
        URL of Ray's dashboard; empty where the cluster has none.

    Raises:
        AssistantBuilderError: Ray is not installed, or the cluster does not answer.
    """
    try:
        from ray import init, is_initialized  # by name: Ray's scratch folder /tmp/ray is importable from /tmp
    except ImportError as error:
        raise AssistantBuilderError(
            f"executor.kind=ray needs Ray, which cannot be imported: {error}", where="executor",
            remedy="Install it with pip install 'assistant-builder[ray]', on every node",
        ) from error
    if not is_initialized():
        _knock(address)
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "1")  # tries, each of most of a minute; else twenty
    try:
        context = init(
            address=address, namespace=_NAMESPACE, log_to_driver=False, logging_level="ERROR", ignore_reinit_error=True,
            **({} if "://" in address else {"job_config": _job_config()}),  # Ray Client's server looks in no folder
        )
    except Exception as error:  # it raises what its many layers do: ConnectionError, RuntimeError, ValueError, …
        raise _silent(address, str(error)) from error
    return f"http://{context.dashboard_url}" if context.dashboard_url else ""  # Ray leaves the scheme out


def gpu_environment(gpus: float) -> dict[str, str]:
    """Variables that hide a node's GPUs from a process that asks for none.

    Ray sets ``CUDA_VISIBLE_DEVICES`` for tasks that ask for GPUs and leaves it as it is for all others, which then see
    every GPU of the node (Ray 2.60: ``ray/_private/utils.py:292``, unless ``RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO`` is 1).

    Args:
        gpus: How many the process asks for.
    """
    return {} if gpus else {"CUDA_VISIBLE_DEVICES": ""}


def _job_config() -> Any:
    """Ray's description of this driver, without the driver's working directory.

    Ray puts that directory first on the ``sys.path`` of every worker, ``PYTHONSAFEPATH`` or not, unless the driver's
    runtime environment names a folder (Ray 2.60: ``ray/_private/worker.py:2716``). Nodes have the program installed and
    need nothing from there.
    """
    from ray.job_config import JobConfig

    config = JobConfig()
    config._runtime_env_has_working_dir = lambda: True  # read by that place alone; no option of Ray's says it
    return config


def _knock(address: str) -> None:
    """Find out within seconds whether anybody listens; Ray itself tries for much longer."""
    host, colon, port = address.rpartition(":")
    if not colon or "/" in address or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _silent(address, str(error)) from error


def _silent(address: str, said: str) -> AssistantBuilderError:
    first = (said.strip().splitlines() or [""])[0]
    return AssistantBuilderError(
        f"no Ray cluster answers at executor.address={address}: {first}", where="executor",
        remedy="Start one with 'ray start --head', join this machine to one with 'ray start --address=HOST:PORT', or "
        "set executor.kind=local",
    )


def _gone(said: str) -> AssistantBuilderError:
    return AssistantBuilderError(
        f"the Ray cluster no longer answers: {said.strip().splitlines()[0]}", where="executor",
        remedy="Once it does, running again carries on; what its nodes still compute is found again",
    )


def alive_nodes() -> list[Node]:
    """The nodes of the cluster that this process is a driver of."""
    import ray

    return [
        Node(node["NodeManagerAddress"], node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0),
             int(node["Resources"].get("memory", 0)))
        for node in ray.nodes() if node["Alive"]
    ]


