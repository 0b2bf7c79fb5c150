"""Sends a bounded number of requests to the process with the models, and streams its answers."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import anyio.to_thread

from assistant_builder.chat.client import ChatWorker
from assistant_builder.chat.reply_stream import Reply, ReplyStream
from assistant_builder.child_process import python_command
from assistant_builder.data import Message
from assistant_builder.errors import AssistantBuilderError, error_texts
from assistant_builder.inference.chunks import Sampling
from assistant_builder.redaction import terminal_text
from assistant_builder.retrieval.answering import alone
from assistant_builder.retrieval.promise import if_broken, read_broken
from assistant_builder.serving.registry import ModelRegistry, PromptLimits, ServedModel, is_long
from assistant_builder.serving.schemas import (
    ApiError,
    ChatRequest,
    api_error_from_record,
    too_many,
    unknown_model,
)

Health = Literal["ok", "loading", "failed"]
_TOKENIZER_THREADS = 2
"""Threads that wait for the tokenizer of one study, separately for short and for long prompts."""
_RETRY_SECONDS = 2
MAX_LOOKED_UP = 10_000
"""Characters of a question that is looked up; no limit of tokens holds there, and longer ones would delay others."""
"""``Retry-After`` of a request that was rejected because the queue is full."""


@dataclass(frozen=True)
class GenerationRequest:
    """A checked request."""

    assistant: ServedModel
    messages: Sequence[Message]  # the conversation, with the system prompt
    sampling: Sampling
    stops: Sequence[str]
    prompt_tokens: int  # without facts


@dataclass(frozen=True)
class StreamChunk:
    """A chunk of an answer."""

    text: str
    tokens: int  # tokens generated so far
    finish: Literal["stop", "length"] | None = None  # reason of the end; None before the end
    # at the end of a grounded answer: ``declined``, and ``sources`` if allowed
    grounding: dict[str, Any] | None = None
    # at the end of a grounded answer: tokens of the prompt with the facts
    prompt_tokens: int | None = None
    # at the end: what the rule for declining says, which no client gets
    judged: Mapping[str, Any] | None = None


class StopSequenceFilter:
    """Passes a growing text on up to the first stop sequence; a possible beginning of one is buffered."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._sent = 0
        self.cut = False

    def feed(self, text: str, *, last: bool) -> str:
        """The text that can be sent now; ``text`` is all so far, and ``last`` says whether it is complete."""
        found = [place for stop in self._stops if (place := text.find(stop, self._sent)) >= 0]
        self.cut = bool(found)
        begun = [_overlap(text, stop) for stop in self._stops]
        end = min(found) if found else len(text) if last else len(text) - max(begun, default=0)
        shown = text[self._sent : end]
        self._sent = max(self._sent, end)
        return shown


def _overlap(text: str, stop: str) -> int:
    """Characters of the longest beginning of a stop sequence with which a text ends."""
    longest = min(len(stop) - 1, len(text))
    return next((length for length in range(longest, 0, -1) if text.endswith(stop[:length])), 0)


class Engine:
    """The assistants of a server.

    ``waiting`` is the number of requests to one assistant that may wait, ``slots`` the number that are answered at a
    time.
    """

    def __init__(
        self,
        models: ModelRegistry,
        limits: Mapping[str, PromptLimits],
        waiting: int,
        worker: ChatWorker,
        slots: int = 1,
    ) -> None:
        self._models, self._limits, self._waiting, self._worker = models, limits, waiting, worker
        self.slots = slots  # questions to one assistant that are answered at a time
        self._open: Counter[str] = Counter()
        self._loading: ReplyStream | None = None
        self._limiters: dict[tuple[Path, bool], anyio.CapacityLimiter] = {}

    @property
    def models(self) -> ModelRegistry:
        """The assistants."""
        return self._models

    def start(self) -> None:
        """Start to load every model, unless loading has started."""
        if self._loading is None:
            self._loading = self._worker.load(self.models.ids)

    def wait(self) -> None:
        """Wait until every model is loaded; raises the AssistantBuilderError of one that cannot be loaded."""
        self.start()
        assert self._loading is not None
        loaded = threading.Event()
        self._loading.add_listener(lambda: loaded.set() if self._settled() else None)
        while not self._settled():
            loaded.wait()
        if error := self.failure():
            raise error

    async def report_failure(self) -> None:
        """Print on standard error why a model could not be loaded, if one could not."""
        assert self._loading is not None
        async for _ in _follow(self._loading):
            pass
        if error := self.failure():
            print(terminal_text(f"assistant-builder: {error}"), file=sys.stderr, flush=True)

    def failure(self) -> AssistantBuilderError | None:
        """The error of the last attempt to load the models."""
        replies = self._loading.snapshot.values() if self._loading is not None else ()
        record = next((reply.error for reply in replies if reply.error is not None), None)
        if record is None:
            return None
        return AssistantBuilderError(**error_texts(record))

    def health(self) -> Health:
        """State of the models; if their process ended or they could not be loaded, the call starts another attempt."""
        self.start()
        failed, ended = self.failure() is not None, self._settled() and not self._worker.running
        if failed or ended:
            self._loading = self._worker.load(self.models.ids)
        return "failed" if failed else "ok" if self._settled() else "loading"

    @property
    def unfinished(self) -> int:
        """Number of requests that wait or are answered."""
        return self._open.total()

    async def follow(self) -> None:
        """Nothing: the assistants stay as they are."""

    def close(self) -> None:
        """End the processes, and with them all unfinished answers."""
        self._worker.close()
        for limits in self._limits.values():
            limits.close()

    def _settled(self) -> bool:
        return self._loading is not None and all(
            reply.finished for reply in self._loading.snapshot.values()
        )

    async def prepare(self, body: ChatRequest) -> GenerationRequest:
        """Check a request and count its prompt.

        Raises:
            ApiError: There is no such assistant, or its chat template or context does not accept the prompt.
        """
        assistant = self.models.find(body.model)
        if assistant is None:
            raise unknown_model(f"{body.model!r}", f"; there are: {', '.join(self.models.ids)}")
        limits = self._limits[assistant.id]
        sampling = body.sampling(limits.longest_answer)
        messages = body.conversation(limits.system)
        if assistant.mode == "copy" and any(
            turn.role == "user" and len(turn.content) > MAX_LOOKED_UP for turn in messages
        ):
            raise ApiError(
                400,
                f"{assistant.id} looks up questions of at most {MAX_LOOKED_UP:,} characters",
                code="context_length_exceeded",
                param="messages",
            )
        read = messages if limits.conversations else alone(messages)
        try:
            # one limiter each, so that requests that wait for one tokenizer take no thread from the others
            limiter = self._limiters.setdefault(
                (assistant.folder, is_long(read)), anyio.CapacityLimiter(_TOKENIZER_THREADS)
            )
            tokens = await anyio.to_thread.run_sync(limits.count, read, limiter=limiter)
        except (
            AssistantBuilderError
        ) as error:  # the chat template does not accept this order of messages
            raise ApiError(400, str(error), param="messages") from error
        if tokens > limits.longest:
            raise ApiError(
                400,
                f"the prompt has {tokens} tokens, and {assistant.id} reads {limits.longest} at most",
                code="context_length_exceeded",
                param="messages",
            )
        most = limits.longest + 1 - tokens  # prompt and answer together, as with vLLM
        sampling = replace(sampling, max_new_tokens=min(sampling.max_new_tokens, most))
        return GenerationRequest(assistant, messages, sampling, body.stops, tokens)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[StreamChunk, None]:
        """Generate an answer; closing the generator ends it.

        Yields:
            An empty chunk when the answer begins, then its text; the last chunk has ``finish``.

        Raises:
            ApiError: Too many requests wait, or the answer failed.
        """
        name, served = request.assistant.id, request.assistant
        instead = if_broken(served.study, served.root, served.arm)
        # where no other assistant can take its place, as with vLLM
        if instead == "decline" or (instead == "copy" and self.models.select is None):
            said = read_broken(served.root)["sentence"]
            yield StreamChunk("", 0)
            grounding: dict[str, Any] = {"mode": served.mode, "declined": True, "sources": []}
            yield StreamChunk(said, 0, "stop", grounding, 0)
            return
        if self._open[name] >= self._waiting + self.slots:
            what = f"{self._waiting} requests to {name} are waiting already"
            raise too_many(what, retry_seconds=_RETRY_SECONDS)
        self._open[name] += 1
        exchanges: list[ReplyStream] = []
        stop_filter, begun = StopSequenceFilter(request.stops), False
        try:
            # in a thread: writing a long conversation blocks until the process has started and reads it
            await anyio.to_thread.run_sync(
                lambda: exchanges.append(
                    self._worker.ask({name: request.messages}, request.sampling)
                )
            )
            async for replies in _follow(exchanges[0]):
                reply = replies[name]
                if not begun and not (reply.finished or reply.tokens):
                    continue
                if reply.error is not None:  # before the first chunk it has its own status
                    raise api_error_from_record(reply.error)
                if not begun:
                    begun = True
                    yield StreamChunk("", 0)
                text = stop_filter.feed(reply.text, last=reply.finished)
                if stop_filter.cut or reply.finished:
                    cut = reply.state == "length" and not stop_filter.cut
                    yield StreamChunk(
                        text,
                        reply.tokens,
                        "length" if cut else "stop",
                        _grounding(reply, request.assistant),
                        reply.prompt_tokens,
                        reply.judged,
                    )
                    return
                if text:
                    yield StreamChunk(text, reply.tokens)
        finally:
            self._open[name] -= 1
            for exchange in exchanges:
                exchange.stop()


def _grounding(reply: Reply, assistant: ServedModel) -> dict[str, Any] | None:
    """What a completion says about looking up; ``None`` for an assistant that does not."""
    if not assistant.grounded:
        return None
    more = {
        key: reply.judged[key]
        for key in ("suggestions", "asks_back", "missing")
        if reply.judged.get(key)
    }
    return {
        "mode": "reply" if reply.judged.get("mode") == "reply" else assistant.mode,
        "declined": reply.declined,
        "sources": list(reply.sources) if assistant.shows_sources else [],
        **more,
    }


async def _follow(exchange: ReplyStream) -> AsyncIterator[dict[str, Reply]]:
    """The replies after each change, until all have ended."""
    loop, changed = asyncio.get_running_loop(), asyncio.Event()

    def notify() -> None:
        with suppress(RuntimeError):  # the loop is closed: the server ended before the answer
            loop.call_soon_threadsafe(changed.set)

    exchange.add_listener(notify)
    while True:
        changed.clear()
        replies = exchange.snapshot
        yield replies
        if all(reply.finished for reply in replies.values()):
            return
        await changed.wait()


def start_worker(
    models: ModelRegistry, module: str = "assistant_builder.serving.shared_models", **settings: Any
) -> ChatWorker:
    """The process with these assistants; ``module`` calls ``answer_server.run_models`` and gets the settings."""
    assistants = [
        [each.id, str(each.folder), each.arm, each.approach] for each in models.assistants
    ]
    words = json.dumps({"assistants": assistants, **settings})
    return ChatWorker(python_command("-m", module, words))
