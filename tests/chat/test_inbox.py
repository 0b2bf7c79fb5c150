"""The inbox: groups of what was declined or voted down, and answers that become corrections."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from assistant_builder.chat.feedback import read_corrections
from assistant_builder.chat.inbox import accept, by_week, group_named, inbox_of, open_groups, overview, set_state
from assistant_builder.chat.visitor_log import VisitorLog, VisitorQuestion, log_file, read_questions
from assistant_builder.errors import DataError
from assistant_builder.study import Study
from tests.synthetic_study import new_study

TOPICS = ("refund", "open", "won")


def encode(texts: Sequence[str]) -> Any:
    """One direction for each topic."""
    return np.array([[float(topic in text) for topic in TOPICS] for text in texts])


@pytest.fixture
def study() -> Study:
    """A study whose visitors asked six questions: three about refunds, one of them declined twice."""
    made = new_study("help")
    log = VisitorLog(log_file(made), "texts", 90)
    for number, (question, answer, declined, vote) in enumerate([
        ("Do I get a refund?", "I do not know.", True, None),
        ("How long does a refund take?", "Two years.", False, -1),
        ("do I get a refund", "I do not know.", True, None),
        ("When do you open?", "At nine.", False, 1),
        ("Who won?", "I do not know.", True, None),
        ("Are you open today?", "Maybe.", False, None),
    ]):
        log.asked(f"q-{number}", f"visitor {number}", "help-lora", question, answer, declined=declined)
        log.voted(f"q-{number}", vote, "Two weeks." if vote == -1 else "")
    log.close()
    return made


def test_what_waits_is_grouped_by_meaning_the_most_frequent_first(study: Study) -> None:
    questions, groups = inbox_of(study, encode)
    assert len(questions) == 6 and [group.count for group in groups] == [3, 1]
    refund, won = groups
    assert refund.wordings == ("Do I get a refund?", "How long does a refund take?") and refund.problem == "declined"
    assert refund.suggestions == ("Two weeks.",) and "Two years." in refund.answers
    assert won.wordings == ("Who won?",) and group_named(groups, "q-2") == refund
    found = overview(questions)
    assert (found.asked, found.declined, found.voted_up, found.voted_down) == (6, 3, 1, 1)
    assert found.answered == pytest.approx(2 / 6) and overview([]).answered is None


def test_one_answer_corrects_every_wording_and_nothing_else(study: Study) -> None:
    _, groups = inbox_of(study, encode)
    assert read_corrections(study) == [], "what visitors wrote is used only once it is accepted"
    assert accept(study, groups[0], "Within two weeks.") == 2
    assert [(each.question, each.answer) for each in read_corrections(study)] == [
        ("Do I get a refund?", "Within two weeks."), ("How long does a refund take?", "Within two weeks.")]
    _, left = inbox_of(study, encode)
    assert [group.wordings for group in left] == [("Who won?",)]
    assert {each.state for each in read_questions(study) if "refund" in (each.question or "")} == {"accepted"}
    for empty in ("", " "):
        with pytest.raises(DataError, match="empty"):
            accept(study, left[0], empty)
    with pytest.raises(DataError, match="no wording"):
        accept(study, left[0], "Nobody.", [])
    assert len(inbox_of(study, encode)[1]) == 1


@pytest.mark.parametrize(("state", "waits"), [("rejected", 1), ("later", 2)])
def test_a_group_is_rejected_or_kept_for_later(study: Study, state: Any, waits: int) -> None:
    set_state(study, inbox_of(study, encode)[1][0], state)
    assert len(inbox_of(study, encode)[1]) == waits
    assert read_corrections(study) == []


def test_counts_alone_have_no_groups() -> None:
    questions = [VisitorQuestion(str(number), 0.0, "v", "m", declined=True) for number in range(3)]
    assert open_groups(questions, encode) == [] and overview(questions).declined == 3


def test_the_share_that_was_answered_by_week() -> None:
    day = 86_400.0
    questions = [VisitorQuestion(str(days), (100 - days) * day, "v", "m", declined=days > 10) for days in (1, 6, 8, 30)]
    weeks = by_week(questions, 100 * day)
    assert [(week, counts.asked, counts.answered) for week, counts in weeks] == [(4, 1, 0.0), (1, 1, 1.0), (0, 2, 1.0)]


def cli(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "assistant_builder", "inbox", *words], capture_output=True, text=True)


def test_the_command_lists_answers_exports_and_erases(study: Study, bundled_models: object, tmp_path: Any) -> None:
    listed = cli("help")
    assert listed.returncode == 0, listed.stderr
    assert "6 questions: 3 declined, 1 voted down" in listed.stdout and "Do I get a refund?" in listed.stdout
    document = json.loads(cli("help", "--json").stdout)
    assert document["overview"]["asked"] == 6 and document["groups"]
    key = document["groups"][0]["key"]
    assert "corrections" in cli("help", "--accept", key, "--answer", "Yes, within two weeks.").stdout
    assert "Do I get a refund?" in {each.question for each in read_corrections(study)}
    assert cli("help", "--export", str(tmp_path / "all.jsonl"), "--visitor", "visitor 3").returncode == 0
    (line,) = (tmp_path / "all.jsonl").read_text().splitlines()
    assert json.loads(line)["question"] == "When do you open?"
    assert "Deleted 1 questions" in cli("help", "--erase", "visitor 3").stdout
    for words in (["--accept", "q-9", "--answer", "x"], ["--accept", "q-1"], ["--reject", "q-1", "--later", "q-1"]):
        refused = cli("help", *words)
        assert refused.returncode == 1 and refused.stderr.count("\n") == 1
    new_study("quiet")
    assert "Nothing is kept" in cli("quiet").stdout
