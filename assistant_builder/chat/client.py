"""Client of the chat worker: starts the process, sends questions, collects replies and detects crashes."""

from __future__ import annotations

import itertools
import json
import signal
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from assistant_builder.arms import ARMS
from assistant_builder.atomic_io import file_hash
from assistant_builder.chat.reply_stream import ReplyStream
from assistant_builder.child_process import compute_environment, python_command
from assistant_builder.child_protocol import Child
from assistant_builder.data import Message
from assistant_builder.forking import Preloaded
from assistant_builder.i18n import t
from assistant_builder.inference.chunks import Sampling
from assistant_builder.study import Study


@dataclass
class _PendingRequest:
    """A request that was sent to a process and has not ended."""

    stream: ReplyStream
    request: dict[str, Any]
    child: Child


def worker_command(study: Study) -> list[str]:
    """The command line of a study's chat worker."""
    return python_command(
        "-m",
        "assistant_builder.serving.chat",
        "--study",
        str(study.folder),
        *(["--approach", study.approach] if study.approach else []),
    )


class ChatWorker:
    """A worker process. It is started by the first question, and restarted after it has ended.

    The command implements the protocol of :mod:`assistant_builder.chat.answer_server`.
    """

    def __init__(self, command: Sequence[str], preloaded: Preloaded | None = None) -> None:
        self._command, self._preloaded = list(command), preloaded
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()
        self._child: Child | None = None
        self._reader = threading.Thread()
        self._pending: dict[str, _PendingRequest] = {}

    def ask(
        self, conversations: Mapping[str, Sequence[Message]], sampling: Sampling
    ) -> ReplyStream:
        """Ask one or more arms a question: arm → conversation, which ends with the user's turn."""
        return self._request(
            {
                arm: {
                    "op": "ask",
                    "messages": [turn.to_record() for turn in messages],
                    "sampling": asdict(sampling),
                }
                for arm, messages in conversations.items()
            }
        )

    def load(self, arms: Sequence[str]) -> ReplyStream:
        """Load models before a question is asked; the replies end with state ``loaded``."""
        return self._request({arm: {"op": "load"} for arm in arms})

    def _request(self, wanted: Mapping[str, dict[str, Any]]) -> ReplyStream:
        requests = {
            str(next(self._numbers)): {**request, "arm": arm} for arm, request in wanted.items()
        }
        stream = ReplyStream(self.stop, requests)
        with self._lock:
            for identity, request in requests.items():
                self._submit(stream, {**request, "id": identity})
            self._update_positions()
        return stream

    def stop(self, identity: str) -> None:
        """Request the end of one answer."""
        with self._lock:
            if identity in self._pending:
                self._pending[identity].child.send({"op": "stop", "id": identity})

    def close(self) -> None:
        """Kill the process, and end its pending answers with an error."""
        with self._lock:
            child, self._child = self._child, None
            pending, self._pending = self._pending, {}
            for identity, entry in pending.items():
                entry.stream.apply({"event": "error", "id": identity, "error": exit_error(0, "")})
            reader = self._reader
        if child is not None:
            child.process.kill()
            reader.join()

    @property
    def busy(self) -> bool:
        """Whether an answer is pending."""
        return bool(self._pending)

    @property
    def running(self) -> bool:
        """Whether the process is running."""
        with self._lock:
            return self._child is not None and self._child.running

    def _submit(self, stream: ReplyStream, request: dict[str, Any]) -> None:
        if self._child is None or not self._child.running:
            self._child = Child(self._command, compute_environment(), self._preloaded)
            self._reader = threading.Thread(target=self._read, args=(self._child,), daemon=True)
            self._reader.start()
        self._pending[request["id"]] = _PendingRequest(stream, request, self._child)
        self._child.send(request)

    def _read(self, child: Child) -> None:
        """Deliver the events of a process until it ends, then fail its pending requests."""
        idle = False
        for event in child.events():
            idle = event["event"] == "idle"
            if not idle:
                self._deliver(event)
        with self._lock:
            if self._child is child:
                self._child = None
            orphans = [each for each in self._pending.items() if each[1].child is child]
            for identity, entry in orphans:
                if idle:  # the process exited while the question was being sent
                    self._submit(entry.stream, entry.request)
                else:
                    error = exit_error(child.process.returncode, child.last_words)
                    self._deliver({"event": "error", "id": identity, "error": error})

    def _deliver(self, event: dict[str, Any]) -> None:
        with self._lock:
            entry = self._pending.get(event["id"])
            if entry is not None and entry.stream.apply(event):
                del self._pending[event["id"]]
                self._update_positions()

    def _update_positions(self) -> None:
        """Update the queue position of every pending request; an arm answers one question at a time."""
        ahead: Counter[str] = Counter()
        for identity, entry in self._pending.items():
            entry.stream.apply(
                {"event": "ahead", "id": identity, "ahead": ahead[entry.request["arm"]]}
            )
            ahead[entry.request["arm"]] += entry.request["op"] != "load"


def exit_error(code: int, said: str) -> dict[str, Any]:
    """Error record for a chat process that ended; a negative ``code`` is the signal that killed the process."""
    remedy = t("Ask again; the process restarts")
    if code == -signal.SIGKILL:
        what = t("the chat process was killed, most likely because memory ran out")
        remedy = t("Close other programs, or wait until training ends; then ask again")
    elif code == 0:
        what = t(
            "the chat process was closed because another study was opened or the assistants changed"
        )
    elif code < 0:
        what = t("the chat process crashed ({name})", name=signal.Signals(-code).name)
    else:
        what = t("the chat process ended with exit code {code}", code=code) + (
            f": {said}" if said else ""
        )
        remedy += t(". If it fails again, run 'assistant-builder doctor'")
    return {"type": "ModelError", "what": what, "where": "chat", "remedy": remedy}


class WorkerPool:
    """At most one worker process at a time, since the two base models of a study already need much memory.

    ``command`` replaces the command of the study's worker, see :class:`ChatWorker`; workers are forks of ``preloaded``.
    """

    def __init__(
        self, command: Sequence[str] | None = None, preloaded: Preloaded | None = None
    ) -> None:
        self._command, self._preloaded = command, preloaded
        self._lock = threading.Lock()
        self._key: tuple[str, ...] = ()
        self._worker: ChatWorker | None = None

    def worker(self, study: Study) -> ChatWorker:
        """The worker of a study; the previous one is closed if it has read files of another study or older ones."""
        from assistant_builder.retrieval.build import lookup_stamp

        stamps = [study.step(f"train-{arm}").outputs for arm in ARMS]
        report = study.report_file  # names the file to ship
        key = (
            str(study.folder),
            study.approach or "",
            *(json.dumps(outputs, sort_keys=True) for outputs in stamps),
            # an untrained study copies its answers, and its process reads the index again
            lookup_stamp(study, ARMS) if any(stamps) else "",
            file_hash(report) if report.is_file() else "",
        )
        with self._lock:
            if self._worker is None or key != self._key:
                if self._worker is not None:
                    self._worker.close()
                command = self._command or worker_command(study)
                self._worker, self._key = ChatWorker(command, self._preloaded), key
            return self._worker

    @property
    def busy(self) -> bool:
        """Whether an answer is pending."""
        with self._lock:
            return self._worker is not None and self._worker.busy

    def close(self) -> None:
        """End the process if it is running."""
        with self._lock:
            if self._worker is not None:
                self._worker.close()
                self._worker = None
