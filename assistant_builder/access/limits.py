"""How much a request may bring, and how much is kept of what was brought."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from assistant_builder.errors import ConfigError

SIZE_VARIABLE, COUNT_VARIABLE = "ASSISTANT_BUILDER_MAX_UPLOAD", "ASSISTANT_BUILDER_MAX_UPLOADS"
_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}


@dataclass(frozen=True)
class Limits:
    """Sizes are in bytes.

    Attributes:
        file_bytes: Largest file that can be uploaded.
        files_at_once: Files in one request.
        kept_files: Uploaded files that are kept at a time, of everyone together.
        message_bytes: Largest request of another kind; edited rows and kept conversations travel in these.
    """

    file_bytes: int = 250 * 10**6  # the readers take no more either
    files_at_once: int = 4
    kept_files: int = 100
    message_bytes: int = 32 * 10**6

    @property
    def kept_bytes(self) -> int:
        """Bytes of uploaded files that are kept at a time: room for four of the largest."""
        return 4 * self.file_bytes

    @classmethod
    def from_environment(cls) -> Limits:
        """The limits, with the file size of :data:`SIZE_VARIABLE` and the number of files of :data:`COUNT_VARIABLE`.

        Raises:
            ConfigError: A variable holds no size or number.
        """
        standard = cls()
        size, count = os.environ.get(SIZE_VARIABLE, "").strip(), os.environ.get(COUNT_VARIABLE, "").strip()
        if count and not (count.isascii() and count.isdigit() and int(count) > 0):
            raise ConfigError(f"{count!r} is no number of files", where=COUNT_VARIABLE, remedy="Write one, as in 100")
        return cls(file_bytes=_bytes(size) if size else standard.file_bytes,
                   kept_files=int(count) if count else standard.kept_files)


@dataclass(frozen=True)
class ConnectionLimits:
    """How long and how often a client may keep a connection of the page or of the endpoint waiting.

    A connection waits while the next step is the client's: the TLS handshake, the header of a request, its body, or
    reading the answer. A browser opens at most six connections to a server, for all of its tabs together.

    Attributes:
        header_seconds: Until the header of a request is complete, from the start of the connection (its handshake
            included) or the end of the last answer. uvicorn closes idle connections earlier, after 5 seconds.
        header_bytes: Largest header.
        body_seconds: Interval in which a body must arrive at :attr:`body_bytes_per_second`.
        body_bytes_per_second: See there.
        stalled_seconds: Until a client that does not read its answer is closed.
        waiting_per_client: Waiting connections of one address (IPv6: of one /64 network) whose last request was not
            let in, or that have sent none; beyond it the longest waiting one is closed.
        waiting: The same of all clients together; the client with the most loses one.
        all: Connections of every kind; beyond it requests are answered with 503. Larger than :attr:`waiting` by what
            is kept for those who are in.
    """

    header_seconds: float = 10.0
    header_bytes: int = 64 * 1024
    body_seconds: float = 20.0
    body_bytes_per_second: int = 500
    stalled_seconds: float = 60.0
    waiting_per_client: int = 64
    waiting: int = 256
    all: int = 768


def shown_size(size: int) -> str:
    """``250 MB``."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size} bytes"


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(|kb|mb|gb)", text.lower())
    size = int(float(found[1]) * _UNITS[found[2]]) if found else 0
    if size <= 0:
        raise ConfigError(f"{text!r} is no size", where=SIZE_VARIABLE, remedy="Write one, as in 250MB")
    return size
