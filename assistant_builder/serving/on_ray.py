"""Serving on a Ray cluster: the same app as on one machine, in as many replicas as the questions ask for."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from starlette.types import ASGIApp

from assistant_builder.config.serving import ServingConfig
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.jobs.connection import connect, gpu_environment
from assistant_builder.models.remote_code import trust_environment
from assistant_builder.serving.app import make_app
from assistant_builder.serving.desks import desks_of
from assistant_builder.serving.door import check_access
from assistant_builder.serving.engine import Engine, worker_of
from assistant_builder.serving.roster import Roster
from assistant_builder.study import home
from assistant_builder.web.access import server_url

APPLICATION = "assistant-builder"
_HEALTH_SECONDS = 10.0


class Replica:
    """One replica: an engine with a process of its own, and the app before it.

    Args:
        roster: Who is served; the folders lie on a path that all nodes see.
        config: How.
        key: Digest of the key that clients have to bring.
    """

    def __init__(self, roster: Roster, config: ServingConfig, key: bytes | None) -> None:
        self._config = config
        self._key = key
        self._engine = Engine(roster, desks_of(roster, config.context), config.waiting, worker_of(roster))
        self._engine.wait()  # Ray sends no question before this returns

    def __serve_build_asgi_app__(self) -> ASGIApp:  # noqa: D105 - Ray's name for it
        return make_app(self._engine, self._config, self._key)

    def check_health(self) -> None:
        """Asked by Ray again and again; a replica that raises is replaced.

        Raises:
            AssistantBuilderError: The models cannot be loaded any more.
        """
        error = self._engine.failure()
        if self._engine.health() == "failed" and error is not None:
            raise error


def application(roster: Roster, config: ServingConfig, key: bytes | None) -> Any:
    """The Serve application."""
    from ray import serve

    most = (config.waiting + 1) * len(roster.assistants)
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name="assistants",
        max_ongoing_requests=most + 8,  # beyond the engine's own bound, so that it is the one who refuses
        max_queued_requests=most,
        autoscaling_config={
            "min_replicas": config.min_replicas, "max_replicas": config.max_replicas,
            "target_ongoing_requests": config.ongoing,
        },
        health_check_period_s=_HEALTH_SECONDS,
        ray_actor_options={
            "num_cpus": config.cpus, "num_gpus": config.gpus,
            "runtime_env": {"env_vars": {
                "ASSISTANT_BUILDER_HOME": str(home().resolve()), **trust_environment(), **gpu_environment(config.gpus),
            }},
        },
    )
    return deployment.bind(roster, config, key)


@contextlib.contextmanager
def deployed(roster: Roster, config: ServingConfig, key: bytes | None, address: str) -> Iterator[str]:
    """Serve on a cluster while in the context.

    Args:
        roster: Who is served.
        config: How.
        key: Digest of the key.
        address: Of the cluster's head.

    Yields:
        The endpoint's address on a node.

    Raises:
        AssistantBuilderError: Ray is not there, the cluster does not answer, or no replica starts.
    """
    connect(address)
    try:
        from ray import serve
    except ImportError as error:
        raise AssistantBuilderError(
            f"Ray Serve cannot be imported: {error}", where="serve",
            remedy="Install it with pip install 'assistant-builder[ray]', on every node",
        ) from error
    serve.start(http_options={"host": config.host, "port": config.port})
    try:
        _deploy(application(roster, config, key))
        yield f"{server_url(config.host, config.port)}/v1"
    finally:
        serve.delete(APPLICATION)


def _deploy(app: Any) -> None:
    from ray import serve

    try:
        serve.run(app, name=APPLICATION, route_prefix="/")
    except Exception as error:  # Serve raises what its many layers do
        raise AssistantBuilderError(
            f"the assistants are not served: {(str(error).strip().splitlines() or [type(error).__name__])[-1]}",
            where="serve", remedy="'serve status' and the logs of the replicas say more",
        ) from error


def serve_on_ray(
    roster: Roster, config: ServingConfig, key: bytes | None, address: str, ready: Callable[[str], None]
) -> None:
    """Serve on a cluster until interrupted.

    Args:
        roster: Who is served.
        config: How.
        key: Digest of the key.
        address: Of the cluster's head.
        ready: Told the endpoint's address, and warnings before it.
    """
    for line in check_access(config, key):
        ready(f"warning: {line}")
    with contextlib.suppress(KeyboardInterrupt), deployed(roster, config, key, address) as url:
        ready(url)
        threading.Event().wait()
