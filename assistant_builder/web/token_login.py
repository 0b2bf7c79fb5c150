"""Access by the start token: a random token in the address of the page, which each start of the server makes.

Without it every user of the machine could open the page, since all of them reach its address.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlencode

from markupsafe import Markup
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import Scope

from assistant_builder.i18n import N_, t
from assistant_builder.web.login_rate_limit import RateLimiter
from assistant_builder.web.middleware import Login, redirect_target
from assistant_builder.web.sessions import Session, Sessions

TOKEN_PARAMETER = "token"
_SECONDS = 30 * 86_400.0
"""How long a browser that has sent the token is remembered; the server's end ends that earlier."""
_BEARER = re.compile(r"bearer +(\S+)", re.IGNORECASE)
_FIELD = Markup("""<p>{where}</p><p><code dir="ltr">{address}/?token=…</code></p><p>{new}</p>
<label for="token">{token}</label><input id="token" name="token" autocomplete="off" autocapitalize="none"
spellcheck="false" dir="ltr" required maxlength="1000" autofocus {described}>
""")


class TokenLogin(Login):
    """Access for everyone who sends the token.

    A browser sends it once, as ``/?token=…`` or in the form, and gets a session; a program sends it with each request
    as ``Authorization: Bearer TOKEN``. The token is too long to be guessed, so it is accepted even while a client that
    guesses has to wait: no other user of the machine can keep its owner out.
    """

    wrong = N_("This token is wrong. Each start of Assistant Builder makes a new one.")
    over = N_(
        "This window has lost access, most likely because Assistant Builder was restarted. Your data "
        "is safe, and runs continue."
    )
    needed = "Open the address with the token that the server printed, or send Authorization: Bearer TOKEN"

    def __init__(
        self, token: str, sessions: Sessions | None = None, rate_limiter: RateLimiter | None = None
    ) -> None:
        super().__init__("", sessions or Sessions(_SECONDS, _SECONDS), rate_limiter)
        self._digest = _digest(token)
        self._programs = Session("", 0.0, 0.0)  # of all requests with the header

    def session(self, scope: Scope) -> Session | None:
        """The session of a request or websocket."""
        sent = _bearer(Headers(scope=scope))
        return self._programs if sent and self._matches(sent) else super().session(scope)

    async def answer(self, request: Request) -> Response | None:
        """Respond also to the address with the token, and to a program with a wrong one."""
        opens = request.scope["path"] == "/" and request.method in ("GET", "HEAD")
        if opens and TOKEN_PARAMETER in request.query_params:
            return await self._open(request)
        if _bearer(request.headers) and self.session(request.scope) is None:
            return self._refuse_guess(request, "")
        return await super().answer(request)

    async def _open(self, request: Request) -> Response:
        """Remember the browser, and open the address without the token."""
        query = request.query_params.multi_items()
        after = urlencode([(name, value) for name, value in query if name != TOKEN_PARAMETER])
        if self.session(request.scope) is not None:
            # a new session would end those of the browser's other windows
            return RedirectResponse(redirect_target(after), 303)
        form = {"token": request.query_params[TOKEN_PARAMETER], "next": after}
        return await self._check(request, form) or self._let_in(request, after)

    async def _check(self, request: Request, form: Mapping[str, str]) -> Response | None:
        typed = form.get("token", "").strip()
        in_address = dict(parse_qsl(typed.partition("?")[2])).get(TOKEN_PARAMETER, "")
        if self._matches(typed) or self._matches(in_address):
            return None
        return self._refuse_guess(request, form.get("next", ""))

    def _refuse_guess(self, request: Request, after: str) -> Response:
        return self._count_attempt(request, after) or self._wrong(request, after)

    def _matches(self, token: str) -> bool:
        return hmac.compare_digest(_digest(token), self._digest)

    def _fields(self, request: Request, described: Markup) -> tuple[str, Markup, str]:
        return (
            t("Open the address that the terminal shows."),
            _FIELD.format(
                where=t(
                    "Assistant Builder printed it in the terminal when it started. It ends with a token:"
                ),
                address=f"{request.url.scheme}://{request.headers['host']}",
                new=t("Each start makes a new token. Each browser needs it once."),
                token=t("Token, or the whole address"),
                described=described,
            ),
            t("Open"),
        )


def _bearer(headers: Headers) -> str:
    """The token in the header ``Authorization``; empty without one."""
    found = _BEARER.fullmatch(headers.get("authorization", "").strip())
    return found[1] if found is not None else ""


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", errors="surrogatepass")).digest()
