"""Who runs a step on a node of a cluster, or a study that is kept in a store: told by a file that all of them see.

A process id means nothing on another machine. Whoever watches a step there renews the step's lease every second; one
that is not renewed says that the node was lost. Who takes a lease over waits until the holder before has seen it and
stopped, so that no two processes ever train in one folder.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from assistant_builder.atomic_io import read_json, write_json
from assistant_builder.errors import StudyError

RENEW_SECONDS = 1.0
"""How often a holder renews its lease, and looks whether it still is its own."""
TAKEOVER_SECONDS = 5.0
"""How long who takes a lease over claims it before it relies on it: several looks of the holder before."""
STALE_SECONDS = 20.0
"""After how long without renewal a reader takes the holder for lost; clocks of the nodes may differ by less."""


class Place(Protocol):
    """Where a lease lies."""

    @property
    def patience(self) -> float:
        """How many times longer than a shared path it may take to tell what was written there."""

    def read(self) -> dict[str, Any] | None:
        """What lies there; None if nothing does, or it is damaged."""

    def write(self, record: dict[str, Any]) -> None:
        """Replace what lies there."""

    def remove(self) -> None:
        """Leave nothing there."""

    def stands(self) -> bool:
        """Whether what the lease is for is there."""


@dataclass(frozen=True)
class SharedFile:
    """A place on a path that all nodes share."""

    path: Path
    patience: float = 1.0

    def read(self) -> dict[str, Any] | None:
        """What lies there; None if nothing does, or it is damaged."""
        try:
            found = read_json(self.path)
        except (OSError, StudyError):
            return None
        return found if isinstance(found, dict) else None

    def write(self, record: dict[str, Any]) -> None:
        """Replace the file."""
        write_json(self.path, record)

    def remove(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)

    def stands(self) -> bool:
        """Whether the folder is there: writing would make a ruin in its place."""
        return self.path.parent.is_dir()


@dataclass
class Lease:
    """The right to run one step, or one study.

    Attributes:
        place: Where the lease lies.
        holder: What tells this holder from every other.
        node: The node it is on.
        attempt: 1, and one more than that of a holder before who did not give the lease back.
    """

    place: Place
    holder: str
    node: str
    attempt: int = field(default=1, init=False)
    _renewed: float = field(default=0.0, init=False)

    def take(self) -> None:
        """Make the lease one's own; waits where somebody else may still hold it."""
        other = self.place.read()
        before = (other or {}).get("attempt", 0)
        self.attempt = before + 1 if isinstance(before, int) else 1
        self._write()
        others = other is not None and other.get("holder") != self.holder
        until = time.monotonic() + (TAKEOVER_SECONDS * self.place.patience if others else 0.0)
        while time.monotonic() < until:
            time.sleep(RENEW_SECONDS / 4)
            self._write()

    def renew(self) -> bool:
        """Renew the lease where it is due.

        Returns:
            False where somebody else has taken it, or the study is gone.
        """
        if time.monotonic() - self._renewed < RENEW_SECONDS * self.place.patience:
            return True
        taken = (self.place.read() or {}).get("holder", self.holder) != self.holder
        if taken or not self.place.stands():
            return False
        self._write()
        return True

    def release(self) -> None:
        """Give the lease back, unless it is somebody else's by now."""
        if (self.place.read() or {}).get("holder") == self.holder:
            self.place.remove()

    def held_by(self) -> str:
        """The node of somebody else who holds the lease and still renews it; empty where nobody does.

        Who has not renewed it for a while is watched for as long as it takes to be sure.
        """
        seen = self.place.read()
        if seen is None or seen.get("holder") == self.holder or not _lately(seen, self.place.patience):
            return ""
        until = time.monotonic() + STALE_SECONDS * self.place.patience
        while time.monotonic() < until:
            time.sleep(RENEW_SECONDS / 4)
            now = self.place.read()
            if now is None or now.get("holder") == self.holder:
                return ""
            if now != seen:
                return str(now.get("node", "another machine"))
        return ""

    def _write(self) -> None:
        self.place.write({
            "holder": self.holder, "node": self.node, "attempt": self.attempt, "time": time.time(),
        })
        self._renewed = time.monotonic()


def is_fresh(path: Path) -> bool:
    """Whether somebody holds a lease on a shared path and has renewed it lately."""
    return _lately(SharedFile(path).read() or {}, 1.0)


def _lately(record: dict[str, Any], patience: float) -> bool:
    try:
        return bool(abs(time.time() - record["time"]) < STALE_SECONDS * patience)
    except (KeyError, TypeError):
        return False
