"""Limits on uploads, request sizes and waiting connections."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import re
import ssl
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import uvicorn
from starlette.datastructures import Headers
from starlette.types import Scope
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from assistant_builder.errors import ConfigError
from assistant_builder.web.passwords import IPAddress, client_key, parse_address

SIZE_VARIABLE, COUNT_VARIABLE = "ASSISTANT_BUILDER_MAX_UPLOAD", "ASSISTANT_BUILDER_MAX_UPLOADS"
_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}


@dataclass(frozen=True)
class Limits:
    """Limits on uploads and requests."""

    # largest file that can be uploaded, in bytes
    file_bytes: int = 250 * 10**6  # the limit of the readers
    files_at_once: int = 4  # files per upload request
    stored_files: int = (
        100  # uploaded files that the server stores at a time, of all users together
    )
    # largest request that is not an upload, in bytes; edited rows and conversations are sent in these
    message_bytes: int = 32 * 10**6

    @property
    def stored_bytes(self) -> int:
        """Bytes of uploaded files that the server stores at a time: four of the largest."""
        return 4 * self.file_bytes

    @classmethod
    def from_environment(cls) -> Limits:
        """The limits with the values of :data:`SIZE_VARIABLE` and :data:`COUNT_VARIABLE`; raises ConfigError."""
        text, count = (
            os.environ.get(SIZE_VARIABLE, "").strip(),
            os.environ.get(COUNT_VARIABLE, "").strip(),
        )
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(|kb|mb|gb)", text.lower())
        size = int(float(found[1]) * _UNITS[found[2]]) if found else 0
        if text and size <= 0:
            raise ConfigError(
                f"{text!r} is not a size", where=SIZE_VARIABLE, remedy="Set it to e.g. 250MB"
            )
        if count and not (count.isascii() and count.isdigit() and int(count) > 0):
            raise ConfigError(
                f"{count!r} is not a number of files",
                where=COUNT_VARIABLE,
                remedy="Set it to e.g. 100",
            )
        return cls(file_bytes=size or cls.file_bytes, stored_files=int(count or cls.stored_files))


@dataclass(frozen=True)
class ConnectionLimits:
    """Limits on connections that wait for their client, for the page and the endpoint.

    A connection waits while the client has to act: during the TLS handshake, while it sends a request, and while it
    reads the response. A browser opens at most six connections to a server, for all of its tabs together.
    """

    # time until the header of a request is complete, from the start of the connection (including the handshake) or the
    # end of the last response. uvicorn closes idle connections earlier, after 5 seconds
    header_seconds: float = 10.0
    header_bytes: int = 64 * 1024  # largest header
    body_seconds: float = (
        20.0  # interval in which a body must arrive at :attr:`body_bytes_per_second`
    )
    body_bytes_per_second: int = 500  # lowest mean rate of a body in each interval
    stalled_seconds: float = (
        60.0  # time after which a client that does not read its response is disconnected
    )
    # waiting connections per address (IPv6: per /64 network) that have sent no accepted request; beyond this limit, the
    # one that has waited longest is closed
    waiting_per_client: int = 64
    waiting: int = (
        256  # the same for all clients together; the client with the most connections loses one
    )
    # connections of every kind; beyond this limit, requests get status 503. The difference to :attr:`waiting` is
    # reserved for trusted connections
    all: int = 768


def format_size(size: int) -> str:
    """``250 MB``."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size} bytes"


_KEY = "assistant_builder.connection"
_LOG_SECONDS = 60.0
_ALIKE_LINES = 10
_log = logging.getLogger(__name__)


class AlikeLines(logging.Filter):
    """Passes ten alike lines a minute: uvicorn logs every malformed request, and clients could fill the disk."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock, self._since, self._count = clock, clock(), Counter[tuple[str, Any]]()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is written; the last one of a minute says that others follow."""
        now, alike = self._clock(), (str(record.msg), record.exc_info and record.exc_info[0])
        if now - self._since >= _LOG_SECONDS:
            self._since = now
            self._count.clear()
        self._count[alike] += 1
        if self._count[alike] == _ALIKE_LINES:
            record.msg = f"{record.msg} (further lines like this one are left out for a minute)"
        return self._count[alike] <= _ALIKE_LINES


_alike_lines = AlikeLines()


def mark_trusted(scope: Scope) -> None:
    """Mark the connection of a request as trusted, if connections are limited: it needs no authentication or has it."""
    connection = (scope.get("state") or {}).get(_KEY)
    if connection is not None:
        connection.trusted = True


def limited_config(
    app: Any, limits: ConnectionLimits, *, proxy: str = "", **options: Any
) -> uvicorn.Config:
    """A uvicorn configuration with limits on connections.

    ``proxy`` is that of :class:`TrustedProxies`. The limit per client does not apply to them, since their address
    represents many clients.
    """
    connections = Connections(limits, proxy)
    logging.getLogger("uvicorn.error").addFilter(_alike_lines)  # one for all servers of the process
    encrypted = options.get("ssl_certfile") is not None
    config = uvicorn.Config(
        app,
        http=connections.protocol,  # type: ignore[arg-type]
        ws="none",
        limit_concurrency=limits.all,
        callback_notify=connections.close_overdue,
        timeout_notify=0,  # about once a second
        # start_tls() below must run before the first bytes are read, which asyncio's order of callbacks guarantees
        loop="asyncio" if encrypted else "auto",
        **options,
    )
    config.load()
    # this module makes the handshakes, so that unfinished ones are counted and closed
    connections.tls, config.ssl = config.ssl, None
    return config


class _Connection(Protocol):
    address: str
    peer: str  # the key under which the address is counted
    since: float
    trusted: bool

    @property
    def waits(self) -> bool: ...

    def overdue(self, now: float) -> bool: ...

    def abort(self) -> None: ...


class Connections:
    """All open connections of one server; see :func:`limited_config` for the arguments."""

    def __init__(
        self, limits: ConnectionLimits, proxy: str = "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limits = limits
        self.tls: ssl.SSLContext | None = None
        self.clock = clock
        self._proxies = TrustedProxies(proxy)
        self._open: dict[_Connection, None] = {}
        self._closed = 0
        self._logged = -_LOG_SECONDS

    def protocol(self, config: uvicorn.Config, **state: Any) -> asyncio.Protocol:
        """Create the protocol of a new connection; called by uvicorn."""
        http = _Http(self, config=config, **state)
        return http if self.tls is None else _Handshake(self, http, self.tls)

    def add(self, connection: _Connection) -> None:
        """Register a connection; if there are too many, close the one of its client that has waited longest."""
        self._open[connection] = None
        waiting = [entry for entry in self._open if entry.waits and not entry.trusted]
        own = [entry for entry in waiting if entry.peer == connection.peer]
        if len(own) > self.limits.waiting_per_client and connection.address not in self._proxies:
            self._close(min(own, key=lambda entry: entry.since), connection.peer)
        elif len(waiting) > self.limits.waiting:
            ((most, _),) = Counter(entry.peer for entry in waiting).most_common(1)
            self._close(
                min(
                    (entry for entry in waiting if entry.peer == most),
                    key=lambda entry: entry.since,
                ),
                most,
            )

    def remove(self, connection: _Connection) -> None:
        """Unregister a connection."""
        self._open.pop(connection, None)

    async def close_overdue(self) -> None:
        """Close every connection that has exceeded its time limit."""
        now = self.clock()
        for connection in list(self._open):
            if connection.overdue(now):
                self.remove(connection)
                connection.abort()

    def _close(self, connection: _Connection, client: str) -> None:
        self.remove(connection)
        connection.abort()
        self._closed += 1
        now = self.clock()
        if now - self._logged >= _LOG_SECONDS:
            _log.warning(
                "%d connections without a complete request were closed, the last one from %s; this is logged "
                "at most once a minute",
                self._closed,
                client,
            )
            self._closed, self._logged = 0, now


class TrustedProxies:
    """The reverse proxies whose ``X-Forwarded-For`` and ``X-Forwarded-Proto`` are believed.

    Args:
        text: Addresses or networks, separated by commas; ``*`` makes every client a proxy.

    Raises:
        ConfigError: An entry is neither an address nor a network.
    """

    def __init__(self, text: str = "") -> None:
        entries = [entry.strip() for entry in text.split(",") if entry.strip()]
        self._all = "*" in entries
        self._networks = [_network(entry) for entry in entries if entry != "*"]

    def __contains__(self, address: str) -> bool:
        """Whether an address is that of a proxy."""
        parsed = parse_address(address)
        return self._all or (parsed is not None and self._names(parsed))

    def client(self, scope: Scope) -> str:
        """Address of the client of a request: the one that the nearest trusted proxy saw.

        All lines of ``X-Forwarded-For`` are read as one, from its end, as long as the sender of an entry is a proxy of
        this list. Where an entry is no address, its sender is the client.
        """
        client = str((scope.get("client") or ("",))[0])
        forwarded = ",".join(Headers(scope=scope).getlist("x-forwarded-for"))
        trusted = client in self
        for entry in reversed(forwarded.rsplit(",", _MAX_PROXIES)[-_MAX_PROXIES:]):
            address = parse_address(_PORT.sub(r"\1\2", entry.strip()))
            if not trusted or address is None:
                break
            client, trusted = str(address), self._names(address)
        return client

    def scheme(self, scope: Scope) -> str:
        """``http`` or ``https``, as the client of a request used it."""
        forwarded = (
            ",".join(Headers(scope=scope).getlist("x-forwarded-proto"))
            .rpartition(",")[2]
            .strip()
            .lower()
        )
        peer = str((scope.get("client") or ("",))[0])
        return (
            forwarded if forwarded in ("http", "https") and peer in self else str(scope["scheme"])
        )

    def _names(self, address: IPAddress) -> bool:
        return any(address in network for network in self._networks)


_MAX_PROXIES = 32
"""Entries of ``X-Forwarded-For`` that are read."""
_PORT = re.compile(r"^(?:\[([^\]]{1,64})\]|(\d{1,3}(?:\.\d{1,3}){3}))(?::\d{1,5})?$")
"""An address with a port, as some proxies write it."""


def _network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(parse_address(entry) or entry, strict=False)
    except ValueError:
        raise ConfigError(
            f"{entry!r} is neither an address nor a network",
            where="--proxy",
            remedy="Give the address of the proxy, such as 127.0.0.1, or its network, such as "
            "172.16.0.0/12",
        ) from None


class _Http(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's HTTP protocol that also tracks how long, and for what, it has been waiting for its client."""

    def __init__(self, connections: Connections, **state: Any) -> None:
        super().__init__(**state)
        self.app_state = {**state["app_state"], _KEY: self}  # copied into every scope
        self.trusted = False
        self.address, self.peer = "", ""
        self.since = connections.clock()
        self._connections = connections
        self._received = 0
        self._discards = False
        self._stalled: float | None = None

    @property
    def waits(self) -> bool:
        """Whether the client has to act: to send a request or the rest of it, or to read the response."""
        return self._waits_for_request or self.cycle.more_body or self._stalled is not None

    def overdue(self, now: float) -> bool:
        """Whether the client exceeded its time limit; starts the next interval of a body that arrives fast enough."""
        limits = self._connections.limits
        if self._stalled is not None:
            return now - self._stalled >= limits.stalled_seconds
        if self._waits_for_request and not self._discards:
            return now - self.since >= limits.header_seconds
        if not self.waits or now - self.since < limits.body_seconds:
            return False
        too_slow = self._received < limits.body_seconds * limits.body_bytes_per_second
        self._wait_from(now)
        return (
            too_slow and not self.flow.read_paused
        )  # if reading is paused, the server is the slow side

    def abort(self) -> None:
        """Close immediately and discard unsent data."""
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.address = _address_of(transport)
        self.peer = client_key(self.address)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        before, self._received = self.cycle, self._received + len(data)
        super().data_received(data)
        self._note_request(before)
        if (
            self._waits_for_request
            and not self._discards
            and self._received > self._connections.limits.header_bytes
        ):
            self.transport.abort()  # httptools does not limit the size of headers

    def on_response_complete(self) -> None:
        self._discards = self.cycle.more_body
        self._wait_from(self._connections.clock())
        before = self.cycle
        super().on_response_complete()
        self._note_request(before)  # a pipelined request

    def pause_writing(self) -> None:
        self._stalled = self._connections.clock()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._stalled = None
        super().resume_writing()

    @property
    def _waits_for_request(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _note_request(self, before: Any) -> None:
        if self.cycle is not before:
            self.trusted, self._discards = False, False
            self._wait_from(self._connections.clock())

    def _wait_from(self, now: float) -> None:
        self.since, self._received = now, 0


class _Handshake(asyncio.Protocol):
    """A connection during its TLS handshake; afterwards it is passed to uvicorn's protocol."""

    trusted = False
    waits = True

    def __init__(self, connections: Connections, http: _Http, tls: ssl.SSLContext) -> None:
        self.address, self.peer = "", ""
        self.since = connections.clock()
        self._connections = connections
        self._http = http
        self._tls = tls

    def overdue(self, now: float) -> bool:
        """Whether the client exceeded the time limit, which covers handshake and header together."""
        return now - self.since >= self._connections.limits.header_seconds

    def abort(self) -> None:
        """Close immediately."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self.address = _address_of(transport)
        self.peer = client_key(self.address)
        self._connections.add(self)
        self._task = asyncio.get_running_loop().create_task(self._encrypt(transport))

    async def _encrypt(self, transport: asyncio.Transport) -> None:
        early = _EarlyData()
        try:
            secure = await asyncio.get_running_loop().start_tls(
                transport,
                early,
                self._tls,
                server_side=True,
                ssl_handshake_timeout=2
                * self._connections.limits.header_seconds,  # overdue() comes first
            )
        except OSError:  # not TLS, or the client disconnected
            secure = None
        finally:
            self._connections.remove(self)
        if secure is None or secure.is_closing():
            return transport.abort()
        self._http.since = self.since
        self._http.connection_made(secure)
        secure.set_protocol(self._http)
        if early.data:
            self._http.data_received(early.data)
        if early.lost:
            self._http.connection_lost(early.lost[0])


class _EarlyData(asyncio.Protocol):
    """Buffers data that arrives together with the end of a handshake."""

    def __init__(self) -> None:
        self.data = b""
        self.lost: list[Exception | None] = []

    def data_received(self, data: bytes) -> None:
        self.data += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


def _address_of(transport: asyncio.BaseTransport) -> str:
    name = transport.get_extra_info("peername")
    return str(name[0]) if isinstance(name, tuple) else ""
