"""The process that holds the models for the chat: ``python -m assistant_builder.chat.worker --study FOLDER``.

It reads requests from standard input and writes events to standard output, one JSON object a line, so that the page
never holds a model, gets the memory back, and survives a crash here.

Requests::

    {"op": "ask", "id": "7", "arm": "qlora", "messages": [{"role", "content"}, …], "sampling": {…}}
    {"op": "load", "id": "8", "arm": "base"}          bring the model into memory before anything is asked
    {"op": "stop", "id": "7"}

Events::

    {"event": "state", "id": "7", "state": "waiting" | "loading" | "answering"}
    {"event": "loading", "id": "7", "phase": "Reading the 4-bit base", "fraction": 0.4}
    {"event": "memory", "id": "7", "base_bytes": 269000000, "adapter_bytes": 19500000, "shared": false}
    {"event": "loaded", "id": "8"}                    the end of what "load" asked for
    {"event": "chunk", "id": "7", "text": "…", "tokens": 3, "first_token_seconds": 0.2, "seconds": 0.4}
    {"event": "end",   "id": "7", "text": "…", …as in chunk, "finish": "stop" | "length" | "cancelled"}
    {"event": "error", "id": "7", "error": {"type", "what", "where", "remedy"}}
    {"event": "idle"}                       the process ends because nothing was asked for a while, or a run has begun

It ends when standard input closes, so no worker outlives its page. A model that does not fit the memory leaves those
that are loaded as they are.
"""

from __future__ import annotations

import gc
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from assistant_builder.data import Message
from assistant_builder.error_translation import CHAT_MEMORY, needs_new_process, ran_out_of_memory, translate_error
from assistant_builder.errors import AssistantBuilderError, ResourceError
from assistant_builder.inference.session import BASE, ChatBackend, ChatSession, Sampling
from assistant_builder.study import Study, run_marker
from assistant_builder.worker import prepare_libraries

IDLE_SECONDS = 900.0
_POLL_SECONDS = 1.0
"""How often an idle process looks whether a run has begun: sooner than a training step has imported PyTorch."""
_EXIT = object()
"""Stands among the requests where the process is to end once nobody waits for an answer."""


class Server:
    """Answers requests: the arms side by side, the questions to one arm one after the other.

    Args:
        session: What answers.
        write: Takes one event; called from several threads, one at a time.
        idle_seconds: End after this long without a question.
        unwanted: Asked now and then whether to end as soon as nobody waits for an answer.
    """

    def __init__(
        self, session: ChatBackend, write: Callable[[dict[str, Any]], None], idle_seconds: float = IDLE_SECONDS,
        unwanted: Callable[[], bool] = lambda: False,
    ) -> None:
        self._session = session
        self._should_exit = unwanted
        self._write = write
        self._write_lock = threading.Lock()
        self._idle_seconds = idle_seconds
        self._stops: dict[str, threading.Event] = {}
        self._arms: dict[str, ThreadPoolExecutor] = {}
        self._inbox: queue.Queue[object] = queue.Queue()
        self._needs_restart = False

    def serve(self, lines: Iterable[str]) -> None:
        """Work until ``lines`` end, nothing is asked for the idle time, the process is unwanted, or memory ran out.

        Args:
            lines: One request each.
        """
        threading.Thread(target=_forward, args=(lines, self._inbox), daemon=True).start()
        asked = time.monotonic()
        while True:
            try:
                line = self._inbox.get(timeout=min(_POLL_SECONDS, self._idle_seconds))
                asked = time.monotonic()
            except queue.Empty:
                if self._stops:
                    asked = time.monotonic()
                    continue
                if time.monotonic() - asked < self._idle_seconds and not self._should_exit():
                    continue
                line = _EXIT
            if line is None:
                return
            if isinstance(line, str):
                if line.strip():
                    self._handle(line)
            elif not self._stops:
                self._emit({"event": "idle"})  # who asks at this very moment has the question put again
                return

    def _handle(self, line: str) -> None:
        try:
            request = json.loads(line)
            operation, identity = request["op"], str(request["id"])
            if operation == "stop":
                self._stops.get(identity, threading.Event()).set()
                return
            if operation not in ("ask", "load"):
                raise ValueError(f"no operation {operation!r}")
            arm = str(request["arm"])
            messages = [Message(turn["role"], turn["content"]) for turn in request.get("messages", ())]
            sampling = Sampling(**request.get("sampling", {}))
        except AssistantBuilderError as error:
            self._emit({"event": "error", "id": identity, "error": error.to_record()})
            return
        except (ValueError, KeyError, TypeError) as error:
            print(f"a request cannot be read: {error!r}", file=sys.stderr)
            return
        self._stops[identity] = threading.Event()
        self._emit({"event": "state", "id": identity, "state": "waiting"})
        executor = self._arms.setdefault(arm, ThreadPoolExecutor(max_workers=1, thread_name_prefix=arm))
        if operation == "ask":
            executor.submit(self._run_request, identity, arm, lambda: self._answer(identity, arm, messages, sampling))
        else:
            executor.submit(self._run_request, identity, arm, lambda: self._load(identity, arm))

    def _load(self, identity: str, arm: str) -> None:
        self._ensure_loaded(identity, arm)
        self._emit({"event": "loaded", "id": identity})

    def _ensure_loaded(self, identity: str, arm: str) -> None:
        if not self._session.ready(arm):
            self._emit({"event": "state", "id": identity, "state": "loading"})

        def report(phase: str, fraction: float) -> None:
            self._emit({"event": "loading", "id": identity, "phase": phase, "fraction": fraction})

        self._emit({"event": "memory", "id": identity, **asdict(self._session.load(arm, report))})

    def _answer(self, identity: str, arm: str, messages: list[Message], sampling: Sampling) -> None:
        self._ensure_loaded(identity, arm)
        self._emit({"event": "state", "id": identity, "state": "answering"})
        for chunk in self._session.stream(arm, messages, sampling, self._stops[identity]):
            self._emit(
                {
                    "event": "end" if chunk.finish else "chunk",
                    "id": identity,
                    "text": chunk.text_delta,
                    "tokens": chunk.tokens,
                    "first_token_seconds": chunk.first_token_seconds,
                    "seconds": chunk.seconds,
                    "finish": chunk.finish,
                }
            )

    def _run_request(self, identity: str, arm: str, work: Callable[[], None]) -> None:
        short = False
        try:
            work()
        except Exception as error:  # the edge of the process: whatever fails becomes an event
            short = ran_out_of_memory(error)
            told = self._memory_error(arm) if short else translate_error(error)
            if type(told) is AssistantBuilderError:  # not foreseen
                told = AssistantBuilderError(
                    f"the answer failed: {type(error).__name__}: {error}", where=f"arm {arm}",
                    remedy="Ask again; if it fails again, train the study anew with --redo",
                )
            self._needs_restart |= needs_new_process(error)
            self._emit({"event": "error", "id": identity, "error": told.to_record()})
        finally:
            if short:
                _free_memory()
            self._stops.pop(identity, None)
            if self._needs_restart and not self._stops:
                self._inbox.put(_EXIT)

    def _memory_error(self, arm: str) -> ResourceError:
        """Which model did not fit, or whose answer, and who can still be asked."""
        if self._session.ready(arm):
            return ResourceError("memory ran out", where=f"arm {arm}", remedy=CHAT_MEMORY)
        loaded = [other for other in self._arms if other != arm and self._session.ready(other)]
        stays = f"; {' and '.join(loaded)} can still be asked" if loaded else ""
        return ResourceError(f"memory ran out while {arm} was loaded{stays}", where=f"arm {arm}", remedy=CHAT_MEMORY)

    def _emit(self, event: dict[str, Any]) -> None:
        with self._write_lock:
            self._write(event)


def _forward(lines: Iterable[str], inbox: queue.Queue[object]) -> None:
    for line in lines:
        inbox.put(line)
    inbox.put(None)


def _free_memory() -> None:
    """Give back the memory of what failed: parts of a model are held by cycles, and PyTorch keeps a GPU's memory."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _run_start_watcher() -> Callable[[], bool]:
    """Tells whether a run has begun on this machine since now: what it plans with is the memory that is free."""

    def touched() -> int:
        try:
            return run_marker().stat().st_mtime_ns
        except OSError:
            return 0

    before = touched()
    return lambda: touched() != before


def run_server(session: ChatBackend, idle_seconds: float = IDLE_SECONDS, *, yields: bool = True) -> None:
    """Serve on standard input and output until the page closes them, then end the process at once.

    Args:
        session: What answers.
        idle_seconds: End after this long without a question.
        yields: Whether to end, once nobody waits for an answer, when a run begins on this machine.
    """
    # Libraries print; what they print must not end up between the events.
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def write(event: dict[str, Any]) -> None:
        events.write(json.dumps(event) + "\n")
        events.flush()

    requests = open(0, encoding="utf-8", closefd=False)
    Server(session, write, idle_seconds, _run_start_watcher() if yields else lambda: False).serve(requests)
    # Not by the ordinary way out: it would wait for answers under way, and for the thread that reads requests.
    os._exit(0)


def main(arguments: list[str] | None = None) -> None:
    """Start the worker for one study."""
    import argparse

    parser = argparse.ArgumentParser(description="Answer questions with the trained assistants of a study.")
    parser.add_argument("--study", type=Path, required=True, help="the study's folder")
    parser.add_argument("--idle-seconds", type=float, default=IDLE_SECONDS, help="end after this long unasked")
    options = parser.parse_args(arguments)
    prepare_libraries()
    study = Study(options.study)
    run_server(ChatSession(study, (*study.config.arms, BASE)), options.idle_seconds)


if __name__ == "__main__":
    main()
