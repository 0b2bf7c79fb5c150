"""The language of a request: that of the browser, or one that was chosen on the page.

A choice is in the address (``?lang=de``) of the page and is kept in a cookie. Every window keeps the language in which
its page was sent: its script sets ``Accept-Language`` of the requests that follow, so that a choice in another window
does not mix two languages in this one.
"""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from assistant_builder.i18n import languages, negotiate, use_language
from assistant_builder.web.access import cookie

COOKIE = "assistant-builder-language"
_PAGES = ("/", "/login", "/logout")
"""Paths that a browser opens as a page; the choice applies to these alone."""
_COOKIE_SECONDS = 365 * 86_400


def chosen_language(scope: Scope) -> str | None:
    """The language that the address of a page chooses; None without a choice or without such a catalog."""
    if scope["path"] not in _PAGES:
        return None
    code = QueryParams(scope["query_string"]).get("lang", "")
    return code if code in languages() else None


def request_language(scope: Scope) -> str:
    """The language of a request: the choice in its address, that of the cookie, or what the browser accepts."""
    headers = Headers(scope=scope)
    if scope["path"] in _PAGES:
        kept = cookie(headers, COOKIE)
        code = chosen_language(scope) or (kept if kept in languages() else None)
        if code is not None:
            return code
    return negotiate(headers.get("accept-language", ""))


class LanguageMiddleware:
    """ASGI middleware that sets the language of each request, and keeps a choice."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on in its language."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        chosen = chosen_language(scope)

        async def send_choice(message: Message) -> None:
            if message["type"] == "http.response.start":
                secure = "; Secure" if scope["scheme"] == "https" else ""
                MutableHeaders(scope=message).append(
                    "set-cookie",
                    (
                        f"{COOKIE}={chosen}; Max-Age={_COOKIE_SECONDS}; Path=/; SameSite=Lax; HttpOnly{secure}"
                    ),
                )
            await send(message)

        with use_language(request_language(scope)):
            await self._app(scope, receive, send_choice if chosen else send)
