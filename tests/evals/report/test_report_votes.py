"""Blind votes in the report."""

from __future__ import annotations

import os

import pytest
from filelock import FileLock

from assistant_builder.chat.conversation import Answer, Choice, Turn
from assistant_builder.chat.votes import record_vote, votes_file
from assistant_builder.data import Message
from assistant_builder.errors import ChangedInputsError, StudyError
from assistant_builder.files import read_json
from assistant_builder.jobs import standing
from assistant_builder.jobs.reporting import write_report_again
from assistant_builder.shelf import rename_study
from assistant_builder.steps import StepRecord
from assistant_builder.study import Study
from evals.report.markdown import render_markdown
from evals.report.page import render_html
from evals.report.votes import report_lacks_votes, votes
from evals.significance import sign_test
from tests.fabricated import finished_study

VOTES: tuple[Choice, ...] = ("a", "a", "b", "a", "tie", "both bad")


def vote(study: Study) -> None:
    """QLoRA stands left: 3 for it, 1 for LoRA, a tie and both bad."""
    for number, choice in enumerate(VOTES):
        turn = Turn(f"<b>{number}</b>", {"qlora": Answer("4"), "lora": Answer("16")}, ("qlora", "lora"), blind=True)
        record_vote(study, turn, [Message("user", turn.question)], choice)


def test_votes_are_added_up_with_their_test_and_interval() -> None:
    study = finished_study()
    assert votes(study) is None
    vote(study)
    found, test = votes(study), sign_test(3, 1, 2)
    assert found is not None
    assert (found["votes"], found["qlora"], found["lora"], found["ties"], found["both_bad"]) == (6, 3, 1, 1, 1)
    assert found["p_value"] == test.p_value and found["ci"] == [test.ci_low, test.ci_high]
    assert found["left"] == 3 and found["questions"] == 6
    assert "QLoRA 3, LoRA 1, 1 tie, 1 both bad: no preference shown, p = 0.62." in found["sentence"]
    assert "75.0% of the votes" in found["sentence"]


@pytest.fixture
def unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs of every step as its record has them."""
    monkeypatch.setattr(standing, "step_inputs", lambda study, step, **_: study.step(step).inputs)


def test_votes_come_into_the_report_afterwards_without_making_the_study_look_changed(unchanged: None) -> None:
    study = finished_study()
    report = read_json(study.folder / "report.json")
    assert report["votes"] is None
    for said in (render_html(report), render_markdown(report)):
        assert "Nobody has voted" in said
    inputs = {"anything": "as it was"}
    study.write_step(StepRecord("report", state="succeeded", inputs=inputs))
    assert not report_lacks_votes(study)
    vote(study)
    os.utime(votes_file(study), (0, 0))  # the clock was set back meanwhile
    assert report_lacks_votes(study)
    write_report_again(study)
    assert not report_lacks_votes(study)
    assert study.state == "succeeded" and study.step("report").inputs == inputs
    report = read_json(study.folder / "report.json")
    assert report["votes"]["qlora"] == 3
    for said in (render_html(report), render_markdown(report)):
        assert "QLoRA 3, LoRA 1" in said and "Chose the answer on the left" in said


def test_a_renamed_study_has_its_report_written_again_under_its_new_name(unchanged: None) -> None:
    study = rename_study(finished_study("before"), "after")
    assert read_json(study.folder / "report.json")["study"] == "before"
    write_report_again(study)
    assert read_json(study.folder / "report.json")["study"] == "after" and study.state == "succeeded"


def test_no_report_of_scores_that_are_not_there_or_no_longer_fit(unchanged: None) -> None:
    study = finished_study()
    before = (study.folder / "report.html").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(standing, "step_inputs", lambda study, step, **_: {"train.rank": 8})
        with pytest.raises(ChangedInputsError):
            write_report_again(study)
    with FileLock(study.folder / ".lock"), pytest.raises(StudyError, match="is running"):
        write_report_again(study)
    study.write_step(StepRecord("evaluate", state="failed"))
    with pytest.raises(StudyError, match="has not been evaluated"):
        write_report_again(study)
    assert (study.folder / "report.html").read_bytes() == before
