"""Leases: which cluster node runs a step, or which machine runs a study that is kept in a store.

A process id means nothing on another machine. The holder of a lease therefore renews it about every second in a place
that all machines see, and a lease that is not renewed belongs to a lost machine. Whoever takes over a lease first waits
until the previous holder has seen it and stopped, so that no two processes ever train in one folder.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from assistant_builder.atomic_io import read_json, write_json
from assistant_builder.errors import StudyError
from assistant_builder.store.object_store import ObjectStore
from assistant_builder.study import locks
from assistant_builder.study.locks import is_recent

RENEW_SECONDS = 1.0
"""Interval in which a holder renews its lease and checks that it still holds it."""
TAKEOVER_SECONDS = 5.0
"""Time that a takeover waits for the previous holder to see it: several of that holder's renewals."""


class LeaseBackend(Protocol):
    """Where the record of a lease is kept."""

    @property
    def latency_factor(self) -> float:
        """Factor by which the intervals are longer than those of a shared path."""

    def read(self) -> dict[str, Any] | None:
        """The record; None if there is none or it is damaged."""

    def write(self, record: dict[str, Any]) -> None:
        """Replace the record."""

    def remove(self) -> None:
        """Remove the record."""

    def exists(self) -> bool:
        """Whether the study of the lease still exists."""


@dataclass(frozen=True)
class SharedLeaseFile:
    """A lease in a file on a path that all nodes share."""

    path: Path
    latency_factor: float = 1.0

    def read(self) -> dict[str, Any] | None:
        """The record; None if there is none or it is damaged."""
        try:
            record = read_json(self.path)
        except (OSError, StudyError):
            return None
        return record if isinstance(record, dict) else None

    def write(self, record: dict[str, Any]) -> None:
        """Replace the file."""
        write_json(self.path, record)

    def remove(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)

    def exists(self) -> bool:
        """Whether the folder exists; a write would create an incomplete study in its place."""
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
            record = json.loads(self.store.read(self.name) or b"")
        except ValueError:
            return None
        return record if isinstance(record, dict) else None

    def write(self, record: dict[str, Any]) -> None:
        """Replace the object."""
        self.store.write(self.name, json.dumps(record).encode())

    def remove(self) -> None:
        """Remove the object."""
        self.store.remove([self.name])

    def exists(self) -> bool:
        """True: a store has no folder that could be missing."""
        return True


@dataclass
class Lease:
    """The right to run one step, or one study.

    Attributes:
        backend: Where the record of the lease is kept.
        holder: Unique id of this holder.
        node: Name of the machine of this holder.
        attempt: 1, or one more than that of a previous holder that did not release the lease.
    """

    backend: LeaseBackend
    holder: str
    node: str
    attempt: int = field(default=1, init=False)
    _renewed: float = field(default=0.0, init=False)

    def acquire(self) -> None:
        """Take the lease; waits if somebody else may still hold it."""
        previous = self.backend.read()
        attempt = (previous or {}).get("attempt", 0)
        self.attempt = attempt + 1 if isinstance(attempt, int) else 1
        self._write()
        is_takeover = previous is not None and previous.get("holder") != self.holder
        until = time.monotonic() + (TAKEOVER_SECONDS * self.backend.latency_factor if is_takeover else 0.0)
        while time.monotonic() < until:
            time.sleep(RENEW_SECONDS / 4)
            self._write()

    def renew(self) -> bool:
        """Renew the lease if it is due.

        Returns:
            False if somebody else has taken it, or the study no longer exists.
        """
        if time.monotonic() - self._renewed < RENEW_SECONDS * self.backend.latency_factor:
            return True
        taken = (self.backend.read() or {}).get("holder", self.holder) != self.holder
        if taken or not self.backend.exists():
            return False
        self._write()
        return True

    def release(self) -> None:
        """Release the lease, unless somebody else has taken it."""
        if (self.backend.read() or {}).get("holder") == self.holder:
            self.backend.remove()

    def held_by(self) -> str:
        """The machine of another holder that still renews the lease; empty if there is none.

        A recent record alone does not prove that its holder lives, so this waits for the next renewal or its timeout.
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
        self.backend.write({
            "holder": self.holder, "node": self.node, "attempt": self.attempt, "time": time.time(),
        })
        self._renewed = time.monotonic()
