"""A base whose template or tokenizer was made to exhaust the server: a sentence, and others are answered meanwhile."""

import resource
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from assistant_builder import child_protocol
from assistant_builder.chat.client import ChatWorker
from assistant_builder.config.serving import ServingConfig
from assistant_builder.data import Message
from assistant_builder.errors import ModelError
from assistant_builder.models import template_process
from assistant_builder.runner.data_steps import prepare_data
from assistant_builder.serving.app import make_app
from assistant_builder.serving.engine import Engine
from assistant_builder.serving.registry import (
    ModelRegistry,
    PromptLimits,
    ServedModel,
    study_prompt_limits,
)
from assistant_builder.web.access import listen
from tests.chat.fake_worker import parrot_command
from tests.models.hostile_base import ENDLESS, LONG_STRING, hostile_base, multiplying, watched
from tests.models.test_hostile_models import TEMPLATE
from tests.synthetic_study import new_study, with_data

COUNT = """
import json
from assistant_builder.data import Message
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.serving.registry import study_prompt_limits
from assistant_builder.study import Study

limits = study_prompt_limits(Study.open("library"))
limits.count([Message("user", "hello")])
try:
    print(json.dumps(limits.count([Message("user", "q" * 20)])))
except AssistantBuilderError as error:
    print(json.dumps(str(error)))
"""


def test_twenty_characters_that_become_millions_of_tokens_are_a_sentence(tmp_path):
    with_data(new_study(model__base=str(hostile_base(tmp_path / "base", normalizer=multiplying()))))
    reply = str(watched(COUNT))
    assert "tokenizer" in reply and "Choose another base model" in reply


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server of one assistant over a base whose template never ends where it is asked to, and of a sound one."""
    monkeypatch.setattr(template_process, "SECONDS", 3.0)
    template = ENDLESS.replace(
        "{% for i", "{% if 'loop' in messages[-1]['content'] %}{% for i", 1
    ).replace(TEMPLATE, "{% endif %}" + TEMPLATE)
    studies = [
        with_data(new_study(name, model__base=str(hostile_base(tmp_path / name, template=text))))
        for name, text in (("hostile", template), ("sound", TEMPLATE))
    ]
    limits: dict[str, PromptLimits] = {
        f"{study.name}-lora": study_prompt_limits(study) for study in studies
    }
    models = ModelRegistry(
        tuple(ServedModel(f"{study.name}-lora", study.folder, "lora", 1) for study in studies), {}
    )
    engine = Engine(models, limits, 4, ChatWorker(parrot_command(tmp_path)))
    server = uvicorn.Server(
        uvicorn.Config(
            make_app(engine, ServingConfig(), None),
            log_level="warning",
            lifespan="on",
            timeout_graceful_shutdown=1,
        )
    )
    with listen("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1/chat/completions"
        server.should_exit = True
        thread.join()


def ask(url: str, model: str, content: str, timeout: float = 40) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": content}]}
    return httpx.post(url, json=body, timeout=timeout)


@pytest.mark.long
def test_others_are_answered_while_a_template_does_not_end(url):
    assert ask(url, "sound-lora", "hello").status_code == 200
    found: list[httpx.Response | Exception] = []

    def loop(number: int) -> None:
        try:
            found.append(ask(url, "hostile-lora", f"loop {number % 2}"))
        except httpx.HTTPError as error:
            found.append(error)

    # more than anyio's
    threads = [threading.Thread(target=loop, args=(number,), daemon=True) for number in range(60)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    began = time.monotonic()
    for _ in range(3):
        assert ask(url, "sound-lora", "hello").status_code == 200
    assert not found or time.monotonic() - began < 3.0, "they were answered while the others waited"
    for thread in threads:
        thread.join(60)
    assert [answer.status_code for answer in found if isinstance(answer, httpx.Response)] == [
        400
    ] * len(threads), found
    assert all(
        "took longer than 3 seconds" in answer.json()["error"]["message"] for answer in found
    )
    assert ask(url, "hostile-lora", "hello").status_code == 200


def test_the_first_request_finds_the_process_started(tmp_path, monkeypatch):
    started: list[object] = []
    popen: Callable[..., object] = subprocess.Popen

    def start(*words: Any, **more: Any) -> object:
        started.append(1)
        return popen(*words, **more)

    monkeypatch.setattr(child_protocol.subprocess, "Popen", start)
    limits = study_prompt_limits(
        with_data(new_study(model__base=str(hostile_base(tmp_path / "base"))))
    )
    assert started == [1]
    assert limits.count([Message("user", "hello")]) > 5 and started == [1]
    assert limits.count([Message("user", "hello " * 20_000)]) > 20_000 and started == [1, 1]


def test_an_unreadable_tokenizer_is_reported_at_the_start(tmp_path):
    base = hostile_base(tmp_path / "base")
    (base / "tokenizer.json").write_text("[" * 100_000)
    study = with_data(new_study(model__base=str(base)))
    with pytest.raises(ModelError, match="tokenizer cannot be read"):
        study_prompt_limits(study)


def test_the_data_step_fails_with_a_sentence(tmp_path):
    study = new_study(model__base=str(hostile_base(tmp_path / "base", template=LONG_STRING)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError, match="Choose another base model"):
        prepare_data(study)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
