"""Client for OpenAI-compatible servers (``POST {base}/chat/completions``) with retries.

Errors contain neither the key nor any part of the address but the host.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import httpx

from assistant_builder.errors import EvaluationError
from assistant_builder.i18n import m

Kind = Literal["unreachable", "key", "refused", "busy", "reply"]
"""Cause of a failed call: no connection, 401 or 403, another 4xx, a temporary error (timeout, 429, 5xx), no text."""
_RETRIED: tuple[Kind, ...] = ("unreachable", "busy")
_MAX_REPLY_BYTES = 1_000_000
_MAX_WAIT_SECONDS = 30.0
_SHOWN = 200  # characters of an address that an error shows
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
ACCEPTED_CODINGS = {"Accept-Encoding": "gzip, deflate"}
"""Header of requests to servers of others: these codings expand a piece of a response by a factor of about 1,000."""


def has_accepted_coding(response: httpx.Response) -> bool:
    """Whether a response has at most one of :data:`ACCEPTED_CODINGS`.

    Several of them, and others, expand a few kilobytes to gigabytes before their size can be checked.
    """
    coding = response.headers.get("content-encoding", "identity").strip().lower()
    return coding in ("", "identity", "gzip", "deflate")


def endpoint_url(text: str) -> httpx.URL | None:
    """The address of an endpoint; None if the text is none."""
    try:
        url = httpx.URL(text)
        return url if url.scheme in ("http", "https") and url.host else None
    except (httpx.InvalidURL, ValueError):  # also of a host, which is decoded when it is asked for
        return None


@dataclass(frozen=True)
class RetryPolicy:
    """Timeout and retries of a call.

    The timeout is that of one attempt, from connecting to the last byte. The wait after a failed attempt doubles with
    each. A longer ``Retry-After`` of the server takes precedence, up to half a minute.
    """

    timeout_seconds: float = 60.0
    attempts: int = 3
    backoff_seconds: float = 1.0


DEFAULT_RETRY_POLICY = RetryPolicy()


class EndpointError(Exception):
    """A call that returned no text after the last attempt.

    ``words`` has no secrets and nothing of the reply; the text of the exception adds the server's own error message.
    """

    def __init__(
        self, kind: Kind, words: str, *, message: str = "", wait_seconds: float = 0.0
    ) -> None:
        super().__init__(f"{words}: {message}" if message else words)
        self.kind, self.words, self.wait_seconds = kind, words, wait_seconds


DEFAULT_SAMPLING: Mapping[str, Any] = {"temperature": 0, "max_tokens": 2048}


class ChatEndpoint:
    """A model behind a chat-completions URL; an asynchronous context manager for its connections.

    ``sampling`` are the fields of each request besides model and messages; ``where`` names the endpoint in errors.

    Raises:
        EvaluationError: The address is none, or the key cannot be sent in a header.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key: str | None = None,
        patience: RetryPolicy = DEFAULT_RETRY_POLICY,
        sampling: Mapping[str, Any] = DEFAULT_SAMPLING,
        where: str = "judge",
    ) -> None:
        base = endpoint_url(url)
        if base is None:
            raise EvaluationError(
                m("{url!r} is not the URL of an endpoint", url=url[:_SHOWN]),
                where=where,
                remedy=m("Write it like http://127.0.0.1:8000/v1, without a key"),
            )
        path = base.path.rstrip("/")
        self.host = base.netloc.decode("ascii")
        self.model = model
        self._url = base.copy_with(
            path=path if path.endswith("/chat/completions") else f"{path}/chat/completions"
        )
        self._patience, self._sampling = patience, sampling
        key = (key or "").strip()
        if not key.isascii() or not key.isprintable():
            raise EvaluationError(
                m("the key has characters that cannot be sent"),
                where=f"{where} {self.host}",
                remedy=m("Copy it again; keys consist of ASCII letters, digits and punctuation"),
            )
        self._secret = key
        self._client = httpx.AsyncClient(
            headers=ACCEPTED_CODINGS | ({"Authorization": f"Bearer {key}"} if key else {}),
            timeout=patience.timeout_seconds,
            trust_env=base.host not in _LOOPBACK,  # a proxy cannot reach this machine
        )

    async def __aenter__(self) -> ChatEndpoint:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def ask(self, messages: Sequence[dict[str, str]]) -> str:
        """The model's reply, at temperature 0 unless the sampling says otherwise, with the key redacted.

        Raises:
            EndpointError: After the last attempt.
        """
        for attempt in range(self._patience.attempts):
            try:
                return self._clean(await self._once(messages))
            except EndpointError as failure:
                if failure.kind not in _RETRIED or attempt + 1 == self._patience.attempts:
                    raise
                wait = max(self._patience.backoff_seconds * 2**attempt, failure.wait_seconds)
                await asyncio.sleep(min(wait, _MAX_WAIT_SECONDS))
        raise AssertionError("a call has at least one attempt")

    async def _once(self, messages: Sequence[dict[str, str]]) -> str:
        body = {
            "model": self.model,
            "messages": list(messages),
            **self._sampling,
            "stream": False,
        }
        seconds = self._patience.timeout_seconds
        content = bytearray()
        try:
            async with (
                asyncio.timeout(seconds),  # the timeout of httpx is between two bytes
                self._client.stream("POST", self._url, json=body) as response,
            ):
                if not has_accepted_coding(response):
                    raise EndpointError("reply", "the reply is compressed in an unknown way")
                async for chunk in response.aiter_bytes():
                    content += chunk
                    if len(content) > _MAX_REPLY_BYTES:
                        raise EndpointError(
                            "reply", f"the reply is longer than {_MAX_REPLY_BYTES:,} bytes"
                        )
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise EndpointError("unreachable", self._clean(f"no connection: {error}")) from error
        except (TimeoutError, httpx.TimeoutException) as error:
            raise EndpointError("busy", f"no reply in {seconds:g} s") from error
        except httpx.HTTPError as error:
            raise EndpointError("busy", self._clean(f"the connection broke: {error}")) from error
        if not response.is_success:
            raise self._refusal(response, bytes(content))
        return _text_of(bytes(content))

    def _refusal(self, response: httpx.Response, content: bytes) -> EndpointError:
        status, wait = response.status_code, response.headers.get("retry-after", "")
        temporary = status in (408, 429) or status >= 500
        kind: Kind = "key" if status in (401, 403) else "busy" if temporary else "refused"
        message, seconds = (
            self._clean(_error_message(content)),
            float(wait) if wait.isdecimal() else 0.0,
        )
        return EndpointError(kind, f"HTTP {status}", message=message, wait_seconds=seconds)

    def _clean(self, text: str) -> str:
        if self._secret:
            text = text.replace(self._secret, "[hidden]")
        return text.encode("utf-8", errors="replace").decode()


def _text_of(content: bytes) -> str:
    try:
        text: Any = json.loads(content)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise EndpointError("reply", "the reply is not a chat completion") from error
    if isinstance(text, list):
        text = "".join(str(part.get("text", "")) for part in text if isinstance(part, dict))
    if not isinstance(text, str) or not text.strip():
        raise EndpointError("reply", "the reply has no text")
    return text


def _error_message(content: bytes) -> str:
    """The error message of a server in one short line; empty if its reply is not the usual JSON."""
    try:
        tree = json.loads(content)
        error = tree.get("error", tree.get("detail", tree.get("message")))
        text = error.get("message") if isinstance(error, dict) else error
    except (ValueError, AttributeError, RecursionError):
        return ""
    line = " ".join(str(text or "").split())
    return line if len(line) <= 200 else f"{line[:200]}…"
