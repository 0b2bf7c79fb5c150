"""What runtimes in processes of their own share: requests to them, and the chunks of their answers.

A runtime computes no longer for a connection that has ended, so a request that is stopped ends its connection.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from assistant_builder.inference.session import Chunk, Finish

CONNECT_SECONDS = 60.0
_POLL_SECONDS = 0.1
_REASON = 300  # characters of a refusal


@dataclass(frozen=True)
class CompletionChunk:
    """A chunk of an answer that is generated."""

    text: str
    tokens: int  # generated so far
    # log-probability of the likeliest token at each position of this chunk, that of the ending token included; empty if
    # they were not asked for
    logprobs: tuple[float, ...]
    finish: Finish | None = None  # None before the last chunk


class LocalConnection(http.client.HTTPConnection):
    """A connection to a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@contextmanager
def post(
    connect: Callable[[], http.client.HTTPConnection],
    path: str,
    body: Mapping[str, Any],
    headers: Mapping[str, str],
    *,
    seconds: float | None = None,
    stopped: threading.Event | None = None,
) -> Iterator[http.client.HTTPResponse]:
    """Send a JSON document, and yield the response, whatever its status.

    Args:
        connect: Creates the connection.
        path: Path of the request.
        body: The document.
        headers: Headers in addition to its type.
        seconds: Limit of each wait for a reply; None for no limit.
        stopped: Ends the connection when it is set.

    Raises:
        OSError: The server cannot be reached or ended, or the time is over (TimeoutError).
        http.client.HTTPException: It ended while it replied.
    """
    connection, done = connect(), threading.Event()
    try:
        connection.connect()
        connection.sock.settimeout(seconds)
        if stopped is not None:
            threading.Thread(
                target=_end_when_stopped, args=(connection.sock, stopped, done), daemon=True
            ).start()
        connection.request(
            "POST", path, json.dumps(body), {"Content-Type": "application/json", **headers}
        )
        yield connection.getresponse()
    finally:
        done.set()
        connection.close()


def _end_when_stopped(
    connection: socket.socket, stopped: threading.Event, done: threading.Event
) -> None:
    """Shut a connection down when ``stopped`` is set, which wakes the thread that reads from it."""
    while not done.wait(_POLL_SECONDS):
        if stopped.is_set():
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            return


def refusal(content: bytes) -> str:
    """Why a runtime refuses a request, from its reply."""
    try:
        record = json.loads(content)
        reason = str(record.get("error", record).get("message", record))
    except (ValueError, AttributeError):
        reason = content.decode("utf-8", errors="replace")
    return reason[:_REASON]


def answer_chunks(stream: Iterable[CompletionChunk], certainties: list[float]) -> Iterator[Chunk]:
    """The chunks of an answer, its text without white space at its ends, as the PyTorch backend has it.

    Log-probabilities are appended to ``certainties``.
    """
    started = time.perf_counter()
    first: float | None = None
    text, shown = "", 0
    for piece in stream:
        seconds = time.perf_counter() - started
        first = seconds if first is None else first
        certainties += piece.logprobs
        text += piece.text
        visible = text.strip()
        if piece.finish or len(visible) > shown:
            yield Chunk(visible[shown:], piece.tokens, first, seconds, piece.finish)
            shown = len(visible)
