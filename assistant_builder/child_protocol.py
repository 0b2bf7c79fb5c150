"""The protocol between a process and its children: requests and events, one JSON object per line.

The parent writes requests to the child's standard input. The child writes events to its standard output, and what its
libraries print there goes to standard error. Events have a name:

=========  ===========================================================================
``ready``  the libraries are imported, or the server listens
``part``   ``part``: a piece of the result of a request
``result`` the end of a request; ``result``: its value, unless it came in parts
``error``  ``error``: the record of an :class:`AssistantBuilderError` that ended a request
=========  ===========================================================================

:mod:`assistant_builder.chat.answer_server` adds those of answers, and ids of requests that it handles at the same time.
A child ends when its standard input closes, which the system does when the parent ends, even if it is killed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from typing import Any

from assistant_builder.child_process import last_line
from assistant_builder.forking import Preloaded, start_python


class Child:
    """A running child process.

    Attributes:
        process: The process.
        last_words: The last line of its standard error, once :meth:`lines` or :meth:`events` have ended.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        preloaded: Preloaded | None = None,
    ) -> None:
        """Start a command, as a fork of ``preloaded`` if that is given; it gets no signals of the terminal."""
        self.last_words = ""
        self._log = tempfile.TemporaryFile()
        self.process = start_python(
            command, environment, preloaded=preloaded, stderr=self._log, piped=True
        )

    @property
    def running(self) -> bool:
        """Whether the process is running."""
        return self.process.poll() is None

    def send(self, request: Mapping[str, Any]) -> None:
        """Write a request; if the process has ended, who reads its events learns that."""
        assert self.process.stdin is not None
        with suppress(OSError, ValueError):  # ValueError: the pipe was closed
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()

    def lines(self, most: int = -1) -> Generator[bytes]:
        """Yield the lines of standard output until the process has ended.

        Args:
            most: Bytes of a line, at which a longer one is cut; the process is then killed. -1: no limit.
        """
        assert self.process.stdout is not None
        finished = False
        try:
            line = b"\n"
            while line.endswith(b"\n"):
                if line := self.process.stdout.readline(most):
                    yield line
            finished = not line
        finally:
            if not finished:
                self.process.kill()
            with suppress(OSError), self.process:  # closes the pipes and waits for the exit code
                pass
            with self._log:
                self.last_words = last_line(self._log)

    def events(self) -> Generator[dict[str, Any]]:
        """Yield the events until the process has ended; closing the generator kills the process."""
        with closing(self.lines()) as lines:
            for line in lines:
                yield parse_event(line)

    def end(self, seconds: float = 0.0) -> None:
        """Close standard input, and kill the process if it has not ended after some seconds."""
        assert self.process.stdin is not None
        with suppress(OSError, ValueError):
            self.process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        self.process.kill()
        self.process.wait()


def parse_event(line: bytes) -> dict[str, Any]:
    """The event of a line; half surrogate pairs of data files are passed on."""
    event: dict[str, Any] = json.loads(line.decode("utf-8", errors="surrogatepass"))
    return event


class Events:
    """Standard output of this process, for its parent; several threads may emit events."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stream = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)  # output of libraries does not mix with the events

    def emit(self, event: str, **values: Any) -> None:
        """Write an event."""
        self.write(json.dumps({"event": event, **values}, ensure_ascii=False))

    def write(self, text: str) -> None:
        """Write an event that is JSON already."""
        with self._lock:
            self._stream.write(text.encode("utf-8", errors="surrogatepass") + b"\n")
            self._stream.flush()


def read_requests() -> Iterator[dict[str, Any]]:
    """Yield the requests on standard input until it closes."""
    return map(json.loads, open(0, encoding="utf-8", closefd=False))


def end_with_standard_input() -> None:
    """Interrupt this process when standard input closes, for a process that reads no requests."""

    def watch() -> None:
        with suppress(OSError):
            while os.read(0, 1):
                pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
