"""What stands before the endpoint: the name it is asked by, the key, and how much a request may bring."""

from __future__ import annotations

import hashlib
import hmac

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from assistant_builder.config.serving import ServingConfig
from assistant_builder.errors import ConfigError
from assistant_builder.serving.refusals import Refusal
from assistant_builder.web.access import AllowedHosts, is_cross_origin, is_loopback
from assistant_builder.web.middleware import read_body, replay_body
from assistant_builder.web.passwords import take_secret
from assistant_builder.web.request_limits import format_size, mark_trusted

VARIABLE = "ASSISTANT_BUILDER_API_KEY"
SHORTEST = 16
"""Characters of a key. It may be tried as often as one likes, so it has to be one that cannot be guessed."""
MOST_BYTES = 4 * 10**6
"""Of a request: the longest contexts there are hold less text."""
OPEN = "/health"
"""Is answered without a key, for whoever watches the server; it says nothing of the assistants."""


def take_key() -> str | None:
    """The key of :data:`VARIABLE` or of the file it names; see :func:`~assistant_builder.web.passwords.take_secret`.

    Raises:
        ConfigError: The key is too short, holds what cannot stand in a header, or its file cannot be read.
    """
    key = (take_secret(VARIABLE) or "").strip()
    if not key:
        return None
    if len(key) < SHORTEST or not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigError(f"the key must have at least {SHORTEST} characters, all of them ASCII without spaces",
                          where=VARIABLE, remedy="Make one with: openssl rand -hex 24")
    return key


def digest_of(key: str) -> bytes:
    """What is kept of a key, and sent to other nodes."""
    return hashlib.sha256(key.encode()).digest()


def check_access(config: ServingConfig, key: str | bytes | None) -> list[str]:
    """Refuse what would let in everyone.

    Returns:
        Warnings for the person who starts the server.

    Raises:
        ConfigError: Other machines would reach the assistants without a key.
    """
    if is_loopback(config.host):
        return []
    if key is None:
        raise ConfigError(f"the assistants would answer everyone who reaches {config.host}",
                          remedy=f"Set a key in {VARIABLE} or {VARIABLE}_FILE, or leave --host at 127.0.0.1")
    return ["the key and all that is said cross the network unencrypted; put a proxy that speaks https in front"]


class Door:
    """ASGI middleware; requests pass it or end here.

    Args:
        app: What is behind it.
        hosts: The server's names.
        key: Digest of the key; None: nobody is asked for one.
    """

    def __init__(self, app: ASGIApp, hosts: AllowedHosts, key: bytes | None) -> None:
        self._app = app
        self._hosts = hosts
        self._key = key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        try:
            self._check(scope, headers)
            if scope["path"] != OPEN:
                mark_trusted(scope)
            if scope["method"] != "POST":
                return await self._app(scope, receive, send)
            body = await _body(headers, receive)
        except ClientDisconnect:
            return
        except Refusal as refusal:
            return await refusal.response()(scope, receive, send)
        await self._app(scope, replay_body(body, receive), send)

    def _check(self, scope: Scope, headers: Headers) -> None:
        if not self._hosts.allows(headers.get("host")) or len(headers.getlist("host")) != 1:
            raise Refusal(421, "this server is not asked by that name; if it is its name, start it with "
                          "--allow-host NAME")
        if is_cross_origin(scope, headers):
            raise Refusal(403, "this request was sent by a web page of another origin")
        if self._key is not None and scope["path"] != OPEN:
            kind, _, given = headers.get("authorization", "").partition(" ")
            if not hmac.compare_digest(digest_of(given.strip()), self._key) or kind.lower() != "bearer":
                raise Refusal(401, "the API key is missing or wrong", code="invalid_api_key")


async def _body(headers: Headers, receive: Receive) -> bytes:
    told = headers.get("content-length", "")
    body = None if told.isdigit() and int(told) > MOST_BYTES else await read_body(receive, MOST_BYTES)
    if body is None:
        raise Refusal(413, f"the request is larger than {format_size(MOST_BYTES)}")
    return body
