"""How often a password may be tried: a few times at once, then with a growing wait, for each client and for all."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from dataclasses import dataclass

FREE_ATTEMPTS = 5
FIRST_WAIT, LONGEST_WAIT = 2.0, 900.0
"""Seconds a client waits after its free attempts; doubled with each further one."""
ALL_ATTEMPTS, ALL_SECONDS = 20, 10.0
"""Attempts of all clients together that may come at once, and the seconds after which one more may."""
_FORGET_SECONDS = 24 * 3600.0
_MOST_CLIENTS = 10_000


@dataclass
class _Record:
    failures: int
    until: float
    last: float


class Throttle:
    """Counts attempts before they are judged, so that many at once are no way around it.

    Args:
        clock: Seconds, never going backwards.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._clients: dict[str, _Record] = {}
        self._left, self._filled = float(ALL_ATTEMPTS), clock()

    def attempt(self, address: str) -> float:
        """Ask to try a password.

        Args:
            address: Where the client is.

        Returns:
            Seconds to wait before it is asked again; 0: the attempt may be made, and is counted as failed until
            :meth:`succeeded` says otherwise.
        """
        now, client = self._clock(), client_of(address)
        record = self._clients.get(client)
        if record is not None and now - record.last > _FORGET_SECONDS:
            record = None
        if record is not None and now < record.until:
            return record.until - now
        self._left = min(float(ALL_ATTEMPTS), self._left + (now - self._filled) / ALL_SECONDS)
        self._filled = now
        if self._left < 1:
            return (1 - self._left) * ALL_SECONDS
        self._left -= 1
        failures = record.failures + 1 if record is not None else 1
        beyond = failures - FREE_ATTEMPTS
        wait = min(FIRST_WAIT * 2.0 ** min(beyond, 30), LONGEST_WAIT) if beyond >= 0 else 0.0
        self._clients.pop(client, None)  # the last to try is the last in the dict
        self._clients[client] = _Record(failures, now + wait, now)
        if len(self._clients) > _MOST_CLIENTS:
            del self._clients[next(iter(self._clients))]
        return 0.0

    def failures(self, address: str) -> int:
        """Attempts of a client since it last succeeded."""
        record = self._clients.get(client_of(address))
        return record.failures if record is not None else 0

    def succeeded(self, address: str) -> None:
        """The attempt was made with the right password."""
        self._clients.pop(client_of(address), None)
        self._left = min(float(ALL_ATTEMPTS), self._left + 1)


def client_of(address: str) -> str:
    """Whom an address counts for: one IPv6 client owns a whole /64."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
