"""The endpoint over GGUF files in llama.cpp, asked by OpenAI's own client."""

import json
import threading
from collections.abc import Iterator
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
from tests.export.tiny import CHATML
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

    def _load(self, speaker: str, report: Any) -> None:
        if speaker not in self._loaded:
            server = llamacpp.LlamaServer(self._path, context=512, slots=2, threads=1)
            self._loaded[speaker] = server, prompter(CHATML)


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
    assert chunks[-1].first_token_seconds
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
