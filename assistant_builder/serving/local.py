"""Serving on this machine: our own socket and uvicorn."""

from __future__ import annotations

import json
import socket
import sys

import uvicorn

from assistant_builder.config.serving import ServingConfig
from assistant_builder.serving.app import make_app
from assistant_builder.serving.desks import desks_of
from assistant_builder.serving.door import check_access
from assistant_builder.serving.engine import Engine, worker_of
from assistant_builder.serving.roster import Roster
from assistant_builder.web.access import listen, server_url
from assistant_builder.web.request_limits import ConnectionLimits, limited_config

_LEAVE_SECONDS = 3
"""How long a server that was asked to stop waits for the answers it has begun."""


def serve_here(roster: Roster, config: ServingConfig, key: bytes | None, *, as_json: bool = False) -> None:
    """Serve until interrupted.

    Args:
        roster: Who is served.
        config: Where.
        key: Digest of the key that clients have to bring.
        as_json: Say where in one JSON document.

    Raises:
        ConfigError: It would be open to everyone, or cannot listen there.
        ModelError: A base cannot be had.
    """
    warnings = check_access(config, key)
    listener = listen(config.host, config.port)
    with listener:
        engine = Engine(roster, desks_of(roster, config.context), config.waiting, worker_of(roster))
        base = f"{server_url(config.host, listener.getsockname()[1])}/v1"
        said = ready_text(roster, base, as_json=as_json)
        server = _Server(
            limited_config(
                make_app(engine, config, key), ConnectionLimits(), log_level="warning", access_log=False,
                server_header=False, lifespan="on", proxy_headers=False, timeout_graceful_shutdown=_LEAVE_SECONDS,
            ),
            [f"warning: {line}" for line in warnings], said,
        )
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:
            pass  # the server has stopped by then; it only hands the signal on


def ready_text(roster: Roster, url: str, *, as_json: bool) -> str:
    """What is said once the server can be asked."""
    if as_json:
        return json.dumps({"url": url, "models": roster.ids, "aliases": roster.aliases}, indent=2)
    return f"{', '.join(roster.ids)}: at {url} (Ctrl-C ends it)"


class _Server(uvicorn.Server):
    """Says when it is ready."""

    def __init__(self, config: uvicorn.Config, warnings: list[str], ready: str) -> None:
        super().__init__(config)
        self._warnings = warnings
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for line in self._warnings:
            print(line, file=sys.stderr)
        print(self._ready, flush=True)
