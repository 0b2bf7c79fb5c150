"""Middleware in front of every route of the page: login and origin checks."""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

import anyio
from markupsafe import Markup
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
)
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from assistant_builder.i18n import N_, direction, language, t
from assistant_builder.web.access import (
    DEFAULT_PORTS,
    LOCAL,
    AllowedHosts,
    cookie,
    is_cross_origin,
    is_from_this_machine,
    split_host,
)
from assistant_builder.web.body_limit import read_body
from assistant_builder.web.client_address import TrustedProxies
from assistant_builder.web.connections import mark_trusted
from assistant_builder.web.login_rate_limit import RateLimiter
from assistant_builder.web.passwords import PasswordHash
from assistant_builder.web.sessions import SESSION, Session, Sessions

_STYLE = (Path(__file__).parent / "login_page.css").read_text(encoding="utf-8")
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode("utf-8")).digest()).decode("ascii")
LOGIN_PAGE_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_PAGE = Markup("""<!doctype html>
<html lang="{language}" dir="{direction}"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex"><title>{log_in} · Assistant Builder</title><style>{style}</style></head>
<body><main><header><svg viewBox="0 0 40 40" aria-hidden="true"><rect x="2" y="2" width="36" height="36" rx="9"/>
<path d="M11 27V13l9 9 9-9v14"/></svg><div><h1>Assistant Builder</h1><p>{ask}</p></div></header>
{notice}<form method="post" action="/login"><input type="hidden" name="next" value="{next}">
{fields}<button type="submit">{log_in}</button></form></main></body></html>
""")
_FIELDS = Markup("""<label for="username">{user}</label><input id="username" name="username" autocomplete="username"
autocapitalize="none" spellcheck="false" dir="auto" required maxlength="200" autofocus>
<label for="password">{password}</label><input id="password" name="password" type="password"
autocomplete="current-password" required maxlength="1000" {described}>
""")
_REFRESH = Markup("""<!doctype html>
<html lang="{language}" dir="{direction}"><head><meta charset="utf-8"><meta http-equiv="refresh" content="0">
<title>Assistant Builder</title></head><body><p>{opening}</p></body></html>
""")
"""Loads the same URL again from this site: browsers omit the strict session cookie after a link from another site."""


LOGIN_PATHS = ("/login", "/logout", "/active")
_MANIFEST = {"name": "Assistant Builder", "start_url": "./", "display": "browser"}
"""The web app manifest. Browsers request it without cookies, so that it must be there without a login."""
_MAX_FORM_BYTES = 8192
_log = logging.getLogger(__name__)


class Login(ABC):
    """Login form, logout and sessions.

    Attributes:
        wrong: Error message for wrong credentials.
        needed: Error message for programs that send none.
        over: Message of the form after the end of a session.
    """

    wrong: str
    needed: str
    over: str

    def __init__(
        self,
        user: str = "",
        sessions: Sessions | None = None,
        rate_limiter: RateLimiter | None = None,
    ) -> None:
        self.user = user
        self.sessions = sessions or Sessions()
        self._rate_limiter = rate_limiter or RateLimiter()

    @abstractmethod
    async def _check(self, request: Request, form: Mapping[str, str]) -> Response | None:
        """Check what was typed into the form; None if it is correct."""

    @abstractmethod
    def _fields(self, request: Request, described: Markup) -> tuple[str, Markup, str]:
        """What the form says above its fields, the fields, and the text of its button."""

    def session(self, scope: Scope) -> Session | None:
        """The session of a request or websocket."""
        return self.sessions.find(_token(scope))

    async def answer(self, request: Request) -> Response | None:
        """Respond to a request to one of :data:`LOGIN_PATHS`; None for every other path."""
        path = request.scope["path"]  # that of request.url ends at an encoded question mark
        if path not in LOGIN_PATHS:
            return None
        if path == "/active":
            return self._keep_alive(request)
        if path == "/logout":
            return self._log_out(request)
        if request.method in ("GET", "HEAD"):
            return self._show_form(request)
        if request.method == "POST":
            return await self._log_in(request)
        return Response(status_code=405, headers={"Allow": "GET, HEAD, POST"})

    def refuse(self, request: Request) -> Response:
        """Response to a request without a session: a redirect to the login for a browser, 401 for other clients."""
        if request.method in ("GET", "HEAD") and request.scope["path"] == "/manifest.json":
            return JSONResponse(_MANIFEST, media_type="application/manifest+json")
        if (
            request.method in ("GET", "HEAD")
            and request.scope["path"] == "/"
            and _wants_page(request)
        ):
            if request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
                return HTMLResponse(
                    _REFRESH.format(
                        language=language(),
                        direction=direction(),
                        opening=t("Opening Assistant Builder…"),
                    )
                )
            after = f"?{urlencode({'next': request.url.query})}" if request.url.query else ""
            return RedirectResponse(f"/login{after}", status_code=303)
        return JSONResponse(
            {"detail": self.needed}, status_code=401, headers={"X-Log-In": "/login"}
        )

    def _show_form(self, request: Request) -> Response:
        after, said = (request.query_params.get(name, "") for name in ("next", "said"))
        if self.session(request.scope) is not None:
            return RedirectResponse(redirect_target(after), status_code=303)
        notices = {"out": t("You are logged out."), "over": t(self.over)}
        return self._page(request, after, notice=notices.get(said, ""))

    def _page(
        self,
        request: Request,
        after: str,
        status: int = 200,
        headers: dict[str, str] | None = None,
        *,
        notice: str = "",
    ) -> Response:
        """The form; ``after`` is the query string of the page to open next."""
        failed = status >= 400
        described = Markup('aria-describedby="notice" aria-invalid="true"' if failed else "")
        ask, fields, log_in = self._fields(request, described)
        message = Markup('<p role="{}" id="notice">{}</p>').format(
            "alert" if failed else "status", notice
        )
        html = _PAGE.format(
            style=Markup(_STYLE),
            notice=message if notice else "",
            next=after,
            fields=fields,
            ask=ask,
            log_in=log_in,
            language=language(),
            direction=direction(),
        )
        return HTMLResponse(
            html, status, {"Content-Security-Policy": LOGIN_PAGE_POLICY, **(headers or {})}
        )

    async def _log_in(self, request: Request) -> Response:
        try:
            body = await read_body(request.receive, _MAX_FORM_BYTES)
            text = (body or b"").decode("utf-8")
            form = dict(parse_qsl(text, keep_blank_values=True, max_num_fields=20))
        except ClientDisconnect:
            return Response(status_code=400)
        except ValueError:
            body = None
        if body is None:
            return JSONResponse({"detail": "Not a login form"}, status_code=413)
        return await self._check(request, form) or self._let_in(request, form.get("next", ""))

    def _count_attempt(self, request: Request, after: str) -> Response | None:
        """Count an attempt of the request's client; returns a response if it has to wait."""
        wait = self._rate_limiter.attempt(_address(request))
        return self._too_many_attempts(request, after, wait) if wait > 0 else None

    def _wrong(self, request: Request, after: str) -> Response:
        # the user name is not logged, since users sometimes type their password into its field
        _log.warning(
            "login refused from %s, attempt %d",
            _address(request),
            self._rate_limiter.failures(_address(request)),
        )
        if not _wants_page(request):
            return JSONResponse({"detail": self.wrong}, status_code=401)
        return self._page(request, after, 401, notice=t(self.wrong))

    def _let_in(self, request: Request, after: str) -> Response:
        """Start a session, and open the page."""
        mark_trusted(request.scope)
        self._rate_limiter.succeeded(_address(request))
        self.sessions.end(_token(request.scope))  # prevents session fixation
        response = (
            RedirectResponse(redirect_target(after), 303)
            if _wants_page(request) or request.method != "POST"
            else JSONResponse({"success": True})
        )
        self._set_cookie(
            request, response, self.sessions.create(self.user), int(self.sessions.longest_seconds)
        )
        return response

    @staticmethod
    def _set_cookie(request: Request, response: Response, token: str, seconds: int) -> None:
        response.set_cookie(
            cookie_name(request.scope),
            token,
            max_age=seconds,
            secure=_secure(request.scope),
            httponly=True,
            samesite="strict",
        )

    def _too_many_attempts(self, request: Request, after: str, wait: float) -> Response:
        seconds = int(wait) + 1
        headers = {"Retry-After": str(seconds)}
        message = (
            t("Too many attempts. Try again in {seconds} seconds.", seconds=seconds)
            if seconds < 120
            else t("Too many attempts. Try again in {minutes} minutes.", minutes=-(-seconds // 60))
        )
        if not _wants_page(request):
            return JSONResponse({"detail": message}, status_code=429, headers=headers)
        return self._page(request, after, 429, headers, notice=message)

    def _log_out(self, request: Request) -> Response:
        if request.method != "POST":
            return Response(status_code=405, headers={"Allow": "POST"})
        self.sessions.end(_token(request.scope))
        response = RedirectResponse(
            "/login?said=out", status_code=303, headers={"Clear-Site-Data": '"cache"'}
        )
        self._set_cookie(request, response, "", 0)
        return response

    def _keep_alive(self, request: Request) -> Response:
        session = self.session(request.scope)
        if session is None:
            return self.refuse(request)
        if request.method != "POST":
            return Response(status_code=405, headers={"Allow": "POST"})
        mark_trusted(request.scope)
        self.sessions.touch(session)
        return Response(status_code=204)


class PasswordLogin(Login):
    """Login of one user with a password."""

    wrong = N_("The user name or password is incorrect.")
    needed = "Log in first"
    over = N_(
        "You were logged out after a period of inactivity. Your data is safe, and runs continue."
    )

    def __init__(
        self,
        user: str,
        password: PasswordHash,
        sessions: Sessions | None = None,
        rate_limiter: RateLimiter | None = None,
    ) -> None:
        super().__init__(user, sessions, rate_limiter)
        self._password = password
        self._hash_lock = anyio.Lock()  # computing a hash takes 32 MB and a tenth of a second

    async def _check(self, request: Request, form: Mapping[str, str]) -> Response | None:
        response = self._count_attempt(request, form.get("next", ""))
        if response is not None:
            return response
        async with self._hash_lock:
            password_matches = await anyio.to_thread.run_sync(
                self._password.matches, form.get("password", "")
            )
        user_matches = hmac.compare_digest(_bytes(form.get("username", "")), _bytes(self.user))
        right = password_matches and user_matches
        return None if right else self._wrong(request, form.get("next", ""))

    def _fields(self, request: Request, described: Markup) -> tuple[str, Markup, str]:
        return (
            t("Log in to go on."),
            _FIELDS.format(user=t("User"), password=t("Password"), described=described),
            t("Log in"),
        )


def cookie_name(scope: Scope) -> str:
    """Name of the session cookie; it contains the port, since browsers share cookies among the ports of a host.

    The port is that of the address in the browser, which differs from the server's if the port is forwarded.
    """
    port = split_host(Headers(scope=scope).get("host", ""))[1] or DEFAULT_PORTS[scope["scheme"]]
    name = f"assistant-builder-{port}"
    return f"__Host-{name}" if _secure(scope) else name


def _token(scope: Scope) -> str | None:
    return cookie(Headers(scope=scope), cookie_name(scope)) or None


def _secure(scope: Scope) -> bool:
    return scope["scheme"] in ("https", "wss")


def redirect_target(after: str) -> str:
    """Target after the login: always the page, with the query that was requested."""
    query = urlencode(parse_qsl(after.lstrip("?"), keep_blank_values=True)[:20])
    return f"/?{query}" if query else "/"


def _wants_page(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", errors="surrogatepass")


def user_of(request: Request) -> str | None:
    """Name of the user who is logged in; passed to gradio as ``auth_dependency``."""
    user: str | None = request.scope.get("assistant_builder.user")
    return user


_UNTRUSTED = (b"x-forwarded-", b"x-gradio-", b"forwarded", b"cookie")
"""Headers from which gradio would build its URLs, and cookies, which it would parse; they have been read already."""
_CROSS_ORIGIN = (
    "This request was sent by another site, or through an unknown proxy. Open the page directly. Behind a "
    "proxy with HTTPS, start Assistant Builder with --proxy ADDRESS.\n"
)


class ProxyMiddleware:
    """ASGI middleware that sets client address and scheme of a request to those that a trusted proxy reports."""

    def __init__(self, app: ASGIApp, proxies: TrustedProxies) -> None:
        self._app, self._proxies = app, proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] == "http":
            scope = {
                **scope,
                "client": (self._proxies.client(scope), 0),
                "scheme": self._proxies.scheme(scope),
            }
        await self._app(scope, receive, send)


class AuthMiddleware:
    """ASGI middleware that checks host, origin and login (None: not required) of HTTP requests and websockets."""

    def __init__(self, app: ASGIApp, hosts: AllowedHosts, login: Login | None = None) -> None:
        self._app = app
        self._hosts = hosts
        self._login = login

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or respond to it."""
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        response = self._reject(scope, headers)
        if response is None and self._login is not None and scope["type"] == "http":
            response = await self._login.answer(Request(scope, receive))
        session = (
            self._login.session(scope) if self._login is not None and response is None else None
        )
        if response is None and self._login is not None and session is None:
            http_scope = {**scope, "type": "http", "method": scope.get("method", "WEBSOCKET")}
            response = self._login.refuse(Request(http_scope))
        if response is not None:
            return await send_response(response, scope, receive, send)
        mark_trusted(scope)
        trusted = [pair for pair in scope["headers"] if not pair[0].lower().startswith(_UNTRUSTED)]
        inner_scope = {
            **scope,
            "headers": trusted,
            "assistant_builder.user": session.user if session else None,
            SESSION: session,
            LOCAL: is_from_this_machine(scope),
        }
        if self._login is None or session is None:
            return await self._app(inner_scope, receive, send)
        if scope["type"] == "http" and scope["path"] == "/":
            self._login.sessions.touch(session)  # opening the page counts as activity
        await self._run_in_session(
            session, partial(self._login.session, scope), inner_scope, receive, send
        )

    def _reject(self, scope: Scope, headers: Headers) -> Response | None:
        name = headers.get("host")
        if not self._hosts.allows_request(headers):
            shown = (name or "").encode("ascii", errors="replace").decode("ascii")[:100]
            return PlainTextResponse(
                f"{shown!r} is not a known host name of this server. If it should be, start Assistant Builder with "
                "--allow-host NAME.\n",
                status_code=421,
            )
        if is_cross_origin(scope, headers):
            return PlainTextResponse(_CROSS_ORIGIN, status_code=403)
        return None

    async def _run_in_session(
        self,
        session: Session,
        expire: Callable[[], object],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Run a request in a session, which ``expire`` ends if its time is over; an event stream ends with it.

        Other responses are completed. A stream receives a disconnect, as if the page had been closed.
        """
        over, started, ended = False, False, False
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
            nonlocal started, ended
            started = True
            ended = message["type"] == "http.response.body" and not message.get("more_body", False)
            if not ended:
                expire()
            await send(message)

        session.open_responses.add(close)
        try:
            streams = scope["type"] == "http" and scope["method"] == "GET"
            await self._app(scope, receive_in_session if streams else receive, send_in_session)
        finally:
            session.open_responses.discard(close)
        if over and started and not ended:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def send_response(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Send an error response; a websocket is closed instead."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": ""})
    else:
        await response(scope, receive, send)
