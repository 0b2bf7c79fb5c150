"""The endpoint: the routes of OpenAI's that a chat client needs, and one for whoever watches the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from assistant_builder.config.serving import ServingConfig
from assistant_builder.serving import wire
from assistant_builder.serving.asked import ChatRequest, refusal_for
from assistant_builder.serving.door import OPEN, Door
from assistant_builder.serving.engine import Engine, Piece, Question
from assistant_builder.serving.refusals import Refusal
from assistant_builder.web.access import AllowedHosts

_CLIENT_GONE = 499
"""nginx's number for a request whose client did not wait; nobody reads it."""


def make_app(engine: Engine, config: ServingConfig, key: bytes | None) -> ASGIApp:
    """Everything that answers a request, from the outermost layer to the engine.

    Args:
        engine: The assistants; loads them with the app's start and ends with it.
        config: The server's names.
        key: Digest of the key that clients have to bring.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=_lifespan(engine))
    _add_errors(app)

    @app.get(OPEN)
    def health() -> JSONResponse:
        state = engine.health()
        return JSONResponse({"status": state}, 200 if state == "ok" else 503)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return wire.models(engine.roster)

    @app.get("/v1/models/{model}")
    async def model(model: str) -> dict[str, Any]:
        found = engine.roster.find(model)
        if found is None:
            raise Refusal(404, f"the model {model!r} does not exist", code="model_not_found", param="model")
        return wire.model(found)

    @app.post("/v1/chat/completions")
    async def complete(asked: ChatRequest, request: Request) -> Response:
        question = await engine.question(asked)
        pieces = engine.answer(question)
        try:
            if not asked.stream:
                return JSONResponse(await _unless_gone(request, _whole(question, pieces)))
            await _unless_gone(request, anext(pieces))  # what fails before the answer begins has a status of its own
        except ClientDisconnect:
            return Response(status_code=_CLIENT_GONE)
        return _Stream(_events(question, pieces, asked.with_usage), pieces)

    return Door(app, AllowedHosts(config.host, config.allow_host), key)


def _lifespan(engine: Engine) -> Any:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        telling = asyncio.create_task(engine.tell_failure())
        yield
        telling.cancel()
        engine.close()

    return lifespan


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(Refusal)
    async def refused(request: Request, refusal: Refusal) -> Response:
        return refusal.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return refusal_for(error.errors()).response()

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        return Refusal(error.status_code, str(error.detail)).response()

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> Response:
        return Refusal(500, f"the answer failed: {type(error).__name__}").response()


async def _whole(question: Question, pieces: AsyncGenerator[Piece, None]) -> dict[str, Any]:
    text, last = "", None
    async with aclosing(pieces):
        async for last in pieces:
            text += last.text
    assert last is not None and last.finish is not None
    return wire.Envelope(question.assistant.id).whole(
        text, last.finish, wire.usage(question.prompt_tokens, last.tokens)
    )


async def _events(
    question: Question, pieces: AsyncGenerator[Piece, None], with_usage: bool
) -> AsyncGenerator[str, None]:
    envelope = wire.Envelope(question.assistant.id)
    yield wire.event(envelope.piece({"role": "assistant", "content": ""}))
    try:
        async for piece in pieces:
            if piece.text:
                yield wire.event(envelope.piece({"content": piece.text}))
            if piece.finish:
                yield wire.event(envelope.piece({}, piece.finish))
                if with_usage:
                    yield wire.event(envelope.last(wire.usage(question.prompt_tokens, piece.tokens)))
    except Refusal as refusal:  # the status is sent already
        yield wire.event(refusal.to_record())
    yield wire.DONE


class _Stream(StreamingResponse):
    """Ends the answer with the response, however that ends; a generator that is dropped would end some time later."""

    def __init__(self, events: AsyncGenerator[str, None], pieces: AsyncGenerator[Piece, None]) -> None:
        super().__init__(events, media_type="text/event-stream",
                         headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._open = (events, pieces)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            for generator in self._open:
                await generator.aclose()


async def _unless_gone(request: Request, work: Any) -> Any:
    """What ``work`` comes to; it is ended where the client goes before that.

    Raises:
        ClientDisconnect: The client went.
    """

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(gone())
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
