"""Access control of the endpoint: host names, API key, and the size of a request."""

from __future__ import annotations

import hashlib
import hmac

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from assistant_builder.config.serving import ServingConfig
from assistant_builder.errors import ConfigError
from assistant_builder.i18n import Text, m
from assistant_builder.i18n.quantities import format_bytes
from assistant_builder.redaction import API_KEY
from assistant_builder.serving.schemas import ApiError, unknown_host
from assistant_builder.web.access import (
    AllowedHosts,
    is_cross_origin,
    is_from_this_machine,
    is_loopback,
)
from assistant_builder.web.body_limit import read_body, replay_body
from assistant_builder.web.client_address import TrustedProxies
from assistant_builder.web.connections import mark_trusted
from assistant_builder.web.passwords import take_secret

API_KEY_VARIABLE = API_KEY
MIN_KEY_LENGTH = 16
"""Characters of a key. The number of attempts is not limited, so a key must not be guessable."""
MAX_BODY_BYTES = 4 * 10**6
"""Size of a request; the longest contexts have less text."""
HEALTH_PATH = "/health"
"""Needs no key, for monitoring; the response contains nothing about the assistants."""


def take_key() -> str | None:
    """The key of :data:`API_KEY_VARIABLE` or of the file that ``…_FILE`` names, which are removed from the environment.

    Raises:
        ConfigError: The key is too short, has characters that a header cannot contain, or its file cannot be read.
    """
    key = (take_secret(API_KEY_VARIABLE) or "").strip()
    if not key:
        return None
    if len(key) < MIN_KEY_LENGTH or not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigError(
            m(
                "the key must have at least {min_key_length} characters, all of them ASCII without spaces",
                min_key_length=MIN_KEY_LENGTH,
            ),
            where=API_KEY_VARIABLE,
            remedy=m("Make one with: openssl rand -hex 24"),
        )
    return key


def digest_of(key: str) -> bytes:
    """SHA-256 of a key, which is kept and sent to other nodes in its place."""
    return hashlib.sha256(key.encode()).digest()


def check_access(config: ServingConfig, key: str | bytes | None) -> list[str]:
    """Refuse a server that others could use without a key; returns what the user must know.

    A widget needs no key: without one, the server answers the widget's paths alone.

    Raises:
        ConfigError: Others could use the assistants without a key, or ``--proxy`` is no address.
    """
    TrustedProxies(config.proxy)
    lines = []
    if key is None and config.widget:
        lines.append(
            f"only the paths of the widget are served; for /v1 set a key in {API_KEY_VARIABLE}"
        )
    elif key is None and (reached := _published(config)):
        raise ConfigError(
            m("the assistants would answer everyone who reaches {reached}", reached=reached),
            remedy=m(
                "Set a key in {api_key_variable} or {api_key_variable}_FILE, or leave --host at 127.0.0.1, without "
                "--allow-host and --proxy",
                api_key_variable=API_KEY_VARIABLE,
            ),
        )
    if not is_loopback(config.host):
        lines.append(
            "the key and all conversations cross the network unencrypted; put an HTTPS proxy in front"
        )
    return lines


def _published(config: ServingConfig) -> Text:
    """By what other machines may reach the server; empty if nothing says so."""
    if not is_loopback(config.host):
        return config.host
    hosts = ", ".join(config.allow_host)
    return hosts or (config.proxy and m("the proxy {proxy}", proxy=config.proxy))


def answers_without_key(config: ServingConfig) -> bool:
    """Whether programs on this machine may use a server without a key."""
    return not config.widget and not _published(config)


class ApiKeyMiddleware:
    """ASGI middleware that checks host name, origin, API key and size of a request.

    Args:
        app: The app.
        hosts: Host names of the server.
        key: The digest of the API key, if there is one.
        without_key: Whether programs on this machine need no key if there is none.
    """

    def __init__(
        self, app: ASGIApp, hosts: AllowedHosts, key: bytes | None, *, without_key: bool = True
    ) -> None:
        self._app, self._hosts, self._key, self._without_key = app, hosts, key, without_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on or reject it."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        try:
            self._check(scope, headers)
            if scope["path"] != HEALTH_PATH:
                mark_trusted(scope)
            if scope["method"] != "POST":
                return await self._app(scope, receive, send)
            length = headers.get("content-length", "")
            body = None
            if not (length.isdigit() and int(length) > MAX_BODY_BYTES):
                body = await read_body(receive, MAX_BODY_BYTES)
            if body is None:
                raise ApiError(413, f"the request is larger than {format_bytes(MAX_BODY_BYTES)}")
        except ClientDisconnect:
            return
        except ApiError as error:
            return await error.response()(scope, receive, send)
        await self._app(scope, replay_body(body, receive), send)

    def _check(self, scope: Scope, headers: Headers) -> None:
        if not self._hosts.allows_request(headers):
            raise unknown_host()
        if is_cross_origin(scope, headers):
            raise ApiError(403, "this request was sent by a web page of another origin")
        if scope["path"] == HEALTH_PATH:
            return
        if self._key is None:
            if not (self._without_key and is_from_this_machine(scope)):
                raise ApiError(
                    401,
                    "this server has no API key, without which it answers nobody here; start it with "
                    f"{API_KEY_VARIABLE}",
                    code="invalid_api_key",
                )
            return
        kind, _, given = headers.get("authorization", "").partition(" ")
        if not hmac.compare_digest(digest_of(given.strip()), self._key) or kind.lower() != "bearer":
            raise ApiError(401, "the API key is missing or wrong", code="invalid_api_key")
