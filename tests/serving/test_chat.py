"""The process of the page's chat: PyTorch's assistants, and the file to ship in llama.cpp."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from assistant_builder.atomic_io import write_json
from assistant_builder.data import Message
from assistant_builder.inference.chunks import Chunk, Sampling
from assistant_builder.inference.session import SHIPPED, ChatSession
from assistant_builder.serving import chat
from assistant_builder.serving.chat import PageSession
from tests.synthetic_study import finished_study

ASK = [Message("user", "Why?")]


class File:
    """A session of llama.cpp that loads nothing."""

    made: list[tuple[str, str]]

    def __init__(self, assistants: dict[str, Any], *, type: str) -> None:
        ((_, arm),) = assistants.values()
        File.made.append((arm, type))
        self.closed = False

    def ready(self, speaker: str) -> bool:
        return True

    def load(self, speaker: str, report: Any) -> None:
        pass

    def stream(self, speaker: str, *rest: Any) -> Iterator[Chunk]:
        yield Chunk(f"{speaker} by the file", 1, 0.1, 0.1, "stop")

    def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def files(monkeypatch: pytest.MonkeyPatch) -> None:
    File.made = []
    monkeypatch.setattr(chat, "LlamaCppSession", File)


def said(session: PageSession, speaker: str) -> str:
    return "".join(
        chunk.text_delta for chunk in session.stream(speaker, ASK, Sampling(), threading.Event())
    )


def test_the_file_that_the_report_names_answers():
    study = finished_study()
    report = json.loads(study.report_file.read_text())
    write_json(study.report_file, {**report, "smallest_no_worse": {"name": "Q4_0", "arm": "qlora"}})
    session = PageSession(study)
    assert not session.ready(SHIPPED) and File.made == []
    session.load(SHIPPED)
    assert session.ready(SHIPPED)
    assert said(session, SHIPPED) == "shipped by the file" and File.made == [("qlora", "Q4_0")]
    session.close()
    assert session._file is not None and session._file.closed


def test_without_a_file_that_is_no_worse_it_is_that_of_the_recommended_assistant():
    study = finished_study()
    report = json.loads(study.report_file.read_text())
    write_json(
        study.report_file,
        {**report, "smallest_no_worse": None, "verdict": {**report["verdict"], "outcome": "worse"}},
    )
    session = PageSession(study)
    session.load(SHIPPED)
    assert File.made == [("lora", "Q8_0")]


def test_the_assistants_are_asked_in_pytorch(monkeypatch):
    monkeypatch.setattr(
        ChatSession,
        "stream",
        lambda self, speaker, *rest: iter([Chunk(speaker, 1, 0.1, 0.1, "stop")]),
    )
    assert said(PageSession(finished_study()), "lora") == "lora" and File.made == []
