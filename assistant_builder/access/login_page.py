"""The page that asks for the password: one form, no script, nothing fetched."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from markupsafe import Markup

_STYLE = (Path(__file__).parent / "login_page.css").read_text(encoding="utf-8")
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode("utf-8")).digest()).decode("ascii")
CONTENT_SECURITY_POLICY = (
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
