"""Chat template and tokenizer of a base model in a separate process with memory and time limits.

A chat template is a program, and a tokenizer.json can turn twenty characters into millions of tokens. The page and
``serve`` send conversations to this process, so that a hostile model affects neither their memory nor other models. It
reads one JSON request per line from standard input and writes one JSON reply per line to standard output.

Linux enforces the memory limit with ``RLIMIT_AS``; on other systems the resident memory is checked ten times a second.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import IO, Any

import psutil

from assistant_builder.child_process import python_command, python_environment
from assistant_builder.data import Message, Pair
from assistant_builder.errors import AssistantBuilderError, ModelError
from assistant_builder.models import template_preview
from assistant_builder.models.chat_template import ChatTokenizer

MEMORY_BYTES = 2 * 2**30
"""Memory limit of the process; a tokenizer of 262,000 tokens needs a quarter, 4 MB of text as bytes two thirds."""
SECONDS = 30.0  # time limit of a request
REPLY_BYTES = 8 * 2**20  # size limit of a reply
START_SECONDS = 120.0  # time limit for the import of libraries
MEASURE_SECONDS = 90.0  # time limit for measuring all pairs of a data file
REFUSAL_CACHE_SECONDS = 600.0  # time for which a request that exceeded a limit is refused without a retry
_MAX_CACHED_REFUSALS = 32
_BATCH_CHARACTERS = 1_000_000
_LOG_BYTES = 2**20
_POLL_SECONDS = 0.1
_REMEDY = "Choose another base model, or shorten the text"


class _LimitReached(Exception):  # noqa: N818 - converted to a ModelError
    """A limit was exceeded and the process must end; the message describes the limit."""


@dataclass(frozen=True)
class _Exit:
    """Exit code of the process, and the last line of its standard error."""

    code: int
    said: str


class TemplateProcess:
    """The process of one base model. It starts with the first request and restarts after an exit.

    Requests of several threads are processed sequentially. ``seconds`` and ``memory`` (bytes) limit a request; the
    process ends after ``idle_seconds`` without requests.
    """

    def __init__(self, folder: Path, *, idle_seconds: float | None = None, seconds: float | None = None,
                 memory: int | None = None) -> None:
        self.folder = folder
        self._idle_seconds = idle_seconds
        self._seconds = SECONDS if seconds is None else seconds
        self._memory = MEMORY_BYTES if memory is None else memory
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._replies: queue.Queue[bytes | _Exit] = queue.Queue()
        self._ready = False
        self._timer: threading.Timer | None = None
        self._used = time.monotonic()
        self._closed = False
        self._refused: OrderedDict[bytes, tuple[float, ModelError]] = OrderedDict()

    def __del__(self) -> None:
        """End the process."""
        process = getattr(self, "_process", None)
        if process is not None:
            process.kill()

    def request(self, operation: str, **values: Any) -> Any:
        """Send an operation of :meth:`_Worker.answer` with its arguments and wait for the result.

        Raises:
            ModelError: The tokenizer cannot be read, the template refuses the conversation, or a limit was exceeded.
        """
        line = json.dumps({"op": operation, **values}).encode() + b"\n"
        key = hashlib.sha256(line).digest()
        with self._lock:
            since, error = self._refused.get(key, (0.0, None))
            if error is not None and time.monotonic() - since < REFUSAL_CACHE_SECONDS:
                raise ModelError(error.what, where=error.where, remedy=error.remedy)
            try:
                return self._exchange(line)
            except _LimitReached as reached:
                error = ModelError(f"the base model's chat template or tokenizer {reached}", where=str(self.folder),
                                   remedy=_REMEDY)
                self._refused[key] = (time.monotonic(), error)
                while len(self._refused) > _MAX_CACHED_REFUSALS:
                    self._refused.popitem(last=False)
                self._end()
                if not self._closed:
                    self._start()  # so that the next request does not wait for the libraries
                raise error from None
            except ModelError:
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
        """End the process after its current request."""
        self._closed = True
        if self._lock.acquire(blocking=False):
            try:
                self._end()
            finally:
                self._lock.release()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _end_if_idle(self) -> None:
        with self._lock:
            if self._idle_seconds is not None and time.monotonic() - self._used >= self._idle_seconds:
                self._end()

    def _exchange(self, line: bytes) -> Any:
        process = self._start()
        assert process.stdin is not None
        if not self._ready:  # the import of libraries has its own limit
            self._reply(process, START_SECONDS)
            self._ready = True
        threading.Thread(target=_write, args=(process.stdin, line), daemon=True).start()
        reply = self._reply(process, self._seconds)
        record = json.loads(reply)
        if record.get("memory"):
            raise _LimitReached(self._memory_message)
        if "result" not in record:
            raise ModelError(record["what"], where=record["where"] or str(self.folder), remedy=record["remedy"])
        return record["result"]

    def _reply(self, process: subprocess.Popen[bytes], seconds: float) -> bytes:
        end = time.monotonic() + seconds
        while True:
            try:
                reply = self._replies.get(timeout=_POLL_SECONDS)
                break
            except queue.Empty:
                if time.monotonic() > end:
                    raise _LimitReached(f"took longer than {seconds:g} seconds") from None
                if _resident(process) > self._memory:
                    raise _LimitReached(self._memory_message) from None
        if isinstance(reply, _Exit):
            raise _LimitReached(self._exit_message(reply))
        if not reply.endswith(b"\n"):
            raise _LimitReached("gave too long a result")
        return reply

    @property
    def _memory_message(self) -> str:
        return f"needed more than {self._memory / 2**30:.3g} GB of memory"

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        log = tempfile.TemporaryFile()
        self._replies, self._ready = queue.Queue(), False
        self._process = subprocess.Popen(
            python_command("-m", __name__, str(self.folder), str(self._memory), str(self._seconds)),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True,
            env={**python_environment(), **_environment()},
        )
        threading.Thread(target=_read, args=(self._process, self._replies, log), daemon=True).start()
        return self._process

    def _exit_message(self, ended: _Exit) -> str:
        if ended.code == -signal.SIGABRT or "memory allocation" in ended.said:  # how Rust ends where it gets no memory
            return self._memory_message
        named = signal.Signals(-ended.code).name if ended.code < 0 else f"exit code {ended.code}"
        return f"ended its process ({named})" + (f": {ended.said}" if ended.said else "")


class LimitedChatTokenizer:
    """The methods of :class:`~assistant_builder.models.chat_template.ChatTokenizer` within the limits of a process.

    Every method raises ModelError if the template refuses the conversation or a limit was exceeded.
    """

    def __init__(self, process: TemplateProcess, day: date | None = None) -> None:
        self._process = process
        self._day = day.isoformat() if day is not None else None

    def chat_template(self) -> str:
        """Return the chat template."""
        return str(self._request("template"))

    def prompt_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Return the tokens of a conversation up to the assistant's answer."""
        return tuple(self._request("prompt_ids", messages=_turns(messages)))

    def prompt_tokens(self, messages: Sequence[Message]) -> int:
        """Return the number of these tokens."""
        return int(self._request("prompt_tokens", messages=_turns(messages)))

    def count_tokens(self, pair: Pair) -> int:
        """Return the tokens of the pair's longest sequence."""
        return int(self._request("count_tokens", pair=_turns(pair.messages)))

    def longest_answer(self, pairs: Sequence[Pair]) -> int:
        """Return the tokens of the longest answer of all turns, with its end token; 0 without pairs."""
        return max((int(self._request("longest_answer", pairs=[_turns(pair.messages) for pair in some]))
                    for some in _batches(pairs)), default=0)

    def render(self, pairs: Sequence[Pair]) -> list[list[template_preview.RenderedSequence]]:
        """Return the training sequences of each pair (see ``template_preview.render``)."""
        return [[_rendered(one) for one in self._request("render", pair=_turns(pair.messages))] for pair in pairs]

    def measure(self, pairs: Sequence[Pair]) -> template_preview.Lengths:
        """Count the tokens of pairs (see ``template_preview.measure_lengths``)."""
        end = time.monotonic() + MEASURE_SECONDS
        parts = []
        for some in _batches(template_preview.sample_pairs(pairs)):
            if time.monotonic() > end:
                raise ModelError(f"measuring {len(pairs):,} pairs took longer than {MEASURE_SECONDS:g} seconds",
                                 where=str(self._process.folder), remedy=_REMEDY)
            turns = [_turns(pair.messages) for pair in some]
            parts.append(self._request("measure", pairs=turns))
        return template_preview.Lengths(
            pairs=len(pairs), tokens=tuple(count for part in parts for count in part["tokens"]),
            answers=tuple(count for part in parts for count in part["answers"]))

    def _request(self, operation: str, **values: Any) -> Any:
        return self._process.request(operation, day=self._day, **values)


def _batches(pairs: Sequence[Pair]) -> Iterator[list[Pair]]:
    """Split pairs into batches of about a megabyte of text, because requests have limits."""
    batch: list[Pair] = []
    size = 0
    for pair in pairs:
        size += sum(len(message.content) for message in pair.messages)
        batch.append(pair)
        if size > _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _rendered(record: Mapping[str, Any]) -> template_preview.RenderedSequence:
    segments = tuple(template_preview.Segment(**segment) for segment in record["segments"])
    return template_preview.RenderedSequence(segments, record["tokens"], record["learned"])


def _turns(messages: Sequence[Message]) -> list[list[str]]:
    return [[message.role, message.content] for message in messages]


def _environment() -> dict[str, str]:
    """Limit the number of threads, because each needs address space."""
    few = str(min(4, os.cpu_count() or 1))
    return {"RAYON_NUM_THREADS": few, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}


def _write(stdin: IO[bytes], line: bytes) -> None:
    with suppress(OSError, ValueError):  # the process has ended; its reader reports that
        stdin.write(line)
        stdin.flush()


def _read(process: subprocess.Popen[bytes], replies: queue.Queue[bytes | _Exit], log: IO[bytes]) -> None:
    """Forward replies until one is too long or the process ends; then forward the exit."""
    with process, log:
        assert process.stdout is not None
        reply = b"\n"
        while reply.endswith(b"\n"):
            reply = process.stdout.readline(REPLY_BYTES)
            if reply:
                replies.put(reply)
        if reply:
            process.kill()
        replies.put(_Exit(process.wait(), _last_line(log)))


def _resident(process: subprocess.Popen[bytes]) -> int:
    try:
        return int(psutil.Process(process.pid).memory_info().rss)
    except psutil.Error:
        return 0


def _last_line(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read(_LOG_BYTES).decode(errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


# in the process


class _Worker:
    """Answers requests; the first one loads the tokenizer."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._prompters: dict[str | None, ChatTokenizer] = {}

    def answer(self, request: Mapping[str, Any]) -> Any:
        prompter = self._prompter(request["day"])
        operation = request["op"]
        if operation == "template":
            return prompter.tokenizer.get_chat_template()
        if operation == "prompt_ids":
            return prompter.prompt_ids(_messages(request["messages"]))
        if operation == "prompt_tokens":
            return len(prompter.prompt_ids(_messages(request["messages"])))
        if operation == "count_tokens":
            return prompter.count_tokens(_pair(request["pair"]))
        if operation == "render":
            sequences = template_preview.render(prompter, _pair(request["pair"]))
            return [asdict(sequence) for sequence in sequences]
        pairs = [_pair(turns) for turns in request["pairs"]]
        if operation == "longest_answer":
            return max(len(turn.answer_ids) for pair in pairs for turn in prompter.turns(pair))
        return asdict(template_preview.measure_lengths(prompter, pairs))

    def _prompter(self, day: str | None) -> ChatTokenizer:
        if day not in self._prompters:
            if len(self._prompters) >= 4:
                self._prompters.clear()
            self._prompters[day] = ChatTokenizer.load(self._folder, date.fromisoformat(day) if day else None)
        return self._prompters[day]


def _messages(turns: Sequence[Sequence[str]]) -> tuple[Message, ...]:
    return tuple(Message(role, content) for role, content in turns)  # type: ignore[arg-type]


def _pair(turns: Sequence[Sequence[str]]) -> Pair:
    return Pair(0, _messages(turns))


def _set_limits(memory: int) -> None:
    with suppress(ImportError):
        import resource

        limits = ((resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, _LOG_BYTES), (resource.RLIMIT_CORE, 0))
        for kind, most in limits:
            with suppress(OSError, ValueError):  # not supported on every system
                resource.setrlimit(kind, (most, most))


def main() -> None:
    """Answer requests until standard input closes."""
    folder, memory, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # keeps output of libraries out of the replies
    _set_limits(memory)
    import transformers.tokenization_utils_tokenizers  # noqa: F401 - import before the first request

    replies.write("\n")  # ready
    replies.flush()
    worker = _Worker(folder)
    for line in open(0, encoding="utf-8", closefd=False):
        if hasattr(signal, "setitimer"):  # ends the process if its parent has ended
            signal.setitimer(signal.ITIMER_REAL, 2 * seconds)
        try:
            reply = json.dumps({"result": worker.answer(json.loads(line))})
        except MemoryError:
            reply = json.dumps({"memory": True})
        except AssistantBuilderError as error:
            reply = json.dumps(error.to_record())
        except Exception as error:  # malicious files can cause any exception
            reason = f"{type(error).__name__}: {error}"[:500]
            reply = json.dumps(ModelError(f"the base model's chat template or tokenizer failed: {reason}",
                                          where=str(folder), remedy=_REMEDY).to_record())
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        replies.write(reply + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
