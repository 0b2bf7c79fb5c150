"""An endpoint and a widget that copy answers, without a base model and before a training."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator, Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from assistant_builder.atomic_io import write_json
from assistant_builder.chat.client import ChatWorker
from assistant_builder.chat.inbox import read_inbox
from assistant_builder.chat.visitor_log import VisitorLog, log_file
from assistant_builder.config import StudyConfig
from assistant_builder.config.serving import ServingConfig
from assistant_builder.data import Message, load_split
from assistant_builder.errors import ConfigError
from assistant_builder.inference.chunks import Sampling
from assistant_builder.inference.copying import CopySession
from assistant_builder.models import embedding
from assistant_builder.retrieval.copying import COPY
from assistant_builder.retrieval.promise import if_broken
from assistant_builder.serving.engine import Engine, StreamChunk
from assistant_builder.serving.registry import (
    ModelRegistry,
    prompt_limits,
    select_copies,
    select_models,
)
from assistant_builder.serving.remember import remembered
from assistant_builder.serving.switch import EngineSwitch
from assistant_builder.serving.widget import START_PATH, site_token
from assistant_builder.study import Study
from tests.cluster.conftest import wait_until
from tests.retrieval.fake_embedder import FakeEmbedder
from tests.retrieval.test_copying import SHEET
from tests.serving.conftest import Served, limits
from tests.serving.test_parts import with_adapters
from tests.synthetic_study import new_study

SITE = "https://baths.example"
WORKER = """
import sys
sys.path.insert(0, {root!r})
from assistant_builder.models import embedding
from tests.retrieval.fake_embedder import FakeEmbedder
embedding.Embedder.of = classmethod(lambda cls, model: FakeEmbedder())
sys.modules["torch"] = sys.modules["transformers"] = None  # importing them fails
from assistant_builder.chat.answer_server import run_models
from assistant_builder.serving.shared_models import SharedSession
run_models(SharedSession)
"""
DEEP = "How deep is the deep end?"
TESTED = "How often is the water tested?"
DEPTHS = "The deep end is 3.8 metres deep; the shallow end is 1.1 metres."


def sheet(name: str = "baths", **settings: Any) -> Study:
    return Study.create(StudyConfig().with_changes(settings).named(name), SHEET)


@pytest.fixture
def copies(
    serve: Callable[..., Served], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Served]:
    """Starts the endpoint of a study that never ran."""

    def start(study: Study, **config: Any) -> Served:
        models = select_copies([study.name])
        script = tmp_path / "worker.py"
        script.write_text(WORKER.format(root=str(Path(__file__).parents[2])), encoding="utf-8")
        assistants = [
            [each.id, str(each.folder), each.arm, each.approach] for each in models.assistants
        ]
        monkeypatch.setattr("tests.serving.conftest.models", lambda folder: models)
        monkeypatch.setattr("tests.serving.conftest.limits", partial(_only, prompt_limits(models)))
        command = [sys.executable, str(script), json.dumps({"assistants": assistants})]
        return serve(command, config=ServingConfig(mode="copy", **config))

    return start


TRAINED = """
from assistant_builder.inference.chunks import Chunk
from assistant_builder.inference.session import Session

class Trained(Session):
    def __init__(self, assistants):
        super().__init__(tuple(assistants), "the server")
    def _load(self, speaker, report):
        self._loaded[speaker] = None, None
    def stream(self, speaker, messages, sampling, stop_event):
        yield Chunk("Of its own.", 3, 0.1, 0.1, "stop", declined=False)
"""


def test_an_assistant_that_broke_its_promise_copies_until_that_is_wrong_too(
    serve, tmp_path, monkeypatch
):
    study = with_adapters("baths", approaches=["grounded"], retrieval__if_broken="copy")
    question = load_split(study.folder / "data", "train")[0]
    chosen = partial(select_models, ["baths"], lambda study: "lora")
    script = tmp_path / "worker.py"
    script.write_text(
        WORKER.format(root=str(Path(__file__).parents[2])).replace(
            "run_models(SharedSession)", f"{TRAINED}\nrun_models(Trained)"
        ),
        encoding="utf-8",
    )

    def build(models: ModelRegistry) -> Engine:
        assistants = [
            [each.id, str(each.folder), each.arm, each.approach] for each in models.assistants
        ]
        command = [sys.executable, str(script), json.dumps({"assistants": assistants})]
        return Engine(models, dict.fromkeys(models.ids, limits()), 4, ChatWorker(command))

    served = serve(switch=EngineSwitch(chosen(), build))

    def said(arm: str) -> str:
        answer = served.ask(question.question, model=f"baths-{arm}").json()
        return str(answer["choices"][0]["message"]["content"])

    def broken(*names: str) -> None:
        content = {"models": list(names), "sentence": "Please ask the desk."}
        write_json(study.folder / "promise.json", content)

    assert (said("lora"), said("qlora")) == ("Of its own.", "Of its own.")
    broken("baths-lora")
    wait_until(lambda: said("lora") == question.answer, 30)
    assert said("qlora") == "Of its own."
    broken("baths-lora", "baths-copy")
    wait_until(lambda: said("lora") == "Please ask the desk.", 30)
    (study.folder / "promise.json").unlink()
    wait_until(lambda: said("lora") == "Of its own.", 30)


def test_copying_is_no_way_out_where_its_promise_cannot_be_kept():
    study = with_adapters(
        "baths",
        approaches=["grounded"],
        retrieval__if_broken="copy",
        retrieval__keep_promise=True,
    )
    write_json(study.folder / "promise.json", {"models": ["baths-lora"], "sentence": "No."})
    for copy, does in ((None, "decline"), (0.4, "copy")):
        cells = {"L16": {"threshold": 0.5}, "copy": {"threshold": copy}}
        write_json(study.report_file, {"promise": {"cells": cells}})
        assert if_broken(study, study, "lora") == does
        assert if_broken(study, study, "qlora") == "answer"
        arms = select_models(["baths:lora"], lambda study: "lora").assistants
        assert [each.arm for each in arms] == ["copy" if does == "copy" else "lora"]


def _only(limits: dict[str, Any]) -> Any:
    (found,) = limits.values()
    return found


def test_the_endpoint_copies_with_sources_and_declines(copies):
    served = copies(sheet(**{"retrieval.sources_in_endpoint": True}))
    body = served.ask(DEEP, model="baths").json()
    assert body["model"] == "baths-copy"
    assert body["choices"][0]["message"]["content"] == DEPTHS
    assert body["choices"][0]["finish_reason"] == "stop"
    found = body["assistant_builder"]
    assert (found["mode"], found["declined"]) == ("copy", False)
    assert found["sources"][0]["answer"] == DEPTHS and found["sources"][0]["row"] == 13
    assert body["usage"] == {"prompt_tokens": 6, "completion_tokens": 13, "total_tokens": 19}
    cut = served.ask(DEEP, model="baths", max_tokens=4).json()["choices"][0]
    assert (cut["message"]["content"], cut["finish_reason"]) == ("The deep end is", "length")
    far = served.ask("xylophone zebra quartz?", model="baths").json()
    assert far["assistant_builder"] == {"mode": "copy", "declined": True, "sources": []}
    turns = [
        {"role": "user", "content": "What does a swimming course for children cost?"},
        {"role": "assistant", "content": "108."},
        {"role": "user", "content": "And adults?"},
    ]
    assert served.ask(model="baths", messages=turns).json()["choices"][0]["message"]["content"]
    with served.stream(DEEP, model="baths") as response:
        pieces = [
            json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: {")
        ]
    said = "".join(piece["choices"][0]["delta"].get("content", "") for piece in pieces)
    assert said == DEPTHS and pieces[-1]["assistant_builder"]["mode"] == "copy"


def test_a_question_of_a_megabyte_is_refused_at_once(copies):
    served = copies(sheet())
    long = "a." * 400_000
    for messages in (
        [{"role": "user", "content": long}],
        [
            {"role": "user", "content": long},
            {"role": "assistant", "content": "Yes."},
            {"role": "user", "content": "And adults?"},
        ],
    ):
        refused = served.ask(model="baths", messages=messages)
        assert refused.status_code == 400
        assert "at most 10,000 characters" in refused.json()["error"]["message"]
    assert served.ask("a." * 4_000, model="baths").status_code == 200


def test_the_widget_says_that_answers_are_looked_up(copies):
    study = sheet()
    served = copies(study, widget=True, allow_origin=(SITE,))
    ask: Any = partial(httpx.post, headers={"Origin": SITE}, timeout=60)
    site = {"site": site_token(study)}
    shown = ask(served.url + START_PATH, json={**site, "language": "en"}).json()
    assert shown["texts"]["machine"].startswith("Answers are copied from a list")
    turns = [{"role": "user", "content": DEEP}]
    streamed = ask(f"{served.url}/widget/ask", json={**site, "messages": turns}).text
    assert DEPTHS in streamed and '"declined": false' in streamed


def test_the_endpoint_answers_each_question_of_a_message_and_greetings(copies):
    served = copies(sheet())
    both = served.ask(f"{DEEP} And how warm is the teaching pool?", model="baths").json()
    said = both["choices"][0]["message"]["content"]
    assert said == f"{DEPTHS}\n\nThe teaching pool has 31 degrees."
    assert both["usage"]["completion_tokens"] == 19
    part = served.ask(f"{DEEP} Who is xylophone zebra quartz?", model="baths").json()
    assert part["assistant_builder"]["missing"] == ["Who is xylophone zebra quartz?"]
    assert part["choices"][0]["message"]["content"].startswith(f"{DEPTHS}\n\n“Who is xylophone")
    hello = served.ask("Hallo!", model="baths").json()
    assert hello["choices"][0]["message"]["content"].startswith("Hallo!")
    found = hello["assistant_builder"]
    assert (found["mode"], found["declined"], len(found["suggestions"])) == ("reply", False, 3)


def test_what_is_clicked_under_a_decline_becomes_a_label(copies):
    study = sheet()
    served = copies(study, widget=True, allow_origin=(SITE,), remember="texts")
    ask: Any = partial(httpx.post, headers={"Origin": SITE}, timeout=60)
    site = {"site": site_token(study)}

    def said(question: str) -> dict[str, Any]:
        turns = [{"role": "user", "content": question}]
        streamed = ask(f"{served.url}/widget/ask", json={**site, "messages": turns}).text
        return json.loads(streamed.strip().splitlines()[-1].removeprefix("data: "))

    greeted, missed = said("hi"), said("tested zebra quartz lamp opal grey?")
    assert greeted["reply"] and greeted["suggestions"]
    assert missed["declined"] and TESTED in missed["suggestions"]
    body = {**site, "id": missed["id"], "chosen": TESTED}
    assert ask(f"{served.url}/widget/feedback", json=body).status_code == 204

    def labelled() -> bool:
        return any(group.chosen for group in read_inbox(study, time.time()).groups)

    deadline = time.monotonic() + 20
    while not labelled() and time.monotonic() < deadline:
        time.sleep(0.05)
    inbox = read_inbox(study, time.time())
    (group,) = inbox.groups
    assert group.chosen == (TESTED,) and group.problem == "declined"
    counted = inbox.whole
    assert (counted.asked, counted.declined, counted.greetings) == (1, 1, 1)


def test_a_question_that_the_assistant_asks_back_about_is_counted_apart():
    study = new_study("baths")
    log_file(study).parent.mkdir(parents=True, exist_ok=True)
    log = VisitorLog(log_file(study), "texts", 90)
    request: Any = SimpleNamespace(
        assistant=SimpleNamespace(version="v"), messages=(Message("user", "How deep?"),)
    )

    async def answered(mode: str, more: dict[str, Any]) -> None:
        async def chunks() -> AsyncGenerator[StreamChunk, None]:
            yield StreamChunk("Which?", 1, "stop", {"mode": mode, "declined": False, **more})

        async for _ in remembered(chunks(), request, log, f"{mode}{len(more)}", "v1"):
            pass

    for mode, more in (("copy", {"asks_back": True}), ("reply", {}), ("copy", {})):
        asyncio.run(answered(mode, more))
    log.close()
    counted = read_inbox(study, time.time()).whole
    assert (counted.asked, counted.asked_back, counted.greetings) == (1, 1, 1)


def test_what_cannot_be_copied_is_refused():
    sheet()
    with pytest.raises(ConfigError, match="not of an arm"):
        select_copies(["baths:lora"])
    models = select_copies(["baths", "baths"])
    assert models.ids == ["baths-copy"] and models.aliases == {"baths": "baths-copy"}
    assert models.warnings == [] and models.latest() == models


def test_the_session_reads_the_data_again_when_they_change(monkeypatch):
    monkeypatch.setattr(embedding.Embedder, "of", lambda model: FakeEmbedder())
    study = new_study("library")
    session = CopySession({COPY: (study, COPY)})

    def answer(question: str) -> str:
        messages = [Message("user", question)]
        (chunk,) = session.stream(COPY, messages, Sampling(), None)  # type: ignore[arg-type]
        assert chunk.finish == "stop" and chunk.judged["mode"] == "copy"
        return chunk.text_delta

    session.load(COPY)
    assert answer("When does the library open?")
    assert study.source is not None
    study.source.write_text(SHEET.read_text(encoding="utf-8"), encoding="utf-8")
    assert answer(DEEP) == DEPTHS
    study.source.write_text("question,answer\n", encoding="utf-8")
    assert answer(DEEP) == DEPTHS  # what cannot be read does not take answers away


def test_an_engine_without_a_tokenizer_counts_words():
    models = select_copies([sheet().name])
    limits = prompt_limits(models)["baths-copy"]
    assert limits.count([Message("user", "three short words")]) == 3
    assert Engine(models, {"baths-copy": limits}, 1, None).models is models  # type: ignore[arg-type]
