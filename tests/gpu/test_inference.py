"""Answers of the trained assistants on the command line, the endpoint, and vLLM if it is installed."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.gpu.conftest import ARMS, cli, environment

pytestmark = [pytest.mark.gpu, pytest.mark.train]
QUESTION = "When is the library open?"
LONG = "Which of these days is it? " + "Monday, Tuesday, Wednesday. " * 40
"""More tokens than one row of 64, so that prompt and answer take other kernels."""


@pytest.mark.parametrize("question", [QUESTION, LONG], ids=["short", "long"])
def test_both_arms_answer(trained, question, tell):
    answers = json.loads(cli("ask", trained.name, question, "--json"))["answers"]
    assert set(answers) == set(ARMS)
    for arm, answer in answers.items():
        assert answer["tokens"] > 0 and answer["seconds"] > 0, answer
        tell(
            f"{arm}: {answer['tokens']} tokens in {answer['seconds']:.2f} s, the first after "
            f"{answer['first_token_seconds']:.2f} s ({len(question.split())} words asked)"
        )


@contextmanager
def server(words: list[str]) -> Iterator[dict[str, Any]]:
    """``serve … --json`` until the block ends; what it printed."""
    with subprocess.Popen(
        [sys.executable, "-m", "assistant_builder", "serve", *words, "--json"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        assert process.stdout is not None
        told = ""
        while not told.endswith("}\n}\n"):
            line = process.stdout.readline()
            assert line, f"the server ended: {told}"
            told += line
        try:
            yield json.loads(told)
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == 0


def completion(url: str, model: str, seconds: float = 120, **more: Any) -> dict[str, Any]:
    """The reply of a chat completion of at most 8 tokens."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": 8,
        **more,
    }
    reply = httpx.post(f"{url}/chat/completions", json=body, timeout=seconds)
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


def test_the_endpoint_replies(trained):
    with server([trained.name, "--port", "0"]) as told:
        for arm in ARMS:
            reply = completion(told["url"], f"{trained.name}-{arm}")
            assert reply["usage"]["completion_tokens"] > 0
            assert reply["choices"][0]["finish_reason"] in ("stop", "length")


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("cuda")
def test_vllm_serves_the_same_adapters(trained, tell):
    if shutil.which("vllm") is None:
        pytest.skip("vllm is not installed")
    began = time.monotonic()
    with server([f"{trained.name}:qlora", "--backend", "vllm", "--port", "0"]) as told:
        reply = completion(told["url"], f"{trained.name}-qlora", seconds=500)
        assert reply["usage"]["completion_tokens"] > 0
        tell(f"vllm answered after {time.monotonic() - began:.0f} s")
