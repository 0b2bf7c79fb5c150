"""Middleware in front of every route of the page: login, and limits on what a request may carry."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import anyio
from markupsafe import Markup
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from assistant_builder.web.access import AllowedHosts, is_cross_origin
from assistant_builder.web.passwords import PasswordHash, RateLimiter
from assistant_builder.web.request_limits import Limits, format_size, mark_trusted
from assistant_builder.web.sessions import SESSION, Session, Sessions, may_read

_SURROGATE = re.compile(rb"\\ud[89a-f]", re.IGNORECASE)
"""What JSON spells characters with that are no text by themselves."""


class BodyLimitMiddleware:
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
        self._check_request = judge

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
        refusal = self._check_body(scope, body)
        if refusal is not None:
            return await refusal(scope, receive, send)
        await self._app(scope, replay_body(body or b"", receive), send)

    def _check_body(self, scope: Scope, body: bytes | None) -> Response | None:
        if body is None:
            most = format_size(self._limits.message_bytes)
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
        if all(may_read(path, self._uploads, session) for path in referenced_files(tree, host)):
            return self._check_request(scope, tree)
        return JSONResponse({"detail": "The request names a file that was not uploaded here"}, status_code=403)


def referenced_files(tree: Any, host: str) -> Iterator[str]:
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
                    yield _file_of_url(str(part["url"]), host)
        elif isinstance(part, list):
            waiting += part


def _file_of_url(url: str, host: str) -> str:
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


def replay_body(body: bytes, receive: Receive) -> Receive:
    """What gives a body that was read already once more, and then what comes after it."""
    given = False

    async def receive_again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


_STYLE = (Path(__file__).parent / "login_page.css").read_text(encoding="utf-8")
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode("utf-8")).digest()).decode("ascii")
LOGIN_PAGE_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_PAGE = Markup("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex"><title>Log in · Assistant Builder</title><style>{style}</style></head>
<body><main><header><svg viewBox="0 0 40 40" aria-hidden="true"><rect x="2" y="2" width="36" height="36" rx="9"/>
<path d="M11 27V13l9 9 9-9v14"/></svg><div><h1>Assistant Builder</h1><p>Log in to go on.</p></div></header>
{notice}<form method="post" action="/login"><input type="hidden" name="next" value="{next}">
<label for="username">User</label><input id="username" name="username" autocomplete="username" autocapitalize="none"
spellcheck="false" dir="auto" required maxlength="200" autofocus>
<label for="password">Password</label><input id="password" name="password" type="password"
autocomplete="current-password" required maxlength="1000" {described}>
<button type="submit">Log in</button></form></main></body></html>
""")
_REFRESH = Markup("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="0"><title>Assistant Builder</title>
</head><body><p>Opening Assistant Builder…</p></body></html>
""")


def login_page(after: str = "", *, failed: str = "", said: str = "") -> str:
    """The page as HTML.

    Args:
        after: Where to go after the login, as it came with the request.
        failed: Why the last attempt did not succeed.
        said: What else there is to say, such as that one is logged out.
    """
    notice = Markup("")
    if failed:
        notice = Markup('<p role="alert" id="notice">{}</p>').format(failed)
    elif said:
        notice = Markup('<p role="status" id="notice">{}</p>').format(said)
    described = Markup('aria-describedby="notice" aria-invalid="true"') if failed else ""
    return _PAGE.format(style=Markup(_STYLE), notice=notice, next=after, described=described)


def refresh_page() -> str:
    """Opens the address again, from here: browsers keep our cookie to themselves where another site's link led here."""
    return str(_REFRESH)


LOGIN_PATHS = ("/login", "/logout", "/active")
WRONG_CREDENTIALS = "User or password are not right."
_MAX_FORM_BYTES = 8192
_log = logging.getLogger(__name__)


class Login:
    """Who may come in, and who is in.

    Args:
        user: The name to log in with.
        password: The hash of the password.
        sessions: The logins.
        throttle: Limits the attempts.
    """

    def __init__(
        self, user: str, password: PasswordHash, sessions: Sessions | None = None, throttle: RateLimiter | None = None
    ) -> None:
        self._user = user
        self._password = password
        self.sessions = sessions or Sessions()
        self._rate_limiter = throttle or RateLimiter()
        self._hash_lock = anyio.Lock()  # a hash takes 32 MB and a tenth of a second

    def session(self, scope: Scope) -> Session | None:
        """The session of a request or a websocket."""
        return self.sessions.find(_token(scope))

    async def answer(self, request: Request) -> Response:
        """Answer a request to one of :data:`PATHS`."""
        if request.url.path == "/active":
            return self._keep_alive(request)
        if request.url.path == "/logout":
            return self._log_out(request)
        if request.method in ("GET", "HEAD"):
            return self._show_form(request)
        if request.method == "POST":
            return await self._log_in(request)
        return Response(status_code=405, headers={"Allow": "GET, HEAD, POST"})

    def refuse(self, request: Request) -> Response:
        """What someone gets who is not logged in: the way to the login for a person, 401 for everything else."""
        if request.method in ("GET", "HEAD") and request.url.path == "/" and _wants_page(request):
            if request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
                return HTMLResponse(refresh_page())
            query = request.url.query
            after = f"/login?{urlencode({'next': query})}" if query else "/login"
            return RedirectResponse(after, status_code=303)
        return JSONResponse({"detail": "Log in first"}, status_code=401, headers={"X-Log-In": "/login"})

    def _show_form(self, request: Request) -> Response:
        if self.session(request.scope) is not None:
            return RedirectResponse(_redirect_target(request.query_params.get("next", "")), status_code=303)
        said = {"out": "You are logged out.", "over": "You were logged out after a while. Nothing is lost; runs go on."}
        page = login_page(request.query_params.get("next", ""), said=said.get(request.query_params.get("said", ""), ""))
        return _page(page)

    async def _log_in(self, request: Request) -> Response:
        try:
            form = await _read_form(request)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        if form is None:
            return JSONResponse({"detail": "Not a login form"}, status_code=413)
        after = form.get("next", "")
        address = request.client.host if request.client else ""
        wait = self._rate_limiter.attempt(address)
        if wait > 0:
            return self._too_many_attempts(request, after, wait)
        async with self._hash_lock:
            right = await anyio.to_thread.run_sync(self._password.matches, form.get("password", ""))
        named = hmac.compare_digest(_bytes(form.get("username", "")), _bytes(self._user))
        if not (right and named):
            # the name is not logged: people type passwords there
            _log.warning("login refused from %s, attempt %d", address, self._rate_limiter.failures(address))
            if not _wants_page(request):
                return JSONResponse({"detail": WRONG_CREDENTIALS}, status_code=401)
            return _page(login_page(after, failed=WRONG_CREDENTIALS), 401)
        self._rate_limiter.succeeded(address)
        self.sessions.end(_token(request.scope))  # never goes on under a token from before the login
        answer: Response
        answer = RedirectResponse(_redirect_target(after), 303) if _wants_page(request) else JSONResponse({"success": True})
        answer.set_cookie(
            cookie_name(request.scope), self.sessions.create(self._user), max_age=int(self.sessions.longest_seconds),
            path="/", secure=_secure(request.scope), httponly=True, samesite="strict",
        )
        return answer

    def _too_many_attempts(self, request: Request, after: str, wait: float) -> Response:
        seconds = int(wait) + 1
        headers = {"Retry-After": str(seconds)}
        told = f"Too many attempts. Try again in {_duration(seconds)}."
        if not _wants_page(request):
            return JSONResponse({"detail": told}, status_code=429, headers=headers)
        return _page(login_page(after, failed=told), 429, headers)

    def _log_out(self, request: Request) -> Response:
        if request.method != "POST":
            return Response(status_code=405, headers={"Allow": "POST"})
        self.sessions.end(_token(request.scope))
        answer = RedirectResponse("/login?said=out", status_code=303, headers={"Clear-Site-Data": '"cache"'})
        answer.delete_cookie(cookie_name(request.scope), path="/", secure=_secure(request.scope), httponly=True,
                             samesite="strict")
        return answer

    def _keep_alive(self, request: Request) -> Response:
        session = self.session(request.scope)
        if session is None:
            return self.refuse(request)
        if request.method != "POST":
            return Response(status_code=405, headers={"Allow": "POST"})
        self.sessions.touch(session)
        return Response(status_code=204)


def cookie_name(scope: Scope) -> str:
    """The session cookie. Browsers share cookies among the ports of a host, so each port has one of its own."""
    if _secure(scope):
        return "__Host-assistant-builder"
    server = scope.get("server") or ("", 0)
    return f"assistant-builder-{server[1]}"


def _token(scope: Scope) -> str | None:
    return Request({**scope, "type": "http"}).cookies.get(cookie_name(scope))


def _secure(scope: Scope) -> bool:
    return scope["scheme"] in ("https", "wss")


def _redirect_target(after: str) -> str:
    """Where to go after the login: always the page, with the query it was asked for."""
    query = urlencode(parse_qsl(after.lstrip("?"), keep_blank_values=True)[:20])
    return f"/?{query}" if query else "/"


def _wants_page(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


def _page(html: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return HTMLResponse(html, status, {"Content-Security-Policy": LOGIN_PAGE_POLICY, **(headers or {})})


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", errors="surrogatepass")


def _duration(seconds: int) -> str:
    return f"{seconds} seconds" if seconds < 120 else f"{-(-seconds // 60)} minutes"


async def _read_form(request: Request) -> dict[str, str] | None:
    """The fields of a form, None where it is larger than a login."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_FORM_BYTES:
            return None
    try:
        return dict(parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=20))
    except ValueError:
        return None


def user_of(request: Request) -> str | None:
    """Who is logged in, as the gate found out; gradio's ``auth_dependency``."""
    user: str | None = request.scope.get("assistant_builder.user")
    return user


_UNTRUSTED = (b"x-forwarded-", b"x-gradio-", b"forwarded")
"""Headers from which gradio would make the addresses of its links; a proxy's were read by the server before."""
_CROSS_ORIGIN = (
    "This request was sent by another page, or through a proxy that Assistant Builder does not know. "
    "Open the page itself; behind a proxy that speaks https, start it with --proxy ADDRESS.\n"
)


class AuthMiddleware:
    """ASGI middleware; http requests and websockets alike pass it or end here.

    Args:
        app: What is behind it.
        hosts: The server's names.
        login: Asks for a password; None: nobody is asked.
    """

    def __init__(self, app: ASGIApp, hosts: AllowedHosts, login: Login | None = None) -> None:
        self._app = app
        self._hosts = hosts
        self._login = login

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it."""
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        refusal = self._reject(scope, headers)
        if refusal is None and self._login is not None and scope["type"] == "http" and scope["path"] in LOGIN_PATHS:
            refusal = await self._login.answer(Request(scope, receive))
        session = self._login.session(scope) if self._login is not None and refusal is None else None
        if refusal is None and self._login is not None and session is None:
            refusal = self._login.refuse(Request({**scope, "type": "http", "method": scope.get("method", "WEBSOCKET")}))
        if refusal is not None:
            return await _send_response(refusal, scope, receive, send)
        mark_trusted(scope)
        trusted = [pair for pair in scope["headers"] if not pair[0].lower().startswith(_UNTRUSTED)]
        inside = {**scope, "headers": trusted, "assistant_builder.user": session.user if session else None,
                  SESSION: session}
        if self._login is None or session is None:
            return await self._app(inside, receive, send)
        if scope["type"] == "http" and scope["path"] == "/":
            self._login.sessions.touch(session)  # opening the page is something that a person does
        await self._run_in_session(session, self._login, inside, receive, send)

    def _reject(self, scope: Scope, headers: Headers) -> Response | None:
        name = headers.get("host")
        if not self._hosts.allows(name) or len(headers.getlist("host")) != 1:
            shown = (name or "").encode("ascii", errors="replace").decode("ascii")[:100]
            return PlainTextResponse(
                f"Assistant Builder is not asked by the name {shown!r}. If that is its name, start it with "
                "--allow-host NAME.\n", status_code=421,
            )
        if is_cross_origin(scope, headers):
            return PlainTextResponse(_CROSS_ORIGIN, status_code=403)
        return None

    async def _run_in_session(
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

        session.open_responses.add(close)
        try:
            streams = scope["type"] == "http" and scope["method"] == "GET"
            await self._app(scope, receive_in_session if streams else receive, send_in_session)
        finally:
            session.open_responses.discard(close)
        if over and begun and not ended:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_response(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": ""})
    else:
        await response(scope, receive, send)
