"""A server of the real app, whose assistants repeat the question (tests/chat/fake_worker.py)."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from assistant_builder.chat.client import ChatWorker
from assistant_builder.config.serving import ServingConfig
from assistant_builder.serving.app import make_app
from assistant_builder.serving.auth import digest_of
from assistant_builder.serving.engine import Engine
from assistant_builder.serving.registry import ModelRegistry, PromptLimits, ServedModel
from assistant_builder.serving.switch import EngineSwitch
from assistant_builder.web.access import listen
from assistant_builder.web.connections import limited_config
from tests.chat.fake_worker import parrot_command

LONGEST = 50
"""Words of the longest prompt."""


def models(folder: Path) -> ModelRegistry:
    """Both assistants of one study and one of another."""
    named = [("library-qlora", "qlora"), ("library-lora", "lora"), ("ferries-qlora", "qlora")]
    assistants = tuple(ServedModel(name, folder, arm, 1_700_000_000) for name, arm in named)
    return ModelRegistry(assistants, {"library": "library-lora", "ferries": "ferries-qlora"})


def limits() -> PromptLimits:
    return PromptLimits(
        lambda messages: sum(len(turn.content.split()) for turn in messages), LONGEST, "Be brief."
    )


@dataclass
class Served:
    """A server that runs."""

    url: str
    engine: Engine
    worker: ChatWorker

    def ask(self, content: str = "hello you", **body: Any) -> httpx.Response:
        """Ask one assistant one question."""
        asked = {
            "model": "library-lora",
            "messages": [{"role": "user", "content": content}],
            **body,
        }
        return httpx.post(f"{self.url}/v1/chat/completions", json=asked, timeout=60)

    def stream(self, content: str, **body: Any) -> Any:
        """The same as a stream, for a ``with``."""
        asked = {
            "model": "library-lora",
            "messages": [{"role": "user", "content": content}],
            "stream": True,
            **body,
        }
        return httpx.stream("POST", f"{self.url}/v1/chat/completions", json=asked, timeout=60)


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Served]]:
    """Starts servers, which end with the module's tests."""
    ends: list[Callable[[], None]] = []

    def start(
        command: list[str] | None = None,
        key: str | None = None,
        waiting: int = 4,
        config: ServingConfig | None = None,
        app: Callable[..., Any] = make_app,
        switch: EngineSwitch | None = None,
    ) -> Served:
        folder = tmp_path_factory.mktemp("served")
        worker = ChatWorker(command or parrot_command(folder))
        served = models(folder)
        engine = Engine(served, dict.fromkeys(served.ids, limits()), waiting, worker)
        made = app(switch or engine, config or ServingConfig(), digest_of(key) if key else None)
        listener = listen("127.0.0.1", 0)
        server = uvicorn.Server(
            limited_config(
                made,
                listener,
                proxy=(config or ServingConfig()).proxy,
                log_level="warning",
                lifespan="on",
                access_log=False,
                proxy_headers=False,
                timeout_graceful_shutdown=1,
            )
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()

        def end() -> None:
            server.should_exit = True
            thread.join()
            listener.close()

        ends.append(end)
        return Served(f"http://127.0.0.1:{listener.getsockname()[1]}", engine, worker)

    yield start
    for end in ends:
        end()


@pytest.fixture(scope="module")
def served(serve: Callable[..., Served]) -> Served:
    """A server for the tests that leave it as it is."""
    return serve()
