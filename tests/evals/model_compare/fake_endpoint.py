"""An OpenAI-compatible endpoint that answers as a test says."""

import json
from collections.abc import Callable
from typing import Any

from tests.http_server import Handler, Server


def answering(answer: Callable[[str], str]) -> Callable[[str, int], Any]:
    """A reply to every question."""
    return lambda question, number: {"text": answer(question)}


class FakeEndpoint(Server):
    """Replies ``reply(question, number)``: a text, a status, or bytes; and remembers what it was asked."""

    def __init__(self, reply: Callable[[str, int], Any]) -> None:
        self.reply = reply
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        super().__init__(_Handler)


class _Handler(Handler):
    def do_POST(self) -> None:
        server: Any = self.server
        request = json.loads(self.body())
        server.requests.append(request)
        server.keys.append(self.headers.get("Authorization"))
        question = request["messages"][-1]["content"]
        reply = server.reply(question, len(server.requests))
        if isinstance(reply, bytes):
            self.send(200, reply)
        elif isinstance(reply, int):
            self.send(reply, {"error": {"message": "no such model"}})
        else:
            message = {"role": "assistant", "content": reply["text"]}
            self.send(200, {"choices": [{"message": message, "finish_reason": "stop"}]})
