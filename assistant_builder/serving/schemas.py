"""Requests, responses and errors of the endpoint, in the shape of OpenAI's chat completions.

Options that are not supported may be sent with the value that has no effect, as many clients do; other values are
rejected.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import time
from typing import Annotated, Any, Literal
from uuid import uuid4

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from starlette.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from assistant_builder.data import Message
from assistant_builder.errors import AssistantBuilderError, ConfigError, error_texts
from assistant_builder.inference.chunks import SEED_LIMIT, Sampling
from assistant_builder.serving.registry import ModelRegistry, ServedModel

DONE = "data: [DONE]\n\n"
MAX_STOPS, MAX_STOP = 4, 256
"""Texts that end an answer, and characters of each."""
MAX_MESSAGES, MAX_TEXT = 1_000, 1_000_000
"""Messages of a conversation, and characters of each and of all together; the longest contexts have fewer."""
MAX_LABEL = 256
"""Characters of names and identifiers."""
_MAX_FIELDS = 50
"""Fields of an object; Pydantic would report each of a million unknown ones."""
_SHOWN = 50
"""Characters of a field's name that an error repeats."""
_TEMPORARY_ERRORS = ("ResourceError", "ModelError")
"""Errors after which the next request may succeed: the process restarts, and memory may be available again."""


class ApiError(Exception):
    """A rejected request; ``code`` is OpenAI's name of the error, ``param`` the field of the request that is wrong."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_seconds: int | None = None,
    ) -> None:
        self.status, self.code, self.param, self.retry_seconds = status, code, param, retry_seconds
        super().__init__(message)

    def to_record(self) -> dict[str, Any]:
        """Body of the response."""
        kind = "rate_limit_error" if self.status == 429 else "invalid_request_error"
        if self.status >= 500:
            kind = "server_error"
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self) -> JSONResponse:
        """The response."""
        headers = {"Retry-After": str(self.retry_seconds)} if self.retry_seconds is not None else {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.to_record(), self.status, headers)


def too_many(message: str, *, retry_seconds: int) -> ApiError:
    """The response to a request that has to be sent again later."""
    return ApiError(429, message, code="rate_limit_exceeded", retry_seconds=retry_seconds)


def unknown_model(name: str, more: str = "") -> ApiError:
    """The response to a request for a model that is not served; ``name`` is quoted for the message."""
    message = f"the model {name} does not exist{more}"
    return ApiError(404, message, code="model_not_found", param="model")


def unknown_host() -> ApiError:
    """The response to a request under a name that is not the server's."""
    return ApiError(
        421, "unknown host name; if it is a name of this server, start it with --allow-host NAME"
    )


def api_error(error: AssistantBuilderError, *, kind: str | None = None) -> ApiError:
    """The response to an error of the product; ``kind`` is the name of its class if it comes from another process."""
    named = kind or type(error).__name__
    status = 400 if named == "ConfigError" else 503 if named in _TEMPORARY_ERRORS else 500
    return ApiError(status, str(error))


def api_error_from_record(record: Mapping[str, Any]) -> ApiError:
    """The response to an error that another process reported."""
    error = AssistantBuilderError(**error_texts(record))
    return api_error(error, kind=str(record["type"]))


def _text_of(content: Any) -> Any:
    """The content parts of a message as one text."""
    if not isinstance(content, list):
        return content
    if len(content) > MAX_MESSAGES:
        raise ValueError(f"a message has at most {MAX_MESSAGES} parts")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        if kind != "text":  # any JSON; the message quotes an extract
            raise ValueError(f"only text is supported, not {reprlib.repr(kind)}")
        text = part.get("text")
        if not isinstance(text, str):
            raise ValueError("a part of type 'text' needs a text")
        texts.append(text)
    return "".join(texts)


def _few_fields(value: Any) -> Any:
    if isinstance(value, dict) and len(value) > _MAX_FIELDS:
        raise ValueError(f"an object has at most {_MAX_FIELDS} fields")
    return value


Zero = Annotated[float, Field(ge=0, le=0)]
Nothing = Annotated[list[Any] | dict[str, Any], Field(max_length=0)]


Label = Annotated[str, Field(max_length=MAX_LABEL)]
Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _check_fields(cls, value: Any) -> Any:
        return _few_fields(value)


class ChatMessage(_Strict):
    """One message; an assistant's message may be sent back with all fields of its response."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        Annotated[str, Field(max_length=MAX_TEXT)] | None, BeforeValidator(_text_of)
    ] = None
    name: Label | None = None
    refusal: Annotated[str, Field(max_length=MAX_TEXT)] | None = None
    annotations: Annotated[list[Any], Field(max_length=_MAX_FIELDS)] | None = None
    audio: None = None
    function_call: None = None
    tool_calls: Nothing | None = None


class StreamOptions(_Strict):
    """Options of a stream."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class TextFormat(_Strict):
    """Plain text, the only supported format."""

    type: Literal["text"]


class ChatRequest(_Strict):
    """The body of ``POST /v1/chat/completions``."""

    model: Label
    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1, lt=2**31)
    max_completion_tokens: int | None = Field(None, ge=1, lt=2**31)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    stop: Annotated[
        Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None,
        BeforeValidator(lambda stop: [stop] if isinstance(stop, str) else stop),
    ] = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    user: Label | None = None
    # accepted without effect
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    metadata: (
        Annotated[dict[Label, Annotated[str, Field(max_length=512)]], Field(max_length=16)] | None
    ) = None
    parallel_tool_calls: bool | None = None
    # accepted with the value that has no effect
    n: Literal[1] | None = None
    store: Literal[False] | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: Zero | None = None
    presence_penalty: Zero | None = None
    frequency_penalty: Zero | None = None
    logit_bias: Nothing | None = None
    tools: Nothing | None = None
    functions: Nothing | None = None
    tool_choice: Literal["none", "auto"] | None = None
    function_call: Literal["none", "auto"] | None = None
    response_format: TextFormat | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    service_tier: Literal["auto", "default"] | None = None
    reasoning_effort: Literal["none"] | None = None

    @model_validator(mode="after")
    def _ends_with_a_question(self) -> ChatRequest:
        last = self.messages[-1]
        if last.role != "user" or not (last.content or "").strip():
            raise ValueError("messages: the last one must be the user's, and not be empty")
        if sum(len(turn.content or "") for turn in self.messages) > MAX_TEXT:
            raise ValueError(f"messages: at most {MAX_TEXT} characters together")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end the answer."""
        return tuple(self.stop or ())

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with the tokens that were used."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def conversation(self, system: str) -> list[Message]:
        """The messages, preceded by ``system`` if they have no system prompt of their own."""
        roles = {"developer": "system"}
        turns = [
            Message(roles.get(turn.role, turn.role), turn.content or "")  # type: ignore[arg-type]
            for turn in self.messages
        ]
        own = any(turn.role == "system" for turn in turns)
        return turns if own or not system else [Message("system", system), *turns]

    def sampling(self, longest_answer: int) -> Sampling:
        """Generation settings, greedy by default, as evaluated; raises ApiError if a value is out of bounds.

        ``longest_answer``: most tokens of the answer, unless the request sets its own limit.
        """
        standard = Sampling()
        limit = self.max_completion_tokens or self.max_tokens or longest_answer
        try:
            return Sampling(
                max_new_tokens=limit,
                temperature=standard.temperature if self.temperature is None else self.temperature,
                top_p=standard.top_p if self.top_p is None else self.top_p,
                seed=None if self.seed is None else self.seed % SEED_LIMIT,
            )
        except ConfigError as error:
            raise api_error(error) from error


class Feedback(_Strict):
    """The body of ``POST /v1/feedback``: a vote on an answer, what it should have said, the chosen suggestion."""

    id: str = Field(min_length=1, max_length=100)
    vote: Literal[1, -1] | None = None
    suggestion: str = Field("", max_length=2_000)
    chosen: str = Field("", max_length=2_000)


_VALIDATION = {
    "extra_forbidden": "this is not supported here",
    "json_invalid": "the request is not JSON",
    "string_unicode": "text must not contain half of a surrogate pair",
}
"""Messages of types of Pydantic's errors; the others have Pydantic's own."""


def validation_error(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """The response to an invalid request with all that is wrong, from Pydantic's list of errors."""
    lines, params = [], []
    for error in errors[:10]:
        param = ".".join(str(part)[:_SHOWN] for part in error["loc"] if part != "body")
        message = _VALIDATION.get(error["type"], str(error["msg"]).removeprefix("Value error, "))
        named = param and error["type"] != "json_invalid"
        lines.append(f"{param}: {message}" if named else message)
        params.append(param)
    message = "; ".join(dict.fromkeys(lines))
    return ApiError(400, message, param=params[0] or None if params else None)


def models_response(models: ModelRegistry) -> dict[str, Any]:
    """Response to ``GET /v1/models``."""
    return {"object": "list", "data": list(map(model_response, models.assistants))}


def model_response(assistant: ServedModel) -> dict[str, Any]:
    """Response to ``GET /v1/models/{model}``."""
    return {
        "id": assistant.id,
        "object": "model",
        "created": assistant.created,
        "owned_by": "assistant-builder",
    }


def server_sent_event(document: Mapping[str, Any]) -> str:
    """One event of a stream."""
    return f"data: {json.dumps(document, ensure_ascii=False)}\n\n"


class EventStream(StreamingResponse):
    """A stream of events that closes its generators when it ends, for any reason; a dropped one would close later.

    Args:
        events: The events; closed first.
        others: Generators that the events read.
        on_end: Called at the end.
    """

    def __init__(
        self,
        events: AsyncGenerator[str, None],
        *others: AsyncGenerator[Any, None],
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(
            events,
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )
        self._open, self._on_end = (events, *others), on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_end()
            for generator in self._open:
                await generator.aclose()


def usage(prompt: int, completion: int) -> dict[str, int]:
    """Token counts of an answer."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


@dataclass(frozen=True)
class CompletionMetadata:
    """Fields that all chunks of one completion share."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid4().hex}")
    created: int = field(default_factory=lambda: int(time()))  # Unix time of the request

    def completion(
        self,
        text: str,
        finish: str,
        used: Mapping[str, int],
        grounding: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """A complete response; ``grounding`` is that of :class:`~assistant_builder.serving.engine.StreamChunk`."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"message": message, "finish_reason": finish}
        return self._document("chat.completion", choice, grounding, usage=dict(used))

    def chunk(
        self,
        delta: Mapping[str, str],
        finish: str | None = None,
        grounding: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """One chunk of a stream."""
        choice = {"delta": dict(delta), "finish_reason": finish}
        return self._document("chat.completion.chunk", choice, grounding)

    def usage_chunk(self, used: Mapping[str, int]) -> dict[str, Any]:
        """The last chunk of a stream with ``include_usage``."""
        return self._document("chat.completion.chunk", None, usage=dict(used))

    def _document(
        self,
        kind: str,
        choice: Mapping[str, Any] | None,
        grounding: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        extension = {} if grounding is None else {"assistant_builder": dict(grounding)}
        return {
            **{"id": self.id, "object": kind, "created": self.created, "model": self.model},
            "choices": [] if choice is None else [{"index": 0, "logprobs": None, **choice}],
            **more,
            **extension,
        }
