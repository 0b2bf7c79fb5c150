"""What the server keeps of each window of the page, for as long as it may be needed.

Gradio 6.31 would let it grow. An update makes a component anew, under another number; the next event that reads it
files it under that number too, value and all, so that every question of a long conversation stays in memory. And
windows that were closed are kept until 10,000 newer ones have come, at about a megabyte each.

Checks of requests for gradio's events, before gradio sees them: whose window it is, and whether the event exists.

Gradio answers with the status 500 and a traceback in the log where an event does not exist or gets too few values, and
keeps no window from whoever names it.

Serving the page: our own socket and uvicorn, gradio mounted inside, the gate in front of everything.

``launch()`` of gradio is not used. It asks its own address whether it answers and gives up within seconds on a busy
machine, it trusts headers that any client can send, and it answers what is never asked for here.
"""

from __future__ import annotations

import json
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import gradio as gr
import uvicorn
from fastapi import FastAPI
from gradio.blocks import Block
from gradio.state_holder import SessionState, StateHolder
from starlette.datastructures import Headers, QueryParams
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from assistant_builder.ui import refresh, uploads
from assistant_builder.ui.html import STYLE_SHEETS, arm_styles, make_theme
from assistant_builder.ui.refresh import Page
from assistant_builder.ui.uploads import uploads_folder
from assistant_builder.web.access import Access, AllowedHosts, listen
from assistant_builder.web.headers import RouteAllowlistMiddleware, SecurityHeadersMiddleware
from assistant_builder.web.middleware import AuthMiddleware, BodyLimitMiddleware, Login, user_of
from assistant_builder.web.request_limits import limited_config
from assistant_builder.web.sessions import SESSION, NameOwners

CLOSED_KEPT = 20
"""Windows that are closed but kept, in case their computers only slept."""


class Window(SessionState):
    """The components of one window: one for each number, however often they are made anew."""

    def __setitem__(self, key: int, value: Any) -> None:
        if isinstance(value, Block):
            value._id = key
        super().__setitem__(key, value)


class BoundedStateHolder(StateHolder):
    """The windows by their names, those used last at the end."""

    def __getitem__(self, session_id: str) -> SessionState:
        if session_id not in self.session_data:
            self.session_data[session_id] = Window(self.blocks)
        return super().__getitem__(session_id)

    def forget(self, session_id: str) -> None:
        """Drop what is kept of a window."""
        with self.lock:
            self.session_data.pop(session_id, None)
            self.time_last_used.pop(session_id, None)

    def update(self, session_id: str) -> None:
        """Note that a window is used, and forget closed ones that have not been for longest."""
        super().update(session_id)
        with self.lock:
            closed = [name for name, window in self.session_data.items() if window.is_closed and name != session_id]
            for name in closed[:-CLOSED_KEPT]:
                del self.session_data[name]
                self.time_last_used.pop(name, None)


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

    def __init__(self, app: ASGIApp, demo: gr.Blocks, windows: BoundedStateHolder) -> None:
        self._app = app
        self._demo = demo
        self._owners = NameOwners(windows.forget)

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


_QUEUE_LIMIT = 8
"""Events of one kind that are worked on at a time, where the event itself does not say."""
_LEAVE_SECONDS = 3
"""How long a server that was asked to stop waits for the answers it has begun."""
_LOG_IN_AGAIN = (Path(__file__).parent / "scripts" / "log_in_again.js").read_text(encoding="utf-8")


class Serving:
    """A page that is being served.

    Args:
        server: Answers the requests.
        access: Where it does.
    """

    def __init__(self, server: uvicorn.Server, access: Access) -> None:
        self._server = server
        self._thread: threading.Thread | None = None
        self.access = access

    @property
    def url(self) -> str:
        """The page's address."""
        return self.access.url

    def run(self, listener: socket.socket) -> None:
        """Serve until interrupted."""
        previous = signal.signal(signal.SIGTERM, _leave)
        try:
            self._server.run(sockets=[listener])
        except KeyboardInterrupt:
            pass  # the server has stopped by then; it only hands the signal on
        finally:
            signal.signal(signal.SIGTERM, previous)

    def start(self, listener: socket.socket) -> None:
        """Serve from a thread; connections are taken from now on and answered as soon as it is ready."""
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listener]}, name="page", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop serving, and wait for it."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join()


def serve_page(build: Callable[[], Page], access: Access, *, block: bool = True) -> Serving:
    """Serve a page.

    Args:
        build: Makes the page, or gives it where it is made already; called once it is clear that it can be served.
        access: Where, and to whom.
        block: Return when it is interrupted; else at once, and serve from a thread.

    Raises:
        ConfigError: It would be open to everyone, or cannot listen there.
    """
    warnings = access.check()
    listener = listen(access.host, access.port)  # who connects from now on waits until the page is ready
    access = replace(access, port=listener.getsockname()[1])
    app, stop = page_app(build(), access)
    config = limited_config(
        app, access.connections, proxy=access.proxy, log_level="warning", access_log=False, server_header=False,
        lifespan="on", proxy_headers=bool(access.proxy), forwarded_allow_ips=access.proxy or None,
        timeout_graceful_shutdown=_LEAVE_SECONDS, ssl_certfile=access.certificate, ssl_keyfile=access.key,
    )
    ready = [f"warning: {line}" for line in warnings]
    if block:
        ready.append(f"Assistant Builder is at {access.url} (Ctrl-C ends the page; runs go on)")
    serving = Serving(_Server(config, ready, stop), access)
    if block:
        serving.run(listener)
    else:
        serving.start(listener)
    return serving


def page_app(page: Page, access: Access) -> tuple[ASGIApp, Callable[[], None]]:
    """Everything that answers a request, from the outermost layer to gradio.

    Returns:
        The ASGI app, and what to call as soon as it is to stop.
    """
    folder, demo = uploads_folder(), page.demo
    login = Login(access.user, access.password) if access.user is not None and access.password is not None else None
    outer = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    outer.add_route(uploads.PATH, uploads.Uploads(folder, access.limits, demo).answer, methods=["POST"])
    outer.add_route(refresh.PATH, refresh.pulse_route(page.sections), methods=["GET"])
    gr.mount_gradio_app(
        outer, demo.queue(default_concurrency_limit=_QUEUE_LIMIT), path="/", server_name=access.host,
        server_port=access.port, theme=make_theme(), css=arm_styles(), css_paths=STYLE_SHEETS, footer_links=[],
        show_error=False,
        js=_LOG_IN_AGAIN if login is not None else None, auth_dependency=user_of if login is not None else None,
        max_file_size=access.limits.file_bytes, allowed_paths=[], blocked_paths=[], ssr_mode=False,
        enable_monitoring=False, run_history=False, mcp_server=False, pwa=False,
    )
    # mounting leaves this off, and without it gradio checks no file that a request names
    demo.has_launched = True
    inner = outer.routes[-1].app  # type: ignore[attr-defined]
    windows = BoundedStateHolder()
    inner.state_holder = windows
    windows.set_blocks(demo)

    def stop() -> None:
        demo.is_running = False
        demo._queue.close()
        inner.stop_event.set()

    events = Events(outer, demo, windows)
    app: ASGIApp = BodyLimitMiddleware(events, access.limits, folder, uploads.PATH, events.judge)
    app = RouteAllowlistMiddleware(app, folder, (refresh.PATH,))
    app = AuthMiddleware(app, AllowedHosts(access.host, access.allowed_hosts), login)
    return SecurityHeadersMiddleware(app), stop


class _Server(uvicorn.Server):
    """Says when it is ready, and lets go of open streams when it stops: those would never end by themselves."""

    def __init__(self, config: uvicorn.Config, ready: list[str], stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready
        self._stop = stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for line in self._ready:
            print(line, file=sys.stderr if line.startswith("warning") else sys.stdout, flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stop()
        await super().shutdown(sockets)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """End the ordinary way, so that what is tidied up at exit is."""
    raise SystemExit(128 + number)
