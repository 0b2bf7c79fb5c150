"""Records into markup: what is said, and that text from files stays text."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from assistant_builder.chat.client import Reply
from assistant_builder.config import StudyConfig
from assistant_builder.data import Message, Pair, Rejection
from assistant_builder.errors import DataError
from assistant_builder.steps import Progress, StepRecord
from assistant_builder.study import Study
from assistant_builder.ui.figures import MOST_POINTS, latest_by_step, loss_figure, thin
from assistant_builder.ui.markup import callout, error_callout, table, toast
from assistant_builder.ui.report_tab import report_frame
from assistant_builder.ui.snapshots import Snapshot, log_tail, stamp, study_stamp, take_snapshot
from assistant_builder.ui.views.chat import pane, reference_note, speed_line, suggestions
from assistant_builder.ui.views.data import findings_view, preview_view, rejected_view, split_view, unreadable_view
from assistant_builder.ui.views.evaluation import evaluation_panel
from assistant_builder.ui.views.study import picker_label, study_strip
from assistant_builder.ui.views.training import (
    command_lines,
    model_note,
    plan_line,
    resources_table,
    run_panel,
)
from tests.fabricated import done, finished_study, new_study, running, with_data, with_metrics

HOSTILE = '<img src="http://evil.invalid/a.png"><script>alert(1)</script>" onload="x'


def plain(markup: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", markup))


@pytest.fixture
def finished() -> Snapshot:
    return take_snapshot(finished_study())


def failed_study() -> Study:
    study = with_metrics(with_data(new_study()), "lora", 22)
    error = DataError("memory ran out at step 23", where="arm lora", remedy="Lower train.micro_batch_size").to_record()
    study.write_step(StepRecord("train-lora", state="failed", seconds=80, error=error))
    study.write_runner("failed")
    study.log_file("train-lora").write_text("step 21\rstep 22\nRuntimeError: no memory <b>\n")
    return study


# hostile text


@pytest.mark.parametrize(
    "markup",
    [
        callout("bad", HOSTILE, HOSTILE, HOSTILE),
        error_callout({"what": HOSTILE, "where": HOSTILE, "remedy": HOSTILE}),
        table([HOSTILE], [[HOSTILE]]),
        toast(HOSTILE, HOSTILE),
        pane("lora", [Message("user", HOSTILE), Message("assistant", HOSTILE)], Reply("answering", HOSTILE)),
        pane("lora", [Message("user", HOSTILE)], Reply("failed", error={"what": HOSTILE, "remedy": HOSTILE})),
        reference_note(HOSTILE, HOSTILE),
        preview_view([Pair(1, (Message("user", HOSTILE), Message("assistant", HOSTILE)), group=HOSTILE)]),
        rejected_view([Rejection(1, HOSTILE, {HOSTILE: HOSTILE})], 1),
        unreadable_view({"what": HOSTILE}, [HOSTILE]),
        report_frame(HOSTILE),
    ],
)
def test_text_from_files_is_escaped(markup: str) -> None:
    assert "<img" not in markup and "<script" not in markup
    assert '" onload=' not in markup


def test_a_report_cannot_run_scripts() -> None:
    assert re.search(r'sandbox="([^"]*)"', report_frame("<p>")).group(1).split() == ["allow-popups"]  # type: ignore[union-attr]


# the study


def test_the_strip_tells_state_time_and_progress() -> None:
    study = with_metrics(with_data(new_study("rivers")), "lora", 27)
    running(study, "train-lora", Progress(27, 60, "steps", "training", 99.0))
    said = plain(study_strip(take_snapshot(study)))
    assert "rivers running" in said
    assert "Train LoRA · 16-bit 45 % · 1 min 39 s left" in said
    assert picker_label("rivers", "lost") == "rivers  ·  interrupted"


def test_an_unfinished_run_says_how_to_carry_on() -> None:
    study = with_data(new_study())
    study.write_step(StepRecord("train-lora", state="running", pid=1, process_started=0.0))
    study.write_runner("running")
    seen = replace(take_snapshot(study), state="lost")
    assert "Carry on" in plain(run_panel(seen, ""))
    assert "Carry on" in plain(run_panel(replace(seen, state="cancelled"), ""))
    assert "Not trained yet" in plain(run_panel(take_snapshot(new_study("other")), ""))


def test_a_failure_shows_what_where_remedy_and_the_log() -> None:
    study = failed_study()
    said = run_panel(take_snapshot(study), log_tail(study, "train-lora"))
    assert "memory ran out at step 23" in said and "arm lora" in said and "Lower train.micro_batch_size" in said
    assert "RuntimeError: no memory &lt;b&gt;" in said
    assert log_tail(study, "train-lora", lines=2) == "RuntimeError: no memory <b>"
    assert log_tail(study, "report") == ""


def test_both_arms_show_their_figures(finished: Snapshot) -> None:
    said = plain(run_panel(finished, ""))
    for figure in ("60 of 60", "301 tokens/s", "1.9 GB", "QLoRA · 4-bit", "LoRA · 16-bit"):
        assert figure in said
    assert "110 MB" in plain(resources_table(finished)) and "269 MB" in plain(resources_table(finished))


def test_evaluation_shows_cells_intervals_and_verdict(finished: Snapshot) -> None:
    assert finished.report is not None
    said = plain(evaluation_panel(finished))
    assert finished.report["sentence"] in said.replace("&#39;", "'")
    for words in ("B16", "QLoRA on the 4-bit base", "95 % interval", "Q4 \N{MINUS SIGN} L16", "Exact match"):
        assert words in said
    unfinished = replace(finished, report=None)
    assert "Every cell" in plain(evaluation_panel(unfinished))


def test_evaluation_says_what_comes_first() -> None:
    study = with_data(new_study())
    assert "Nothing to evaluate yet" in evaluation_panel(take_snapshot(study))
    for arm in ("lora", "qlora"):
        done(study, f"train-{arm}", 1)
    assert "Trained, not evaluated" in evaluation_panel(take_snapshot(study))
    running(study, "evaluate", Progress(25, 100, "%", "Scoring Q4", 40.0))
    assert "Scoring Q4: 25 %, 40 s left" in plain(evaluation_panel(take_snapshot(study)))


# settings


def test_the_command_line_gives_the_same_study() -> None:
    config = StudyConfig().with_changes(
        {"train.rank": 8, "data.columns.group": "the focus", "eval.cells": ["B16", "Q4"], "data.max_train": 50}
    )
    said = command_lines("rivers", config, source="my file.csv", redo=True)
    assert said.startswith("assistant-builder run rivers --redo\n")
    last = said.splitlines()[-1]
    assert last.startswith("assistant-builder run 'my file.csv' --name rivers")
    for words in ("--set train.rank=8", "--set 'data.columns.group=the focus'", "--set eval.cells=B16,Q4",
                  "--set data.max_train=50"):
        assert words in last
    assert "train.alpha" not in last


def test_the_plan_counts_steps_and_accumulation() -> None:
    config = StudyConfig()
    assert plan_line(config, 0) == "8 pairs × 2 = 16 pairs a step"
    assert plan_line(config, 344).endswith("about 65 steps an arm")
    assert "5 steps an arm" in plan_line(config.with_changes({"train.max_steps": 5}), 344)


def test_a_catalogued_model_is_introduced() -> None:
    assert "apache-2.0" in model_note("smollm2-135m-instruct")
    assert "terms must be accepted" in model_note("llama-3.1-8b-instruct")
    assert model_note("someone/else") == ""


# data


def test_findings_and_split_are_told(finished: Snapshot) -> None:
    record = {
        "rows": 10, "usable": 8, "format": "csv", "rejected": [{"row": 2, "reason": "x"}], "exact_duplicates": 1,
        "near_duplicates": 2, "conflicts": 0, "notes": ["semicolons"],
        "problems": [{"severity": "warning", "title": "2 rows", "detail": "odd", "rows": tuple(range(30))}],
    }
    said = plain(findings_view(record))
    assert "Usable pairs 8 80%" in said and "2 rows odd" in said and "semicolons" in said and "11 …" in said
    counts = {"train": 70, "validation": 10, "heldout": 20}
    split = {"counts": counts, "clusters": {"heldout": 5}, "notes": ["by group"]}
    power = {"items": 20, "clusters": 5, "minimum_detectable": 0.28, "flip_rate": 0.2, "target": 0.02,
             "items_needed": 3925}
    said = plain(split_view(split, power))
    assert "20%, 5 clusters" in said and "By group" in said and "28.0 points" in said and "3,925" in said


def test_rejected_rows_show_reason_and_content() -> None:
    said = plain(rejected_view([Rejection(7, "the answer is empty", {"question": "Why?"})], 9))
    assert "1 of 9 rows left out" in said and "7 the answer is empty" in said and "Why?" in said
    assert rejected_view([], 9) == ""


# the chat


def test_the_speed_line_tells_how_it_went() -> None:
    reply = Reply("stop", "text", 10, 0.25, 2.0)
    assert speed_line(reply) == "5.0 tokens/s · first token 0.25 s · 10 tokens"
    assert speed_line(replace(reply, state="length")).endswith("cut at the longest answer")
    assert speed_line(replace(reply, state="cancelled")).endswith("stopped")
    assert speed_line(Reply()) == speed_line(None) == ""


def test_a_pane_shows_what_it_is_waiting_for() -> None:
    question = [Message("user", "Why?")]
    assert "Loading the model" in pane("lora", question, Reply("loading"))
    assert "ab-caret" in pane("lora", question, Reply("answering", "Be"))
    assert "ab-caret" not in pane("lora", question, Reply("stop", "Because."))
    assert "Ask below" in pane("lora", [])
    assert "secret instruction" not in pane("lora", [Message("system", "secret instruction"), *question])


def test_suggestions_take_one_question_a_cluster() -> None:
    samples = [
        {"item": str(n), "cluster": f"c{n // 2}", "turn": 0, "question": f"q{n}", "reference": f"r{n}"}
        for n in range(6)
    ]
    assert suggestions(samples, most=2) == [("q0", "r0"), ("q2", "r2")]


# figures and marks


def test_the_loss_figure_has_both_arms_and_no_network_fonts(finished: Snapshot) -> None:
    figure = loss_figure(finished.arms)
    assert [trace.name for trace in figure.data] == [
        "QLoRA · 4-bit, training", "QLoRA · 4-bit, validation", "LoRA · 16-bit, training", "LoRA · 16-bit, validation",
    ]
    assert "http" not in figure.to_json()


def test_points_are_thinned_and_repeated_steps_counted_once() -> None:
    points = [{"step": step, "loss": 1.0} for step in range(5_000)]
    kept = thin(points)
    assert len(kept) <= MOST_POINTS + 1 and kept[-1] is points[-1] and kept[0] is points[0]
    again = latest_by_step([{"step": 2, "loss": 9}, {"step": 1, "loss": 3}, {"step": 2, "loss": 4}])
    assert [(event["step"], event["loss"]) for event in again] == [(1, 3), (2, 4)]


def test_the_mark_changes_with_the_files_and_only_then() -> None:
    study = with_data(new_study())
    before = study_stamp(study)
    assert study_stamp(study) == before
    with_metrics(study, "lora", 1)
    assert study_stamp(study) != before
    assert stamp([study.folder / "nothing"]) == "-"
