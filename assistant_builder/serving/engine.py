"""Puts questions to the process that holds the models, a bounded number at a time, and hands on what comes back."""

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
from typing import Literal

import anyio.to_thread

from assistant_builder.chat.client import ChatWorker, Reply, ReplyStream
from assistant_builder.child_process import python_command
from assistant_builder.data import Message
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.inference.session import Sampling
from assistant_builder.serving.asked import ChatRequest
from assistant_builder.serving.desks import Desk, is_long
from assistant_builder.serving.refusals import Refusal, refusal_from
from assistant_builder.serving.roster import Assistant, Roster
from assistant_builder.serving.stopping import Cutter

Health = Literal["ok", "loading", "failed"]
_COUNTING = 2
"""Threads that wait for the tokenizer of one study, for its short prompts and for its long ones."""
_RETRY_SECONDS = 2
"""After which a client whose question found the queue full may try again."""


@dataclass(frozen=True)
class Question:
    """A question that can be put to an assistant.

    Attributes:
        assistant: Who is asked.
        messages: The conversation, with the system prompt.
        sampling: How to generate.
        stops: Texts that end the answer.
        prompt_tokens: Tokens of the prompt.
    """

    assistant: Assistant
    messages: Sequence[Message]
    sampling: Sampling
    stops: Sequence[str]
    prompt_tokens: int


@dataclass(frozen=True)
class Piece:
    """A piece of an answer.

    Attributes:
        text: Text that came since the last piece.
        tokens: Tokens generated so far.
        finish: None while it goes on.
    """

    text: str
    tokens: int
    finish: Literal["stop", "length"] | None = None


class Engine:
    """The assistants of a server.

    Args:
        roster: Who is served.
        desks: By id of the assistant.
        waiting: Questions to one assistant that may wait.
        worker: The process that holds the models.
    """

    def __init__(self, roster: Roster, desks: Mapping[str, Desk], waiting: int, worker: ChatWorker) -> None:
        self.roster = roster
        self._desks = desks
        self._waiting = waiting
        self._worker = worker
        self._open: Counter[str] = Counter()
        self._loading: ReplyStream | None = None
        self._counting: dict[tuple[Path, bool], anyio.CapacityLimiter] = {}

    # the models

    def start(self) -> None:
        """Begin to bring every model into memory, unless it was begun before."""
        if self._loading is None:
            self._loading = self._worker.load(self.roster.ids)

    def wait(self) -> None:
        """Wait until every model is in memory.

        Raises:
            AssistantBuilderError: One cannot be loaded.
        """
        self.start()
        assert self._loading is not None
        over = threading.Event()
        self._loading.add_listener(lambda: over.set() if self._settled() else None)
        while not self._settled():
            over.wait()
        if error := self.failure():
            raise error

    async def tell_failure(self) -> None:
        """Say on standard error what keeps a model from being loaded, should that be so."""
        assert self._loading is not None
        async for _ in _follow(self._loading):
            pass
        if error := self.failure():
            print(f"assistant-builder: {error}", file=sys.stderr, flush=True)

    def failure(self) -> AssistantBuilderError | None:
        """What the last try to load the models failed with."""
        replies = self._loading.snapshot.values() if self._loading is not None else ()
        record = next((reply.error for reply in replies if reply.error is not None), None)
        if record is None:
            return None
        return AssistantBuilderError(record["what"], where=record["where"], remedy=record["remedy"])

    def health(self) -> Health:
        """How the models stand; where they are gone or could not be loaded, another try begins with being asked."""
        self.start()
        failed, gone = self.failure() is not None, self._settled() and not self._worker.running
        if failed or gone:
            self._loading = self._worker.load(self.roster.ids)
        return "failed" if failed else "ok" if self._settled() else "loading"

    def close(self) -> None:
        """End the process and with it what is being answered."""
        self._worker.close()

    def _settled(self) -> bool:
        return self._loading is not None and all(reply.finished for reply in self._loading.snapshot.values())

    # questions

    async def question(self, asked: ChatRequest) -> Question:
        """What a request asks whom.

        Raises:
            Refusal: There is no such assistant, or the prompt is none that it can read.
        """
        assistant = self.roster.find(asked.model)
        if assistant is None:
            raise Refusal(404, f"the model {asked.model!r} does not exist; there are: {', '.join(self.roster.ids)}",
                          code="model_not_found", param="model")
        desk, sampling = self._desks[assistant.id], asked.sampling()
        messages = asked.conversation(desk.system)
        try:
            # a limit for each: who waits for one assistant's tokenizer takes no thread from the others
            limiter = self._counting.setdefault((assistant.folder, is_long(messages)), anyio.CapacityLimiter(_COUNTING))
            tokens = await anyio.to_thread.run_sync(desk.count, messages, limiter=limiter)
        except AssistantBuilderError as error:  # the chat template takes no such order of turns
            raise Refusal(400, str(error), param="messages") from error
        if tokens > desk.longest:
            raise Refusal(
                400, f"the prompt has {tokens} tokens, and {assistant.id} reads {desk.longest} at most",
                code="context_length_exceeded", param="messages",
            )
        most = desk.longest + 1 - tokens  # prompt and answer together, as with vLLM
        sampling = replace(sampling, max_new_tokens=min(sampling.max_new_tokens, most))
        return Question(assistant, messages, sampling, asked.stops, tokens)

    async def answer(self, question: Question) -> AsyncGenerator[Piece, None]:
        """Answer a question; closing the generator ends the answer.

        Yields:
            An empty piece once the answer has begun, then what comes, the last piece with ``finish``.

        Raises:
            Refusal: Too many questions wait, or the answer failed.
        """
        name = question.assistant.id
        if self._open[name] > self._waiting:
            raise Refusal(429, f"{self._waiting} questions to {name} wait already", code="rate_limit_exceeded",
                          retry_seconds=_RETRY_SECONDS)
        self._open[name] += 1
        asked: list[ReplyStream] = []
        cutter, begun = Cutter(question.stops), False
        try:
            # in a thread: a long conversation waits in the pipe until the process has started and reads it
            await anyio.to_thread.run_sync(
                lambda: asked.append(self._worker.ask({name: question.messages}, question.sampling))
            )
            async for replies in _follow(asked[0]):
                reply = replies[name]
                if not begun and (reply.finished or reply.tokens):  # before its first token it may still be refused
                    if reply.error is not None:
                        raise refusal_from(reply.error)
                    begun = True
                    yield Piece("", 0)
                if begun:
                    piece = _piece(reply, cutter)
                    if piece.text or piece.finish:
                        yield piece
                    if piece.finish:
                        return
        finally:
            self._open[name] -= 1
            for exchange in asked:
                exchange.stop()


def _piece(reply: Reply, cutter: Cutter) -> Piece:
    if reply.error is not None:
        raise refusal_from(reply.error)
    text = cutter.take(reply.text, last=reply.finished)
    if cutter.cut or reply.finished:
        return Piece(text, reply.tokens, "length" if reply.state == "length" and not cutter.cut else "stop")
    return Piece(text, reply.tokens)


async def _follow(exchange: ReplyStream) -> AsyncIterator[dict[str, Reply]]:
    """The replies whenever they changed, until all have ended."""
    loop, changed = asyncio.get_running_loop(), asyncio.Event()

    def told() -> None:
        with suppress(RuntimeError):  # the loop is closed: the server has ended before the answer
            loop.call_soon_threadsafe(changed.set)

    exchange.add_listener(told)
    while True:
        changed.clear()
        replies = exchange.snapshot
        yield replies
        if all(reply.finished for reply in replies.values()):
            return
        await changed.wait()


def worker_of(roster: Roster) -> ChatWorker:
    """The process that holds the models of these assistants."""
    assistants = [[assistant.id, str(assistant.folder), assistant.arm] for assistant in roster.assistants]
    return ChatWorker(python_command("-m", "assistant_builder.serving.worker", json.dumps(assistants)))
