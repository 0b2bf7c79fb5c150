"""A separate process that reads files of others, with limits on its memory, the time of a request and the reply.

Whoever needs a hostile file's content asks such a process, so that the file affects neither the memory nor the threads
of the page or a server. It speaks the protocol of :mod:`assistant_builder.child_protocol`, and gets no secrets of the
environment (see ``child_process.isolated_environment``).

Linux enforces the memory limit with ``RLIMIT_AS``; on other systems the resident memory is checked ten times a second.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import psutil

from assistant_builder.child_process import isolated_environment, python_command
from assistant_builder.child_protocol import Child, Events, parse_event, read_requests
from assistant_builder.errors import AssistantBuilderError, DataError, error_texts
from assistant_builder.i18n import N_, Message, Text, m

START_SECONDS = 120.0  # time limit for the import of libraries
# time for which a request that exceeded a limit is refused without a retry
REFUSAL_CACHE_SECONDS = 600.0
Limit = Literal["memory", "time", "size", "exit"]
"""What ended a request: a limit of memory, time or the reply's size, or that the process ended."""
_REACHED: dict[Limit, str] = {
    "memory": N_("needed more than {detail} of memory"),
    "time": N_("took longer than {detail} seconds"),
    "size": N_("gave too long a result"),
    "exit": N_("ended its process ({detail})"),
}
_MAX_CACHED_REFUSALS = 32
_MAX_WAITING_LINES = 64
_LOG_BYTES = 2**20
_POLL_SECONDS = 0.1
SECONDS_PER_MIB = 10.0
_READING_IDLE_SECONDS = 60.0
_LARGE_BYTES = 16 * 2**20


class _LimitReached(Exception):  # noqa: N818 - converted to the error of the subclass
    """A limit was reached and the process must end; ``detail`` is its value, or how the process ended."""

    def __init__(self, limit: Limit, detail: str = "") -> None:
        self.limit: Limit = limit
        self.detail = detail
        super().__init__(limit)


class LimitedProcess(ABC):
    """A process of ``module``, which calls :func:`serve_requests`. It starts with the first request, and after an exit.

    Requests of several threads are processed sequentially.

    Args:
        module: Run with ``python -m``.
        arguments: Its arguments, after the limit of memory.
        memory: Limit of its memory in bytes.
        seconds: Time limit of a request.
        reply_bytes: Size limit of a reply.
        idle_seconds: The process ends after that time without requests; None: it does not.
    """

    error: type[AssistantBuilderError] = AssistantBuilderError
    """The error that a request raises."""
    where = ""
    """Place of the errors that name none."""

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        memory: int,
        seconds: float,
        reply_bytes: int,
        idle_seconds: float | None = None,
    ) -> None:
        self._command = python_command("-m", module, str(memory), *arguments)
        self._memory, self._seconds, self._reply_bytes = memory, seconds, reply_bytes
        self._idle_seconds = idle_seconds
        self._lock = threading.Lock()
        self._child: Child | None = None
        self._lines: queue.Queue[bytes | None] = queue.Queue()
        self._ready = False
        self._timer: threading.Timer | None = None
        self._used = time.monotonic()
        self._closed = False
        self._refused: OrderedDict[bytes, tuple[float, AssistantBuilderError]] = OrderedDict()

    def __del__(self) -> None:
        """End the process."""
        child = getattr(self, "_child", None)
        if child is not None:
            child.process.kill()

    @abstractmethod
    def limit_error(
        self, limit: Limit, detail: str, reached: Text, request: Mapping[str, Any]
    ) -> AssistantBuilderError:
        """The error of a request that reached a limit; ``reached`` says it as the end of a sentence."""

    def request(
        self,
        operation: str,
        *,
        seconds: float | None = None,
        receive: Callable[[Any], None] | None = None,
        subject: str | None = None,
        **values: Any,
    ) -> Any:
        """Send an operation with its arguments and wait for the result.

        Args:
            operation: ``op`` of the request.
            seconds: Time limit, if it is not that of the process.
            receive: Called with each part of a result that comes in parts.
            subject: What the request is about: one that reached a limit refuses all with its subject for some minutes.
                None: only the same request is refused.
            values: Further values of the request.

        Raises:
            AssistantBuilderError: The process refuses the request, or a limit was exceeded; see :attr:`error`.
        """
        seconds = self._seconds if seconds is None else seconds
        request = {"op": operation, "seconds": seconds, **values}
        key = json.dumps(request) if subject is None else subject
        digest = hashlib.sha256(key.encode(errors="surrogatepass")).digest()
        with self._lock:
            since, error = self._refused.get(digest, (0.0, None))
            if error is not None and time.monotonic() - since < REFUSAL_CACHE_SECONDS:
                raise type(error)(error.what, where=error.where, remedy=error.remedy)
            try:
                return self._exchange(request, receive)
            except _LimitReached as end:
                reached = m(_REACHED[end.limit], detail=end.detail)
                error = self.limit_error(end.limit, end.detail, reached, values)
                self._refused[digest] = (time.monotonic(), error)
                while len(self._refused) > _MAX_CACHED_REFUSALS:
                    self._refused.popitem(last=False)
                self._end()
                if not self._closed:
                    self._start()  # so that the next request does not wait for the libraries
                raise error from None
            except AssistantBuilderError:
                raise
            except BaseException:  # otherwise the next request would receive this reply
                self._end()
                raise
            finally:
                self._used = time.monotonic()
                if self._closed:
                    self._end()
                elif self._idle_seconds is not None:
                    if self._timer is not None:
                        self._timer.cancel()
                    self._timer = threading.Timer(self._idle_seconds, self._end_if_idle)
                    self._timer.daemon = True
                    self._timer.start()

    def close(self) -> None:
        """End the process after its current request, and after each later one."""
        self._closed = True
        self.end()

    def end(self) -> None:
        """End the process, unless it is answering; the next request starts it again."""
        if self._lock.acquire(blocking=False):
            try:
                self._end()
            finally:
                self._lock.release()

    def _end(self) -> None:
        if self._child is not None:
            self._child.process.kill()
            self._child.process.wait()

    def _end_if_idle(self) -> None:
        with self._lock:
            if (
                self._idle_seconds is not None
                and time.monotonic() - self._used >= self._idle_seconds
            ):
                self._end()

    def _exchange(self, request: Mapping[str, Any], receive: Callable[[Any], None] | None) -> Any:
        child = self._start()
        if not self._ready:  # the import of libraries has its own limit
            self._next_event(child, time.monotonic() + START_SECONDS, START_SECONDS)
            self._ready = True
        threading.Thread(target=child.send, args=(request,), daemon=True).start()
        seconds, size = request["seconds"], 0
        end = time.monotonic() + seconds
        while True:
            event, length = self._next_event(child, end, seconds)
            size += length
            if size > self._reply_bytes:
                raise _LimitReached("size")
            if event["event"] == "part":
                assert receive is not None
                receive(event["part"])
            elif event["event"] == "result":
                return event["result"]
            elif event["event"] == "out of memory":
                raise _LimitReached("memory", _gigabytes(self._memory))
            else:
                raise self.error(**error_texts(event["error"], where=self.where))

    def _next_event(self, child: Child, end: float, seconds: float) -> tuple[dict[str, Any], int]:
        """The next event and its bytes; raises _LimitReached."""
        while True:
            try:
                line = self._lines.get(timeout=_POLL_SECONDS)
                break
            except queue.Empty:
                if time.monotonic() > end:
                    raise _LimitReached("time", f"{seconds:g}") from None
                if _resident(child.process.pid or 0) > self._memory:
                    raise _LimitReached("memory", _gigabytes(self._memory)) from None
        if line is None:
            code, words = child.process.returncode, child.last_words
            # SIGABRT is how Rust and C++ end where they get no memory
            if code == -signal.SIGABRT or "memory allocation" in words:
                raise _LimitReached("memory", _gigabytes(self._memory))
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise _LimitReached("exit", f"{name}{f': {words}' if words else ''}")
        if not line.endswith(b"\n"):
            raise _LimitReached("size")
        return parse_event(line), len(line)

    def _start(self) -> Child:
        if self._child is None or not self._child.running:
            self._lines, self._ready = queue.Queue(_MAX_WAITING_LINES), False
            self._child = Child(self._command, {**isolated_environment(), **_few_threads()})
            threading.Thread(
                target=_read, args=(self._child, self._lines, self._reply_bytes), daemon=True
            ).start()
        return self._child


class ReadingProcess(LimitedProcess):
    """A process that reads a file of others in parts.

    Args:
        module: See :class:`LimitedProcess`.
        memory: See :class:`LimitedProcess`.
        seconds: Time limit of every file, which has :data:`SECONDS_PER_MIB` in addition for each MiB of it.
        most: Limit of a file's bytes.
        reply_bytes: See :class:`LimitedProcess`.
        remedy: That of a file which reached a limit.
    """

    error = DataError

    def __init__(
        self,
        module: str,
        *,
        memory: int,
        seconds: float,
        most: int,
        reply_bytes: int,
        remedy: Message,
    ) -> None:
        super().__init__(
            module,
            (),
            memory=memory,
            seconds=seconds,
            reply_bytes=reply_bytes,
            idle_seconds=_READING_IDLE_SECONDS,
        )
        self._most, self._remedy = most, remedy

    def limit_error(
        self, limit: Limit, detail: str, reached: Text, request: Mapping[str, Any]
    ) -> DataError:
        """The error of a file that reached a limit."""
        what = {
            "memory": m("reading the file needs more than {size} of memory", size=detail),
            "time": m("reading the file takes longer than {seconds} seconds", seconds=detail),
            "size": m("the content of the file is too large"),
        }.get(limit) or m("the file cannot be read: {strerror}", strerror=detail)
        return DataError(what, where=request.get("name") or request["path"], remedy=self._remedy)

    def read(
        self, operation: str, path: str | Path, receive: Callable[[Any], None], **values: Any
    ) -> None:
        """Read a file; relative paths are those of the current folder.

        Raises:
            DataError: It cannot be read, or reached a limit.
        """
        try:
            status = os.stat(path)
            size, stamp = status.st_size, [status.st_size, status.st_mtime_ns]
        except (OSError, ValueError):  # the process says what is wrong
            size, stamp = 0, []
        try:
            folder = os.getcwd()
        except OSError:
            folder = ""
        try:
            self.request(
                operation,
                seconds=self._seconds + SECONDS_PER_MIB * min(size, self._most) / 2**20,
                receive=receive,
                subject=f"{path} {folder} {stamp}",
                path=str(path),
                folder=folder,
                **values,
            )
        finally:
            if size > _LARGE_BYTES:
                self.end()  # returns its memory


def _gigabytes(size: int) -> str:
    return f"{size / 2**30:.3g} GB"


def _few_threads() -> dict[str, str]:
    """Limit the number of threads and of memory pools, because each needs address space."""
    few = str(min(4, os.cpu_count() or 1))
    return {
        "RAYON_NUM_THREADS": few,
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",
        "ARROW_DEFAULT_MEMORY_POOL": "system",
    }


def _read(child: Child, lines: queue.Queue[bytes | None], most: int) -> None:
    """Forward lines of at most ``most`` bytes until the process ends; then None."""
    for line in child.lines(most):
        if not _put(child, lines, line):
            return
    _put(child, lines, None)


def _put(child: Child, lines: queue.Queue[bytes | None], line: bytes | None) -> bool:
    """Wait until a line is taken; False if the process has ended and nobody takes it."""
    while True:
        try:
            lines.put(line, timeout=1.0)
            return True
        except queue.Full:
            if not child.running:
                return False


def _resident(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


# in the process


def serve_requests(
    prepare: Callable[[], Callable[[Mapping[str, Any]], Any]],
    failed: Callable[[Mapping[str, Any], str], AssistantBuilderError],
) -> None:
    """Answer requests until standard input closes, with the memory limit of the :class:`LimitedProcess`.

    Args:
        prepare: Imports libraries and returns the function that answers a request. An iterator as its result is sent in
            parts, each a JSON text.
        failed: The error of a request for an unexpected exception, which is given as text.
    """
    events = Events()
    _set_limits(int(sys.argv[1]))
    answer = prepare()
    events.emit("ready")
    for request in read_requests():
        if hasattr(signal, "setitimer"):  # ends the process if its parent has ended
            signal.setitimer(signal.ITIMER_REAL, 2 * request["seconds"])
        try:
            result = answer(request)
            if isinstance(result, Iterator):
                for part in result:
                    events.write(f'{{"event": "part", "part": {part}}}')
                result = None
            events.emit("result", result=result)
        except MemoryError:
            events.emit("out of memory")
        except AssistantBuilderError as error:
            events.emit("error", error=error.to_record())
        except Exception as error:  # malicious files can cause any exception
            record = failed(request, f"{type(error).__name__}: {error}"[:500]).to_record()
            events.emit("error", error=record)
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)


def _set_limits(memory: int) -> None:
    with suppress(ImportError):
        import resource

        limits = (
            (resource.RLIMIT_AS, memory),
            (resource.RLIMIT_FSIZE, _LOG_BYTES),
            (resource.RLIMIT_CORE, 0),
        )
        for kind, most in limits:
            with suppress(OSError, ValueError):  # not supported on every system
                resource.setrlimit(kind, (most, most))
