"""What requests carry: not too much, and no name of a file that was not uploaded.

Gradio looks after the files that a component takes, but copies whatever file of the working or temporary folder a
value names on its way *out*; a value that merely passes through would fetch them. So no such name comes in.
"""

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

from assistant_builder.access.limits import Limits, shown_size
from assistant_builder.access.ownership import may_read
from assistant_builder.access.sessions import SESSION

_SURROGATE = re.compile(rb"\\ud[89a-f]", re.IGNORECASE)
"""What JSON spells characters with that are no text by themselves."""


class Bodies:
    """ASGI middleware for every request but uploads, which have a limit of their own.

    Args:
        app: What is behind it.
        limits: How much may be sent.
        uploads: The folder of uploaded files.
        upload_path: Where uploads are sent to.
        judge: Gives the response that refuses a request, from its scope and its JSON; None: it may pass.
    """

    def __init__(
        self, app: ASGIApp, limits: Limits, uploads: Path, upload_path: str,
        judge: Callable[[Scope, Any], Response | None] = lambda scope, tree: None,
    ) -> None:
        self._app = app
        self._limits = limits
        self._uploads = uploads
        self._upload_path = upload_path
        self._judge = judge

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body, judge it, and pass it on whole."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD") or scope["path"] == self._upload_path:
            return await self._app(scope, receive, send)
        told = Headers(scope=scope).get("content-length", "")
        body = b"" if not told.isdigit() or int(told) <= self._limits.message_bytes else None
        if body is not None:
            try:
                body = await read_body(receive, self._limits.message_bytes)
            except ClientDisconnect:
                return
        refusal = self._judged(scope, body)
        if refusal is not None:
            return await refusal(scope, receive, send)
        await self._app(scope, replayed(body or b"", receive), send)

    def _judged(self, scope: Scope, body: bytes | None) -> Response | None:
        if body is None:
            most = shown_size(self._limits.message_bytes)
            return JSONResponse({"detail": f"The request is larger than {most}"}, status_code=413)
        if not body:
            return None
        try:
            tree = json.loads(body)
            if _SURROGATE.search(body):
                json.dumps(tree, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            return JSONResponse({"detail": "Half of a surrogate pair is not text"}, status_code=400)
        except (ValueError, RecursionError):
            return JSONResponse({"detail": "The request is not JSON"}, status_code=400)
        host, session = Headers(scope=scope).get("host", ""), scope.get(SESSION)
        if all(may_read(path, self._uploads, session) for path in file_names(tree, host)):
            return self._judge(scope, tree)
        return JSONResponse({"detail": "The request names a file that was not uploaded here"}, status_code=403)


def file_names(tree: Any, host: str) -> Iterator[str]:
    """Every file that gradio would find named in a request, at any depth; an empty name for one elsewhere.

    Args:
        tree: The request.
        host: Its Host header.
    """
    waiting = [tree]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            waiting += part.values()
            meta = part.get("meta")
            if isinstance(meta, Mapping) and meta.get("_type") == "gradio.FileData":
                yield str(part.get("path") or "")
                if part.get("url"):
                    yield _behind_address(str(part["url"]), host)
        elif isinstance(part, list):
            waiting += part


def _behind_address(url: str, host: str) -> str:
    """The file that an address of ours stands for."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    ours = parts.netloc == host if parts.scheme or parts.netloc else True
    return unquote(parts.path.partition("/gradio_api/file=")[2]) if ours else ""


async def read_body(receive: Receive, most: int) -> bytes | None:
    """The body, None where it is larger than allowed; no more than that is held of it.

    Args:
        receive: Of the request.
        most: Bytes.

    Raises:
        ClientDisconnect: The client went before all of it had come.
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


def replayed(body: bytes, receive: Receive) -> Receive:
    """What gives a body that was read already once more, and then what comes after it."""
    given = False

    async def receive_again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again
