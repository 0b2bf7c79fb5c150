"""Under which names and from which pages the app may be asked.

A page of another host can send requests here from a browser that reaches us. It can make its own name point to this
machine (DNS rebinding), which the Host header gives away; and it can send requests across sites, which the browser
marks with Sec-Fetch-Site or at least with Origin.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

_SAFE_METHODS = ("GET", "HEAD")
_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}


def is_loopback(host: str) -> bool:
    """Whether all that a server bound to ``host`` can be reached from is this machine."""
    try:
        found = socket.getaddrinfo(host or "0.0.0.0", None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_loopback for entry in found)


class Hosts:
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

    def knows(self, header: str | None) -> bool:
        """Whether a Host header names this server.

        Args:
            header: The header, ``name[:port]``.
        """
        name = _split(header or "")[0]
        if not name:
            return False
        try:
            ipaddress.ip_address(name)
            return True
        except ValueError:
            return name in self._names


def from_elsewhere(scope: Scope, headers: Headers) -> bool:
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
    name, port = _split(headers.get("host", ""))
    return theirs.scheme == scheme and there == (name, port or _PORTS[scheme])


def _split(header: str) -> tuple[str, int | None]:
    """Name and port of a Host header; an empty name where it is none."""
    try:
        parts = urlsplit(f"//{header.strip()}")
        port = parts.port
    except ValueError:
        return "", None
    if parts.path or parts.query or parts.fragment or "@" in parts.netloc:
        return "", None
    return (parts.hostname or "").rstrip("."), port
