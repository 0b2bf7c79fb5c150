"""What comes back from the worker process: one reply for each that was asked, as far as it has come.

The page's side of the chat: start the worker process, send questions, collect answers, notice its death.
"""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import IO, Any, Literal

from assistant_builder.child_process import python_command
from assistant_builder.data import Message
from assistant_builder.inference.session import Memory, Sampling
from assistant_builder.study import Study
from assistant_builder.worker import child_environment

ReplyState = Literal[
    "starting", "waiting", "loading", "answering", "stop", "length", "cancelled", "failed", "loaded"
]
FINISHED = frozenset(("stop", "length", "cancelled", "failed", "loaded"))
UPDATE_SECONDS = 0.08


@dataclass(frozen=True)
class Reply:
    """One arm's answer as far as it has come.

    Attributes:
        state: ``starting`` the process, ``waiting`` behind other questions, ``loading`` the model, ``answering``, or
            how it ended: ``stop`` (complete), ``length`` (cut at the longest answer), ``cancelled``, ``failed``, or,
            where loading was all that was asked for, ``loaded``.
        text: The answer so far.
        tokens: Its tokens.
        first_token_seconds: From the start of the answer to its first token; waiting and loading not counted.
        seconds: From the start of the answer until now.
        error: ``AssistantBuilderError.to_record()`` of a failed answer.
        phase: What loading does now.
        fraction: Share of the loading that is done.
        memory: What the model occupies, once it is loaded.
        ahead: Questions, of whomever, that are answered before this one.
    """

    state: ReplyState = "starting"
    text: str = ""
    tokens: int = 0
    first_token_seconds: float | None = None
    seconds: float = 0.0
    error: dict[str, Any] | None = None
    phase: str = ""
    fraction: float = 0.0
    memory: Memory | None = None
    ahead: int = 0

    @property
    def finished(self) -> bool:
        """Whether nothing more will come."""
        return self.state in FINISHED

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens of the answer over the whole time it took."""
        return self.tokens / self.seconds if self.tokens and self.seconds > 0 else None


class ReplyStream:
    """One question put to several arms. Iterate over it for ``{arm: Reply}`` until all have ended.

    Args:
        stop: Asks for the answer to one request to end.
        requests: Identity → what was asked.
    """

    def __init__(self, stop: Callable[[str], None], requests: Mapping[str, dict[str, Any]]) -> None:
        self._stop = stop
        self._arm_of = {identity: request["arm"] for identity, request in requests.items()}
        self._replies = {arm: Reply() for arm in self._arm_of.values()}
        self._changed = threading.Condition()
        self._listeners: list[Callable[[], None]] = []

    @property
    def snapshot(self) -> dict[str, Reply]:
        """Every arm's reply as far as it has come."""
        with self._changed:
            return dict(self._replies)

    def add_listener(self, told: Callable[[], None]) -> None:
        """Have ``told`` called after every change, in the thread that brings it; it must not wait for anything."""
        with self._changed:
            self._listeners.append(told)

    def __iter__(self) -> Iterator[dict[str, Reply]]:
        """Yield the state of all arms whenever it changed, a dozen times a second at most."""
        seen: dict[str, Reply] = {}
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._replies != seen)  # noqa: B023 - asked within this turn
                seen = dict(self._replies)
            yield seen
            if all(reply.finished for reply in seen.values()):
                return
            time.sleep(UPDATE_SECONDS)

    def stop(self) -> None:
        """Ask every arm to end its answer; what has come stays."""
        for identity, arm in self._arm_of.items():
            if not self._replies[arm].finished:
                self._stop(identity)

    def apply(self, event: Mapping[str, Any]) -> bool:
        """Take in one event of the worker; True when that arm has ended."""
        arm = self._arm_of[event["id"]]
        with self._changed:
            self._replies[arm] = _advance(self._replies[arm], event)
            self._changed.notify_all()
            finished, listeners = self._replies[arm].finished, list(self._listeners)
        for told in listeners:
            told()
        return finished


def _advance(reply: Reply, event: Mapping[str, Any]) -> Reply:
    if event["event"] == "state":
        return replace(reply, state=event["state"])
    if event["event"] == "ahead":
        return replace(reply, ahead=event["ahead"])
    if event["event"] == "loading":
        return replace(reply, phase=event["phase"], fraction=event["fraction"])
    if event["event"] == "memory":
        return replace(reply, memory=Memory(event["base_bytes"], event["adapter_bytes"], event["shared"]))
    if event["event"] == "loaded":
        return replace(reply, state="loaded", fraction=1.0)
    if event["event"] == "error":
        return replace(reply, state="failed", error=event["error"])
    return replace(
        reply,
        state=event["finish"] or "answering",
        text=reply.text + event["text"],
        tokens=event["tokens"],
        first_token_seconds=event["first_token_seconds"],
        seconds=event["seconds"],
    )


@dataclass
class _PendingRequest:
    """A question under way: who waits for it, what was sent, and to which process."""

    stream: ReplyStream
    request: dict[str, Any]
    process: subprocess.Popen[str]


def worker_command(study: Study) -> list[str]:
    """The command line of the process that answers for a study."""
    return python_command("-m", "assistant_builder.chat.worker", "--study", str(study.folder))


class ChatWorker:
    """A worker process. It starts with the first question, and again after it ended.

    Args:
        command: A command line that speaks the protocol of :mod:`assistant_builder.chat.worker`.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()
        self._process: subprocess.Popen[str] | None = None
        self._reader = threading.Thread()
        self._pending: dict[str, _PendingRequest] = {}

    def ask(self, conversations: Mapping[str, Sequence[Message]], sampling: Sampling) -> ReplyStream:
        """Put a question to one or more arms.

        Args:
            conversations: Arm → the conversation, ending with the user's turn.
            sampling: How to generate.
        """
        return self._request({
            arm: {
                "op": "ask",
                "messages": [{"role": turn.role, "content": turn.content} for turn in messages],
                "sampling": asdict(sampling),
            }
            for arm, messages in conversations.items()
        })

    def load(self, arms: Sequence[str]) -> ReplyStream:
        """Bring models into memory before anything is asked; the replies end as ``loaded``."""
        return self._request({arm: {"op": "load"} for arm in arms})

    def _request(self, wanted: Mapping[str, dict[str, Any]]) -> ReplyStream:
        requests = {str(next(self._numbers)): {**request, "arm": arm} for arm, request in wanted.items()}
        exchange = ReplyStream(self.stop, requests)
        with self._lock:
            for identity, request in requests.items():
                self._submit(exchange, {**request, "id": identity})
            self._update_positions()
        return exchange

    def stop(self, identity: str) -> None:
        """Ask for one answer to end."""
        with self._lock:
            if identity in self._pending:
                _write(self._pending[identity].process, {"op": "stop", "id": identity})

    def close(self) -> None:
        """End the process, give its memory back, and end what it was answering."""
        with self._lock:
            process, self._process = self._process, None
            orphans = list(self._pending)
            for identity in orphans:
                asked = self._pending.pop(identity)
                asked.stream.apply({"event": "error", "id": identity, "error": exit_error(0, "")})
            reader = self._reader
        if process is not None:
            process.kill()
            reader.join()

    @property
    def busy(self) -> bool:
        """Whether an answer is under way."""
        return bool(self._pending)

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        with self._lock:
            return self._process is not None and self._process.poll() is None

    def _submit(self, exchange: ReplyStream, request: dict[str, Any]) -> None:
        if self._process is None or self._process.poll() is not None:
            self._process = self._start()
        self._pending[request["id"]] = _PendingRequest(exchange, request, self._process)
        _write(self._process, request)

    def _start(self) -> subprocess.Popen[str]:
        log = tempfile.TemporaryFile()
        process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, encoding="utf-8",
            env=child_environment(),
            start_new_session=True,  # Ctrl-C in the terminal ends the page, whose closing pipe ends the worker
        )
        self._reader = threading.Thread(target=self._read, args=(process, log), daemon=True)
        self._reader.start()
        return process

    def _read(self, process: subprocess.Popen[str], log: IO[bytes]) -> None:
        """Deliver the process's events until it ends, then tell those who still wait for one."""
        idle = False
        with process:  # closes the pipes and waits for the exit code
            assert process.stdout is not None
            for line in process.stdout:
                event = json.loads(line)
                idle = event["event"] == "idle"
                if not idle:
                    self._deliver(event)
        last_line = _last_line(log)
        with self._lock:
            if self._process is process:
                self._process = None
            orphans = {identity: asked for identity, asked in self._pending.items() if asked.process is process}
            for identity, asked in orphans.items():
                if idle:  # it left just as the question came
                    self._submit(asked.stream, asked.request)
                else:
                    error = exit_error(process.returncode, last_line)
                    self._deliver({"event": "error", "id": identity, "error": error})

    def _deliver(self, event: dict[str, Any]) -> None:
        with self._lock:
            asked = self._pending.get(event["id"])
            if asked is not None and asked.stream.apply(event):
                del self._pending[event["id"]]
                self._update_positions()

    def _update_positions(self) -> None:
        """Tell everybody who waits how many come first; a model answers one question after the other."""
        ahead: Counter[str] = Counter()
        for identity, asked in self._pending.items():
            asked.stream.apply({"event": "ahead", "id": identity, "ahead": ahead[asked.request["arm"]]})
            ahead[asked.request["arm"]] += 1


def _write(process: subprocess.Popen[str], request: dict[str, Any]) -> None:
    """Write one line; that the process is dead is noticed by its reader."""
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
    except (OSError, ValueError):  # ValueError: its reader has closed the pipe
        return


def _last_line(log: IO[bytes]) -> str:
    with log:
        log.seek(0)
        lines = log.read().decode("utf-8", errors="replace").replace("\r", "\n").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def exit_error(code: int, last_line: str) -> dict[str, Any]:
    """Say why the chat process ended and what to do.

    Args:
        code: Its exit code; the negative number of the signal that killed it.
        last_line: The last line it wrote to standard error.
    """
    if code == -signal.SIGKILL:
        what = "the chat process was killed, most likely because memory ran out"
        remedy = "Close other programs, or wait until training ends; then ask again, and it starts anew"
    elif code == 0:
        what = "the chat process was closed, because another study was opened or the adapters changed"
        remedy = "Ask again, and it starts anew"
    elif code < 0:
        what = f"the chat process crashed ({signal.Signals(-code).name})"
        remedy = "Ask again, and it starts anew"
    else:
        what = f"the chat process ended with exit code {code}" + (f": {last_line}" if last_line else "")
        remedy = "Ask again, and it starts anew; 'assistant-builder doctor' shows what may be missing"
    return {"type": "ModelError", "what": what, "where": "chat", "remedy": remedy}


class WorkerPool:
    """At most one worker process at a time: two bases of one study fill enough memory.

    Args:
        command: Instead of the study's own, see :class:`ChatWorker`.
    """

    def __init__(self, command: Sequence[str] | None = None) -> None:
        self._command = command
        self._lock = threading.Lock()
        self._key: tuple[str, ...] = ()
        self._worker: ChatWorker | None = None

    def worker(self, study: Study) -> ChatWorker:
        """The worker of the study, started anew when its adapters have changed or another study was open."""
        stamps = (study.step(f"train-{arm}").outputs for arm in ("qlora", "lora"))
        key = (str(study.folder), *(json.dumps(outputs, sort_keys=True) for outputs in stamps))
        with self._lock:
            if self._worker is None or key != self._key:
                if self._worker is not None:
                    self._worker.close()
                self._worker, self._key = ChatWorker(self._command or worker_command(study)), key
            return self._worker

    @property
    def busy(self) -> bool:
        """Whether an answer is under way."""
        with self._lock:
            return self._worker is not None and self._worker.busy

    def close(self) -> None:
        """End the process, if there is one."""
        with self._lock:
            if self._worker is not None:
                self._worker.close()
                self._worker = None
