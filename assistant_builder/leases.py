"""Who runs a step on a node of a cluster, told by a file on the path that all nodes share.

A process id means nothing on another machine. Whoever watches a step there renews the step's lease every second; one
that is not renewed says that the node was lost. Who takes a lease over waits until the holder before has seen it and
stopped, so that no two processes ever train in one folder.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assistant_builder.errors import StudyError
from assistant_builder.files import read_json, write_json

RENEW_SECONDS = 1.0
"""How often a holder renews its lease, and looks whether it still is its own."""
TAKEOVER_SECONDS = 5.0
"""How long who takes a lease over claims it before it relies on it: several looks of the holder before."""
STALE_SECONDS = 20.0
"""After how long without renewal a reader takes the holder for lost; clocks of the nodes may differ by less."""


@dataclass
class Lease:
    """The right to run one step.

    Attributes:
        path: The lease's file.
        holder: What tells this holder from every other.
        node: The node it is on.
        attempt: 1, and one more than that of a holder before who did not give the lease back.
    """

    path: Path
    holder: str
    node: str
    attempt: int = field(default=1, init=False)
    _renewed: float = field(default=0.0, init=False)

    def take(self) -> None:
        """Make the lease one's own; waits where somebody else may still hold it."""
        other = _read(self.path)
        before = (other or {}).get("attempt", 0)
        self.attempt = before + 1 if isinstance(before, int) else 1
        self._write()
        until = time.monotonic() + (TAKEOVER_SECONDS if other else 0.0)
        while time.monotonic() < until:
            time.sleep(RENEW_SECONDS / 4)
            self._write()

    def renew(self) -> bool:
        """Renew the lease where it is due.

        Returns:
            False where somebody else has taken it, or the study is gone.
        """
        if time.monotonic() - self._renewed < RENEW_SECONDS:
            return True
        taken = (_read(self.path) or {}).get("holder", self.holder) != self.holder
        if taken or not self.path.parent.is_dir():
            return False
        self._write()
        return True

    def release(self) -> None:
        """Give the lease back, unless it is somebody else's by now."""
        if (_read(self.path) or {}).get("holder") == self.holder:
            self.path.unlink(missing_ok=True)

    def _write(self) -> None:
        write_json(self.path, {
            "holder": self.holder, "node": self.node, "attempt": self.attempt, "time": time.time(),
        })
        self._renewed = time.monotonic()


def is_fresh(path: Path) -> bool:
    """Whether somebody holds a lease and has renewed it lately."""
    try:
        return abs(time.time() - (_read(path) or {"time": 0.0})["time"]) < STALE_SECONDS
    except (KeyError, TypeError):
        return False


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = read_json(path)
    except (OSError, StudyError):
        return None
    return found if isinstance(found, dict) else None
