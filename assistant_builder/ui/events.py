"""Checks of requests for gradio's events, before gradio sees them: whose window it is, and whether the event exists.

Gradio answers with the status 500 and a traceback in the log where an event does not exist or gets too few values, and
keeps no window from whoever names it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import gradio as gr
from starlette.datastructures import Headers, QueryParams
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from assistant_builder.access.ownership import Owners
from assistant_builder.access.sessions import SESSION
from assistant_builder.ui.windows import Windows

_API = "/gradio_api"
_HEARTBEAT = f"{_API}/heartbeat/"
_DIRECT = f"{_API}/run/predict"
_STARTS = (f"{_API}/queue/join", _DIRECT)
_FAILURE = b'{"error":null}'
"""What gradio answers where an event failed without a sentence for people."""
_LONGEST_NAME = 200
_UNKNOWN = {"msg": "unexpected_error", "message": "404: Not Found", "session_not_found": True, "success": False}
"""What gradio sends to a window that waits for no event, before it fails with a traceback."""


class Events:
    """ASGI middleware next to gradio.

    Args:
        app: What is behind it.
        demo: The page.
        windows: What is kept of its windows.
    """

    def __init__(self, app: ASGIApp, demo: gr.Blocks, windows: Windows) -> None:
        self._app = app
        self._demo = demo
        self._owners = Owners(windows.forget)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        response = self._refusal(scope) if scope["type"] == "http" else None
        direct = scope["path"].rstrip("/") == _DIRECT if scope["type"] == "http" else False
        await (response or self._app)(scope, receive, _with_status_of_refusals(send) if direct else send)

    def judge(self, scope: Scope, tree: Any) -> Response | None:
        """The refusal of a request with a body; None: it may pass.

        Args:
            scope: The request.
            tree: Its JSON.
        """
        if not isinstance(tree, dict):
            return _refused(400, "The request is not an object")
        window, path = tree.get("session_hash"), scope["path"].rstrip("/")
        if isinstance(window, str) and not self._owns(scope, [window]):
            return _not_yours()
        if path == f"{_API}/cancel":
            running = self._demo._queue.pending_event_ids_session.get(window, ()) if isinstance(window, str) else ()
            return None if tree.get("event_id") in list(running) else _refused(404, "There is no such event")
        return self._not_an_event(tree) if path in _STARTS else None

    def _not_an_event(self, tree: dict[str, Any]) -> Response | None:
        number, data = tree.get("fn_index"), tree.get("data")
        function = self._demo.fns.get(number) if type(number) is int else None
        if function is None or (function.fn is None and not function.cancels):  # those of the browser alone have none
            return _refused(404, "There is no such event")
        if not isinstance(data, list) or (len(data) < len(function.inputs) and not function.cancels):
            return _refused(400, f"The event takes {len(function.inputs)} values")
        return None

    def _refusal(self, scope: Scope) -> Response | None:
        path = scope["path"]
        query = QueryParams(scope["query_string"])
        windows = query.getlist("session_hash")
        if path.startswith(_HEARTBEAT):
            windows.append(path.removeprefix(_HEARTBEAT).rstrip("/"))
        # the progress of an upload names its file; it is a name of its own kind
        if not self._owns(scope, [*windows, *(f"upload {name}" for name in query.getlist("upload_id"))]):
            return _not_yours()
        if path.rstrip("/") == f"{_API}/queue/data" and windows and scope["method"] == "GET":
            if windows[-1] not in self._demo._queue.pending_messages_per_session:
                return StreamingResponse(iter([f"data: {json.dumps(_UNKNOWN)}\n\n"]), media_type="text/event-stream")
        return None

    def _owns(self, scope: Scope, names: Iterable[str]) -> bool:
        return all(len(name) <= _LONGEST_NAME and self._owners.claim(name, scope.get(SESSION)) for name in names)


def _with_status_of_refusals(send: Send) -> Send:
    """Gives what an event refuses with a sentence the status 400; gradio says 500 of those and of failures alike."""
    failed: list[Message] = []

    async def send_with_status(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] == 500:
            if Headers(raw=message["headers"]).get("content-type") == "application/json":
                failed.append(message)  # what it announces is small, and in one piece
                return
        if failed:
            start = failed.pop()
            refused = message.get("body", b"").replace(b" ", b"") != _FAILURE  # also where it is compressed
            await send({**start, "status": 400} if refused else start)
        await send(message)

    return send_with_status


def _refused(status: int, detail: str) -> Response:
    return JSONResponse({"detail": detail, "error": detail}, status)


def _not_yours() -> Response:
    """The page reloads at this, which gives it a window of its own."""
    return JSONResponse({"detail": "This window belongs to another login. Reload the page."}, 403,
                        {"X-Log-In": "/login"})
