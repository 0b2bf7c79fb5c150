"""The gate in front of everything the server answers: the name it is asked by, who asks, and whether they are in."""

from __future__ import annotations

import anyio
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from assistant_builder.access.connections import mark_trusted
from assistant_builder.access.hosts import Hosts, from_elsewhere
from assistant_builder.access.login import PATHS, Login
from assistant_builder.access.sessions import SESSION, Session

_UNTRUSTED = (b"x-forwarded-", b"x-gradio-", b"forwarded")
"""Headers from which gradio would make the addresses of its links; a proxy's were read by the server before."""
_ELSEWHERE = (
    "This request was sent by another page, or through a proxy that Assistant Builder does not know. "
    "Open the page itself; behind a proxy that speaks https, start it with --proxy ADDRESS.\n"
)


class Gate:
    """ASGI middleware; http requests and websockets alike pass it or end here.

    Args:
        app: What is behind it.
        hosts: The server's names.
        login: Asks for a password; None: nobody is asked.
    """

    def __init__(self, app: ASGIApp, hosts: Hosts, login: Login | None = None) -> None:
        self._app = app
        self._hosts = hosts
        self._login = login

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it."""
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is None and self._login is not None and scope["type"] == "http" and scope["path"] in PATHS:
            refusal = await self._login.answer(Request(scope, receive))
        session = self._login.session(scope) if self._login is not None and refusal is None else None
        if refusal is None and self._login is not None and session is None:
            refusal = self._login.refuse(Request({**scope, "type": "http", "method": scope.get("method", "WEBSOCKET")}))
        if refusal is not None:
            return await _answer(refusal, scope, receive, send)
        mark_trusted(scope)
        trusted = [pair for pair in scope["headers"] if not pair[0].lower().startswith(_UNTRUSTED)]
        inside = {**scope, "headers": trusted, "assistant_builder.user": session.user if session else None,
                  SESSION: session}
        if self._login is None or session is None:
            return await self._app(inside, receive, send)
        if scope["type"] == "http" and scope["path"] == "/":
            self._login.sessions.touch(session)  # opening the page is something that a person does
        await self._while_logged_in(session, self._login, inside, receive, send)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        name = headers.get("host")
        if not self._hosts.knows(name) or len(headers.getlist("host")) != 1:
            shown = (name or "").encode("ascii", errors="replace").decode("ascii")[:100]
            return PlainTextResponse(
                f"Assistant Builder is not asked by the name {shown!r}. If that is its name, start it with "
                "--allow-host NAME.\n", status_code=421,
            )
        if from_elsewhere(scope, headers):
            return PlainTextResponse(_ELSEWHERE, status_code=403)
        return None

    async def _while_logged_in(
        self, session: Session, login: Login, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answer for as long as the session lasts: a stream of events must not outlive it.

        What was begun is not broken off. A stream is told that the other side is gone, as it is when a page is closed.
        """
        over, begun, ended = False, False, False
        waits: set[anyio.CancelScope] = set()

        def close() -> None:
            nonlocal over
            over = True
            for wait in waits:
                wait.cancel()

        async def receive_in_session() -> Message:
            if not over:
                with anyio.CancelScope() as wait:
                    waits.add(wait)
                    try:
                        return await receive()
                    finally:
                        waits.discard(wait)
            return {"type": "http.disconnect"}

        async def send_in_session(message: Message) -> None:
            nonlocal begun, ended
            begun = True
            ended = message["type"] == "http.response.body" and not message.get("more_body", False)
            if not ended:
                login.session(scope)  # notices that its time is over
            await send(message)

        session.open_answers.add(close)
        try:
            streams = scope["type"] == "http" and scope["method"] == "GET"
            await self._app(scope, receive_in_session if streams else receive, send_in_session)
        finally:
            session.open_answers.discard(close)
        if over and begun and not ended:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _answer(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": ""})
    else:
        await response(scope, receive, send)
