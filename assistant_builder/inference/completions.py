"""What runtimes in processes of their own share: requests to them, and the chunks of their answers.

A runtime computes no longer for a connection that has ended, so a request that is stopped ends its connection.
"""

from __future__ import annotations

import abc
import http.client
import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Any, Self

from assistant_builder.errors import ModelError
from assistant_builder.i18n import m
from assistant_builder.inference.chunks import Chunk, Finish

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


class RuntimeServer(abc.ABC):
    """The server of a runtime in a process of its own; a context manager that ends it.

    Attributes:
        runtime: Name of the runtime.
        where: Where its errors are.
        advice: What to do when it refuses a request, in addition to asking a shorter question.
        headers: Headers of each request.
    """

    runtime = where = advice = ""
    headers: Mapping[str, str] = {}
    _process: subprocess.Popen[bytes]
    _log: IO[bytes]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @abc.abstractmethod
    def close(self) -> None:
        """End the process, and with it all answers."""

    @property
    def running(self) -> bool:
        """Whether the process is running."""
        return self._process.poll() is None

    @contextmanager
    def _request(
        self,
        path: str,
        body: Mapping[str, Any],
        seconds: float | None = None,
        stopped: threading.Event | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        # the response to a request, with the arguments of :func:`post`
        try:
            with post(
                self._connect, path, body, self.headers, seconds=seconds, stopped=stopped
            ) as response:
                if response.status != http.HTTPStatus.OK:
                    raise self._refused(response.read())
                yield response
        except (OSError, http.client.HTTPException) as error:
            raise self._failed(error, path, seconds) from error

    def _stream(
        self,
        path: str,
        body: Mapping[str, Any],
        stopped: threading.Event,
        read: Callable[[bytes], CompletionChunk | None],
    ) -> Iterator[CompletionChunk]:
        # ``read`` makes a chunk of a line of the response, or nothing
        tokens = 0
        try:
            with self._request(path, body, stopped=stopped) as response:
                for chunk in filter(None, map(read, response)):
                    yield chunk
                    if chunk.finish:
                        return
                    tokens = chunk.tokens
                    if stopped.is_set():
                        break
        except ModelError:
            if not stopped.is_set():
                raise
        if not stopped.is_set():
            raise self._ended(f"{self.runtime} ended its answer")
        yield CompletionChunk("", tokens, (), "cancelled")

    def _failed(self, error: Exception, path: str, seconds: float | None) -> ModelError:
        return self._ended(f"{self.runtime} ended while it answered")

    @abc.abstractmethod
    def _connect(self) -> http.client.HTTPConnection:
        """A connection to the runtime."""

    def _refused(self, content: bytes) -> ModelError:
        return ModelError(
            m(
                "{runtime} refuses the request: {refusal}",
                runtime=self.runtime,
                refusal=refusal(content),
            ),
            where=self.where,
            remedy=m("Ask a shorter question, or {advice}", advice=self.advice),
        )

    @abc.abstractmethod
    def _ended(self, what: str) -> ModelError:
        """The error of a runtime that ended; ``what`` says when."""

    def _exit_code(self, seconds: float) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self._process.poll()


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
            watched = connection.sock, stopped, done
            threading.Thread(target=_end_when_stopped, args=watched, daemon=True).start()
        headers = {"Content-Type": "application/json", **headers}
        connection.request("POST", path, json.dumps(body), headers)
        yield connection.getresponse()
    finally:
        done.set()
        connection.close()


def _end_when_stopped(
    connection: socket.socket, stopped: threading.Event, done: threading.Event
) -> None:
    # shut a connection down when ``stopped`` is set, which wakes the thread that reads from it
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
