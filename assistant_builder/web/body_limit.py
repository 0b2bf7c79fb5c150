"""Limits on the bodies of requests, and checks of the JSON in them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from assistant_builder.i18n.quantities import format_bytes
from assistant_builder.web.sessions import SESSION, may_read
from assistant_builder.web.upload_limits import Limits

_SURROGATE = re.compile(rb"\\ud[89a-f]", re.IGNORECASE)
"""JSON escapes of surrogates, which are valid text only in pairs."""


class BodyLimitMiddleware:
    """ASGI middleware that checks the JSON body of every request except uploads, which have their own limits.

    ``check_request`` returns an error response for a scope and its JSON body, or None to pass the request on.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        uploads: Path,
        upload_path: str,
        check_request: Callable[[Scope, Any], Response | None] = lambda scope, tree: None,
    ) -> None:
        self._app = app
        self._limits = limits
        self._uploads = uploads
        self._upload_path = upload_path
        self._check_request = check_request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read and check the body, then pass the request on."""
        if (
            scope["type"] != "http"
            or scope["method"] in ("GET", "HEAD")
            or scope["path"] == self._upload_path
        ):
            return await self._app(scope, receive, send)
        announced = Headers(scope=scope).get("content-length", "")
        try:
            too_large = announced.isdigit() and int(announced) > self._limits.message_bytes
            body = None if too_large else await read_body(receive, self._limits.message_bytes)
        except ClientDisconnect:
            return
        error = self._check_body(scope, body)
        if error is not None:
            return await error(scope, receive, send)
        await self._app(scope, replay_body(body or b"", receive), send)

    def _check_body(self, scope: Scope, body: bytes | None) -> Response | None:
        if body is None:
            most = format_bytes(self._limits.message_bytes)
            return JSONResponse({"detail": f"The request is larger than {most}"}, status_code=413)
        if not body:
            return None
        try:
            tree = json.loads(body)
            if _SURROGATE.search(body):
                json.dumps(tree, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            return JSONResponse(
                {"detail": "The request contains an unpaired surrogate"}, status_code=400
            )
        except (ValueError, RecursionError):
            return JSONResponse({"detail": "The request is not JSON"}, status_code=400)
        host, session = Headers(scope=scope).get("host", ""), scope.get(SESSION)
        if all(may_read(path, self._uploads, session) for path in referenced_files(tree, host)):
            return self._check_request(scope, tree)
        return JSONResponse(
            {"detail": "The request names a file that was not uploaded here"}, status_code=403
        )


def referenced_files(tree: Any, host: str) -> Iterator[str]:
    """Yield every file that gradio would read for a JSON body, at any depth; empty for a URL of another host."""
    waiting = [tree]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            waiting += part.values()
            meta = part.get("meta")
            if isinstance(meta, Mapping) and meta.get("_type") == "gradio.FileData":
                yield str(part.get("path") or "")
                if part.get("url"):
                    yield _file_of_url(str(part["url"]), host)
        elif isinstance(part, list):
            waiting += part


def _file_of_url(url: str, host: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    ours = parts.netloc == host if parts.scheme or parts.netloc else True
    return unquote(parts.path.partition("/gradio_api/file=")[2]) if ours else ""


async def read_body(receive: Receive, most: int) -> bytes | None:
    """Read the body of a request; returns None, and stops reading, if it is larger than ``most`` bytes.

    Raises ClientDisconnect if the client disconnected before the body was complete.
    """
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            return None
        if not message.get("more_body", False):
            return b"".join(parts)


def replay_body(body: bytes, receive: Receive) -> Receive:
    """A receive function that first returns a body that was read already."""
    replayed = False

    async def receive_again() -> Message:
        nonlocal replayed
        if replayed:
            return await receive()
        replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again
