"""What belongs to one login: the windows it opened and the files it uploaded.

Several people may know the password. Studies are theirs together; what one of them has in a window or uploaded, but
has not made a study of, is not. Names of windows and uploads are random, and yet nothing that protects them alone:
they appear in addresses.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from assistant_builder.access.sessions import Session

UPLOAD_PREFIX = "upload-"
MOST_NAMES = 10_000


class Owners:
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
            forgotten = self._owners.popitem(last=False)[0] if len(self._owners) > MOST_NAMES else None
        if forgotten is not None:
            self._forget(forgotten)
        return True


def new_upload_name(session: Session | None) -> str:
    """Name of a folder for an upload: nobody can guess it, and it says whose it is."""
    return f"{_own_prefix(session)}{secrets.token_urlsafe(16)}"


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
    return session is None or not top.casefold().startswith(UPLOAD_PREFIX) or top.startswith(_own_prefix(session))


def _own_prefix(session: Session | None) -> str:
    return f"{UPLOAD_PREFIX}{session.name}-" if session is not None else UPLOAD_PREFIX
