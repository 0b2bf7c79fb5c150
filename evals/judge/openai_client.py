"""One question to an OpenAI-compatible server: ``POST {base}/chat/completions``, with patience and with no secret told.

Errors name the server's host and nothing else of its address.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

import httpx

from assistant_builder.errors import EvaluationError

Kind = Literal["unreachable", "key", "refused", "busy", "reply"]
"""Why a call failed: no connection, 401 or 403, another 4xx, worth another try (timeout, 429, 5xx), no text."""
_AGAIN: tuple[Kind, ...] = ("unreachable", "busy")
_LARGEST_REPLY = 1_000_000
_LONGEST_WAIT_SECONDS = 30.0
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class RetryPolicy:
    """How long a server is waited for.

    Attributes:
        timeout_seconds: For one try, from connecting to the last byte.
        attempts: Tries of one call.
        backoff_seconds: Wait after the first failed try; it doubles with each. A server's ``Retry-After`` counts
            instead where that is longer, up to half a minute.
    """

    timeout_seconds: float = 60.0
    attempts: int = 3
    backoff_seconds: float = 1.0


PATIENCE = RetryPolicy()


class EndpointError(Exception):
    """A call that brought no text, after the last try.

    Args:
        kind: What failed.
        words: The same for a reader; holds no secret.
        wait_seconds: How long the server asks to wait before another try.
    """

    def __init__(self, kind: Kind, words: str, *, wait_seconds: float = 0.0) -> None:
        super().__init__(words)
        self.kind = kind
        self.words = words
        self.wait_seconds = wait_seconds


class ChatEndpoint:
    """A model behind a chat-completions address; an asynchronous context manager that holds the connections.

    Args:
        url: Base URL as ``eval.judge_url`` holds it, such as ``http://127.0.0.1:8000/v1``.
        model: Name of the model.
        key: Sent as a bearer token; None or empty: none.
        patience: How long to wait.

    Raises:
        EvaluationError: The key cannot be sent in a header.
    """

    def __init__(self, url: str, model: str, *, key: str | None = None, patience: RetryPolicy = PATIENCE) -> None:
        base = httpx.URL(url)
        path = base.path.rstrip("/")
        self.host = base.netloc.decode("ascii")
        self.model = model
        self._url = base.copy_with(path=path if path.endswith("/chat/completions") else f"{path}/chat/completions")
        self._patience = patience
        key = (key or "").strip()
        if not key.isascii() or not key.isprintable():
            raise EvaluationError("the key holds characters that cannot be sent", where=f"judge {self.host}",
                                  remedy="Copy it again; keys are plain letters, digits and marks")
        self._secret = key
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=patience.timeout_seconds,
            trust_env=base.host not in _LOOPBACK,  # no proxy leads to this machine
        )

    async def __aenter__(self) -> ChatEndpoint:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def ask(self, messages: Sequence[dict[str, str]]) -> str:
        """The model's reply at temperature 0; secrets that the server echoes are hidden in it.

        Raises:
            CallFailed: After the last try.
        """
        for attempt in range(self._patience.attempts):
            try:
                return self._clean(await self._once(messages))
            except EndpointError as failure:
                if failure.kind not in _AGAIN or attempt + 1 == self._patience.attempts:
                    raise
                wait = max(self._patience.backoff_seconds * 2**attempt, failure.wait_seconds)
                await asyncio.sleep(min(wait, _LONGEST_WAIT_SECONDS))
        raise AssertionError("a call is tried at least once")

    async def _once(self, messages: Sequence[dict[str, str]]) -> str:
        body = {"model": self.model, "messages": list(messages), "temperature": 0, "max_tokens": 2048, "stream": False}
        seconds = self._patience.timeout_seconds
        content = bytearray()
        try:
            async with (
                asyncio.timeout(seconds),  # httpx counts the time between two bytes only
                self._client.stream("POST", self._url, json=body) as response,
            ):
                async for chunk in response.aiter_bytes():
                    content += chunk
                    if len(content) > _LARGEST_REPLY:
                        raise EndpointError("reply", f"the reply is longer than {_LARGEST_REPLY:,} bytes")
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
        status = response.status_code
        kind: Kind = "refused"
        if status in (401, 403):
            kind = "key"
        elif status in (408, 429) or status >= 500:
            kind = "busy"
        wait = response.headers.get("retry-after", "")
        words = self._clean(_servers_words(content))
        return EndpointError(kind, f"HTTP {status}{f': {words}' if words else ''}",
                          wait_seconds=float(wait) if wait.isdecimal() else 0.0)

    def _clean(self, text: str) -> str:
        """The text without the key, and without the halves of characters that no file can hold."""
        if self._secret:
            text = text.replace(self._secret, "[hidden]")
        return text.encode("utf-8", errors="replace").decode()


def _text_of(content: bytes) -> str:
    """The text of the first choice; servers give it whole or in parts."""
    try:
        text: Any = json.loads(content)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise EndpointError("reply", "the reply is no chat completion") from error
    if isinstance(text, list):
        text = "".join(str(part.get("text", "")) for part in text if isinstance(part, dict))
    if not isinstance(text, str) or not text.strip():
        raise EndpointError("reply", "the reply holds no text")
    return text


def _servers_words(content: bytes) -> str:
    """What a server says of its refusal, in one short line."""
    text: Any = content.decode("utf-8", errors="replace")
    try:
        tree = json.loads(text)
        error = tree.get("error", tree.get("detail", tree.get("message")))
        text = error.get("message") if isinstance(error, dict) else error
    except (ValueError, AttributeError, RecursionError):
        pass  # not the usual JSON: its own text is all there is
    line = " ".join(str(text or "").split())
    return line if len(line) <= 200 else f"{line[:200]}…"
