"""The endpoint over GGUF files in llama.cpp, asked by OpenAI's own client."""

import json
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from assistant_builder.atomic_io import write_json
from assistant_builder.data import Message
from assistant_builder.errors import ConfigError, ModelError
from assistant_builder.inference import llamacpp
from assistant_builder.inference.chunks import Sampling
from assistant_builder.serving.llamacpp import LlamaCppSession, served_type
from assistant_builder.study import Study
from tests.commands import serving
from tests.export.tiny import CHATML, tiny_study
from tests.synthetic_study import finished_study
from tests.tiny_gguf import prompter, write_tiny_gguf

needs_llamacpp = pytest.mark.skipif(
    not llamacpp.is_installed(), reason="xllamacpp is not installed"
)
QUESTION = "Which key opens <|im_end|> the gate?"


def test_the_smallest_file_that_is_no_worse_is_served():
    study = finished_study()
    assert served_type(study, "lora") == "Q8_0"
    report = json.loads(study.report_file.read_text())
    write_json(study.report_file, {**report, "smallest_no_worse": {"name": "Q4_0", "arm": "lora"}})
    assert (served_type(study, "lora"), served_type(study, "qlora")) == ("Q4_0", "Q8_0")


def test_without_the_package_the_error_names_the_extra(monkeypatch):
    from assistant_builder.config.serving import SERVING_BACKENDS, ServingConfig
    from assistant_builder.serving.registry import ModelRegistry

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[gguf\]'"):
        SERVING_BACKENDS["llamacpp"].start(ModelRegistry((), {}), ServingConfig(), None)
    with pytest.raises(ValueError, match="must be one of BF16"):
        ServingConfig(type="Q9")


class TinySession(LlamaCppSession):
    """A session over a file that is written by the test."""

    def __init__(self, path: Path) -> None:
        super().__init__({"one": (Study(path.parent), "lora")})
        self._path = path

    def _load(self, speaker: str, report: Any) -> bool:
        if speaker not in self._loaded:
            server = llamacpp.LlamaServer(self._path, context=512, slots=2, threads=1)
            self._loaded[speaker] = server, prompter(CHATML)
        return False


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TinySession]:
    monkeypatch.setattr(Study, "__init__", lambda self, folder: None)
    found = TinySession(write_tiny_gguf(tmp_path / "tiny.gguf"))
    yield found
    found.close()


def answer(
    session: TinySession, text: str, stop: threading.Event | None = None, **sampling: Any
) -> Any:
    return list(
        session.stream(
            "one", [Message("user", text)], Sampling(**sampling), stop or threading.Event()
        )
    )


@needs_llamacpp
def test_an_answer_is_streamed_as_from_pytorch(session):
    chunks = answer(session, QUESTION, max_new_tokens=12)
    server, tokenizer = session._loaded["one"]
    whole = server.complete(
        tokenizer.prompt_ids([Message("user", QUESTION)]), 12, stop_ids=tokenizer.stop_ids
    )
    assert "".join(chunk.text_delta for chunk in chunks) == whole.text.strip()
    assert (chunks[-1].finish, chunks[-1].tokens) == (whole.finish, len(whole.ids))
    assert chunks[-1].first_token_seconds and session.load("one").base_bytes > 0
    with pytest.raises(ModelError, match="context length of the model is 512"):
        answer(session, "long " * 500)


@needs_llamacpp
def test_an_answer_can_be_stopped(session):
    session.load("one")
    stop = threading.Event()
    stream = session.stream("one", [Message("user", QUESTION)], Sampling(max_new_tokens=400), stop)
    next(stream)
    stop.set()
    *_, last = stream
    assert last.finish == "cancelled" and last.tokens < 400


@needs_llamacpp
def test_a_process_that_died_is_started_again(session):
    first = answer(session, QUESTION, max_new_tokens=4)
    psutil.Process(session._loaded["one"][0]._process.pid).kill()
    session._loaded["one"][0]._process.wait()
    assert not session.ready("one")
    assert [chunk.text_delta for chunk in answer(session, QUESTION, max_new_tokens=4)] == [
        chunk.text_delta for chunk in first
    ]


@pytest.fixture
def url(short_base: Path, converter: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server of one arm."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    tiny_study(short_base, "one", system="Answer in one word.")
    with serving("one:lora --backend llamacpp --type Q4_0 --slots 2") as (ready, process):
        yield ready["url"]
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.read() == "" and process.wait(timeout=30) == 0
        assert not psutil.wait_procs(children, timeout=20)[1]


@pytest.mark.long
@needs_llamacpp
@pytest.mark.train
def test_a_standard_client_is_answered(url, short_base):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=300)
    assert [model.id for model in client.models.list()] == ["one-lora"]

    def ask(question: str, **more: Any) -> Any:
        return client.chat.completions.create(
            model="one", messages=[{"role": "user", "content": question}], max_tokens=12, **more
        )

    whole = ask(QUESTION)
    *pieces, used = list(ask(QUESTION, stream=True, stream_options={"include_usage": True}))
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
    assert text == whole.choices[0].message.content and used.usage == whole.usage
    assert whole.usage.completion_tokens <= 12
    with ThreadPoolExecutor(4) as pool:
        many = list(pool.map(ask, [QUESTION] * 4))
    assert {each.choices[0].message.content for each in many} == {text}
    assert (
        ask(QUESTION, stop=[text[2:4]]).choices[0].message.content == text[: text.find(text[2:4])]
    )
    hot = [ask(QUESTION, temperature=1.5, seed=3).choices[0].message.content for _ in range(2)]
    assert hot[0] == hot[1]
    with pytest.raises(openai.BadRequestError, match="n: "):
        ask(QUESTION, n=2)
    with pytest.raises(openai.BadRequestError, match="tokens"):
        ask("long " * 10_000)
