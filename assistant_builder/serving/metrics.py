"""What the server counts for Prometheus, at ``/metrics``: answers, their times, tokens, and what was refused.

No question, answer, visitor or address is in it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from assistant_builder.serving.engine import GenerationRequest, StreamChunk

METRICS_PATH = "/metrics"
"""Needs the key, as the endpoint does."""
Through = Literal["endpoint", "widget"]
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_REFUSED_FROM = 400


class Metrics:
    """The counts of one server, or of one replica."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        labels = ("model", "through")
        self._answers = Counter(
            "assistant_builder_answers",
            "Answers by outcome: answered, declined, left (the client disconnected), failed.",
            (*labels, "outcome"),
            registry=registry,
        )
        self._tokens = Counter(
            "assistant_builder_answer_tokens", "Tokens of answers.", labels, registry=registry
        )
        self._first, self._whole = (
            Histogram(
                f"assistant_builder_{name}_seconds",
                f"Seconds from the question to {what}, waiting included.",
                labels,
                buckets=_SECONDS,
                registry=registry,
            )
            for name, what in (
                ("first_text", "the first text"),
                ("answer", "the end of the answer"),
            )
        )
        self._running = Gauge(
            "assistant_builder_questions_running",
            "Questions that are answered, or wait for the model.",
            labels,
            registry=registry,
        )
        self._refused = Counter(
            "assistant_builder_refused",
            "Requests that were refused, by HTTP status; 429: too many.",
            ("status",),
            registry=registry,
        )

    def response(self) -> Response:
        """The metrics in Prometheus's text format."""
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    async def measured(
        self,
        chunks: AsyncGenerator[StreamChunk, None],
        request: GenerationRequest,
        through: Through,
        since: float | None = None,
    ) -> AsyncGenerator[StreamChunk, None]:
        """The chunks of an answer, which is counted when it ends in whatever way.

        Args:
            chunks: The answer.
            request: What is answered.
            through: How it was asked.
            since: When it was asked, by ``time.monotonic``; None: when the first chunk is awaited.
        """
        labels = (request.assistant.id, through)
        started = time.monotonic() if since is None else since
        outcome, tokens, shown = "left", 0, False
        running = self._running.labels(*labels)
        running.inc()
        try:
            async with aclosing(chunks):
                async for chunk in chunks:
                    tokens = chunk.tokens
                    if chunk.text and not shown:
                        shown = True
                        self._first.labels(*labels).observe(time.monotonic() - started)
                    if chunk.finish:
                        declined = (chunk.grounding or {}).get("declined")
                        outcome = "declined" if declined else "answered"
                        self._whole.labels(*labels).observe(time.monotonic() - started)
                    yield chunk
        except Exception:
            outcome = "failed"
            raise
        finally:
            running.dec()
            self._tokens.labels(*labels).inc(tokens)
            self._answers.labels(*labels, outcome).inc()

    def refused(self, status: int) -> None:
        """Count a request that was refused with an HTTP status."""
        self._refused.labels(str(status)).inc()

    def counting_refusals(self, app: ASGIApp) -> ASGIApp:
        """An app whose responses with a status of 400 or more are counted."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            async def sending(message: Message) -> None:
                if message["type"] == "http.response.start" and message["status"] >= _REFUSED_FROM:
                    self.refused(message["status"])
                await send(message)

            await app(scope, receive, sending)

        return counted
