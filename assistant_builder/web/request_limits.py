"""Limits on uploads and request sizes, and the clients that trusted proxies report."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import Scope

from assistant_builder.errors import ConfigError
from assistant_builder.i18n import m
from assistant_builder.web.passwords import IPAddress, parse_address

SIZE_VARIABLE, COUNT_VARIABLE = "ASSISTANT_BUILDER_MAX_UPLOAD", "ASSISTANT_BUILDER_MAX_UPLOADS"
_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}


@dataclass(frozen=True)
class Limits:
    """Limits on uploads and requests."""

    # largest file that can be uploaded, in bytes
    file_bytes: int = 250 * 10**6  # the limit of the readers
    files_at_once: int = 4  # files per upload request
    # uploaded files that the server stores at a time, of all users together
    stored_files: int = 100
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
                m("{text!r} is not a size", text=text),
                where=SIZE_VARIABLE,
                remedy=m("Set it to e.g. 250MB"),
            )
        if count and not (count.isascii() and count.isdigit() and int(count) > 0):
            raise ConfigError(
                m("{number!r} is not a number of files", number=count),
                where=COUNT_VARIABLE,
                remedy=m("Set it to e.g. 100"),
            )
        return cls(file_bytes=size or cls.file_bytes, stored_files=int(count or cls.stored_files))


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
