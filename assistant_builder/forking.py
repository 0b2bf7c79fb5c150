"""Python processes that begin with their libraries imported: forks of one process that has imported them.

torch, transformers and peft take a process seconds to import. :class:`Preloaded` imports them once, in a process that
does nothing else and has no threads of its own, and forks it for each program (``python -m MODULE WORDS``). Only on
Linux and without a GPU driver: elsewhere forks are unsafe, and CUDA works in none. A fork is a process like any other:
it has a session of its own, and it outlives the process that asked for it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Mapping, Sequence
from typing import IO, Any, Protocol

import psutil

from assistant_builder.child_process import (
    compute_environment,
    configure_libraries,
    lower_priority,
    python_command,
)

STEPS = (
    "assistant_builder.models.loading",
    "assistant_builder.training.trainer",
    "evals.lm_eval_model",
    "sentence_transformers",
    "transformers.models.llama.modeling_llama",
)
"""What most steps of a run import."""
CHAT = (
    "assistant_builder.models.loading",
    "assistant_builder.inference.generate",
    "sentence_transformers",
    "transformers.models.llama.modeling_llama",
)
"""What answers need."""
_ENOUGH_BYTES = 3 * 2**30
"""Available memory below which nothing is kept in memory for later; the libraries take half a gigabyte."""
_LONGEST = 100_000  # bytes of a request, less than the buffer of a socket


class Process(Protocol):
    """What :class:`subprocess.Popen` and :class:`Fork` have in common."""

    stdin: IO[bytes] | None
    stdout: IO[bytes] | None
    returncode: int | Any  # None while it runs

    @property
    def pid(self) -> int | None: ...  # noqa: D102
    def poll(self) -> int | None: ...  # noqa: D102
    def wait(self, timeout: float | None = None) -> int: ...  # noqa: D102
    def kill(self) -> None: ...  # noqa: D102
    def terminate(self) -> None: ...  # noqa: D102
    def __enter__(self) -> object: ...  # noqa: D105
    def __exit__(self, *exception: Any) -> None: ...  # noqa: D105


class Fork:
    """A program in a fork, as :class:`subprocess.Popen`; its exit code comes from the process that waits for it."""

    def __init__(self, status: int, stdin: IO[bytes] | None, stdout: IO[bytes] | None) -> None:
        self.stdin, self.stdout = stdin, stdout
        self.returncode: int | Any = None
        self._status, self._text, self._lock = status, b"", threading.Lock()
        weakref.finalize(self, os.close, status)

    @property
    def pid(self) -> int | None:
        """Its process id; None until it was forked, or if it never will be."""
        self._read(0)
        return int(self._text.split()[0]) if b"\n" in self._text else None

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        self._read(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit code; raises :class:`subprocess.TimeoutExpired`."""
        ends = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            left = None if ends is None else ends - time.monotonic()
            if left is not None and left < 0:
                raise subprocess.TimeoutExpired("a fork", timeout or 0)
            self._read(left)
        return self.returncode

    def kill(self) -> None:
        """Kill it, once it exists."""
        self._signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask it to end, once it exists."""
        self._signal(signal.SIGTERM)

    def _signal(self, number: int) -> None:
        while self.returncode is None and self.pid is None:
            self._read(None)
        if self.returncode is None and self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _read(self, seconds: float | None) -> None:
        """Read what there is of id and exit code; waits at most some seconds, None: until something comes.

        Several threads may wait: the descriptor stays open, and at the end of its program is always readable.
        """
        while self.returncode is None and self._readable(seconds):
            with self._lock:
                if self.returncode is not None or not self._readable(0):
                    continue  # another thread has read it
                found = os.read(self._status, 64)
                self._text += found
                if not found or self._text.count(b"\n") == 2:
                    _, *code = self._text.split() or [b""]
                    self.returncode = int(code[0]) if code else -signal.SIGKILL
            seconds = 0

    def _readable(self, seconds: float | None) -> bool:
        poll = select.poll()  # select refuses descriptors from 1,024 on
        poll.register(self._status, select.POLLIN)
        return bool(poll.poll(None if seconds is None else 1000 * seconds))

    def __enter__(self) -> Fork:
        """Itself."""
        return self

    def __exit__(self, *exception: Any) -> None:
        """Close the pipes and wait."""
        for pipe in (self.stdin, self.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self.wait()


class Preloaded:
    """A process with imported libraries, which :func:`start_python` forks; it ends with this process or :meth:`close`.

    Forks are made from when the libraries are imported; programs that are started earlier wait for it.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        """Start to import ``modules``; those that are not installed are left out."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                python_command("-m", __name__, str(theirs.fileno()), *modules),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=compute_environment(),
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    @classmethod
    def where_safe(cls, modules: Sequence[str], *, gpu_driver: bool) -> Preloaded | None:
        """The process, where forks are safe and memory is enough; otherwise None."""
        enough = psutil.virtual_memory().available > _ENOUGH_BYTES
        return cls(modules) if sys.platform == "linux" and enough and not gpu_driver else None

    def start(
        self,
        words: Sequence[str],
        environment: Mapping[str, str],
        streams: Sequence[int],
        nice: str,
    ) -> int:
        """Fork for a program; returns the descriptor from which its id and its exit code are read.

        Raises:
            OSError: The process has ended, or the request is too long.
        """
        request = json.dumps({"words": [*words], "environment": {**environment}, "nice": nice})
        if len(request) > _LONGEST:
            raise OSError("the request is too long")
        status, theirs = os.pipe()
        try:
            socket.send_fds(self._socket, [request.encode()], [*streams, theirs])
        except OSError:
            os.close(status)
            raise
        finally:
            os.close(theirs)
        return status

    def close(self) -> None:
        """End the process; programs in its forks go on."""
        self._socket.close()
        self._process.kill()
        self._process.wait()


def start_python(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    preloaded: Preloaded | None,
    stderr: IO[bytes],
    piped: bool,
    nice: str = "",
) -> Process:
    """Start ``python_command("-m", MODULE, …)`` in a session of its own: a fork of ``preloaded``, if there is one.

    Args:
        command: The command.
        environment: Its environment.
        preloaded: A process with what it imports.
        stderr: File for its standard error.
        piped: Whether standard input and output are pipes to this process; otherwise it has no input, and its output
            goes to ``stderr``.
        nice: ``lower`` or ``behind``, see :func:`assistant_builder.child_process.lower_priority`; empty: not changed.
    """
    own = python_command("-m")
    if preloaded is not None and list(command[: len(own)]) == own:
        with contextlib.suppress(OSError):
            return _fork(preloaded, command[len(own) :], environment, stderr, piped, nice)
    process = subprocess.Popen(
        list(command),
        stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
        stdout=subprocess.PIPE if piped else stderr,
        stderr=stderr,
        env=dict(environment),
        start_new_session=True,
    )
    if nice:
        lower_priority(process.pid, behind=nice == "behind")
    return process


def _fork(
    preloaded: Preloaded,
    words: Sequence[str],
    environment: Mapping[str, str],
    stderr: IO[bytes],
    piped: bool,
    nice: str,
) -> Fork:
    mine: tuple[IO[bytes] | None, IO[bytes] | None] = None, None
    with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
        if piped:
            (read, stdin), (stdout, write) = os.pipe(), os.pipe()
            streams = [read, write, stderr.fileno()]
            theirs.callback(os.close, write)
            mine = ours.enter_context(open(stdin, "wb")), ours.enter_context(open(stdout, "rb"))
        else:
            read = os.open(os.devnull, os.O_RDONLY)
            streams = [read, stderr.fileno(), stderr.fileno()]
        theirs.callback(os.close, read)
        status = preloaded.start(words, environment, streams, nice)
        ours.pop_all()
    return Fork(status, *mine)


# the process that is forked


def main() -> None:
    """Import the modules, and fork for every request; in a fork, run its program."""
    server = socket.socket(fileno=int(sys.argv[1]))
    configure_libraries()
    for module in sys.argv[2:]:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    gc.collect()
    gc.freeze()  # the collector of a fork does not copy the pages of these objects
    program = _next_program(server)
    if program is not None:
        module, *words = program
        sys.argv = [module, *words]
        runpy.run_module(module, run_name="__main__", alter_sys=True)


def _next_program(server: socket.socket) -> list[str] | None:
    """The words of a program, in a fork made for it; None in the process that is forked, at its end."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the processes that wait
    while True:
        text, descriptors, _, _ = socket.recv_fds(server, 2 * _LONGEST, 4)
        if not text:
            return None
        if os.fork() == 0:
            server.close()
            request = json.loads(text)
            if _is_program(descriptors):
                return _prepared(request)
        for each in descriptors:
            os.close(each)


def _is_program(descriptors: Sequence[int]) -> bool:
    """Fork once more: the program, for which it returns True, and the process that reports its end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    *streams, status = descriptors
    pid = os.fork()
    if pid == 0:
        for place, each in enumerate(streams):
            os.dup2(each, place)
        for each in descriptors:
            os.close(each)
        return True
    code = 1
    try:
        for each in streams:
            os.close(each)
        with contextlib.suppress(OSError):  # nobody reads it any more
            os.write(status, b"%d\n" % pid)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with contextlib.suppress(OSError):
            os.write(status, b"%d\n" % code)
    except BaseException:  # noqa: BLE001 - this process must never become the program
        traceback.print_exc()
    os._exit(0)


def _prepared(request: dict[str, Any]) -> list[str]:
    os.setsid()
    os.environ.clear()
    os.environ.update(request["environment"])
    configure_libraries()
    if request["nice"]:
        lower_priority(os.getpid(), behind=request["nice"] == "behind")
    words: list[str] = request["words"]
    return words


if __name__ == "__main__":
    main()
