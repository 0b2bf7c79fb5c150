"""Login sessions, held in memory, and the browser windows and uploads that belong to each."""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

IDLE_SECONDS = 3600.0  # a session ends after this much inactivity; the page's own polling does not count as activity
MAX_SECONDS = 12 * 3600.0  # a session always ends this long after the login
_MAX_SESSIONS = 1000
SESSION = "assistant_builder.session"
"""Key of the :class:`Session` in the scope of a request; the value is None if no login is required."""


def monotonic_clock() -> float:
    """Monotonic time in seconds; on Linux it includes the time that the machine was suspended."""
    return (
        time.clock_gettime(time.CLOCK_BOOTTIME)
        if hasattr(time, "CLOCK_BOOTTIME")
        else time.monotonic()
    )


@dataclass
class Session:
    """One login."""

    user: str
    started: float
    active: float
    # callbacks that end responses which are still being sent, such as event streams
    open_responses: set[Callable[[], None]] = field(default_factory=set)
    # random identifier; not a secret
    name: str = field(default_factory=lambda: secrets.token_hex(8))


class Sessions:
    """All sessions of this process; only hashes of their tokens are stored."""

    def __init__(
        self,
        idle_seconds: float = IDLE_SECONDS,
        longest_seconds: float = MAX_SECONDS,
        clock: Callable[[], float] = monotonic_clock,
    ) -> None:
        self.longest_seconds = longest_seconds
        self._idle = idle_seconds
        self._clock = clock
        self._sessions: dict[bytes, Session] = {}

    def create(self, user: str) -> str:
        """Start a session; returns its token."""
        now = self._clock()
        for key in [
            key for key, session in self._sessions.items() if self._is_expired(session, now)
        ]:
            self._end(key)
        if len(self._sessions) >= _MAX_SESSIONS:
            self._end(min(self._sessions, key=lambda key: self._sessions[key].active))
        token = secrets.token_urlsafe(32)
        self._sessions[_key(token)] = Session(user, now, now)
        return token

    def find(self, token: str | None) -> Session | None:
        """The session of a token; None if there is none or it has ended."""
        if not token:
            return None
        key = _key(token)
        session = self._sessions.get(key)
        if session is not None and self._is_expired(session, self._clock()):
            self._end(key)
            return None
        return session

    def touch(self, session: Session) -> None:
        """Record activity of the user."""
        session.active = self._clock()

    def end(self, token: str | None) -> None:
        """End a session and every response that is still being sent to it."""
        if token:
            self._end(_key(token))

    def _end(self, key: bytes) -> None:
        session = self._sessions.pop(key, None)
        for close in list(session.open_responses) if session is not None else ():
            close()

    def _is_expired(self, session: Session, now: float) -> bool:
        return now - session.active >= self._idle or now - session.started >= self.longest_seconds


def _key(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", errors="replace")).digest()


UPLOAD_PREFIX = "upload-"
MAX_NAMES = 10_000


class NameOwners:
    """Owners of random names: a name belongs to the first session that uses it, even after that session has ended.

    ``forget`` deletes the server's data under the least recently used name when there are more than :data:`MAX_NAMES`.
    """

    def __init__(self, forget: Callable[[str], None]) -> None:
        self._forget = forget
        self._owners: OrderedDict[str, Session] = OrderedDict()
        self._lock = threading.Lock()

    def claim(self, name: str, session: Session | None) -> bool:
        """Whether a session (None: no login) may use a name; a name without an owner is assigned to the session."""
        if session is None:
            return True
        with self._lock:
            owner = self._owners.setdefault(name, session)
            if owner is not session:
                return False
            self._owners.move_to_end(name)
            forgotten = (
                self._owners.popitem(last=False)[0] if len(self._owners) > MAX_NAMES else None
            )
        if forgotten is not None:
            self._forget(forgotten)
        return True


def new_upload_name(session: Session | None) -> str:
    """Name of a new upload folder; it cannot be guessed, and it contains the name of the session."""
    return f"{_upload_prefix(session)}{secrets.token_urlsafe(16)}"


def may_read(path: str, files: Path, session: Session | None) -> bool:
    """Whether a session may read a file in ``files``: its own uploads, and files that are offered to every user.

    ``session`` is None if no login is required.
    """
    if not path or "\0" in path or not os.path.isabs(path):
        return False
    try:
        relative = Path(path).resolve().relative_to(files.resolve())
    except (OSError, RuntimeError, ValueError):
        return False
    top = relative.parts[0] if relative.parts else ""
    # some file systems are case-insensitive
    return (
        session is None
        or not top.casefold().startswith(UPLOAD_PREFIX)
        or top.startswith(_upload_prefix(session))
    )


def _upload_prefix(session: Session | None) -> str:
    return f"{UPLOAD_PREFIX}{session.name}-" if session is not None else UPLOAD_PREFIX
