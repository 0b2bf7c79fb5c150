"""The server of a process that holds models, as that of the page's chat (:mod:`assistant_builder.serving.chat`).

It speaks the protocol of :mod:`assistant_builder.child_protocol`. The page loads no model itself, so it survives a
crash of this process, and the memory is freed when the process ends.

Requests::

    {"op": "ask", "id": "7", "arm": "qlora", "messages": [{"role", "content"}, …], "sampling": {…}}
    {"op": "load", "id": "8", "arm": "base"}          load the model before a question is asked
    {"op": "stop", "id": "7"}

Events::

    {"event": "state", "id": "7", "state": "waiting" | "loading" | "answering"}
    {"event": "loading", "id": "7", "phase": "Reading the 4-bit base", "fraction": 0.4}
    {"event": "loaded", "id": "8"}                    final event of "load"
    {"event": "chunk", "id": "7", "text": "…", "tokens": 3, "first_token_seconds": 0.2, "seconds": 0.4}
    {"event": "end",   "id": "7", "text": "…", …as in chunk, "finish": "stop" | "length" | "cancelled",
     "sources": [{"row", "question", "answer", "similarity"}, …], "declined": false, "judged": {…}}
                                            the first chunk of a grounded answer has sources and prompt_tokens, too
    {"event": "error", "id": "7", "error": {"type", "what", "where", "remedy"}}
    {"event": "idle"}                       the process ends after an idle time, or because a run has started

It ends when standard input is closed, so no worker outlives its page. If a model does not fit into memory, the loaded
models stay available.
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
from functools import partial
from pathlib import Path
from typing import Any

from assistant_builder.child_process import configure_libraries
from assistant_builder.child_protocol import Events
from assistant_builder.data import Message
from assistant_builder.error_translation import (
    CHAT_MEMORY,
    needs_new_process,
    ran_out_of_memory,
    translate_error,
)
from assistant_builder.errors import AssistantBuilderError, ResourceError
from assistant_builder.i18n import Text, m, t, written
from assistant_builder.inference.chunks import Sampling
from assistant_builder.inference.copying import BesideCopies, CopySession
from assistant_builder.inference.session import Session
from assistant_builder.retrieval.copying import COPY
from assistant_builder.study import Study, run_marker

IDLE_SECONDS = 900.0
_POLL_SECONDS = 1.0
"""Interval at which an idle process checks whether a run has started; shorter than a step takes to import PyTorch."""
_EXIT = object()
"""Queue entry that ends the process once no request is pending."""


class Server:
    """Handles requests: the arms in parallel, of the questions to one arm ``concurrency`` at a time.

    ``write`` is called from several threads, but never concurrently. The process ends after ``idle_seconds``, or when
    ``should_exit``, which is polled, returns True and no request is pending.
    """

    def __init__(
        self,
        session: Session,
        write: Callable[[dict[str, Any]], None],
        idle_seconds: float = IDLE_SECONDS,
        should_exit: Callable[[], bool] = lambda: False,
        concurrency: int = 1,
    ) -> None:
        self._concurrency = concurrency
        self._session, self._write, self._write_lock = session, write, threading.Lock()
        self._idle_seconds, self._should_exit = idle_seconds, should_exit
        self._stops: dict[str, threading.Event] = {}
        self._arms: dict[str, ThreadPoolExecutor] = {}
        self._inbox: queue.Queue[object] = queue.Queue()
        self._needs_restart = False

    def serve(self, lines: Iterable[str]) -> None:
        """Handle requests, one per line, until the input or the idle time ends, or an exit or restart is needed."""

        def forward() -> None:
            for line in lines:
                self._inbox.put(line)
            self._inbox.put(None)

        threading.Thread(target=forward, daemon=True).start()
        last_request = time.monotonic()
        while True:
            try:
                line = self._inbox.get(timeout=min(_POLL_SECONDS, self._idle_seconds))
                last_request = time.monotonic()
            except queue.Empty:
                if self._stops:
                    last_request = time.monotonic()
                    continue
                if time.monotonic() - last_request < self._idle_seconds and not self._should_exit():
                    continue
                line = _EXIT
            if line is None:
                return
            if isinstance(line, str):
                if line.strip():
                    self._handle(line)
            elif not self._stops:
                # the client sends a question again that arrives just now
                self._emit("idle")
                return

    def _handle(self, line: str) -> None:
        try:
            request = json.loads(line)
            operation, identity = request["op"], str(request["id"])
            if operation == "stop":
                self._stops.get(identity, threading.Event()).set()
                return
            if operation not in ("ask", "load"):
                raise ValueError(f"unknown operation {operation!r}")
            arm = str(request["arm"])
            messages = [
                Message(turn["role"], turn["content"]) for turn in request.get("messages", ())
            ]
            sampling = Sampling(**request.get("sampling", {}))
        except AssistantBuilderError as error:
            return self._emit("error", identity, error=error.to_record())
        except (ValueError, KeyError, TypeError) as error:
            print(f"a request cannot be read: {error!r}", file=sys.stderr)
            return
        self._stops[identity] = threading.Event()
        self._emit("state", identity, state="waiting")
        executor = self._arms.setdefault(
            arm, ThreadPoolExecutor(max_workers=self._concurrency, thread_name_prefix=arm)
        )
        work = (
            partial(self._answer, identity, arm, messages, sampling)
            if operation == "ask"
            else partial(self._load, identity, arm)
        )
        executor.submit(self._run_request, identity, arm, work)

    def _load(self, identity: str, arm: str) -> None:
        self._ensure_loaded(identity, arm)
        self._emit("loaded", identity)

    def _ensure_loaded(self, identity: str, arm: str) -> None:
        if not self._session.ready(arm):
            self._emit("state", identity, state="loading")

        def report(phase: Text, fraction: float) -> None:
            text, said = written(phase)
            self._emit("loading", identity, phase=text, said=said, fraction=fraction)

        self._session.load(arm, report)

    def _answer(self, identity: str, arm: str, messages: list[Message], sampling: Sampling) -> None:
        self._ensure_loaded(identity, arm)
        self._emit("state", identity, state="answering")
        for chunk in self._session.stream(arm, messages, sampling, self._stops[identity]):
            values = asdict(chunk)
            values["text"] = values.pop("text_delta")
            if not chunk.finish:
                del values["declined"], values["judged"]
            if chunk.prompt_tokens is None:
                del values["prompt_tokens"]
                if not chunk.finish:
                    del values["sources"]
            self._emit("end" if chunk.finish else "chunk", identity, **values)

    def _run_request(self, identity: str, arm: str, work: Callable[[], None]) -> None:
        out_of_memory = False
        try:
            work()
        except Exception as error:  # process boundary: every failure becomes an event
            out_of_memory = ran_out_of_memory(error)
            translated = self._memory_error(arm) if out_of_memory else translate_error(error)
            if type(translated) is AssistantBuilderError:  # unexpected
                translated = AssistantBuilderError(
                    m("the answer failed: {name}: {error}", name=type(error).__name__, error=error),
                    where=f"arm {arm}",
                    remedy=m("Ask again; if it fails again, retrain the {study} with --redo"),
                )
            self._needs_restart |= needs_new_process(error)
            self._emit("error", identity, error=translated.to_record())
        finally:
            if out_of_memory:
                _free_memory()
            self._stops.pop(identity, None)
            if self._needs_restart and not self._stops:
                self._inbox.put(_EXIT)

    def _memory_error(self, arm: str) -> ResourceError:
        """The error of an arm whose model or answer did not fit into memory; it lists the arms that still work."""
        if self._session.ready(arm):
            return ResourceError(m("memory ran out"), where=f"arm {arm}", remedy=m(CHAT_MEMORY))
        loaded = [other for other in self._arms if other != arm and self._session.ready(other)]
        available = (
            t("; {names} can still be asked", names=t(" and ").join(loaded)) if loaded else ""
        )
        return ResourceError(
            m("memory ran out while loading {arm}{available}", arm=arm, available=available),
            where=f"arm {arm}",
            remedy=m(CHAT_MEMORY),
        )

    def _emit(self, event: str, identity: str | None = None, **values: Any) -> None:
        named = {"id": identity} if identity is not None else {}
        with self._write_lock:
            self._write({"event": event, **named, **values})


def _free_memory() -> None:
    """Free memory after a failure: reference cycles hold parts of a model, and PyTorch caches GPU memory."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _run_start_watcher(holds_models: Callable[[], bool]) -> Callable[[], bool]:
    """A function that returns whether a run, which needs the memory, has started here while models were held."""

    def modified() -> int:
        try:
            return run_marker().stat().st_mtime_ns
        except OSError:
            return 0

    seen = modified()

    def started() -> bool:
        nonlocal seen
        if not holds_models():
            seen = modified()
        return modified() != seen

    return started


def run_server(
    session: Session,
    idle_seconds: float = IDLE_SECONDS,
    *,
    exit_on_run: bool = True,
    concurrency: int = 1,
) -> None:
    """Serve on standard input and output until the page closes them, then exit immediately.

    With ``exit_on_run`` a process that holds models also ends when a run starts on this machine and no request is
    pending. ``concurrency`` questions to one arm are answered at a time.
    """
    events = Events()
    requests = open(0, encoding="utf-8", closefd=False)
    should_exit = _run_start_watcher(lambda: session.holds_models) if exit_on_run else lambda: False
    Server(
        session, lambda event: events.emit(**event), idle_seconds, should_exit, concurrency
    ).serve(requests)
    # A regular exit would wait for pending answers and for the thread that reads requests.
    os._exit(0)


def run_models(session: Callable[..., Session]) -> None:
    """Run the process with the assistants of an endpoint, which ends with its server.

    Args:
        session: Makes the session of trained assistants (id → study and arm) and of the further settings of
            :func:`~assistant_builder.serving.engine.start_worker`; ``slots`` among them is the number of questions
            to one assistant that are answered at a time, 1 by default.
    """
    settings = json.loads(sys.argv[1])
    configure_libraries()
    trained, copied = {}, {}
    for name, folder, arm, approach in settings.pop("assistants"):
        chosen = copied if arm == COPY else trained
        chosen[name] = Study(Path(folder), approach), arm
    copies = CopySession(copied)
    run_server(
        BesideCopies(session(trained, **settings), copies) if trained else copies,
        threading.TIMEOUT_MAX,
        exit_on_run=False,
        concurrency=settings.get("slots", 1),
    )
