"""Serve the page with uvicorn on a socket of its own: gradio is mounted behind authentication and request checks.

``launch()`` of gradio is not used: it requests its own address and gives up within seconds on a busy machine, it trusts
headers that any client can send, and it serves routes that the page does not use.
"""

from __future__ import annotations

import json
import signal
import socket
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from assistant_builder import i18n
from assistant_builder.ui import refresh, uploads
from assistant_builder.ui.gradio_internals import (
    BoundedStateHolder,
    close,
    is_pending,
    is_waiting,
    replace_state,
    slow_queue,
)
from assistant_builder.ui.html import STYLE_SHEETS, arm_styles
from assistant_builder.ui.languages import TranslatedBlocks
from assistant_builder.ui.refresh import Page
from assistant_builder.ui.uploads import uploads_folder
from assistant_builder.web.access import (
    Access,
    AllowedHosts,
    is_loopback,
    is_readable_by_others,
    listen,
)
from assistant_builder.web.body_limit import BodyLimitMiddleware
from assistant_builder.web.client_address import TrustedProxies
from assistant_builder.web.connections import limited_config
from assistant_builder.web.headers import RouteAllowlistMiddleware, SecurityHeadersMiddleware
from assistant_builder.web.language import LanguageMiddleware
from assistant_builder.web.middleware import (
    AuthMiddleware,
    Login,
    PasswordLogin,
    ProxyMiddleware,
    user_of,
)
from assistant_builder.web.sessions import SESSION, NameOwners
from assistant_builder.web.token_login import TokenLogin
from evals.report.render import chart_styles

_API = "/gradio_api"
_HEARTBEAT = f"{_API}/heartbeat/"
_DIRECT = f"{_API}/run/predict"
_SUBMIT_PATHS = (f"{_API}/queue/join", _DIRECT)
_FAILURE = b'{"error":null}'
"""Gradio's response to an event that failed without a message for the user."""
_MAX_NAME_LENGTH = 200
_UNKNOWN = {
    "msg": "unexpected_error",
    "message": "404: Not Found",
    "session_not_found": True,
    "success": False,
}
"""Gradio's message to a window that waits for no event; gradio raises an error after it."""


class EventGuard:
    """ASGI middleware that checks that a requested gradio event exists and that its window belongs to the login.

    Gradio checks no owner, and answers an unknown event or too few values with status 500 and a traceback in the log.
    """

    def __init__(self, app: ASGIApp, demo: gr.Blocks, windows: BoundedStateHolder) -> None:
        self._app, self._demo, self._owners = app, demo, NameOwners(windows.remove)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward or refuse the request."""
        response = self._refusal(scope) if scope["type"] == "http" else None
        direct = scope["type"] == "http" and scope["path"].rstrip("/") == _DIRECT
        await (response or self._app)(
            scope, receive, _with_refusal_status(send) if direct else send
        )

    def check_body(self, scope: Scope, tree: Any) -> Response | None:
        """Check a request with a JSON body; None if it is allowed."""
        if not isinstance(tree, dict):
            return _refused(400, "The request is not an object")
        window, path = tree.get("session_hash"), scope["path"].rstrip("/")
        if isinstance(window, str) and not self._owns(scope, [window]):
            return _foreign_window()
        if path == f"{_API}/cancel":
            pending = is_pending(self._demo, window, tree.get("event_id"))
            return None if pending else _refused(404, "There is no such event")
        if path not in _SUBMIT_PATHS:
            return None
        number, data = tree.get("fn_index"), tree.get("data")
        function = self._demo.fns.get(number) if type(number) is int else None
        if (
            function is None or function.fn is None
        ):  # only in the browser: JavaScript, or cancelling another event
            return _refused(404, "There is no such event")
        if not isinstance(data, list) or (
            len(data) < len(function.inputs) and not function.cancels
        ):
            return _refused(400, f"The event takes {len(function.inputs)} values")
        return None

    def _refusal(self, scope: Scope) -> Response | None:
        path, query = scope["path"], QueryParams(scope["query_string"])
        windows = query.getlist("session_hash")
        if path.startswith(_HEARTBEAT):
            windows.append(path.removeprefix(_HEARTBEAT).rstrip("/"))
        # the id of an upload's progress is owned like a window, under a name that no window has
        if not self._owns(
            scope, [*windows, *(f"upload {name}" for name in query.getlist("upload_id"))]
        ):
            return _foreign_window()
        if path.rstrip("/") == f"{_API}/queue/data" and windows and scope["method"] == "GET":
            if not is_waiting(self._demo, windows[-1]):
                return StreamingResponse(
                    iter([f"data: {json.dumps(_UNKNOWN)}\n\n"]), media_type="text/event-stream"
                )
        return None

    def _owns(self, scope: Scope, names: Iterable[str]) -> bool:
        return all(
            len(name) <= _MAX_NAME_LENGTH and self._owners.claim(name, scope.get(SESSION))
            for name in names
        )


def _with_refusal_status(send: Send) -> Send:
    """Send status 400 for an event that was refused with a message; gradio sends 500 for these and for failures."""
    failed: list[Message] = []

    async def send_with_status(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] == 500:
            if Headers(raw=message["headers"]).get("content-type") == "application/json":
                failed.append(message)  # its body is small and comes in one message
                return
        if failed:
            start = failed.pop()
            refused = (
                message.get("body", b"").replace(b" ", b"") != _FAILURE
            )  # true for a compressed body as well
            await send({**start, "status": 400} if refused else start)
        await send(message)

    return send_with_status


def _refused(status: int, detail: str) -> Response:
    return JSONResponse({"detail": detail, "error": detail}, status)


def _foreign_window() -> Response:
    """The response to a request for another login's window; the page reloads and gets a window of its own."""
    return JSONResponse(
        {"detail": "This window belongs to another login. Reload the page."},
        403,
        {"X-Log-In": "/login"},
    )


class DocumentMiddleware:
    """ASGI middleware that completes the document of the page: its language, and scripts before all others.

    Gradio's document is in English, and its ``head`` comes after its own scripts.
    """

    def __init__(self, app: ASGIApp, script: str) -> None:
        self._app, self._script = app, f"<head><script>{script}</script>".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and complete its response."""
        if scope["type"] != "http" or scope["path"] != "/":
            return await self._app(scope, receive, send)
        kept: list[Message] = []

        async def send_changed(message: Message) -> None:
            kept.append(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                language = f'lang="{i18n.language()}" dir="{i18n.direction()}"'.encode()
                body = b"".join(part.get("body", b"") for part in kept[1:])
                body = body.replace(b'lang="en"', language, 1).replace(b"<head>", self._script, 1)
                start = kept[0]
                MutableHeaders(raw=start["headers"])["content-length"] = str(len(body))
                await send(start)
                await send({"type": "http.response.body", "body": body})

        plain = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
        await self._app({**scope, "headers": plain}, receive, send_changed)


_QUEUE_LIMIT = 8
"""Concurrent runs of an event that sets no limit of its own."""
_QUEUE_SECONDS = 0.05
"""How often gradio's queue looks for events; its own millisecond costs an idle server some percent of a core."""
_SHUTDOWN_SECONDS = 3
"""How long a stopping server waits for responses in progress."""
_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
_MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]
_LOG_IN_AGAIN, _LANGUAGE, _FRAMES = (
    (Path(__file__).parent / "scripts" / name).read_text(encoding="utf-8")
    for name in ("log_in_again.js", "language.js", "frames.js")
)


def serve_page(build: Callable[[], Page], access: Access) -> None:
    """Serve a page until it is interrupted; it is built after the socket is bound.

    Raises:
        ConfigError: The page would be open to everyone, or the address cannot be bound.
    """
    warnings = access.check()
    listener = listen(
        access.host, access.port
    )  # from here on, connections wait until the page is ready
    address, port = listener.getsockname()[:2]
    if is_loopback(
        access.host
    ):  # of a name such as localhost, another user's server may have the other address
        access = replace(access, host=address, allowed_hosts=(access.host, *access.allowed_hosts))
    access = replace(access, port=port)
    app, stop = page_app(build(), access)
    config = limited_config(
        app,
        listener,
        proxy=access.proxy,
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="on",
        proxy_headers=False,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        ssl_certfile=access.certificate,
        ssl_keyfile=access.key,
    )
    if access.needs_token and is_readable_by_others(sys.stdout):
        warnings.append(
            "the output has the token of the page and is written to a file that other users may read; run "
            "'umask 077' before, or use --auth USER"
        )
    ready = [f"warning: {line}" for line in warnings]
    ready.append(f"Assistant Builder is at {access.start_url} (Ctrl-C ends the page; runs go on)")

    def exit_on_signal(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)  # a normal exit, so that exit handlers run

    previous = signal.signal(signal.SIGTERM, exit_on_signal)
    try:
        _Server(config, ready, stop).run(sockets=[listener])
    except KeyboardInterrupt:
        pass  # uvicorn has already stopped and re-raises the signal
    finally:
        signal.signal(signal.SIGTERM, previous)


_LIGHT_AND_DARK = {
    "body_background_fill": ("#f5f6f9", "#0e1117"),
    "body_text_color_subdued": ("#59637a", "#9aa4b8"),
    "background_fill_secondary": ("#ffffff", "#171b24"),
    "block_background_fill": ("#ffffff", "#171b24"),
    "block_border_color": ("#e3e6ec", "#2a303c"),
    "block_label_background_fill": ("transparent", "transparent"),
    "block_title_text_color": ("*body_text_color", "*body_text_color"),
    "block_info_text_color": ("*body_text_color_subdued", "*body_text_color_subdued"),
    "border_color_primary": ("#e3e6ec", "#2a303c"),
    "input_background_fill": ("#ffffff", "#0e1117"),
    "input_border_color": ("#cfd5df", "#3a4252"),
    "button_primary_background_fill": ("*primary_700", "*primary_600"),
    "button_secondary_background_fill": ("#ffffff", "#222836"),
    "button_secondary_border_color": ("#cfd5df", "#3a4252"),
}
_BOTH = {
    "block_border_width": "1px",
    "block_title_text_weight": "600",
    "block_title_text_size": "13px",
    "block_info_text_size": "12px",
    "block_label_text_color": "*body_text_color_subdued",
    "block_padding": "10px 12px",
    "input_border_width": "1px",
    "button_primary_background_fill_hover": "*primary_800",
    "button_primary_text_color": "#ffffff",
    "button_secondary_background_fill_hover": "#eef0f5",
    "button_border_width": "1px",
    "button_large_text_weight": "600",
    "layout_gap": "14px",
    "form_gap_width": "12px",
}
"""Values of gradio's theme variables for the light and the dark theme, and for both."""


def make_theme() -> gr.themes.Base:
    """The theme of the page; it uses system fonts only, so that nothing is fetched from other hosts."""
    light = {name: value for name, (value, _) in _LIGHT_AND_DARK.items()}
    dark = {f"{name}_dark": value for name, (_, value) in _LIGHT_AND_DARK.items()}
    base = gr.themes.Base(
        primary_hue="indigo", neutral_hue="slate", radius_size="lg", font=_FONTS, font_mono=_MONO
    )
    return base.set(**_BOTH, **light, **dark)


def page_app(page: Page, access: Access) -> tuple[ASGIApp, Callable[[], None]]:
    """The ASGI app with all middleware around gradio, and the function to call before the server shuts down."""
    folder, demo = uploads_folder(), page.demo
    if page.build is not None and isinstance(demo, TranslatedBlocks):
        demo.translate(page.build)
    login = _login(access)
    outer = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    outer.add_route(
        uploads.PATH, uploads.Uploads(folder, access.limits, demo).answer, methods=["POST"]
    )
    outer.add_route(refresh.PATH, refresh.pulse_route(page.sections), methods=["GET"])
    demo.queue(default_concurrency_limit=_QUEUE_LIMIT)
    slow_queue(demo, _QUEUE_SECONDS)
    gr.mount_gradio_app(
        outer,
        demo,
        path="/",
        server_name=access.host,
        server_port=access.port,
        theme=make_theme(),
        css=f"{arm_styles()}\n.ab-intervals {{ {chart_styles()} }}",
        css_paths=STYLE_SHEETS,
        footer_links=[],
        show_error=False,
        js=_LOG_IN_AGAIN if login is not None else None,
        auth_dependency=user_of if access.user is not None else None,
        max_file_size=access.limits.file_bytes,
        allowed_paths=[],
        blocked_paths=[],
        ssr_mode=False,
        enable_monitoring=False,
        run_history=False,
        mcp_server=False,
        pwa=False,
    )
    windows = BoundedStateHolder()
    inner = replace_state(outer, demo, windows)

    events = EventGuard(outer, demo, windows)
    app: ASGIApp = DocumentMiddleware(events, _LANGUAGE + _FRAMES)
    app = BodyLimitMiddleware(app, access.limits, folder, uploads.PATH, events.check_body)
    app = RouteAllowlistMiddleware(app, folder, (refresh.PATH,))
    app = AuthMiddleware(app, AllowedHosts(access.host, access.allowed_hosts), login)
    app = ProxyMiddleware(
        SecurityHeadersMiddleware(LanguageMiddleware(app)), TrustedProxies(access.proxy)
    )
    return app, lambda: close(demo, inner)


def _login(access: Access) -> Login | None:
    """How the page is opened; None: by everyone."""
    if access.user is not None and access.password is not None:
        return PasswordLogin(access.user, access.password)
    return None if access.allow_without_password else TokenLogin(access.token)


class _Server(uvicorn.Server):
    """Prints when it is ready, and ends open event streams at shutdown, which would otherwise never end."""

    def __init__(self, config: uvicorn.Config, ready: list[str], stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready, self._stop = ready, stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for line in self._ready:
            print(line, file=sys.stderr if line.startswith("warning") else sys.stdout, flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stop()
        await super().shutdown(sockets)
