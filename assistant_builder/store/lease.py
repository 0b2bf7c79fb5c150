"""Leases: the cluster node that runs a step, or the machine that runs a study in a store.

The holder renews its lease about every second; a lease that is not renewed belongs to a lost machine. A takeover waits
until the previous holder has noticed it and stopped, so that two processes never train in the same folder.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assistant_builder.atomic_io import parse_json, read_json, write_json
from assistant_builder.errors import StudyError
from assistant_builder.store.object_store import ObjectStore
from assistant_builder.study import locks
from assistant_builder.study.locks import is_recent

RENEW_SECONDS = 1.0
"""Interval in which a holder checks and renews its lease."""
TAKEOVER_SECONDS = 5.0
"""Time that a takeover waits for the previous holder to notice: several of its renewals."""


@dataclass(frozen=True)
class SharedLeaseFile:
    """A lease in a file on a shared path."""

    path: Path
    latency_factor: float = 1.0

    def read(self) -> dict[str, Any] | None:
        """The record; None if there is none or it is damaged."""
        try:
            record = read_json(self.path)
        except (OSError, StudyError):
            return None
        return dict(record)

    def write(self, record: dict[str, Any]) -> None:
        """Replace the file."""
        write_json(self.path, record)

    def remove(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)

    def exists(self) -> bool:
        """Whether the folder exists; a write would otherwise create an incomplete study."""
        return self.path.parent.is_dir()


@dataclass(frozen=True)
class StoreLeaseFile:
    """A lease in an object of a store, which answers in tenths of a second instead of milliseconds."""

    store: ObjectStore
    name: str
    latency_factor: float = 3.0

    def read(self) -> dict[str, Any] | None:
        """The record; None if there is none or it is damaged."""
        try:
            content = self.store.read(self.name) or b""
            return dict(parse_json(content, dict[str, Any], self.name))
        except (ValueError, RecursionError):
            return None

    def write(self, record: dict[str, Any]) -> None:
        """Replace the object."""
        self.store.write(self.name, json.dumps(record).encode())

    def remove(self) -> None:
        """Remove the object."""
        self.store.remove([self.name])

    def exists(self) -> bool:
        """True, because a store has no folders."""
        return True


LeaseBackend = SharedLeaseFile | StoreLeaseFile
"""Storage of the record of a lease; ``latency_factor`` multiplies all intervals."""


@dataclass
class Lease:
    """The exclusive right to run a step or a study."""

    backend: LeaseBackend
    holder: str  # unique id of this holder
    node: str  # name of this holder's machine
    # 1 plus the attempts of previous holders that did not release the lease
    attempt: int = field(default=1, init=False)
    _renewed: float = field(default=0.0, init=False)

    def acquire(self) -> None:
        """Acquire the lease; waits while a previous holder may still be active."""
        previous = self.backend.read()
        attempt = (previous or {}).get("attempt", 0)
        self.attempt = attempt + 1 if isinstance(attempt, int) else 1
        self._write()
        is_takeover = previous is not None and previous.get("holder") != self.holder
        until = time.monotonic() + (
            TAKEOVER_SECONDS * self.backend.latency_factor if is_takeover else 0.0
        )
        while time.monotonic() < until:
            time.sleep(RENEW_SECONDS / 4)
            self._write()

    def renew(self) -> bool:
        """Renew the lease if it is due; False if another holder has acquired it, or the study no longer exists."""
        if time.monotonic() - self._renewed < RENEW_SECONDS * self.backend.latency_factor:
            return True
        taken = (self.backend.read() or {}).get("holder", self.holder) != self.holder
        if taken or not self.backend.exists():
            return False
        self._write()
        return True

    def release(self) -> None:
        """Release the lease, unless another holder has acquired it."""
        if (self.backend.read() or {}).get("holder") == self.holder:
            self.backend.remove()

    def held_by(self) -> str:
        """Name of the machine of another active holder; empty without one.

        A recent record does not prove that its holder is alive, so this waits for the next renewal or a timeout.
        """
        seen = self.backend.read()
        factor = self.backend.latency_factor
        if seen is None or seen.get("holder") == self.holder or not is_recent(seen, factor):
            return ""
        until = time.monotonic() + locks.STALE_SECONDS * factor
        while time.monotonic() < until:
            time.sleep(RENEW_SECONDS / 4)
            now = self.backend.read()
            if now is None or now.get("holder") == self.holder:
                return ""
            if now != seen:
                return str(now.get("node", "another machine"))
        return ""

    def _write(self) -> None:
        self.backend.write(
            {"holder": self.holder, "node": self.node, "attempt": self.attempt, "time": time.time()}
        )
        self._renewed = time.monotonic()
