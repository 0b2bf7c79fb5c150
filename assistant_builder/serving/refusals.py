"""Errors in the shape in which an OpenAI client reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from assistant_builder.errors import AssistantBuilderError

_THEIR_FAULT = ("ConfigError",)
_PASSING = ("ResourceError", "ModelError")
"""Errors after which the next question may be answered: the process is started anew, memory may be there again."""


class Refusal(Exception):  # noqa: N818 - what a client is told, not a failure of ours
    """A request that is not answered.

    Args:
        status: Of the response.
        message: What is wrong, for people.
        code: The same for programs, as OpenAI names it.
        param: The part of the request that is meant.
        retry_seconds: After which another try makes sense.
    """

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None,
        retry_seconds: int | None = None,
    ) -> None:
        self.status = status
        self.code = code
        self.param = param
        self.retry_seconds = retry_seconds
        super().__init__(message)

    def to_record(self) -> dict[str, Any]:
        """The body of the response."""
        kind = "server_error" if self.status >= 500 else (
            "rate_limit_error" if self.status == 429 else "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The response."""
        headers = {"Retry-After": str(self.retry_seconds)} if self.retry_seconds is not None else {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.to_record(), self.status, headers)


def refusal_of(error: AssistantBuilderError, *, kind: str | None = None) -> Refusal:
    """What a client is told of an error.

    Args:
        error: The error.
        kind: Name of its class, where it comes from another process.
    """
    named = kind or type(error).__name__
    status = 400 if named in _THEIR_FAULT else 503 if named in _PASSING else 500
    return Refusal(status, str(error))


def refusal_from(record: Mapping[str, Any]) -> Refusal:
    """What a client is told of an error that another process sent."""
    told = AssistantBuilderError(record["what"], where=record["where"], remedy=record["remedy"])
    return refusal_of(told, kind=str(record["type"]))
