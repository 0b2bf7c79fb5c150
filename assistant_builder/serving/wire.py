"""Answers in the shape in which an OpenAI client reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import time
from typing import Any
from uuid import uuid4

from assistant_builder.serving.roster import Assistant, Roster

DONE = "data: [DONE]\n\n"


def models(roster: Roster) -> dict[str, Any]:
    """The answer to ``GET /v1/models``."""
    return {"object": "list", "data": [model(assistant) for assistant in roster.assistants]}


def model(assistant: Assistant) -> dict[str, Any]:
    """One of them."""
    return {"id": assistant.id, "object": "model", "created": assistant.created, "owned_by": "assistant-builder"}


def event(document: Mapping[str, Any]) -> str:
    """One event of a stream."""
    return f"data: {json.dumps(document, ensure_ascii=False)}\n\n"


def usage(prompt: int, completion: int) -> dict[str, int]:
    """Tokens that an answer took."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


@dataclass(frozen=True)
class Envelope:
    """What all parts of one answer have in common.

    Attributes:
        model: The assistant that answers.
        id: Of the answer.
        created: When it was asked for, seconds since 1970.
    """

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid4().hex}")
    created: int = field(default_factory=lambda: int(time()))

    def whole(self, text: str, finish: str, used: Mapping[str, int]) -> dict[str, Any]:
        """An answer in one piece."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
        return {**self._head("chat.completion"), "choices": [choice], "usage": dict(used)}

    def piece(self, delta: Mapping[str, str], finish: str | None = None) -> dict[str, Any]:
        """A piece of an answer."""
        choice = {"index": 0, "delta": dict(delta), "logprobs": None, "finish_reason": finish}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def last(self, used: Mapping[str, int]) -> dict[str, Any]:
        """The end of a stream that shall tell its tokens."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": dict(used)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}
