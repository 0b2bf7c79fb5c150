"""The rate limit on login attempts, of each client and of all together."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from assistant_builder.web.client_address import client_key

FREE_ATTEMPTS = 5
MIN_WAIT, MAX_WAIT = 2.0, 900.0
"""Seconds that a client waits after its free attempts; the wait doubles with each further attempt."""
ALL_ATTEMPTS, ALL_SECONDS = 20, 10.0
"""Token bucket over all clients: its size in attempts, and the seconds after which one attempt is added."""
_FORGET_SECONDS = 24 * 3600.0
_MAX_CLIENTS = 10_000


@dataclass
class _Attempts:
    failures: int
    until: float
    last: float


class RateLimiter:
    """Rate limit on login attempts; an attempt counts before its check, so that parallel ones are limited too."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._clients: dict[str, _Attempts] = {}
        self._left, self._filled = float(ALL_ATTEMPTS), clock()

    def attempt(self, address: str) -> float:
        """Request an attempt from an IP address; returns the seconds to wait before the next request.

        0 permits the attempt, which counts as failed until :meth:`succeeded` is called.
        """
        now, client = self._clock(), client_key(address)
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
        wait = min(MIN_WAIT * 2.0 ** min(beyond, 30), MAX_WAIT) if beyond >= 0 else 0.0
        self._clients.pop(client, None)  # moves the client to the end of the dict
        self._clients[client] = _Attempts(failures, now + wait, now)
        if len(self._clients) > _MAX_CLIENTS:
            del self._clients[next(iter(self._clients))]
        return 0.0

    def failures(self, address: str) -> int:
        """Attempts of a client since it last succeeded."""
        record = self._clients.get(client_key(address))
        return record.failures if record is not None else 0

    def succeeded(self, address: str) -> None:
        """Reset the count of a client whose password was correct."""
        self._clients.pop(client_key(address), None)
        self._left = min(float(ALL_ATTEMPTS), self._left + 1)
