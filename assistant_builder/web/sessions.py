"""Sessions of logins, kept in memory, and what each login owns: its browser windows and its uploads."""

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

IDLE_SECONDS = 3600.0
"""A session ends this long after its person last did something; that the page asks for news does not count."""
MAX_SECONDS = 12 * 3600.0
"""A session ends this long after the login in any case."""
_MAX_SESSIONS = 1000
SESSION = "assistant_builder.session"
"""Key of a request's scope: its :class:`Session`, None where nobody has to log in."""


def monotonic_clock() -> float:
    """Seconds that never go backwards, and go on while the machine sleeps where the system counts that."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


@dataclass
class Session:
    """One login.

    Attributes:
        user: Who logged in.
        started: When.
        active: When its person last did something.
        open_answers: Ends an answer that is still being sent, such as a stream of events.
        name: Tells it from others; random, and no secret.
    """

    user: str
    started: float
    active: float
    open_responses: set[Callable[[], None]] = field(default_factory=set)
    name: str = field(default_factory=lambda: secrets.token_hex(8))


class Sessions:
    """All logins of this process; only hashes of their tokens are kept.

    Args:
        idle_seconds: See :data:`IDLE_SECONDS`.
        longest_seconds: See :data:`LONGEST_SECONDS`.
        clock: Seconds, never going backwards.
    """

    def __init__(
        self, idle_seconds: float = IDLE_SECONDS, longest_seconds: float = MAX_SECONDS,
        clock: Callable[[], float] = monotonic_clock,
    ) -> None:
        self.longest_seconds = longest_seconds
        self._idle = idle_seconds
        self._clock = clock
        self._sessions: dict[bytes, Session] = {}

    def create(self, user: str) -> str:
        """Start a session; returns its token."""
        now = self._clock()
        for key in [key for key, session in self._sessions.items() if self._is_expired(session, now)]:
            self._end(key)
        if len(self._sessions) >= _MAX_SESSIONS:
            self._end(min(self._sessions, key=lambda key: self._sessions[key].active))
        token = secrets.token_urlsafe(32)
        self._sessions[_key(token)] = Session(user, now, now)
        return token

    def find(self, token: str | None) -> Session | None:
        """The session of a token, None where it never was or is over."""
        if not token:
            return None
        key = _key(token)
        session = self._sessions.get(key)
        if session is not None and self._is_expired(session, self._clock()):
            self._end(key)
            return None
        return session

    def touch(self, session: Session) -> None:
        """Its person did something."""
        session.active = self._clock()

    def end(self, token: str | None) -> None:
        """End a session, and with it every answer that is still being sent to it."""
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
    """Which session random names belong to: the first that uses them, also after it has ended.

    Args:
        forget: Called with a name that is not kept any longer, since :data:`MOST_NAMES` were used after it; drops what
            the server has under it.
    """

    def __init__(self, forget: Callable[[str], None]) -> None:
        self._forget = forget
        self._owners: OrderedDict[str, Session] = OrderedDict()
        self._lock = threading.Lock()

    def claim(self, name: str, session: Session | None) -> bool:
        """Whether a session may use a name; it becomes the session's where it is nobody's.

        Args:
            name: Of a window or of the progress of an upload.
            session: Who asks; None: nobody has to log in, and nothing belongs to anybody.
        """
        if session is None:
            return True
        with self._lock:
            owner = self._owners.setdefault(name, session)
            if owner is not session:
                return False
            self._owners.move_to_end(name)
            forgotten = self._owners.popitem(last=False)[0] if len(self._owners) > MAX_NAMES else None
        if forgotten is not None:
            self._forget(forgotten)
        return True


def new_upload_name(session: Session | None) -> str:
    """Name of a folder for an upload: nobody can guess it, and it says whose it is."""
    return f"{_upload_prefix(session)}{secrets.token_urlsafe(16)}"


def may_read(path: str, files: Path, session: Session | None) -> bool:
    """Whether a session may read a file: one that is offered to everyone who is in, or that it uploaded itself.

    Args:
        path: Of the file.
        files: The folder of uploads and offered files.
        session: Who asks; None: nobody has to log in.
    """
    if not path or "\0" in path or not os.path.isabs(path):
        return False
    try:
        place = Path(path).resolve().relative_to(files.resolve())
    except (OSError, RuntimeError, ValueError):
        return False
    top = place.parts[0] if place.parts else ""
    # some file systems know no difference between upper and lower case
    return session is None or not top.casefold().startswith(UPLOAD_PREFIX) or top.startswith(_upload_prefix(session))


def _upload_prefix(session: Session | None) -> str:
    return f"{UPLOAD_PREFIX}{session.name}-" if session is not None else UPLOAD_PREFIX
