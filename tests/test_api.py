"""The Python API: what ``import assistant_builder`` offers, on the finished example."""

import ast
import html
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pandas
import pytest

import assistant_builder as ab
from assistant_builder.config import StudyConfig
from assistant_builder.errors import ConfigError, EvaluationError, ModelError, StudyError
from assistant_builder.inference.chunks import Chunk, Sampling
from assistant_builder.inference.session import ChatSession
from assistant_builder.models.embedding import Embedder
from assistant_builder.runner import run as runs
from assistant_builder.runner.backend import Event
from assistant_builder.study import Study
from evals.report.schema import Report
from tests.commands import python
from tests.retrieval.fake_embedder import FakeEmbedder
from tests.retrieval.test_copying import SHEET
from tests.synthetic_study import SMALL, finished_study, new_study, trained, with_data

ROOT = Path(__file__).parents[1]
QUESTION = "Which number do I ring to book?"


def child_seconds(code: str) -> float:
    started = time.perf_counter()
    python("-c", code)
    return time.perf_counter() - started


def test_importing_loads_nothing_heavy_in_no_time():
    light = "import sys, assistant_builder as ab; heavy = {'torch', 'gradio', 'pandas'}\n"
    child_seconds(
        f"{light}assert not heavy & set(sys.modules)\n"
        "ab.studies, ab.run\nassert not heavy & set(sys.modules)"
    )
    empty, loaded = (
        min(child_seconds(code) for _ in range(5))
        for code in ("pass", "import assistant_builder as ab")
    )
    assert loaded - empty < 0.3


def test_type_checkers_see_the_names_that_are_loaded_lazily():
    tree = ast.parse((ROOT / "assistant_builder" / "__init__.py").read_text(encoding="utf-8"))
    imported = [
        name.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and node.module in ("assistant_builder.api", "assistant_builder.api_types")
        for name in node.names
    ]
    assert sorted(imported) == sorted(ab.__all__) and set(ab.__all__) <= set(dir(ab))
    assert all(getattr(ab, name).__doc__ for name in ab.__all__)
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        ab.train  # noqa: B018
    for package in ("assistant_builder", "evals"):
        assert (ROOT / package / "py.typed").is_file()


def test_the_tables_of_a_study_are_data_frames():
    study = ab.example()
    items, cells, contrasts = study.items_df(), study.cells_df(), study.contrasts_df()
    assert all(isinstance(table, pandas.DataFrame) for table in (items, cells, contrasts))
    assert len(items) == 176 * 4 and list(cells.index) == ["B16", "B4", "L16", "Q4"]
    means = items[items.answerable].groupby("cell")["exact_match"].mean()
    assert means.to_dict() == pytest.approx(cells["exact_match"].to_dict())
    assert items.query("cell == 'Q4' and declined")["answer"].str.startswith("I don't").any()
    row = contrasts.query("name == 'Q4-L16' and metric == 'exact_match'").iloc[0]
    assert row.delta == pytest.approx(means["Q4"] - means["L16"])
    assert row.ci_low < row.delta < row.ci_high


def test_the_report_is_typed_and_a_notebook_shows_its_first_page():
    study = ab.example()
    verdict = study.report.verdict
    assert isinstance(study.report, Report) and verdict.outcome == "no worse"
    assert verdict.ci[0] < verdict.delta < verdict.ci[1]
    page = study._repr_html_()
    assert page.count("<") == 2 and page.startswith("<iframe srcdoc=") and "sandbox" in page
    page = html.unescape(page)
    assert "Is the assistant good enough?" in page and "Recommendation" in page
    assert "<style>" in page and 'id="verdict"' not in page
    assert ab.Study(new_study("other"))._repr_html_() == "<p>Study <b>other</b>: queued</p>"


def test_studies_are_listed_and_opened_by_name():
    assert ab.studies() == []
    with pytest.raises(StudyError, match="no study named 'support'.*Create one"):
        ab.open("support")
    example = ab.example()
    new_study("support")
    assert [study.name for study in ab.studies()] == ["support", "example"]
    assert ab.open("example").folder == example.folder and example.state == "succeeded"
    with pytest.raises(StudyError, match="study support: there is no report yet. Finish"):
        ab.open("support").report  # noqa: B018
    with pytest.raises(ConfigError, match="only the grounded approach"):
        ab.open("example", approach="memory")


def test_a_run_takes_settings_by_section_and_resumes(monkeypatch):
    calls: list[Any] = []

    def run_study(study: Any, *, on_event: Callable[[Event], None], **options: Any) -> None:
        calls.append((study.config, options["redo"]))
        on_event(Event("data", "succeeded"))

    monkeypatch.setattr(runs, "run_study", run_study)
    events: list[Event] = []
    study = ab.run(
        SMALL,
        name="support",
        base="qwen3-0.6b",
        train={"epochs": 2},
        on_event=events.append,
        **{"eval.margin": "0.1"},
    )
    again = ab.run("support", redo=True)
    (config, redo), (_, redone) = calls
    assert study.name == again.name == "support" and (redo, redone) == (False, True)
    assert (config.model.base, config.train.epochs, config.eval.margin) == ("qwen3-0.6b", 2, 0.1)
    assert [event.step for event in events] == ["data"]
    with pytest.raises(ConfigError, match=r"trian\.epochs: no such setting"):
        ab.run(SMALL, name="other", trian={"epochs": 2})
    with pytest.raises(ConfigError, match="there is no file missing.csv"):
        ab.run("missing.csv")
    assert len(calls) == 2 and [study.name for study in ab.studies()] == ["support"]


def test_addresses_of_a_file_are_contacted_only_where_the_caller_allows_them(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(runs, "run_study", lambda *_, **__: None)
    url = "https://judge.example.com/v1"
    path = tmp_path / "study.yaml"
    path.write_text(
        f"name: judged\ndata: {{source: {SMALL}}}\neval: {{judge_url: {url}, judge_model: j}}\n"
    )
    with pytest.raises(ConfigError, match="comes from a file"):
        ab.run(path)
    ab.run(path, trust_addresses=[url])
    assert url in caplog.text and ab.open("judged").config.eval.judge_url == url


def test_two_studies_are_compared_by_name_or_object():
    first, second = finished_study("first"), finished_study("second")
    comparison = ab.compare(ab.open(first.name), second.name)
    assert comparison["shared_items"] > 0 and comparison["verdicts"]
    new_study("empty")
    with pytest.raises(EvaluationError):
        ab.compare("first", "empty")


def test_an_answer_is_typed_and_the_session_is_kept(monkeypatch):
    sessions: list[ChatSession] = []
    source = {"row": 3, "question": "Opening?", "answer": "At nine.", "similarity": 0.9}

    def stream(self: ChatSession, arm: str, messages: Any, sampling: Sampling, stop: Any) -> Any:
        sessions.append(self)
        yield Chunk("At nine.", 3, 0.1, 0.2, "stop", (source,), 40, declined=arm == "lora")

    monkeypatch.setattr(ChatSession, "stream", stream)
    with ab.Study(trained(with_data(new_study(approaches=["grounded"])))) as study:
        answer = study.ask("When?")
        assert answer.mode == "tuned" and answer.confidence is None
        assert (str(answer), answer.arm, answer.declined) == ("At nine.", "qlora", False)
        assert (answer.sources[0].row, answer.sources[0].answer) == (3, "At nine.")
        assert study.ask("When?", arm="lora").declined and sessions[0] is sessions[1]
        with pytest.raises(ConfigError, match="the question is empty"):
            study.ask(" ")
        with pytest.raises(ConfigError, match="has no qat assistant"):
            study.ask("When?", arm="qat")


def test_a_history_comes_before_the_question(monkeypatch):
    seen: list[Any] = []

    def stream(self: ChatSession, arm: str, messages: Any, *_: Any) -> Any:
        seen.extend((turn.role, turn.content) for turn in messages)
        yield Chunk("At nine.", 3, 0.1, 0.2, "stop")

    monkeypatch.setattr(ChatSession, "stream", stream)
    turns = [{"role": "user", "content": "Open?"}, {"role": "assistant", "content": "Yes."}]
    with ab.Study(trained(with_data(new_study(approaches=["grounded"])))) as study:
        study.ask("When?", history=turns)
        assert seen[-3:] == [("user", "Open?"), ("assistant", "Yes."), ("user", "When?")]
        with pytest.raises(ConfigError, match="turn 2 is"):
            study.ask("When?", history=[turns[0], {"role": "robot", "content": "Yes."}])


def test_an_untrained_study_copies_with_its_history(monkeypatch):
    monkeypatch.setattr(Embedder, "of", lambda model: FakeEmbedder())
    with ab.Study(Study.create(StudyConfig().named("baths"), SHEET)) as study:
        assert not study.trained
        answer = study.ask("How warm is the teaching pool?")
        assert (answer.arm, answer.mode, str(answer)) == (
            "copy",
            "copy",
            "The teaching pool has 31 degrees.",
        )
        assert answer.sources[0].row == 11 and answer.evidence and answer.reason is None
        history = [
            {"role": "user", "content": "What does a swimming course for children cost?"},
            {"role": "assistant", "content": "108 for twelve lessons."},
        ]
        followed = study.ask("And the cost?", history=history, mode="copy")
        assert followed.text == "The children's course costs 108 for twelve lessons."
        assert study.ask("xylophone zebra quartz?").declined


@pytest.mark.train
@pytest.mark.long
def test_the_example_resumes_answers_and_serves(bundled_models):
    ab.example()
    events: list[Event] = []
    study = ab.run("example", on_event=events.append)
    assert events and all(event.reused for event in events) and study.state == "succeeded"
    answer = study.ask(QUESTION)
    assert answer.text and answer.arm == study.recommended_arm
    assert answer.sources and not answer.declined
    with study.serve() as server:
        request = {"model": server.model, "messages": [{"role": "user", "content": QUESTION}]}
        url = f"{server.url}/chat/completions"
        reply = httpx.post(url, json=request, timeout=600).raise_for_status().json()
        assert reply["choices"][0]["message"]["content"] == answer.text
    with pytest.raises(httpx.ConnectError):
        httpx.post(url, json=request)
    with pytest.raises(ModelError, match="study example: the server did not start"):
        study.serve("qat")
