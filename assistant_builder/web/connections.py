"""Limits on connections that wait for their client, for the page and the endpoint.

uvicorn limits the number of connections, the size of a header and idle connections. It has no time limits for
handshakes, headers, bodies and unread responses. :class:`Listener` sees each connection when the system hands it over,
and an ASGI middleware sees for what it waits. Both use only public interfaces: of :mod:`socket`, ASGI, and uvicorn's
configuration.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from assistant_builder.web.client_address import TrustedProxies, client_key

_KEY = "assistant_builder.connection"
_LOG_SECONDS = 60.0
_ALIKE_LINES = 10
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ConnectionLimits:
    """Limits on connections that wait for their client.

    A connection waits while the client has to act: during the TLS handshake, while it sends a request, and while it
    reads the response. A browser opens at most six connections to a server, for all of its tabs together.
    """

    header_seconds: float = 10.0  # until the first header is complete, including the handshake
    header_bytes: int = 64 * 1024  # largest header
    body_seconds: float = 20.0  # longest time for which a body arrives more slowly than the rate
    body_bytes_per_second: int = 500
    # time after which a client is disconnected that does not read its response, or does not complete the next request
    # after it; uvicorn closes idle connections earlier, after 5 seconds
    stalled_seconds: float = 60.0
    # waiting connections per address (IPv6: per /64 network) that have sent no accepted request; beyond this limit, the
    # one that has waited longest is closed
    waiting_per_client: int = 64
    # the same for all clients together; the client with the most connections loses one
    waiting: int = 256
    # connections of every kind; beyond this limit, requests get status 503. The difference to :attr:`waiting` is
    # reserved for trusted connections
    all: int = 768


class AlikeLines(logging.Filter):
    """Passes ten alike lines a minute: uvicorn logs every malformed request, and clients could fill the disk.

    Requests that the end of the server cancels are left out.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock, self._since, self._count = clock, clock(), Counter[tuple[str, Any]]()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is written; the last one of a minute says that others follow."""
        error = record.exc_info and record.exc_info[0]
        if error is asyncio.CancelledError:
            return False
        now, alike = self._clock(), (str(record.msg), error)
        if now - self._since >= _LOG_SECONDS:
            self._since = now
            self._count.clear()
        self._count[alike] += 1
        if self._count[alike] == _ALIKE_LINES:
            record.msg = f"{record.msg} (further lines like this one are left out for a minute)"
        return self._count[alike] <= _ALIKE_LINES


_alike_lines = AlikeLines()


class Listener(socket.socket):
    """A listening socket that reports each connection; asyncio's selector loops call :meth:`accept`."""

    connections: _Connections | None = None

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection."""
        connection, address = super().accept()
        if self.connections is not None:
            self.connections.add(connection, address)
        return connection, address


def limited_config(
    app: ASGIApp,
    listener: Listener,
    *,
    proxy: str = "",
    limits: ConnectionLimits | None = None,
    **options: Any,
) -> uvicorn.Config:
    """A uvicorn configuration with limits on connections.

    Args:
        app: The app.
        listener: The socket that the server listens on.
        proxy: That of :class:`TrustedProxies`. The limit per client does not apply to them, since their address
            represents many clients.
        limits: The limits; None: the default ones.
        options: Further arguments of :class:`uvicorn.Config`.
    """
    limits = limits or ConnectionLimits()
    listener.connections = connections = _Connections(app, limits, TrustedProxies(proxy))
    logging.getLogger("uvicorn.error").addFilter(_alike_lines)  # one for all servers of the process
    return uvicorn.Config(
        connections,
        http="h11",  # httptools does not limit the size of headers
        loop="asyncio",  # uvloop does not call the listener
        ws="none",
        h11_max_incomplete_event_size=limits.header_bytes,
        limit_concurrency=limits.all,
        callback_notify=connections.close_overdue,
        timeout_notify=0,  # about once a second
        **options,
    )


def mark_trusted(scope: Scope) -> None:
    """Mark the connection of a request as trusted, if connections are limited: it needs no authentication or has it."""
    if (connection := scope.get(_KEY)) is not None:
        connection.trusted = True


@dataclass(eq=False)
class _Connection:
    socket: socket.socket
    address: str
    peer: str  # the key under which the address is counted
    since: float
    deadline: float | None  # None while the server has to act
    trusted: bool = False


class _Connections:
    """All open connections of one server, and the ASGI middleware that knows what they wait for."""

    def __init__(self, app: ASGIApp, limits: ConnectionLimits, proxies: TrustedProxies) -> None:
        self._app, self._limits, self._proxies = app, limits, proxies
        self._open: dict[tuple[str, int], _Connection] = {}
        self._closed, self._logged = 0, -_LOG_SECONDS

    def add(self, accepted: socket.socket, address: Any) -> None:
        """Register a connection; if there are too many, close the one of its client that has waited longest."""
        host, port = (str(address[0]), int(address[1])) if isinstance(address, tuple) else ("", 0)
        now, limits = time.monotonic(), self._limits
        added = _Connection(accepted, host, client_key(host), now, now + limits.header_seconds)
        self._forget_closed()
        self._open[host, port] = added
        waiting = [each for each in self._open.values() if each.deadline and not each.trusted]
        own = [each for each in waiting if each.peer == added.peer]
        if len(own) > limits.waiting_per_client and host not in self._proxies:
            self._close_oldest(own)
        elif len(waiting) > limits.waiting:
            ((most, _),) = Counter(each.peer for each in waiting).most_common(1)
            self._close_oldest([each for each in waiting if each.peer == most])

    async def close_overdue(self) -> None:
        """Close every connection that has exceeded its time limit."""
        self._forget_closed()
        now = time.monotonic()
        for connection in list(self._open.values()):
            if connection.deadline is not None and now >= connection.deadline:
                self._close(connection)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and note for what its connection waits."""
        connection = self._open.get(tuple((scope.get("client") or ())[:2]))
        if scope["type"] != "http" or connection is None:
            return await self._app(scope, receive, send)
        limits, complete, slow = self._limits, False, 0.0

        async def receive_in_time() -> Message:
            nonlocal complete, slow
            if complete:  # waits for the client to disconnect
                return await receive()
            self._wait(connection, limits.body_seconds - slow)
            try:
                message = await receive()
            finally:
                connection.deadline = None
            complete = not message.get("more_body", False)
            seconds = time.monotonic() - connection.since
            size = len(message.get("body", b""))
            slow = max(0.0, slow + seconds - size / limits.body_bytes_per_second)
            return message

        async def send_in_time(message: Message) -> None:
            self._wait(connection, limits.stalled_seconds)
            try:
                await send(message)
            finally:
                connection.deadline = None

        connection.trusted, connection.deadline = False, None
        try:
            await self._app({**scope, _KEY: connection}, receive_in_time, send_in_time)
        finally:
            self._wait(connection, limits.stalled_seconds)

    def _wait(self, connection: _Connection, seconds: float) -> None:
        connection.since = time.monotonic()
        connection.deadline = connection.since + seconds

    def _forget_closed(self) -> None:
        self._open = {key: each for key, each in self._open.items() if each.socket.fileno() >= 0}

    def _close_oldest(self, connections: list[_Connection]) -> None:
        oldest = min(connections, key=lambda each: each.since)
        self._close(oldest)
        self._closed += 1
        now = time.monotonic()
        if now - self._logged >= _LOG_SECONDS:
            _log.warning(
                "%d connections without a complete request were closed, the last one from %s; this is logged "
                "at most once a minute",
                self._closed,
                oldest.peer,
            )
            self._closed, self._logged = 0, now

    def _close(self, connection: _Connection) -> None:
        """Shut a connection down, which the event loop reads as its end."""
        self._open = {key: each for key, each in self._open.items() if each is not connection}
        with suppress(OSError):  # the client has disconnected
            connection.socket.shutdown(socket.SHUT_RDWR)
