"""Serving backend ``local``: uvicorn on this machine, with the models in a process of their own."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import uvicorn

from assistant_builder.chat.client import ChatWorker
from assistant_builder.config.serving import ServingBackend, ServingConfig
from assistant_builder.serving.app import make_app
from assistant_builder.serving.auth import check_access, digest_of
from assistant_builder.serving.engine import Engine, start_worker
from assistant_builder.serving.registry import ModelRegistry, prompt_limits
from assistant_builder.serving.switch import EngineSwitch
from assistant_builder.serving.widget import PAGE_PATH, embedding, site_token, widget_assistant
from assistant_builder.web.access import listen, server_url
from assistant_builder.web.connections import limited_config

_SHUTDOWN_SECONDS = 3
"""Time for unfinished answers when the server stops."""


def serve_locally(
    models: ModelRegistry,
    config: ServingConfig,
    key: str | None,
    *,
    as_json: bool = False,
    notify: Callable[[str], None] = lambda line: None,
) -> None:
    """Serve until interrupted; arguments as of :attr:`ServingBackend.start`.

    Raises:
        ConfigError: Other machines could use it without a key, or the address is not available.
        ModelError: A base is not available.
    """
    serve_with(start_worker, models, config, key, as_json=as_json)


def serve_with(
    start: Callable[[ModelRegistry], ChatWorker],
    models: ModelRegistry,
    config: ServingConfig,
    key: str | None,
    *,
    slots: int = 1,
    as_json: bool = False,
    without_key: bool | None = None,
    announce: Callable[[str], None] = lambda text: print(text, flush=True),
) -> None:
    """Serve models until interrupted, and the versions that are published meanwhile.

    ``start`` starts the worker process of models, which answers ``slots`` questions to each at a time; ``without_key``
    is that of :func:`make_app`; ``announce`` gets :func:`ready_text` once requests are accepted.

    Raises:
        ConfigError: Other machines could use it without a key, or the address is not available.
        ModelError: A base is not available.
    """
    digest = digest_of(key) if key is not None else None
    notes = [] if without_key else check_access(config, digest)
    with listen(config.host, config.port) as listener:
        engine = EngineSwitch(
            models,
            lambda chosen: Engine(
                chosen, prompt_limits(chosen, config.context), config.waiting, start(chosen), slots
            ),
        )
        ready = ready_text(
            models,
            f"{server_url(config.host, listener.getsockname()[1])}/v1",
            as_json=as_json,
            widget=config.widget,
            widget_only=config.widget and not (key or without_key),
        )
        server = _Server(
            limited_config(
                make_app(engine, config, digest, without_key=without_key),
                listener,
                proxy=config.proxy,
                log_level="warning",
                access_log=False,
                server_header=False,
                lifespan="on",
                proxy_headers=False,
                timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
            ),
            [f"warning: {line}" for line in notes],
            partial(announce, ready),
        )
        with suppress(KeyboardInterrupt):  # uvicorn has stopped and re-raises the signal
            server.run(sockets=[listener])


def ready_text(
    models: ModelRegistry,
    url: str,
    *,
    as_json: bool,
    widget: bool = False,
    widget_only: bool = False,
) -> str:
    """Lines or JSON document for standard output once the server accepts requests."""
    page = url.removesuffix("/v1")
    token = site_token(widget_assistant(models)[1].root) if widget else ""
    if as_json:
        found = {"page": f"{page}{PAGE_PATH}", "token": token, "html": embedding(page, token)}
        more = {"widget": found} if widget else {}
        return json.dumps(
            {"url": url, "models": models.ids, "aliases": models.aliases, **more}, indent=2
        )
    more_lines = (
        f"\nA page to chat: {page}{PAGE_PATH}\nFor a website, with the address under which it reaches this "
        f"server: {embedding(page, token)}"
    )
    return (
        f"{', '.join(models.ids)}: at {page if widget_only else url} (Ctrl-C ends it)"
        f"{more_lines if widget else ''}"
    )


class _Server(uvicorn.Server):
    """A server that prints a line when it is ready."""

    def __init__(
        self, config: uvicorn.Config, warnings: list[str], announce: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._warnings, self._announce = warnings, announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for line in self._warnings:
            print(line, file=sys.stderr)
        self._announce()


LOCAL = ServingBackend(
    name="local",
    label="This machine",
    start=serve_locally,
    explanation="this machine, with or without GPU; exactly the assistants that were measured",
)
