import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from assistant_builder import api
from assistant_builder.atomic_io import write_json
from assistant_builder.cli import app
from assistant_builder.config import StudyConfig
from assistant_builder.data import Message
from assistant_builder.errors import ConfigError
from assistant_builder.inference.chunks import Chunk, Sampling
from assistant_builder.inference.session import ChatSession
from assistant_builder.models.embedding import Embedder
from assistant_builder.runner.backend import QUEUE, Event, waiting_message
from assistant_builder.runner.display import run_display
from assistant_builder.runner.open_study import open_or_create
from assistant_builder.study import Study
from assistant_builder.study.steps import Progress
from tests.commands import python
from tests.evals.judge.fake_server import judge_server
from tests.retrieval.fake_embedder import FakeEmbedder
from tests.retrieval.test_copying import SHEET
from tests.synthetic_study import at_first_verdict, finished_study, new_study, trained, with_data

FERRIES = Path(__file__).parents[1] / "datasets_cards" / "ostrel-sound-ferries" / "data.jsonl"
SPLIT = {"counts": {"heldout": 100}, "turns": {"heldout": 100}, "clusters": {"heldout": 20}}
TOLD = "100 held-out answers in 20 clusters show a difference of"


def test_data_check_reports_the_power_of_the_held_out_set():
    shown = CliRunner().invoke(app, ["data", "check", str(FERRIES)])
    assert shown.exit_code == 0
    (line,) = [line for line in shown.stdout.splitlines() if line.startswith("power: ")]
    power = json.loads(CliRunner().invoke(app, ["data", "check", str(FERRIES), "--json"]).stdout)[
        "power"
    ]
    assert (power["items"], power["clusters"]) == (352, 135)
    assert f"{100 * power['minimum_detectable']:.1f} points" in line
    assert f"need {power['items_needed']:,}." in line


def test_data_check_uses_the_settings():
    words = ["data", "check", str(FERRIES), "--json", "--set", "data.max_heldout=40"]
    assert json.loads(CliRunner().invoke(app, words).stdout)["power"]["items"] <= 40


def test_data_check_reports_no_power_if_no_study_can_start(tmp_path):
    file = tmp_path / "one.csv"
    file.write_text("question,answer\nWhat is it?,A thing.\n", encoding="utf-8")
    checked = CliRunner().invoke(app, ["data", "check", str(file), "--json"])
    assert json.loads(checked.stdout)["power"] is None
    assert "power" not in CliRunner().invoke(app, ["data", "check", str(file)]).stdout


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("as_json", [False, True])
def test_run_reports_the_power_before_training(kept, as_json, monkeypatch):
    seen: list[str] = []

    def run_study(
        study: Study, *, on_event: Callable[[Event], None] = lambda event: None, **_: object
    ) -> None:
        write_json(study.folder / "data" / "split.json", SPLIT)
        for step in ("data", "train-lora"):
            on_event(Event(step, "running"))
            seen.append(f"{step} runs")
            on_event(Event(step, "succeeded", reused=kept))

    monkeypatch.setattr("assistant_builder.runner.run.run_study", run_study)
    monkeypatch.setattr(
        "evals.report.declared.explain_study", lambda study: "The verdict is by exact match."
    )
    monkeypatch.setattr("assistant_builder.api.Study.conclusion", ["The conclusion."])
    monkeypatch.setattr("assistant_builder.api.Study.report_path", lambda self: "report.html")
    monkeypatch.setattr("typer.echo", lambda text, err: err or seen.append(text))
    done = CliRunner().invoke(
        app, ["run", str(FERRIES), "--name", "told", *(["--json"] if as_json else [])]
    )
    assert done.exit_code == 0, done.output
    told = [place for place, text in enumerate(seen) if text.startswith(TOLD)]
    assert told == ([] if kept or as_json else [seen.index("data runs") + 2])
    assert ("The verdict is by exact match." in seen) == bool(told)
    assert seen.index("data runs") + 2 * bool(told) < seen.index("train-lora runs")
    if as_json:
        assert json.loads(done.stdout)["name"] == "told"
        assert done.stderr == ""
        assert "The conclusion." not in seen
    else:
        assert seen[-2] == "The conclusion." and seen[-1].startswith("Report: ")


@pytest.mark.parametrize("look_up", [True, False])
def test_ask_tells_sources_and_declining_and_asks_without_facts(look_up, monkeypatch):
    source = {"row": 3, "question": "Opening \x1b[2Jtime?", "answer": "At nine.", "similarity": 0.9}

    def stream(
        self: ChatSession, speaker: str, messages: object, sampling: Sampling, stop: object
    ) -> Iterator[Chunk]:
        assert sampling.look_up is look_up
        yield Chunk(
            "At nine.", 3, 0.1, 0.2, "stop", (source,) if look_up else (), 40, declined=False
        )

    monkeypatch.setattr(ChatSession, "stream", stream)
    name = trained(with_data(new_study(approaches=["grounded"], arms=["lora"]))).name
    words = ["ask", name, "When?", *([] if look_up else ["--no-look-up"])]
    document = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    answer = document["answers"]["lora"]
    assert (answer["sources"], answer["declined"]) == ([source] if look_up else [], False)
    assert answer["mode"] == "tuned"
    shown = CliRunner().invoke(app, words).stdout
    assert ("row 4: Opening" in shown) is look_up and "\x1b" not in shown, (
        "the header is row 1 of the user's file"
    )
    assert shown.startswith("Full (LoRA, 16-bit) (3 tokens")


def test_ask_copies_before_the_training_and_says_so(monkeypatch):
    monkeypatch.setattr(Embedder, "of", lambda model: FakeEmbedder())
    monkeypatch.setattr(ChatSession, "load", None)  # no model is loaded
    name = Study.create(StudyConfig().named("baths"), SHEET).name
    words = ["ask", name, "How warm is the teaching pool?"]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0, shown.output
    assert "Looked up, not trained: the answer is copied from the data." in shown.stderr
    first, source, *_ = shown.stdout.splitlines()
    assert first == "Looked up, not trained: The teaching pool has 31 degrees."
    assert source.startswith("  row 12: How warm is the teaching pool?"), "the header is row 1"
    asked = CliRunner().invoke(app, [*words, "--mode", "copy", "--json"])
    answer = json.loads(asked.stdout)["answers"]["copy"]
    assert asked.stderr == ""
    assert (answer["mode"], answer["declined"], "reason" in answer) == ("copy", False, False)
    assert answer["confidence"] > 0.5 and answer["evidence"]["similarity"] > 0.9
    far = CliRunner().invoke(app, ["ask", name, "xylophone zebra quartz?", "--json"])
    answer = json.loads(far.stdout)["answers"]["copy"]
    assert answer["declined"] and answer["sources"] == [] and "nearest question" in answer["reason"]
    assert answer["advice"].startswith(("If “", "Add a row"))
    missed = CliRunner().invoke(app, ["ask", name, "tested zebra quartz lamp opal grey?", "--why"])
    lines = missed.stdout.splitlines()
    assert lines[1] == "  Did you mean:" and "  - How often is the water tested?" in lines[2:4]
    assert lines[4].startswith("  Why: The nearest question of the data is “")
    assert lines[5].startswith("  What to do: If “")
    greeted = CliRunner().invoke(app, ["ask", name, "good morning"])
    lines = greeted.stdout.splitlines()
    assert lines[0].endswith("Hello! Ask me a question.") and lines[1] == "  You can ask:"
    named = CliRunner().invoke(app, [*words, "--mode", "copy", "--arm", "lora"])
    assert named.exit_code == 1 and "not of an arm" in str(named.exception)


def test_wordings_asks_the_questions_of_a_file_once(tmp_path, monkeypatch):
    def stream(
        self: ChatSession, speaker: str, messages: Sequence[Message], *_: object
    ) -> Iterator[Chunk]:
        seen.append(messages[-1].content)
        yield Chunk("That is for the desk.", 3, 0.1, 0.2, "stop", declined="moon" in seen[-1])

    seen: list[str] = []
    monkeypatch.setattr(ChatSession, "stream", stream)
    monkeypatch.setattr(Embedder, "of", lambda model: FakeEmbedder())
    sheet, own = tmp_path / "sheet.csv", tmp_path / "own.csv"
    sheet.write_text(
        "question,answer\n"
        + "".join(f"Where is shelf {n}?,Shelf {n} is here.\n" for n in range(60))
    )
    own.write_text("question,answer\nthe seventh one,Shelf 7 is here.\nis the moon cheese,-\n")
    study = with_data(new_study("once", sheet, arms=["lora"]))
    facts = CliRunner().invoke(app, ["wordings", "once"]).stdout
    assert facts.startswith("Nothing was tested in other words") and facts.count("row ") == 10
    kept = CliRunner().invoke(app, ["wordings", "once", str(own)])
    assert "2 questions are kept; no trained assistant can be asked yet" in kept.stderr and not seen
    assert "  Copying an answer: " in kept.stdout
    trained(study)
    shown = CliRunner().invoke(app, ["wordings", "once"]).stdout
    assert seen == ["the seventh one", "is the moon cheese"]
    assert "the seventh one (Shelf 7 is here.)" in shown
    assert "Full was right on 0 of your 1 own wording" in shown
    document = json.loads(CliRunner().invoke(app, ["wordings", "once", "--json"]).stdout)
    assert document["arms"]["lora"]["declined"] == 1 and len(seen) == 2


@pytest.mark.parametrize("level", ["ERROR", "WARNING"])
def test_the_terminal_shows_only_errors_of_libraries_and_logs_show_warnings(level):
    code = f"""
import logging, sys, warnings
from assistant_builder import child_process, cli
from assistant_builder.data import Message
from assistant_builder.errors import ConfigError
from assistant_builder.study import Study

def load(name):
    if {level == "WARNING"}:
        child_process.configure_libraries()  # as a step does
    from transformers.utils import logging as of_transformers
    logging.getLogger("bitsandbytes.backends.cpu.ops").warning("Failed to load CPU gemm_4bit_forward")
    of_transformers.get_logger("transformers.modeling_utils").warning("a setting is deprecated")
    chatty = logging.getLogger("bm25s")
    chatty.setLevel(logging.DEBUG)
    chatty.debug("Building index")
    warnings.warn("is_gradient_checkpointing is deprecated", FutureWarning)
    list(of_transformers.tqdm([1, 2], desc="Loading weights"))
    logging.getLogger("bitsandbytes").error("a library failed")
    logging.getLogger("assistant_builder.web").warning("login refused")
    raise ConfigError("the study is damaged", remedy="Repair it")

Study.open = load
sys.argv[1:] = ["ask", "library", "When?"]
cli.main()
"""
    done = python("-c", code, ends=1)
    *lines, last = done.stderr.splitlines()
    assert last == "assistant-builder: the study is damaged. Repair it" and done.stdout == ""
    if level == "ERROR":
        assert lines == [
            "ERROR:bitsandbytes:a library failed",
            "WARNING:assistant_builder.web:login refused",
        ]
    else:
        assert "Loading weights" not in done.stderr and "Building index" not in done.stderr
        for text in ("gemm_4bit_forward", "is_gradient_checkpointing", "a setting is deprecated"):
            assert text in done.stderr


def test_progress_without_a_terminal_is_a_line_for_each_tenth(capsys):
    with run_display() as display:
        for names in (["rivers"], ["rivers"], []):
            display(
                Event(
                    QUEUE,
                    "queued" if names else "succeeded",
                    Progress(0, 0, "runs", waiting_message(names)),
                )
            )
        display(Event("data", "succeeded", reused=True))
        display(Event("train-lora", "running", None))
        for done in range(41):
            display(
                Event(
                    "train-lora",
                    "running",
                    Progress(done, 40, "steps", "Training lora", 3.0 * (40 - done)),
                )
            )
        display(Event("train-lora", "succeeded"))
        display(Event("evaluate", "running", Progress(0, 100, "%", "Loading the base model")))
        for done in (4, 26, 24, 31):
            display(Event("evaluate", "running", Progress(done, 100, "%", "Scoring L16")))
    shown = capsys.readouterr()
    lines = shown.err.splitlines()
    assert shown.out == ""
    assert lines[:4] == [
        "queue: waits for study rivers",
        "data: already done",
        "train-lora: started",
        "train-lora: 10 %, Training lora, 1 min 48 s left",
    ]
    assert [line.split(",")[0] for line in lines[3:12]] == [
        f"train-lora: {tenth} %" for tenth in range(10, 100, 10)
    ]
    assert lines[12:] == [
        "train-lora: done in 0 s",
        "evaluate: started",
        "evaluate: 20 %, Scoring L16",
        "evaluate: 30 %, Scoring L16",
    ]


def test_progress_in_a_terminal_is_a_bar(capsys, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    with run_display() as display:
        display(Event("train-lora", "running", Progress(20, 40, "steps", "Training lora", 60.0)))
    assert " 50 %" in (shown := capsys.readouterr().err) and "train-lora: started" not in shown


def test_a_step_is_one_line_of_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "80")
    message = "L16: scoring the reference answers and answering the test questions"
    with run_display() as display:
        display(Event("evaluate", "running", Progress(5, 100, "%", message, 500.0, None, 80.0)))
        display(Event("report", "succeeded"))
    first, second = capsys.readouterr().err.rpartition("evaluate")[2].strip().splitlines()[:2]
    assert "verdict in 1 min 20 s, 8 min 20 s left L16" in first and "done" in second


def test_a_run_names_the_first_verdict_and_can_end_with_it(monkeypatch):
    study = finished_study()
    at_first_verdict(study)
    path = next(study.evals_folder.glob("*.verdict.json"))
    record, started = path.read_bytes(), []
    monkeypatch.setattr(
        "assistant_builder.runner.open_study.open_or_create", lambda *_, **__: study
    )
    monkeypatch.setattr(
        "assistant_builder.runner.run.start_run", lambda name, **_: started.append(name)
    )

    def run_study(study: Study, on_event: Any, **_: Any) -> None:
        path.unlink(missing_ok=True)
        on_event(Event("evaluate", "running", None))
        path.write_bytes(record)
        on_event(Event("evaluate", "running", None))
        started.append("rest")

    monkeypatch.setattr("assistant_builder.runner.run.run_study", run_study)
    whole = CliRunner().invoke(app, ["run", study.name])
    assert whole.exit_code == 0, whole.exception
    assert started == ["rest"] and whole.stdout.count("First verdict after") == 1
    assert api.Study(study).report.sentence in whole.stdout
    path.unlink()
    early = CliRunner().invoke(app, ["run", study.name, "--first-verdict"])
    assert early.exit_code == 0, early.exception
    assert started == ["rest", study.name] and "in the background" in early.stderr
    assert (
        "Still to come: further comparisons." in early.stdout
        and "Is it good enough?" in early.stdout
    )
    again = CliRunner().invoke(app, ["run", study.name, "--first-verdict"])  # while that runs
    assert again.stdout.count("Is it good enough?") == 1 and started == ["rest", study.name]
    found = json.loads(CliRunner().invoke(app, ["run", study.name, "--json"]).stdout)
    assert found["first_verdict_seconds"] == json.loads(record)["seconds"]


@pytest.mark.parametrize(
    ("margin", "fail_if", "code"), [(0.001, "worse", 3), (0.5, "worse", 0), (0.001, None, 0)]
)
def test_the_first_verdict_fails_a_build_as_the_final_one(margin, fail_if, code):
    study = finished_study(eval__margin=margin)
    words = ["report", study.name, *(["--fail-if", fail_if] if fail_if else [])]
    final = CliRunner().invoke(app, words)
    at_first_verdict(study)
    first = CliRunner().invoke(app, words)
    assert first.exit_code == final.exit_code == code
    if fail_if:
        assert first.stderr == final.stderr


def test_run_and_report_end_with_the_conclusion(monkeypatch):
    study = finished_study()
    monkeypatch.setattr(
        "assistant_builder.runner.open_study.open_or_create", lambda *_, **__: study
    )
    monkeypatch.setattr("assistant_builder.runner.run.run_study", lambda *_, **__: None)
    lines = api.Study(study).conclusion
    assert [line.partition("?")[0].partition(":")[0] for line in lines[:3]] == [
        "Is it good enough",
        "Compact (QLoRA, 4-bit) or Full (LoRA, 16-bit)",
        "What to do",
    ]
    assert "fact" not in lines[0] and lines[3].startswith('  assistant-builder ask library "')
    run = CliRunner().invoke(app, ["run", study.name])
    assert run.exit_code == 0, run.exception
    assert run.stdout.splitlines() == [*lines, f"Report: {study.folder / 'report.html'}"]
    shown = CliRunner().invoke(app, ["report", study.name])
    assert shown.stdout == f"{study.folder / 'report.html'}\n"
    assert shown.stderr.splitlines() == lines
    assert CliRunner().invoke(app, ["report", study.name, "--format", "json"]).stderr == ""


@pytest.mark.parametrize(
    ("outcome", "fail_if", "code"),
    [
        ("no worse", "inconclusive", 0),
        ("inconclusive", "worse", 0),
        ("inconclusive", "inconclusive", 3),
        ("worse", "worse", 3),
        ("worse", "inconclusive", 3),
        ("worse", None, 0),
    ],
)
def test_a_report_can_fail_a_build(outcome, fail_if, code, monkeypatch):
    monkeypatch.setattr("assistant_builder.api.Study.conclusion", [])
    study = new_study()
    write_json(
        study.folder / "report.json",
        {
            "primary_metric": "exact_match",
            "cells": {},
            "verdict": {"outcome": outcome},
            "sentence": "On your questions, so.",
        },
    )
    (study.folder / "report.html").write_text("page")
    words = ["report", study.name, *(["--fail-if", fail_if] if fail_if else [])]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == code and done.stdout.strip() == str(study.folder / "report.html")
    assert done.stderr == (
        f"assistant-builder: the verdict is {outcome} (--fail-if {fail_if}): On your questions, "
        "so.\n"
        if code
        else ""
    )
    assert CliRunner().invoke(app, ["report", study.name, "--fail-if", "better"]).exit_code == 2


@pytest.mark.parametrize(
    ("outcomes", "fail_if", "code"),
    [
        (["no worse", "no worse"], "inconclusive", 0),
        (["worse", "inconclusive"], "worse", 3),
        (["no worse", "inconclusive"], "worse", 0),
        (["no worse", "inconclusive"], "inconclusive", 3),
        ([], "inconclusive", 3),
        ([], "worse", 0),
    ],
)
def test_a_comparison_can_fail_a_build(outcomes, fail_if, code, monkeypatch):
    comparison = {
        "verdicts": [{"outcome": outcome} for outcome in outcomes],
        "sentence": "52 items in both studies.",
    }
    monkeypatch.setattr("evals.study_compare.compare_studies", lambda a, b: comparison)
    for name in ("a", "b"):
        new_study(name)
    done = CliRunner().invoke(app, ["compare", "a", "b", "--json", "--fail-if", fail_if])
    assert done.exit_code == code and json.loads(done.stdout) == comparison
    assert done.stderr.count("\n") == (code == 3)


def write_faq(path: Path, number: int = 40) -> Path:
    rows = "".join(
        f"What is the price of article {n * 7919}?,It is {n} crowns today.\n"
        for n in range(1, number + 1)
    )
    path.write_text(f"question,answer\n{rows}", encoding="utf-8")
    return path


def test_a_file_whose_answers_occur_once_is_told_and_wordings_are_added(tmp_path):
    file, runner = write_faq(tmp_path / "faq.csv"), CliRunner()
    shown = runner.invoke(app, ["data", "check", str(file)]).stdout
    assert "Each answer occurs once. The assistant is trained on all of them" in shown
    assert f"data draft {file}" in shown
    counted = json.loads(runner.invoke(app, ["data", "check", str(file), "--json"]).stdout)[
        "wordings"
    ]
    assert counted["occurs_once"]
    assert counted["facts"] == 40
    assert counted["test"] == 0
    assert counted["respelled"] == 8
    more = tmp_path / "more.csv"
    more.write_text(
        "question,answer\n"
        + "".join(f"How much for {n}?,It is {n} crowns today.\n" for n in range(1, 41))
    )
    added = runner.invoke(
        app, ["data", "add-wordings", str(file), str(more), "--to", str(tmp_path / "new.jsonl")]
    )
    assert "40 wordings were added" in added.stdout
    checked = runner.invoke(app, ["data", "check", str(tmp_path / "new.jsonl"), "--json"])
    counted = json.loads(checked.stdout)["wordings"]
    assert not counted["occurs_once"] and counted["known"] == counted["test"]
    more.write_text("question,answer\nWho?,Nobody.\n")
    refused = runner.invoke(
        app, ["data", "add-wordings", str(file), str(more), "--to", str(tmp_path / "no.jsonl")]
    )
    assert refused.exit_code == 1 and "1 match no row of faq.csv" in str(refused.exception)


def test_wordings_of_a_column_are_added(tmp_path):
    file, runner = write_faq(tmp_path / "faq.csv"), CliRunner()
    words = ["data", "add-wordings", str(file), "--to", str(tmp_path / "new.jsonl")]
    refused = runner.invoke(app, words)
    assert refused.exit_code == 1 and "no column has further wordings" in str(refused.exception)
    lines = file.read_text().splitlines()
    others = [f"{line},cost of number {n}" for n, line in enumerate(lines[1:])]
    file.write_text("\n".join([f"{lines[0]},Also asked as", *others]))
    assert "40 wordings were added" in runner.invoke(app, words).stdout


def test_drafts_of_an_endpoint_are_used_only_when_accepted(tmp_path, monkeypatch):
    file, drafts, runner = write_faq(tmp_path / "faq.csv", 5), tmp_path / "drafts.csv", CliRunner()
    with judge_server(lambda texts: "1. How dear is it?\n2. Price please, clerk?") as server:
        # of no known URL: it is not sent
        monkeypatch.setenv("ASSISTANT_BUILDER_DRAFT_KEY", "canary")
        words = ["data", "draft", str(file), "--to", str(drafts), "--url"]
        done = runner.invoke(app, [*words, server.url, "--model", "m"])
        assert done.exit_code == 0
        assert "2 drafts in" in done.stdout
        assert "sends the questions" in done.stderr
        assert len(server.bodies) == 5 and not any("canary" in str(head) for head in server.headers)
    words = ["data", "add-wordings", str(file), str(drafts), "--to", str(tmp_path / "new.jsonl")]
    assert runner.invoke(app, words).exit_code == 1
    drafts.write_text(
        drafts.read_text(encoding="utf-8-sig").replace("\n,How", "\nyes,How"), encoding="utf-8"
    )
    assert "1 wordings were added" in runner.invoke(app, words).stdout
    wrong = runner.invoke(
        app, ["data", "draft", str(file), "--to", str(drafts), "--url", "ftp://x"]
    )
    assert wrong.exit_code == 1 and "not the URL of an endpoint" in str(wrong.exception)


@pytest.mark.parametrize(
    "reply",
    [
        (404, b"private page"),
        (500, {"error": {"message": "private page"}}),
        (401, {"detail": "private page"}),
        (302, b"private page"),
        (200, b"private page"),
        (200, {"choices": "private page"}),
    ],
)
def test_an_address_that_is_no_endpoint_shows_nothing_of_its_pages(tmp_path, reply):
    file, drafts = write_faq(tmp_path / "faq.csv", 1), tmp_path / "drafts.csv"
    with judge_server(lambda texts: reply) as server:
        done = CliRunner().invoke(
            app,
            ["data", "draft", str(file), "--to", str(drafts), "--url", server.url, "--model", "m"],
        )
    assert "private" not in f"{done.exception}{done.output}" and len(server.bodies) <= 3
    assert not drafts.exists() or "private" not in drafts.read_text(encoding="utf-8-sig")


def test_a_new_file_takes_over_the_settings_of_a_study(tmp_path):
    file = write_faq(tmp_path / "faq.csv")
    new_study("old", file, train__epochs="7", data__columns__group="missing")
    study = open_or_create(
        str(file), name="old-2", changes={"train.rank": "8"}, redo=False, like="old"
    )
    config = study.config
    assert config.name == "old-2"
    assert config.train.epochs == 7
    assert config.train.rank == 8
    assert config.data.columns == {}
    assert config.data.source == str(file)
    assert open_or_create("old-2", name="old-3", changes={}, redo=False).config.train.epochs == 7
    with pytest.raises(ConfigError, match="--from old takes over settings for a data file"):
        open_or_create("old-2", name="old-4", changes={}, redo=False, like="old")
