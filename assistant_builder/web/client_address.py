"""The address of a client: as trusted reverse proxies report it, and as it is counted by rate limits."""

from __future__ import annotations

import ipaddress
import re

from starlette.datastructures import Headers
from starlette.types import Scope

from assistant_builder.errors import ConfigError
from assistant_builder.i18n import m

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def parse_address(text: str) -> IPAddress | None:
    """An IP address; IPv4 if it is mapped to IPv6, and None if the text is none."""
    try:
        parsed = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (parsed.ipv4_mapped or parsed) if isinstance(parsed, ipaddress.IPv6Address) else parsed


def client_key(address: str) -> str:
    """Key under which an address is counted; an IPv6 client owns a whole /64 network."""
    parsed = parse_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return address if parsed is None else str(parsed)


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
            m("{entry!r} is neither an address nor a network", entry=entry),
            where="--proxy",
            remedy=m(
                "Give the address of the proxy, such as 127.0.0.1, or its network, such as 172.16.0.0/12"
            ),
        ) from None
