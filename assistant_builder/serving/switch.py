"""Serving follows the published versions of its studies, and their rules and indexes.

The new models are loaded in addition to the old ones, which end later.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace

import anyio.to_thread

from assistant_builder.errors import AssistantBuilderError
from assistant_builder.redaction import terminal_text
from assistant_builder.serving.engine import Engine, GenerationRequest, Health, StreamChunk
from assistant_builder.serving.registry import ModelRegistry
from assistant_builder.serving.schemas import ChatRequest

_SECONDS = 1.0
"""Time between looks at what is published."""
_DRAINED_SECONDS = 0.2
"""Time between looks at whether a replaced engine has answered all."""


class EngineSwitch:
    """An engine that is replaced when another version, rule or index is published; see :class:`Engine` for its methods.

    Requests go to the new version as soon as it is loaded, and the old one ends after its last answer: for that time
    both are in memory. If the new one cannot be loaded, the old one stays.

    Args:
        models: The assistants of the first engine.
        build: Makes the engine of assistants; called in a thread.
    """

    def __init__(self, models: ModelRegistry, build: Callable[[ModelRegistry], Engine]) -> None:
        self._build, self._engine = build, build(models)
        self._retired: list[Engine] = []
        self._draining: set[asyncio.Task[None]] = set()
        self.slots = self._engine.slots

    @property
    def models(self) -> ModelRegistry:
        """The assistants that are served now."""
        return self._engine.models

    def start(self) -> None:
        """Start to load every model."""
        self._engine.start()

    async def report_failure(self) -> None:
        """Print on standard error why a model could not be loaded, if one could not."""
        await self._engine.report_failure()

    def health(self) -> Health:
        """State of the models."""
        return self._engine.health()

    def close(self) -> None:
        """End all processes."""
        for engine in (self._engine, *self._retired):
            engine.close()

    async def prepare(self, body: ChatRequest) -> GenerationRequest:
        """Check a request; see :meth:`Engine.prepare`."""
        return await self._engine.prepare(body)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[StreamChunk, None]:
        """Generate an answer with the version that is served now; see :meth:`Engine.generate`."""
        engine = self._engine
        assistant = engine.models.find(request.assistant.id)
        if assistant is not None:
            # another version than when the request was checked, if that is replaced since
            request = replace(request, assistant=assistant)
        async with aclosing(engine.generate(request)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def follow(self) -> None:
        """Replace the engine whenever another version is published, until cancelled."""
        seen = self.models.published
        while True:
            await asyncio.sleep(_SECONDS)
            if self.models.published == seen:
                continue
            seen = self.models.published
            try:
                engine = await anyio.to_thread.run_sync(self._successor)
            except (AssistantBuilderError, OSError) as error:
                _report(
                    f"the published version cannot be served, and the present one stays: {error}"
                )
                continue
            if engine is not None:
                old, self._engine = self._engine, engine
                self._retired.append(old)
                names = dict.fromkeys(each.folder.name for each in engine.models.assistants)
                for line in (f"serves {', '.join(names)} now", *engine.models.warnings):
                    _report(line)
                # not awaited: an undo must not wait for a long answer
                task = asyncio.create_task(self._drain(old))
                self._draining.add(task)
                task.add_done_callback(self._draining.discard)

    def _successor(self) -> Engine | None:
        """The loaded engine of what is published; None if that is served already."""
        models = self.models.latest()
        if models == self.models:
            return None
        engine = self._build(models)
        try:
            engine.wait()
        except BaseException:
            engine.close()
            raise
        return engine

    async def _drain(self, engine: Engine) -> None:
        while engine.unfinished:
            await asyncio.sleep(_DRAINED_SECONDS)
        self._retired.remove(engine)
        await anyio.to_thread.run_sync(engine.close)


def _report(line: str) -> None:
    print(terminal_text(f"assistant-builder: {line}"), file=sys.stderr, flush=True)
