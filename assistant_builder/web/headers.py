"""Security headers of every response, and the allowlist of routes.

The page escapes texts from files itself; the headers are a second line of defence for what libraries render.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from assistant_builder.web.middleware import send_response
from assistant_builder.web.sessions import SESSION, may_read

# gradio uses inline scripts and compiles its HTML templates; plotly compiles its number formats
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' data: blob:; media-src 'self' data: blob:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # with "no-referrer", browsers send our own forms with "Origin: null"
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}
_CACHEABLE = ("/assets/", "/static/", "/svelte/")
"""Static files of gradio, which a browser may cache; all other responses may contain study data."""
_API = "/gradio_api"
_FILE = f"{_API}/file="
_GRADIO_ROUTES = {"/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt"}
_API_ROUTES = """info theme.css app_id upload upload_progress queue/join queue/data queue/status cancel reset
run/predict"""
_GRADIO_FOLDERS = (*_CACHEABLE, f"{_API}/heartbeat/")


class SecurityHeadersMiddleware:
    """ASGI middleware that puts :data:`HEADERS` on every response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and add the headers to its response."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if not scope.get("path", "").startswith(_CACHEABLE):
                    headers["Cache-Control"] = "no-store"
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


class RouteAllowlistMiddleware:
    """ASGI middleware that allows only the gradio routes that the page uses, and ``routes``.

    The other routes fetch files from other hosts, record the screen, edit code or deploy: the page needs none of them,
    and each is an attack surface. ``files`` is the folder of uploads and of files offered for download.
    """

    def __init__(self, app: ASGIApp, files: Path, routes: Iterable[str] = ()) -> None:
        self._app = app
        self._files = files
        self._routes = {*_GRADIO_ROUTES, *routes} | {
            f"{_API}/{name}" for name in _API_ROUTES.split()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or respond with 404."""
        if scope["type"] == "lifespan" or self._is_allowed(scope):
            return await self._app(scope, receive, send)
        await send_response(PlainTextResponse("Not found\n", status_code=404), scope, receive, send)

    def _is_allowed(self, scope: Scope) -> bool:
        if scope["type"] != "http":
            return False
        path: str = scope["path"]
        if path.startswith(_FILE):
            return may_read(path.removeprefix(_FILE), self._files, scope.get(SESSION))
        return (
            path in self._routes
            or path.rstrip("/") in self._routes
            or path.startswith(_GRADIO_FOLDERS)
        )
