"""Who may reach the server: its access settings, the allowed hosts and origins, and the listening socket."""

from __future__ import annotations

import errno
import ipaddress
import socket
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from assistant_builder.errors import ConfigError
from assistant_builder.web.passwords import PasswordHash
from assistant_builder.web.request_limits import ConnectionLimits, Limits

_SAFE_METHODS = ("GET", "HEAD")
_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}


def is_loopback(host: str) -> bool:
    """Whether all that a server bound to ``host`` can be reached from is this machine."""
    try:
        found = socket.getaddrinfo(host or "0.0.0.0", None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_loopback for entry in found)


class AllowedHosts:
    """The names that belong to this server.

    An address written in digits is always one: no name is looked up for it, so none can have been rebound.

    Args:
        bound: What the server listens on.
        also: Further names, such as that of a reverse proxy.
    """

    def __init__(self, bound: str, also: Iterable[str] = ()) -> None:
        names = {"localhost", bound, *also}
        if not is_loopback(bound):
            own = socket.gethostname()
            names |= {own, own.partition(".")[0], f"{own.partition('.')[0]}.local"}
        self._names = {name.strip("[] ").rstrip(".").lower() for name in names} - {""}

    def allows(self, header: str | None) -> bool:
        """Whether a Host header names this server.

        Args:
            header: The header, ``name[:port]``.
        """
        name = _split_host(header or "")[0]
        if not name:
            return False
        try:
            ipaddress.ip_address(name)
            return True
        except ValueError:
            return name in self._names


def is_cross_origin(scope: Scope, headers: Headers) -> bool:
    """Whether a request was sent by a page that is not ours.

    What is no browser sends neither header and is let through; it has no one's cookies. Following a link to the page
    is let through too: it shows the page and changes nothing.
    """
    site = headers.get("sec-fetch-site")
    safe = scope["type"] == "http" and scope["method"] in _SAFE_METHODS
    if site is not None and site not in ("same-origin", "none"):
        return not (safe and headers.get("sec-fetch-mode") == "navigate"
                    and headers.get("sec-fetch-dest") == "document" and scope["path"] in ("/", "/login"))
    origin = headers.get("origin")
    return origin is not None and not _same_origin(scope, headers, origin)


def _same_origin(scope: Scope, headers: Headers, origin: str) -> bool:
    try:
        theirs = urlsplit(origin)
        scheme = "https" if scope["scheme"] in ("https", "wss") else "http"
        there = ((theirs.hostname or "").rstrip("."), theirs.port or _PORTS.get(theirs.scheme, 0))
    except ValueError:
        return False
    name, port = _split_host(headers.get("host", ""))
    return theirs.scheme == scheme and there == (name, port or _PORTS[scheme])


def _split_host(header: str) -> tuple[str, int | None]:
    """Name and port of a Host header; an empty name where it is none."""
    try:
        parts = urlsplit(f"//{header.strip()}")
        port = parts.port
    except ValueError:
        return "", None
    if parts.path or parts.query or parts.fragment or "@" in parts.netloc:
        return "", None
    return (parts.hostname or "").rstrip("."), port


def server_url(host: str, port: int, scheme: str = "http") -> str:
    """The address under which a server is found, ``http://127.0.0.1:8000``."""
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; connections wait in it until the server is ready.

    Args:
        host: A name or address of this machine.
        port: 0: one that is free.

    Raises:
        ConfigError: The port is taken or not ours to take, or the host is not of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _unknown_host_error(host) from error
    try:
        if sys.platform != "win32":  # where it would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except (OSError, OverflowError) as error:
        listener.close()
        raise _listen_error(host, port, error) from error
    return listener


def _listen_error(host: str, port: int, error: OSError | OverflowError) -> ConfigError:
    number = getattr(error, "errno", None)
    if number == errno.EADDRINUSE:
        return ConfigError(f"port {port} is in use", where=server_url(host, port),
                           remedy=f"Another Assistant Builder may be open there; else take --port {port + 1}")
    if number == errno.EACCES:
        return ConfigError(f"port {port} is not for every user", remedy="Take a --port above 1023")
    if number == errno.EADDRNOTAVAIL:
        return _unknown_host_error(host)
    return ConfigError(f"cannot listen at {host} port {port}: {error}", remedy="Choose another --host or --port")


def _unknown_host_error(host: str) -> ConfigError:
    return ConfigError(f"{host!r} is no address of this machine", where="--host",
                       remedy="Leave --host at 127.0.0.1, or give an address of this machine")


@dataclass(frozen=True)
class Access:
    """Where the page is served, and to whom.

    Attributes:
        host: Address to listen on; the default is reachable from this machine only.
        port: Port to listen on; 0: one that is free.
        user: Who may log in; None: nobody is asked.
        password: The user's password.
        open_to_all: Whether other machines may reach the page without a password.
        allowed_hosts: Further names of the server, such as that of a reverse proxy.
        proxy: Address of a reverse proxy that is believed who its clients are, and whether they speak https.
        certificate: PEM file with the certificate and its chain, to speak https.
        key: PEM file with the certificate's key.
        limits: How much a request may bring.
        connections: How long and how often clients may keep connections waiting.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    user: str | None = None
    password: PasswordHash | None = None
    open_to_all: bool = False
    allowed_hosts: tuple[str, ...] = ()
    proxy: str = ""
    certificate: Path | None = None
    key: Path | None = None
    limits: Limits = field(default_factory=Limits.from_environment)
    connections: ConnectionLimits = ConnectionLimits()

    @property
    def url(self) -> str:
        """Where a person on this machine finds the page."""
        return server_url(self.host, self.port, "https" if self.certificate is not None else "http")

    def check(self) -> list[str]:
        """Refuse what would let in everyone.

        Returns:
            Warnings for the person who starts the server.

        Raises:
            ConfigError: Other machines would reach the page without a password, or the settings do not fit together.
        """
        if (self.certificate is None) != (self.key is None):
            raise ConfigError("a certificate and its key belong together", remedy="Give both --certificate and --key")
        for file in (self.certificate, self.key):
            if file is not None and not file.is_file():
                raise ConfigError("there is no such file", where=str(file), remedy="Correct --certificate and --key")
        if is_loopback(self.host):
            if self.user is not None and self.allowed_hosts and not self.proxy:
                return ["all clients of a reverse proxy on this machine count as one, and one that guesses passwords "
                        "holds up the logins of all; name the proxy with --proxy 127.0.0.1"]
            return []
        if self.user is None:
            if not self.open_to_all:
                raise ConfigError(
                    f"the page would be open to everyone who reaches {self.host}",
                    remedy="Add --auth USER, leave --host at 127.0.0.1, or allow it with --without-password",
                )
            return [f"everyone who reaches {self.host} can read, change and delete every study"]
        if self.certificate is None and not self.proxy:
            return ["password and pages cross the network unencrypted; give --certificate and --key, or put a proxy "
                    "that speaks https in front and name it with --proxy"]
        return []
