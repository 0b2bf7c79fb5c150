"""A small HTTP server that judges as an OpenAI-compatible one would, for tests."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.http_server import Handler, Server, running

Texts = Mapping[str, str]
"""What the judge is shown: question, reference, answer_A, answer_B."""
Reply = str | tuple[int, Any] | None
"""A text at status 200, a status with a body (an iterator of bytes is sent piece by piece, and promises more), or None:
stay silent until the server is stopped."""


@dataclass
class JudgeServer:
    """What the server was asked; ``url`` is the base URL."""

    reply: Callable[[Texts], Reply]
    url: str = ""
    asked: list[Texts] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)


def honest(texts: Texts) -> str:
    """Prefer the answer that equals the reference."""
    a, b = (texts[f"answer_{letter}"] == texts["reference"] for letter in "AB")
    return json.dumps({"better": "tie" if a == b else "A" if a else "B"})


@contextmanager
def judge_server(reply: Callable[[Texts], Reply] = honest) -> Iterator[JudgeServer]:
    """Serve ``/v1/chat/completions`` on a free port of this machine."""
    state = JudgeServer(reply)

    class Judge(Handler):
        def do_POST(self) -> None:
            body = json.loads(self.body())
            content = body["messages"][-1]["content"]
            texts = json.loads(content) if content.startswith("{") else {"prompt": content}
            state.asked.append(texts)
            state.bodies.append(body)
            state.headers.append({name.lower(): value for name, value in self.headers.items()})
            state.paths.append(self.path)
            answer = state.reply(texts)
            if answer is None:
                state.stopping.wait(30)
                return
            message = {"role": "assistant", "content": answer}
            whole = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
            status, content = answer if isinstance(answer, tuple) else (200, whole)
            if isinstance(content, Iterator):
                self.send_response(status)
                self.send_header("Content-Length", "10000")
                self.end_headers()
                for piece in content:
                    self.wfile.write(piece)
                return
            self.send(status, content)

    with running(Server(Judge)) as server:
        state.url = f"{server.endpoint}/v1"
        try:
            yield state
        finally:
            state.stopping.set()
