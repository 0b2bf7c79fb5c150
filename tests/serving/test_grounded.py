"""What the endpoint says about facts that were looked up, and what it keeps."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

from assistant_builder.atomic_io import write_json
from assistant_builder.serving.registry import select_models
from tests.chat.fake_worker import ROOT
from tests.serving.conftest import Served
from tests.serving.test_endpoint import events
from tests.serving.test_parts import with_adapters
from tests.synthetic_study import new_study

SECRET = "The night bell is behind the oak door."
SOURCE = {"row": 3, "question": "Where is the night bell?", "answer": SECRET, "similarity": 0.91}
WORKER = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from assistant_builder.chat.answer_server import run_server
from assistant_builder.inference.session import Chunk

FOUND = dict(sources=({SOURCE!r},), prompt_tokens=40)

class Grounded:
    holds_models = True
    def ready(self, arm):
        return True
    def load(self, arm, report):
        pass
    def stream(self, arm, messages, sampling, stop_event):
        if messages[-1].content == "unknown":
            yield Chunk("I was not told.", 16, 0.1, 0.2, "stop", declined=True, **FOUND)
            return
        yield Chunk("It is ", 2, 0.1, 0.2, **FOUND)
        yield Chunk("behind the door.", 6, 0.1, 0.3)
        yield Chunk("", 6, 0.1, 0.4, "stop", **FOUND)

run_server(Grounded(), idle_seconds=60)
"""


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    script = tmp_path_factory.mktemp("worker") / "grounded.py"
    script.write_text(WORKER, encoding="utf-8")
    return [sys.executable, str(script)]


def grounded(serve: Callable[..., Served], command: list[str], *, sources: bool) -> Served:
    served = serve(command)
    models = served.engine.models
    served.engine._models = replace(
        models,
        assistants=tuple(
            replace(assistant, grounded=True, shows_sources=sources)
            for assistant in models.assistants
        ),
    )
    return served


@pytest.fixture(scope="module")
def discreet(serve: Callable[..., Served], command: list[str]) -> Served:
    return grounded(serve, command, sources=False)


@pytest.fixture(scope="module")
def open_(serve: Callable[..., Served], command: list[str]) -> Served:
    return grounded(serve, command, sources=True)


def test_a_completion_tells_whether_it_was_declined_and_no_source_by_default(discreet):
    whole = discreet.ask("where").json()
    assert whole["assistant_builder"] == {"mode": "tuned", "declined": False, "sources": []}
    assert whole["choices"][0]["message"]["content"] == "It is behind the door."
    assert discreet.ask("unknown").json()["assistant_builder"] == {
        "mode": "tuned",
        "declined": True,
        "sources": [],
    }
    with discreet.stream("where", stream_options={"include_usage": True}) as response:
        *pieces, end, used = events(response)
    assert end["assistant_builder"] == {"mode": "tuned", "declined": False, "sources": []}
    assert not any("assistant_builder" in piece for piece in (*pieces, used))
    for text in (json.dumps([whole, pieces, end, used]), discreet.ask("where", stop="door").text):
        assert SECRET not in text and "night bell" not in text


def test_an_assistant_that_broke_its_promise_declines_until_it_is_judged_otherwise(serve, command):
    served = grounded(serve, command, sources=False)
    models = served.engine.models
    study = new_study("promising", approaches=["grounded"], retrieval__if_broken="decline")
    served.engine._models = replace(
        models,
        assistants=tuple(replace(each, folder=study.folder) for each in models.assistants),
    )
    broken = study.folder / "promise.json"
    assert "behind the door" in served.ask("where").text
    write_json(broken, {"models": ["promising-lora"], "sentence": "Please ask the desk."})
    whole = served.ask("where").json()
    assert whole["choices"][0]["message"]["content"] == "Please ask the desk."
    assert whole["assistant_builder"]["declined"] is True
    with served.stream("where") as response:
        assert "Please ask the desk." in json.dumps(list(events(response)))
    for left in ('{"models": ["promising-v2-lora"], "sentence": "No."}', "[]"):
        broken.write_text(left)
        assert "behind the door" in served.ask("where").text
    broken.unlink()
    assert "behind the door" in served.ask("where").text


def test_sources_are_sent_where_the_study_allows_it(open_):
    expected = {"mode": "tuned", "declined": False, "sources": [SOURCE]}
    assert open_.ask("where").json()["assistant_builder"] == expected
    assert open_.ask("unknown").json()["assistant_builder"] == {
        "mode": "tuned",
        "declined": True,
        "sources": [SOURCE],
    }
    assert open_.ask("where", stop="door").json()["assistant_builder"] == expected
    with open_.stream("where", stop="door") as response:
        *pieces, end = events(response)
    assert end["assistant_builder"] == expected
    assert not any("assistant_builder" in piece for piece in pieces)


def test_usage_counts_the_facts_in_the_prompt(discreet):
    expected = {"prompt_tokens": 40, "completion_tokens": 6, "total_tokens": 46}
    assert discreet.ask("where").json()["usage"] == expected
    assert discreet.ask("where", stop="door").json()["usage"]["prompt_tokens"] == 40
    with discreet.stream("where", stream_options={"include_usage": True}) as response:
        assert events(response)[-1]["usage"] == expected


def test_an_assistant_that_looks_nothing_up_answers_as_before(served):
    whole = served.ask("hello you").json()
    assert whole.keys() == {"id", "object", "created", "model", "choices", "usage"}
    assert whole["usage"]["prompt_tokens"] == 4
    with served.stream("hello you") as response:
        assert all(
            piece.keys() == {"id", "object", "created", "model", "choices"}
            for piece in events(response)
        )


def test_the_study_says_whether_facts_are_looked_up_and_shown():
    with_adapters("plain")
    with_adapters("hall", approaches=["grounded"])
    with_adapters("open", approaches=["grounded"], retrieval__sources_in_endpoint=True)
    models = select_models(["plain:lora", "hall:lora", "open:lora"], lambda study: "lora")
    assert [(each.grounded, each.shows_sources) for each in models.assistants] == [
        (False, False),
        (True, False),
        (True, True),
    ]
