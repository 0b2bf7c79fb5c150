"""Logging in and out: ``/login``, ``/logout`` and ``/active``, and which requests come from someone who did."""

from __future__ import annotations

import hmac
import logging
from urllib.parse import parse_qsl, urlencode

import anyio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import Scope

from assistant_builder.access.login_page import CONTENT_SECURITY_POLICY, login_page, refresh_page
from assistant_builder.access.passwords import PasswordHash
from assistant_builder.access.sessions import Session, Sessions
from assistant_builder.access.throttle import Throttle

PATHS = ("/login", "/logout", "/active")
WRONG = "User or password are not right."
_LARGEST_FORM = 8192
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
        self, user: str, password: PasswordHash, sessions: Sessions | None = None, throttle: Throttle | None = None
    ) -> None:
        self._user = user
        self._password = password
        self.sessions = sessions or Sessions()
        self._throttle = throttle or Throttle()
        self._one_at_a_time = anyio.Lock()  # a hash takes 32 MB and a tenth of a second

    def session(self, scope: Scope) -> Session | None:
        """The session of a request or a websocket."""
        return self.sessions.find(_token(scope))

    async def answer(self, request: Request) -> Response:
        """Answer a request to one of :data:`PATHS`."""
        if request.url.path == "/active":
            return self._active(request)
        if request.url.path == "/logout":
            return self._leave(request)
        if request.method in ("GET", "HEAD"):
            return self._form(request)
        if request.method == "POST":
            return await self._try(request)
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

    def _form(self, request: Request) -> Response:
        if self.session(request.scope) is not None:
            return RedirectResponse(_place(request.query_params.get("next", "")), status_code=303)
        said = {"out": "You are logged out.", "over": "You were logged out after a while. Nothing is lost; runs go on."}
        page = login_page(request.query_params.get("next", ""), said=said.get(request.query_params.get("said", ""), ""))
        return _page(page)

    async def _try(self, request: Request) -> Response:
        try:
            form = await _small_form(request)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        if form is None:
            return JSONResponse({"detail": "Not a login form"}, status_code=413)
        after = form.get("next", "")
        address = request.client.host if request.client else ""
        wait = self._throttle.attempt(address)
        if wait > 0:
            return self._not_yet(request, after, wait)
        async with self._one_at_a_time:
            right = await anyio.to_thread.run_sync(self._password.matches, form.get("password", ""))
        named = hmac.compare_digest(_bytes(form.get("username", "")), _bytes(self._user))
        if not (right and named):
            # the name is not logged: people type passwords there
            _log.warning("login refused from %s, attempt %d", address, self._throttle.failures(address))
            if not _wants_page(request):
                return JSONResponse({"detail": WRONG}, status_code=401)
            return _page(login_page(after, failed=WRONG), 401)
        self._throttle.succeeded(address)
        self.sessions.end(_token(request.scope))  # never goes on under a token from before the login
        answer: Response
        answer = RedirectResponse(_place(after), 303) if _wants_page(request) else JSONResponse({"success": True})
        answer.set_cookie(
            cookie_name(request.scope), self.sessions.begin(self._user), max_age=int(self.sessions.longest_seconds),
            path="/", secure=_secure(request.scope), httponly=True, samesite="strict",
        )
        return answer

    def _not_yet(self, request: Request, after: str, wait: float) -> Response:
        seconds = int(wait) + 1
        headers = {"Retry-After": str(seconds)}
        told = f"Too many attempts. Try again in {_duration(seconds)}."
        if not _wants_page(request):
            return JSONResponse({"detail": told}, status_code=429, headers=headers)
        return _page(login_page(after, failed=told), 429, headers)

    def _leave(self, request: Request) -> Response:
        if request.method != "POST":
            return Response(status_code=405, headers={"Allow": "POST"})
        self.sessions.end(_token(request.scope))
        answer = RedirectResponse("/login?said=out", status_code=303, headers={"Clear-Site-Data": '"cache"'})
        answer.delete_cookie(cookie_name(request.scope), path="/", secure=_secure(request.scope), httponly=True,
                             samesite="strict")
        return answer

    def _active(self, request: Request) -> Response:
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


def _place(after: str) -> str:
    """Where to go after the login: always the page, with the query it was asked for."""
    query = urlencode(parse_qsl(after.lstrip("?"), keep_blank_values=True)[:20])
    return f"/?{query}" if query else "/"


def _wants_page(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


def _page(html: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return HTMLResponse(html, status, {"Content-Security-Policy": CONTENT_SECURITY_POLICY, **(headers or {})})


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", errors="surrogatepass")


def _duration(seconds: int) -> str:
    return f"{seconds} seconds" if seconds < 120 else f"{-(-seconds // 60)} minutes"


async def _small_form(request: Request) -> dict[str, str] | None:
    """The fields of a form, None where it is larger than a login."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LARGEST_FORM:
            return None
    try:
        return dict(parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=20))
    except ValueError:
        return None


def user_of(request: Request) -> str | None:
    """Who is logged in, as the gate found out; gradio's ``auth_dependency``."""
    user: str | None = request.scope.get("assistant_builder.user")
    return user
