"""What a client may ask: OpenAI's chat completions, as far as an assistant here can do it.

What is not supported may be sent with the value that changes nothing, as many clients do; with another it is refused.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from assistant_builder.data import Message
from assistant_builder.errors import ConfigError
from assistant_builder.inference.session import SEED_LIMIT, Sampling
from assistant_builder.serving.refusals import Refusal, refusal_of

MOST_STOPS = 4


def _text_of(content: Any) -> Any:
    """Text that comes in parts as one text."""
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        if kind != "text":  # any JSON, and not to be repeated at length
            raise ValueError(f"only text is supported, not {reprlib.repr(kind)}")
        text = part.get("text")
        if not isinstance(text, str):
            raise ValueError("a part of type 'text' needs a text")
        texts.append(text)
    return "".join(texts)


def _is_text(content: str | None) -> str | None:
    try:
        (content or "").encode()
    except UnicodeEncodeError as error:
        raise ValueError("half of a surrogate pair is no text") from error
    return content


Zero = Annotated[float, Field(ge=0, le=0)]
Nothing = Annotated[list[Any] | dict[str, Any], Field(max_length=0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class AskedTurn(_Part):
    """One message; an assistant's may be sent back with all that it came with."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str | None, BeforeValidator(_text_of), AfterValidator(_is_text)] = None
    name: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None
    tool_calls: Nothing | None = None


class StreamOptions(_Part):
    """How a stream shall be."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class TextFormat(_Part):
    """Plain text, the only format there is."""

    type: Literal["text"]


class ChatRequest(_Part):
    """The body of ``POST /v1/chat/completions``."""

    model: str
    messages: list[AskedTurn] = Field(min_length=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    stop: str | list[str] | None = None
    seed: int | None = None
    # may be sent, and change nothing
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    metadata: dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    # may be sent with the value that changes nothing
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
    modalities: list[Literal["text"]] | None = None
    service_tier: Literal["auto", "default"] | None = None
    reasoning_effort: Literal["none"] | None = None

    @model_validator(mode="after")
    def _ends_with_a_question(self) -> ChatRequest:
        last = self.messages[-1]
        if last.role != "user" or not (last.content or "").strip():
            raise ValueError("messages: the last one must be the user's, and not be empty")
        if len(self.stops) > MOST_STOPS or not all(self.stops):
            raise ValueError(f"stop: at most {MOST_STOPS} texts, none of them empty")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end the answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with the tokens that were used."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def conversation(self, system: str) -> list[Message]:
        """The messages, begun with ``system`` where they bring no system prompt of their own."""
        roles = {"developer": "system"}
        turns = [Message(roles.get(turn.role, turn.role), turn.content or "") for turn in self.messages]  # type: ignore[arg-type]
        own = any(turn.role == "system" for turn in turns)
        return turns if own or not system else [Message("system", system), *turns]

    def sampling(self) -> Sampling:
        """How to generate; greedily, as the assistants were evaluated, unless the request says otherwise.

        Raises:
            Refusal: Values are out of bounds.
        """
        standard = Sampling()
        limit = self.max_completion_tokens or self.max_tokens or standard.max_new_tokens
        try:
            return Sampling(
                max_new_tokens=limit,
                temperature=standard.temperature if self.temperature is None else self.temperature,
                top_p=standard.top_p if self.top_p is None else self.top_p,
                seed=None if self.seed is None else self.seed % SEED_LIMIT,
            )
        except ConfigError as error:
            raise refusal_of(error) from error


def refusal_for(errors: Sequence[Mapping[str, Any]]) -> Refusal:
    """What is wrong with a request, all of it.

    Args:
        errors: As pydantic lists them.
    """
    told, params = [], []
    for error in errors[:10]:
        param = ".".join(str(part) for part in error["loc"] if part != "body")
        message = str(error["msg"]).removeprefix("Value error, ")
        if error["type"] == "extra_forbidden":
            told.append(f"{param}: this is not supported here")
        elif error["type"] == "json_invalid":
            told.append("the request is not JSON")
        else:
            told.append(f"{param}: {message}" if param else message)
        params.append(param)
    return Refusal(400, "; ".join(dict.fromkeys(told)), param=params[0] or None if params else None)
