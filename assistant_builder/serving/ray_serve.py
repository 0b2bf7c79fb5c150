"""Serving backend ``ray``: the app of the local backend, in replicas on a Ray cluster that follow the load."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from starlette.types import ASGIApp

from assistant_builder.cluster.ray_client import connect, gpu_environment
from assistant_builder.config.serving import ServingBackend, ServingConfig
from assistant_builder.errors import AssistantBuilderError, install_command
from assistant_builder.i18n import m
from assistant_builder.models.remote_code import trust_environment
from assistant_builder.redaction import terminal_text
from assistant_builder.serving.app import make_app
from assistant_builder.serving.auth import check_access, digest_of
from assistant_builder.serving.engine import Engine, start_worker
from assistant_builder.serving.local import ready_text
from assistant_builder.serving.registry import ModelRegistry, prompt_limits
from assistant_builder.study import home
from assistant_builder.web.access import server_url

APPLICATION = "assistant-builder"
_HEALTH_SECONDS = 10.0
_PUBLISHED_SECONDS = 2.0
"""Time between looks at what is published."""


class Replica:
    """One replica: an engine with its own process of models, and the app.

    All nodes must reach the folders of the models under the same path.
    """

    def __init__(self, models: ModelRegistry, config: ServingConfig, key: bytes | None) -> None:
        self._config, self._key = config, key
        self._engine = Engine(
            models, prompt_limits(models, config.context), config.waiting, start_worker(models)
        )
        self._engine.wait()  # Ray sends no request before this returns

    def __serve_build_asgi_app__(self) -> ASGIApp:  # noqa: D105 - the name is Ray's
        return make_app(self._engine, self._config, self._key)

    def check_health(self) -> None:
        """Called by Ray periodically; a replica that raises, because it can no longer load its models, is replaced."""
        error = self._engine.failure()
        if self._engine.health() == "failed" and error is not None:
            raise error


def application(models: ModelRegistry, config: ServingConfig, key: bytes | None) -> Any:
    """The Ray Serve application."""
    from ray import serve

    environment = {
        "ASSISTANT_BUILDER_HOME": str(home().resolve()),
        **trust_environment(),
        **gpu_environment(config.gpus),
    }
    most = (config.waiting + 1) * len(models.assistants)
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name="assistants",
        max_ongoing_requests=most
        + 8,  # above the engine's own limit, so that the engine rejects requests
        max_queued_requests=most,
        autoscaling_config={
            "min_replicas": config.min_replicas,
            "max_replicas": config.max_replicas,
            "target_ongoing_requests": config.ongoing,
        },
        health_check_period_s=_HEALTH_SECONDS,
        ray_actor_options={
            "num_cpus": config.cpus,
            "num_gpus": config.gpus,
            "runtime_env": {"env_vars": environment},
        },
    )
    return deployment.bind(models, config, key)


def deploy(models: ModelRegistry, config: ServingConfig, key: bytes | None) -> None:
    """Start replicas with these assistants; those with others end after their answers.

    Raises:
        AssistantBuilderError: No replica starts.
    """
    from ray import serve

    try:
        serve.run(application(models, config, key), name=APPLICATION, route_prefix="/")
    except Exception as error:  # Ray Serve raises the errors of many layers
        raise AssistantBuilderError(
            m(
                "no replica started: {value}",
                value=(str(error).strip().splitlines() or [type(error).__name__])[-1],
            ),
            where="serve",
            remedy=m("Look at 'serve status' and the logs of the replicas"),
        ) from error


def follow(
    models: ModelRegistry, config: ServingConfig, key: bytes | None, stop: threading.Event
) -> None:
    """Deploy the versions that are published, until ``stop`` is set; old replicas end after their answers."""
    seen = models.published
    while not stop.wait(_PUBLISHED_SECONDS):
        if models.published == seen:
            continue
        seen = models.published
        try:
            if (latest := models.latest()) != models:
                deploy(latest, config, key)
                models = latest
        except AssistantBuilderError as error:
            print(
                terminal_text(f"assistant-builder: the published version is not served: {error}"),
                file=sys.stderr,
                flush=True,
            )


@contextlib.contextmanager
def deployed(
    models: ModelRegistry, config: ServingConfig, key: bytes | None, address: str
) -> Iterator[str]:
    """Serve on the cluster whose head has this address while in the context; yields the endpoint's URL on a node.

    Raises:
        AssistantBuilderError: Ray is not installed, the cluster does not answer, or no replica starts.
    """
    connect(address)
    try:
        from ray import serve
    except ImportError as error:
        raise AssistantBuilderError(
            m("Ray Serve cannot be imported: {error}", error=error),
            where="serve",
            remedy=m(
                "Install it with {install_command}, on every node",
                install_command=install_command("ray"),
            ),
        ) from error
    serve.start(http_options={"host": config.host, "port": config.port})
    try:
        deploy(models, config, key)
        yield f"{server_url(config.host, config.port)}/v1"
    finally:
        serve.delete(APPLICATION)


def serve_on_ray(
    models: ModelRegistry,
    config: ServingConfig,
    key: str | None,
    *,
    as_json: bool = False,
    notify: Callable[[str], None] = lambda line: None,
) -> None:
    """Serve on the cluster of the first study until interrupted; arguments as of :attr:`ServingBackend.start`."""
    study = models.assistants[0].study
    address = study.config.executor.address
    notify(f"serves on the Ray cluster at {address} (executor.address of study {study.name})")
    digest = digest_of(key) if key is not None else None
    for line in check_access(config, digest):
        print(f"warning: {line}", file=sys.stderr, flush=True)
    with contextlib.suppress(KeyboardInterrupt), deployed(models, config, digest, address) as url:
        print(
            ready_text(
                models,
                url,
                as_json=as_json,
                widget=config.widget,
                widget_only=config.widget and digest is None,
            ),
            flush=True,
        )
        follow(models, config, digest, threading.Event())


RAY = ServingBackend(
    name="ray",
    label="Ray cluster",
    start=serve_on_ray,
    remembers=False,  # replicas on several machines
    explanation="replicas on the Ray cluster at the first study's executor.address, as many as the load needs",
    requires="the extra ray on every node and a home folder that all nodes share",
    contacts=lambda config: {"executor.address": config.executor.address},
)
