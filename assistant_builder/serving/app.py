"""The ASGI app: OpenAI's routes for chat completions and models, and a health check."""

from __future__ import annotations

import asyncio
import reprlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from assistant_builder.config.serving import ServingConfig
from assistant_builder.serving.auth import HEALTH_PATH, ApiKeyMiddleware, answers_without_key
from assistant_builder.serving.engine import Engine, GenerationRequest, StreamChunk
from assistant_builder.serving.metrics import METRICS_PATH, Metrics
from assistant_builder.serving.remember import open_logs, remembered
from assistant_builder.serving.schemas import (
    DONE,
    ApiError,
    ChatRequest,
    CompletionMetadata,
    EventStream,
    Feedback,
    model_response,
    models_response,
    server_sent_event,
    unknown_model,
    usage,
    validation_error,
)
from assistant_builder.serving.switch import EngineSwitch
from assistant_builder.serving.widget import Widget
from assistant_builder.web.access import AllowedHosts

_CLIENT_GONE = 499
"""nginx's status of a request whose client disconnected."""


def make_app(
    engine: Engine | EngineSwitch,
    config: ServingConfig,
    key: bytes | None,
    *,
    without_key: bool | None = None,
) -> ASGIApp:
    """The complete ASGI app, middleware included.

    The models are loaded when the app starts and released when it ends.

    Args:
        engine: The assistants.
        config: Settings of the server.
        key: The digest of the API key, if there is one.
        without_key: Whether programs on this machine need no key if there is none; None: as
            :func:`answers_without_key`.
    """
    logs, metrics = open_logs(engine.models, config), Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        tasks = [asyncio.create_task(work()) for work in (engine.report_failure, engine.follow)]
        yield
        for task in tasks:
            task.cancel()
        engine.close()
        for log in set(logs.values()):
            log.close()

    app = FastAPI(
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=lifespan,
        exception_handlers={
            ApiError: _responding(lambda error: error),
            RequestValidationError: _responding(lambda error: validation_error(error.errors())),
            HTTPException: _responding(
                lambda error: ApiError(error.status_code, str(error.detail))
            ),
            Exception: _responding(
                lambda error: ApiError(500, f"the answer failed: {type(error).__name__}")
            ),
        },
    )

    @app.get(HEALTH_PATH)
    def health() -> JSONResponse:
        state = engine.health()
        return JSONResponse({"status": state}, 200 if state == "ok" else 503)

    @app.get(METRICS_PATH)
    def counts() -> Response:
        return metrics.response()

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return models_response(engine.models)

    @app.get("/v1/models/{model}")
    async def model(model: str) -> dict[str, Any]:
        found = engine.models.find(model)
        if found is None:
            raise unknown_model(reprlib.repr(model))
        return model_response(found)

    @app.post("/v1/chat/completions")
    async def complete(body: ChatRequest, request: Request) -> Response:
        prepared = await engine.prepare(body)
        metadata = CompletionMetadata(prepared.assistant.id)
        chunks = remembered(
            metrics.measured(engine.generate(prepared), prepared, "endpoint"),
            prepared,
            logs.get(prepared.assistant.id),
            metadata.id,
            body.user or "",
        )
        try:
            if not body.stream:
                return JSONResponse(
                    await _until_disconnect(request, _complete(prepared, chunks, metadata))
                )
            # an error before the first chunk has its own status
            await _until_disconnect(request, anext(chunks))
        except ClientDisconnect:
            return Response(status_code=_CLIENT_GONE)
        return EventStream(_events(prepared, chunks, metadata, body.with_usage), chunks)

    @app.post("/v1/feedback", status_code=202)
    async def feedback(body: Feedback) -> dict[str, Any]:
        if not logs:
            raise ApiError(
                404, "this server keeps no questions; start it with --remember counts or texts"
            )
        for log in set(logs.values()):
            log.voted(body.id, body.vote, body.suggestion, body.chosen)
        return {"object": "feedback", "id": body.id}

    hosts = AllowedHosts(config.host, config.allow_host)
    guarded = ApiKeyMiddleware(
        app,
        hosts,
        key,
        without_key=answers_without_key(config) if without_key is None else without_key,
    )
    counted = metrics.counting_refusals(guarded)
    if config.widget:
        return Widget(counted, engine, config, hosts, logs=logs, metrics=metrics)
    return counted


def _responding(convert: Callable[[Any], ApiError]) -> Callable[..., Any]:
    async def respond(request: Request, error: Exception) -> Response:
        return convert(error).response()

    return respond


async def _complete(
    prepared: GenerationRequest,
    chunks: AsyncGenerator[StreamChunk, None],
    metadata: CompletionMetadata,
) -> dict[str, Any]:
    text, last = "", None
    async with aclosing(chunks):
        async for last in chunks:
            text += last.text
    assert last is not None and last.finish is not None
    return metadata.completion(text, last.finish, _usage(prepared, last), last.grounding)


def _usage(prepared: GenerationRequest, last: StreamChunk) -> dict[str, int]:
    """Token counts of an answer; the prompt's with the facts that were found for it."""
    return usage(
        prepared.prompt_tokens if last.prompt_tokens is None else last.prompt_tokens, last.tokens
    )


async def _events(
    prepared: GenerationRequest,
    chunks: AsyncGenerator[StreamChunk, None],
    metadata: CompletionMetadata,
    with_usage: bool,
) -> AsyncGenerator[str, None]:
    yield server_sent_event(metadata.chunk({"role": "assistant", "content": ""}))
    try:
        async for chunk in chunks:
            if chunk.text:
                yield server_sent_event(metadata.chunk({"content": chunk.text}))
            if chunk.finish:
                yield server_sent_event(metadata.chunk({}, chunk.finish, chunk.grounding))
                if with_usage:
                    yield server_sent_event(metadata.usage_chunk(_usage(prepared, chunk)))
    except ApiError as error:  # the status was sent with the first chunk
        yield server_sent_event(error.to_record())
    yield DONE


async def _until_disconnect(request: Request, work: Any) -> Any:
    """The result of ``work``, which is cancelled if the client disconnects first; raises ClientDisconnect then."""

    async def disconnected() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(disconnected())
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        for task in (working, watching):
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(working, watching, return_exceptions=True)
