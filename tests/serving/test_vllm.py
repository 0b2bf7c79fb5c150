"""The endpoint over vLLM; a program with its options and protocol takes its place (tests/serving/fake_vllm.py)."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from assistant_builder.atomic_io import read_json, write_json
from assistant_builder.data import Message
from assistant_builder.errors import ConfigError, ModelError
from assistant_builder.inference.chunks import Sampling
from assistant_builder.inference.vllm import VllmServer
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.serving.registry import select_models
from assistant_builder.serving.vllm import VllmSession, vllm_command
from assistant_builder.study import Study
from tests.cluster.conftest import wait_until
from tests.commands import serving
from tests.export.grounded import SENTENCE, with_index
from tests.export.tiny import tiny_base, tiny_study
from tests.serving.test_parts import run, with_adapters

SYSTEM = "Answer in one word."
QUESTION = "Which key opens <|im_end|> the gate?"
GREEDY = Sampling(max_new_tokens=12)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("vllm") / "base")


@pytest.fixture
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts the program on the PATH; further calls change what it answers."""
    program = tmp_path / "bin" / "vllm"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\nexec {sys.executable} {Path(__file__).parent / "fake_vllm.py"} "$@"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")

    def answers(**settings: Any) -> None:
        monkeypatch.setenv("FAKE_VLLM", json.dumps(settings))

    return answers


@contextmanager
def session(*studies: Study, arm: str = "lora") -> Iterator[VllmSession]:
    found = VllmSession({f"{study.name}-{arm}": (study, arm) for study in studies})
    try:
        yield found
    finally:
        found.close()


def answer(
    asked: VllmSession,
    speaker: str,
    question: str = QUESTION,
    sampling: Sampling = GREEDY,
    stop: threading.Event | None = None,
) -> list[Any]:
    messages = [Message("system", SYSTEM), Message("user", question)]
    return list(asked.stream(speaker, messages, sampling, stop or threading.Event()))


def requests(study: Study, arm: str = "lora") -> list[Any]:
    """What the program was asked."""
    return [
        json.loads(line)
        for line in (study.arm_folder(arm) / "requests.jsonl").read_text().splitlines()
    ]


# the command


def command(*words: str, context: int | None = None) -> list[str]:
    models = select_models(words, lambda study: "qlora")
    return vllm_command({each.id: (each.study, each.arm) for each in models.assistants}, context)


@pytest.mark.train
def test_the_command_has_base_storage_adapters_and_rank(base):
    study = with_adapters("library", model__base=str(base), train__rank=24)
    with_adapters("ferries", model__base=str(base), train__rank=4)
    found = command("library:qlora", "ferries:qlora")
    options = dict(zip(found[3::2], found[4::2], strict=False))
    assert found[:3] == ["vllm", "serve", str(base)] and options["--dtype"] == "bfloat16"
    assert found[found.index("--quantization") + 1] == "bitsandbytes"
    assert found[found.index("--max-lora-rank") + 1] == "32"
    assert found[found.index("--max-loras") + 1] == "2"
    assert [json.loads(text) for text in found[found.index("--lora-modules") + 1 :]] == [
        {
            "name": f"{name}-qlora",
            "path": str(study.folder.parent / name / "arms" / "qlora" / "adapter"),
        }
        for name in ("library", "ferries")
    ]
    assert options["--max-model-len"] == "2048"  # all that the tiny base reads
    assert "--quantization" not in command("library:lora")


@pytest.mark.train
def test_what_vllm_cannot_serve_is_refused(base, monkeypatch, vllm):
    study = with_adapters("library", model__base=str(base))
    assert "need several" in run("library", "--backend", "vllm")[1]
    assert (
        "everyone who reaches" in run("library:qlora", "--backend", "vllm", "--host", "0.0.0.0")[1]
    )
    monkeypatch.setenv("PATH", "")
    assert "vLLM is not installed" in run("library:qlora", "--backend", "vllm")[1]
    study.write_config(study.config.with_changes({"train.rank": 600}))
    assert "rank 512 at most, not 600" in run("library:qlora", "--backend", "vllm")[1]
    study.write_config(study.config.with_changes({"model.quant_type": "fp4", "train.rank": 8}))
    assert "trained over fp4" in run("library:qlora", "--backend", "vllm")[1]
    study.write_config(
        study.config.with_changes({"model.quant_type": "int8", "model.double_quant": False})
    )
    refused = run("library:qlora", "--backend", "vllm")[1]
    assert "trained over int8" in refused and "without double" not in refused
    assert "--quantization" not in command("library:lora")
    summary = study.arm_folder("lora") / "summary.json"
    write_json(summary, {**read_json(summary), "compute_dtype": "float32"})
    assert command("library:lora")[command("library:lora").index("--dtype") + 1] == "auto"


# the session


@pytest.mark.train
def test_vllm_gets_the_tokens_of_the_studys_prompt(base, vllm):
    vllm(text="A brass one, 7 € äöü.")
    one, other = (tiny_study(base, name, system=SYSTEM) for name in ("one", "other"))
    with session(one, other) as asked:
        chunks = answer(asked, "one-lora", sampling=Sampling())
        assert "".join(chunk.text_delta for chunk in chunks) == "A brass one, 7 € äöü."
        assert chunks[-1].finish == "stop"
        assert chunks[-1].tokens == len("A brass one, 7 € äöü.".encode())
        assert len(chunks) > 10 and chunks[-1].first_token_seconds
        (body,) = requests(one)
        prompter = ChatTokenizer.load(base, one.template_date)
        assert tuple(body["prompt"]) == prompter.prompt_ids(
            [Message("system", SYSTEM), Message("user", QUESTION)]
        )
        assert (body["model"], body["temperature"], body["max_tokens"]) == ("one-lora", 0.0, 256)
        assert set(body["stop_token_ids"]) == set(prompter.stop_ids) and "logprobs" not in body
        last = answer(
            asked,
            "other-lora",
            sampling=Sampling(max_new_tokens=3, temperature=0.7, top_p=0.9, seed=5),
        )[-1]
        assert (last.finish, last.tokens) == ("length", 3)
        (body,) = requests(other)
        assert body["temperature"] == 0.7
        assert body["top_p"] == 0.9
        assert body["seed"] == 5
        assert body["max_tokens"] == 3
        with pytest.raises(ModelError, match="context length of the model is 2048"):
            answer(asked, "one-lora", "long " * 500)


@pytest.mark.train
def test_facts_are_looked_up_and_unlikely_answers_are_declined(base, bundled_models, vllm):
    from assistant_builder.models.embedding import Embedder

    study = tiny_study(base, "hall", approaches=["grounded"], train__max_length=1500)
    with_index(study, Embedder.load(device="cpu"), threshold=0.6)
    known = json.loads((study.folder / "data" / "train.jsonl").read_text().splitlines()[0])[
        "messages"
    ][0]["content"]
    with session(study) as asked:
        last = answer(asked, "hall-lora", known, Sampling())[-1]
        assert not last.declined and last.sources[0]["question"] == known
        assert requests(study)[0]["logprobs"] == 1
        assert last.prompt_tokens == len(requests(study)[0]["prompt"])
        (only,) = answer(
            asked, "hall-lora", "Who painted the ceiling of the Sistine Chapel?", Sampling()
        )
        assert only.declined and only.text_delta == SENTENCE


@pytest.mark.train
def test_an_answer_that_is_stopped_ends_vllms_computation(base, vllm):
    vllm(text="x" * 200, seconds=0.05)
    study, stop = tiny_study(base, "one"), threading.Event()
    with session(study) as asked:
        asked.load("one-lora")
        stream = asked.stream("one-lora", [Message("user", QUESTION)], Sampling(), stop)
        next(stream)
        stop.set()
        *_, last = stream
        assert last.finish == "cancelled" and last.tokens < 100
        deadline = time.monotonic() + 10
        while requests(study)[-1] != "aborted":
            assert time.monotonic() < deadline, "vLLM goes on"
            time.sleep(0.05)


@pytest.mark.train
def test_a_vllm_that_died_is_started_again_and_one_that_cannot_start_says_why(base, vllm):
    vllm(text="x" * 100, seconds=0.05)
    with session(tiny_study(base, "one")) as asked:
        asked.load("one-lora")
        guard = psutil.Process(asked._server._process.pid)
        others = guard.children(recursive=True)
        stream = asked.stream(
            "one-lora", [Message("user", QUESTION)], Sampling(), threading.Event()
        )
        next(stream)
        guard.children()[0].kill()
        with pytest.raises(ModelError, match="vLLM ended"):
            list(stream)
        assert not psutil.wait_procs(others, timeout=30)[1], "its engine was left"
        assert not asked.ready("one-lora")
        vllm(text="Again.")
        assert "".join(chunk.text_delta for chunk in answer(asked, "one-lora")) == "Again."
        folder = asked._server._folder
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()
    vllm(text="crash")
    with pytest.raises(ModelError, match=r"vLLM could not start \(CUDA is not available\)"):
        VllmServer(command("one:lora"))


def test_without_vllm_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="pip install vllm vllm-bnb-plugin"):
        VllmServer(["vllm", "serve", "x"])


# the endpoint


@pytest.mark.long
@pytest.mark.train
def test_a_client_and_a_visitor_are_answered_and_nothing_is_left(base, vllm, monkeypatch):
    openai = pytest.importorskip("openai")
    # else the widget alone is served
    monkeypatch.setenv("ASSISTANT_BUILDER_API_KEY", key := "a-key-of-16-characters")
    vllm(text="A brass key.")
    study = tiny_study(base, "one", system=SYSTEM)
    with serving("one:lora --backend vllm --widget --remember texts") as (ready, process):
        client = openai.OpenAI(base_url=ready["url"], api_key=key, max_retries=0, timeout=60)
        assert [model.id for model in client.models.list()] == ["one-lora"]

        def ask(**more: Any) -> Any:
            return client.chat.completions.create(
                model="one", messages=[{"role": "user", "content": QUESTION}], **more
            )

        whole = ask()
        *pieces, used = list(ask(stream=True, stream_options={"include_usage": True}))
        assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == "A brass key."
        assert whole.choices[0].message.content == "A brass key." and used.usage == whole.usage
        prompter = ChatTokenizer.load(base, study.template_date)
        assert tuple(requests(study)[0]["prompt"]) == prompter.prompt_ids(
            [Message("system", SYSTEM), Message("user", QUESTION)]
        ), "the study's system prompt is added"
        with ThreadPoolExecutor(16) as pool:
            assert {
                reply.choices[0].message.content for reply in pool.map(lambda _: ask(), range(16))
            } == {"A brass key."}
        assert httpx.get(ready["widget"]["page"]).status_code == 200
        children = psutil.Process(process.pid).children(recursive=True)
        assert any("engine" in " ".join(child.cmdline()) for child in children)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
        assert not psutil.wait_procs(children, timeout=30)[1]


@pytest.mark.long
@pytest.mark.train
def test_vllm_ends_with_a_server_that_is_killed(base, vllm):
    tiny_study(base, "one")
    with serving("one:lora --backend vllm") as (ready, process):
        health = f"{ready['url'].removesuffix('/v1')}/health"
        wait_until(lambda: httpx.get(health).json() == {"status": "ok"})
        children = psutil.Process(process.pid).children(recursive=True)
        assert any("engine" in " ".join(child.cmdline()) for child in children)
        process.kill()
        assert not psutil.wait_procs(children, timeout=30)[1]
