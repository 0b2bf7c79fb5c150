"""Access settings of the server, checks of hosts and origins, and the listening socket."""

from __future__ import annotations

import errno
import ipaddress
import os
import secrets
import socket
import stat
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from assistant_builder.errors import ConfigError
from assistant_builder.i18n import m
from assistant_builder.web.client_address import TrustedProxies, parse_address
from assistant_builder.web.connections import Listener
from assistant_builder.web.passwords import PasswordHash
from assistant_builder.web.upload_limits import Limits

DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}


def is_loopback(host: str) -> bool:
    """Whether a server bound to ``host`` is reachable only from this machine."""
    try:
        found = socket.getaddrinfo(host or "0.0.0.0", None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(
        ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_loopback for entry in found
    )


_FORWARDING = tuple(
    "forwarded via x-forwarded x-real-ip x-client-ip x-original- true-client-ip cf-".split()
)
"""Beginnings of the headers that proxies add."""
LOCAL = "assistant_builder.local"
"""Key of a scope: the result of :func:`is_from_this_machine` before headers were removed."""


def is_from_this_machine(scope: Scope) -> bool:
    """Whether a program on this machine sent a request under a local name, and no proxy here passed it on."""
    client = parse_address(str((scope.get("client") or ("",))[0]))
    name = split_host(Headers(scope=scope).get("host", ""))[0]
    address = parse_address(name)
    return (
        client is not None
        and client.is_loopback
        and (name == "localhost" if address is None else address.is_loopback)
        and not any(
            header.decode("latin-1").lower().startswith(_FORWARDING)
            for header, _ in scope["headers"]
        )
    )


def is_readable_by_others(stream: TextIO) -> bool:
    """Whether a stream is written to a file that other users of this machine may read."""
    try:
        mode = os.fstat(stream.fileno()).st_mode
    except (OSError, ValueError):  # no file, as under pytest
        return False
    return os.name == "posix" and stat.S_ISREG(mode) and bool(mode & 0o044)


def cookie(headers: Mapping[str, str], name: str) -> str:
    """The value of a cookie, or an empty text; quotes and escapes are not removed.

    The time of Python's own parser is quadratic in the number of backslashes before 3.11.10.
    """
    pairs = (part.partition("=") for part in headers.get("cookie", "").split(";"))
    return next((value.strip() for given, _, value in pairs if given.strip() == name), "")


class AllowedHosts:
    """The host names of this server, to reject DNS rebinding; ``also`` adds names such as that of a reverse proxy.

    IP addresses are always allowed: no name is resolved for them, so none can have been rebound.
    """

    def __init__(self, bound: str, also: Iterable[str] = ()) -> None:
        names = {"localhost", bound, *also}
        if not is_loopback(bound):
            own = socket.gethostname()
            names |= {own, own.partition(".")[0], f"{own.partition('.')[0]}.local"}
        self._names = {name.strip("[] ").rstrip(".").lower() for name in names} - {""}

    def allows_request(self, headers: Headers) -> bool:
        """Whether a request has one Host header, which names this server."""
        hosts = headers.getlist("host")
        return len(hosts) == 1 and self.allows(hosts[0])

    def allows(self, header: str | None) -> bool:
        """Whether a Host header (``name[:port]``) names this server."""
        name = split_host(header or "")[0]
        try:
            return bool(name and ipaddress.ip_address(name))
        except ValueError:
            return name in self._names


def is_cross_origin(scope: Scope, headers: Headers) -> bool:
    """Whether a request was sent by another site's page.

    Clients that are not browsers send neither header; they are allowed, since they carry no cookies of a user.
    Following a link to the page is allowed too: it shows the page and changes nothing.
    """
    site = headers.get("sec-fetch-site")
    safe = scope["type"] == "http" and scope["method"] in ("GET", "HEAD")
    if site is not None and site not in ("same-origin", "none"):
        return not (
            safe
            and headers.get("sec-fetch-mode") == "navigate"
            and headers.get("sec-fetch-dest") == "document"
            and scope["path"] in ("/", "/login")
        )
    origin = headers.get("origin")
    return origin is not None and not _same_origin(scope, headers, origin)


def _same_origin(scope: Scope, headers: Headers, origin: str) -> bool:
    try:
        sender = urlsplit(origin)
        sender_host = (
            (sender.hostname or "").rstrip("."),
            sender.port or DEFAULT_PORTS.get(sender.scheme, 0),
        )
    except ValueError:
        return False
    scheme = "https" if scope["scheme"] in ("https", "wss") else "http"
    name, port = split_host(headers.get("host", ""))
    return sender.scheme == scheme and sender_host == (name, port or DEFAULT_PORTS[scheme])


def split_host(header: str) -> tuple[str, int | None]:
    """Name and port of a Host header; the name is empty if the header is invalid."""
    try:
        parts = urlsplit(f"//{header.strip()}")
        port = parts.port
    except ValueError:
        return "", None
    if parts.path or parts.query or parts.fragment or "@" in parts.netloc:
        return "", None
    return (parts.hostname or "").rstrip("."), port


def server_url(host: str, port: int, scheme: str = "http") -> str:
    """URL of a server, ``http://127.0.0.1:8000``."""
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def listen(host: str, port: int) -> Listener:
    """Open a listening socket (port 0: a free one), in whose backlog connections wait; raises ConfigError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = Listener(family, kind, protocol)
    except OSError as error:
        raise _unknown_host_error(host) from error
    try:
        if sys.platform != "win32":  # on Windows the option would let two servers share a port
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
        return ConfigError(
            m("port {port} is in use", port=port),
            where=server_url(host, port),
            remedy=m(
                "Close the other program, or choose another port with --port {port}", port=port + 1
            ),
        )
    if number == errno.EACCES:
        return ConfigError(
            m("port {port} needs administrator rights", port=port),
            remedy=m("Choose a --port above 1023"),
        )
    if number == errno.EADDRNOTAVAIL:
        return _unknown_host_error(host)
    return ConfigError(
        m("cannot listen at {host} port {port}: {error}", host=host, port=port, error=error),
        remedy=m("Choose another --host or --port"),
    )


def _unknown_host_error(host: str) -> ConfigError:
    return ConfigError(
        m("{host!r} is not an address of this machine", host=host),
        where="--host",
        remedy=m("Leave --host at 127.0.0.1, or give an address of this machine"),
    )


@dataclass(frozen=True)
class Access:
    """Access settings of the server."""

    host: str = "127.0.0.1"  # address to listen on; the default is reachable only from this machine
    port: int = 7860  # port to listen on; 0 selects a free one
    user: str | None = None  # user who may log in; without one, the page's address has a token
    password: PasswordHash | None = None
    # whether everyone may open the page, without a password and without the token
    allow_without_password: bool = False
    # additional host names of the server, such as that of a reverse proxy
    allowed_hosts: tuple[str, ...] = ()
    proxy: str = ""  # address of a reverse proxy whose ``X-Forwarded-*`` headers are trusted
    certificate: Path | None = None  # PEM file with the certificate chain, for HTTPS
    key: Path | None = None  # PEM file with the private key of the certificate
    limits: Limits = field(default_factory=Limits.from_environment)
    # random at each start
    token: str = field(default_factory=lambda: secrets.token_hex(24), repr=False)

    @property
    def needs_token(self) -> bool:
        """Whether the page opens only with the token."""
        return self.user is None and not self.allow_without_password

    @property
    def url(self) -> str:
        """URL of the page on this machine, without the token."""
        return server_url(self.host, self.port, "https" if self.certificate is not None else "http")

    @property
    def start_url(self) -> str:
        """URL that opens the page in a browser: with the token, if it is needed."""
        return f"{self.url}/?token={self.token}" if self.needs_token else self.url

    def check(self) -> list[str]:
        """Check that the page is not opened to everyone by mistake; returns warnings for who starts the server.

        Raises:
            ConfigError: The settings are inconsistent, or other machines could open the page without a password.
        """
        TrustedProxies(self.proxy)
        if (self.certificate is None) != (self.key is None):
            raise ConfigError(
                m("HTTPS needs a certificate and its key"),
                remedy=m("Give both --certificate and --key"),
            )
        for file in (self.certificate, self.key):
            if file is not None and not file.is_file():
                raise ConfigError(
                    m("the file does not exist"),
                    where=str(file),
                    remedy=m("Correct --certificate and --key"),
                )
        if self.user is None and self.allow_without_password:
            who = (
                "every user of this machine"
                if is_loopback(self.host)
                else f"everyone who can connect to {self.host}"
            )
            return [f"{who} can read, change and delete all studies, and run code in your name"]
        if is_loopback(self.host):
            if self.user is not None and self.allowed_hosts and not self.proxy:
                return [
                    "all clients of a reverse proxy on this machine count as one client, so one that guesses "
                    "passwords blocks the login of all others; name the proxy with --proxy 127.0.0.1"
                ]
            return []
        if self.user is None:
            raise ConfigError(
                m("other machines can reach {host}, so the page needs a login", host=self.host),
                remedy=m(
                    "Add --auth USER, leave --host at 127.0.0.1, or let everyone open it with --without-password"
                ),
            )
        if self.certificate is None and not self.proxy:
            return [
                "passwords and pages are sent unencrypted; give --certificate and --key, or use a reverse proxy "
                "with HTTPS and name it with --proxy"
            ]
        return []
