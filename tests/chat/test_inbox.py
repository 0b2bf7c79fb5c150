"""The inbox: groups of what was declined or voted down, and answers that become corrections."""

import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from assistant_builder.chat.feedback import add_correction, read_corrections
from assistant_builder.chat.inbox import (
    MOST_WORDINGS,
    Inbox,
    Overview,
    accept,
    group_by_meaning,
    meanings,
    read_inbox,
    reject,
    set_state,
)
from assistant_builder.chat.visitor_log import VisitorLog, erase, log_file, opened, read_questions
from assistant_builder.chat.watch import judge, read_watch
from assistant_builder.cli import app
from assistant_builder.data import Message, Pair
from assistant_builder.errors import DataError
from assistant_builder.models.embedding import Embedder
from assistant_builder.study import Study
from tests.commands import command, record_of, refusal_of
from tests.retrieval.fake_embedder import FakeEmbedder
from tests.synthetic_study import new_study

TOPICS = ("refund", "open", "won")
NOW = time.time() + 60


def encode(texts: Sequence[str]) -> Any:
    """One direction for each topic."""
    return np.array([[float(topic in text) for topic in TOPICS] for text in texts])


def inbox_of(study: Study, embed: Any = encode) -> Inbox:
    group_by_meaning(study, embed, "topics")
    return read_inbox(study, NOW)


def keep(study: Study, *asked: tuple[str, str, bool, int | None], kept: Any = "texts") -> None:
    log = VisitorLog(log_file(study), kept, 90)
    for number, (question, answer, declined, vote) in enumerate(asked):
        log.asked(
            f"q-{number}", f"visitor {number}", "help-lora", question, answer, declined=declined
        )
        log.voted(f"q-{number}", vote, "Two weeks." if vote == -1 else "")
    log.close()


@pytest.fixture
def study() -> Study:
    """A study whose visitors asked six questions: three about refunds, one of them declined twice."""
    made = new_study("help")
    keep(
        made,
        ("Do I get a refund?", "I do not know.", True, None),
        ("How long does a refund take?", "Two years.", False, -1),
        ("do I get a refund", "I do not know.", True, None),
        ("When do you open?", "At nine.", False, 1),
        ("Who won?", "I do not know.", True, None),
        ("Are you open today?", "Maybe.", False, None),
    )
    return made


def test_what_waits_is_grouped_by_meaning_the_most_frequent_first(study):
    inbox = inbox_of(study)
    assert [group.count for group in inbox.groups] == [3, 1] and inbox.ungrouped == 0
    refund, won = inbox.groups
    assert refund.wordings == ("Do I get a refund?", "How long does a refund take?")
    assert refund.problem == "declined"
    assert refund.suggestions == ("Two weeks.",) and "Two years." in refund.answers
    assert won.wordings == ("Who won?",) and inbox.group("q-2") == refund
    assert inbox.whole == Overview(6, 3, 1, 1) and inbox.whole.answered == pytest.approx(2 / 6)
    with pytest.raises(DataError, match="q-9"):
        inbox.group("q-9")


def test_an_answer_that_was_judged_wrong_is_no_answer(study):
    with opened(log_file(study)) as connection:  # of three that were drawn one counts otherwise
        rows = [("q-3", 1), ("q-4", 0), ("q-5", 0)]
        connection.executemany("INSERT INTO drawn VALUES (?, 0.9, 0.5, 0.1, ?)", rows)
    whole = inbox_of(study).whole
    assert whole == Overview(6, 3, 1, 1, judged_wrong=1)
    assert whole.answered == pytest.approx(1 / 6)


def test_equal_questions_are_grouped_before_any_is_embedded(study):
    inbox = read_inbox(study, NOW)
    assert [group.wordings for group in inbox.groups] == [
        ("Do I get a refund?",),
        ("How long does a refund take?",),
        ("Who won?",),
    ]
    assert inbox.groups[0].count == 2 and inbox.ungrouped == 3


def test_a_wording_is_embedded_once_and_again_by_another_embedder(study):
    seen: list[str] = []

    def counting(texts: Sequence[str]) -> Any:
        seen.extend(texts)
        return encode(texts)

    assert group_by_meaning(study, counting, "one") == 3
    assert group_by_meaning(study, counting, "one") == 0
    keep(
        study,
        *[("x", "y", False, None)] * 6,
        ("Can I get my refund in cash?", "No idea.", True, None),
    )
    assert group_by_meaning(study, counting, "one") == 1 and len(seen) == 4
    assert [group.count for group in read_inbox(study, NOW).groups] == [4, 1]
    assert group_by_meaning(study, counting, "two") == 4 and len(seen) == 8


def test_more_questions_than_can_be_linked_join_the_nearest_group(monkeypatch):
    monkeypatch.setattr("assistant_builder.chat.inbox._LINKED", 4)
    vectors = np.eye(3)[[0, 0, 1, 1, 0, 1, 2, 2, 0]]
    first, second, *_ = numbers = meanings(vectors).tolist()
    assert first == second == numbers[4] == numbers[8] != numbers[2] == numbers[3] == numbers[5]
    assert len({first, numbers[2], *numbers[6:8]}) == 4, (
        "those without a group keep a meaning of their own"
    )
    assert meanings(vectors[:1]).tolist() == [0] and meanings(vectors[:0]).tolist() == []


def test_one_answer_corrects_every_wording_and_nothing_else(study):
    groups = inbox_of(study).groups
    assert read_corrections(study) == [], "what visitors wrote is used only once it is accepted"
    assert accept(study, groups[0], "Within two weeks.") == 2
    made = read_corrections(study)
    assert [(each.question, each.answer, each.answerable) for each in made] == [
        ("Do I get a refund?", "Within two weeks.", True),
        ("How long does a refund take?", "Within two weeks.", True),
    ]
    assert made[0].cluster == made[1].cluster is not None, "wordings of one question are a cluster"
    left = inbox_of(study).groups
    assert [group.wordings for group in left] == [("Who won?",)]
    assert {each.state for each in read_questions(study) if "refund" in (each.question or "")} == {
        "accepted"
    }
    for empty in ("", " "):
        with pytest.raises(DataError, match="empty"):
            accept(study, left[0], empty)
    with pytest.raises(DataError, match="no wording"):
        accept(study, left[0], "Nobody.", [])
    assert len(inbox_of(study).groups) == 1


def test_an_answer_is_for_the_most_frequent_wordings_unless_others_are_chosen():
    study = new_study("many")
    keep(study, *[(f"A refund of {number} cents?", "No idea.", True, None) for number in range(30)])
    (group,) = inbox_of(study).groups
    assert len(group.wordings) == 30 and accept(study, group, "Yes.") == MOST_WORDINGS
    assert len(read_corrections(study)) == MOST_WORDINGS and inbox_of(study).groups == ()


def test_corrections_go_to_the_version_that_is_served(study):
    served = new_study("help-v2")
    accept(study, inbox_of(study).groups[1], "Nobody.", corrected=served)
    assert read_corrections(study) == []
    assert [each.answer for each in read_corrections(served)] == ["Nobody."]


def test_rejected_questions_become_questions_to_decline(study, monkeypatch):
    monkeypatch.setattr("assistant_builder.chat.inbox.load_split", lambda folder, split: [])
    assert reject(study, inbox_of(study).groups[1]) == 1
    (made,) = read_corrections(study)
    assert made.question == "Who won?"
    assert not made.answerable
    assert made.answer.startswith("I can't answer")
    assert [group.count for group in inbox_of(study).groups] == [3]
    log = VisitorLog(log_file(study), "texts", 90)
    log.asked("again", "v", "help-lora", "who won", "I do not know.", declined=True)
    log.asked("other", "v", "help-lora", "Is the refund slow?", "I do not know.", declined=True)
    log.close()
    (group,) = inbox_of(study).groups
    assert "Is the refund slow?" in group.wordings and group.count == 4


def test_what_the_data_say_to_decline_does_not_wait_once_it_was(study, monkeypatch):
    pair = Pair(1, (Message("user", "WHO won"), Message("assistant", "No.")), answerable=False)
    monkeypatch.setattr("assistant_builder.chat.inbox.load_split", lambda folder, split: [pair])
    assert len(inbox_of(study).groups) == 2
    (study.folder / "data" / "split.json").write_text("{}")

    def damaged(folder: Any, split: str) -> Any:
        raise DataError("damaged")

    with monkeypatch.context() as patched:
        patched.setattr("assistant_builder.chat.inbox.load_split", damaged)
        assert len(inbox_of(study).groups) == 2, "what visitors asked is shown all the same"
    (refund,) = inbox_of(study).groups
    assert "Who won?" not in refund.wordings and inbox_of(study).whole.declined == 3
    log = VisitorLog(log_file(study), "texts", 90)
    log.asked("answered", "v", "help-lora", "Who won?", "The reds.", declined=False)
    log.voted("answered", -1, "")
    log.close()
    assert [group.count for group in inbox_of(study).groups] == [3, 1], "it was answered"


def test_a_group_for_later_comes_last(study):
    set_state(study, inbox_of(study).groups[0], "later")
    assert [(group.count, group.later) for group in inbox_of(study).groups] == [
        (1, False),
        (3, True),
    ]


def test_counts_are_kept_by_week_without_texts():
    study = new_study("silent")
    assert read_inbox(study, NOW) == Inbox() and Overview().answered is None
    keep(study, ("a", "b", True, None), ("c", "d", False, 1), ("e", "f", False, -1), kept="counts")
    with opened(log_file(study)) as connection:
        connection.execute("UPDATE question SET time = time - ? WHERE id = 'q-0'", (9 * 86_400,))
    inbox = inbox_of(study, None)
    assert inbox.weeks == ((1, Overview(1, 1, 0, 0)), (0, Overview(2, 0, 1, 1)))
    assert not inbox.has_texts and inbox.groups == () and inbox.whole.asked == 3


def test_erasing_a_visitor_erases_the_embeddings_of_what_only_that_one_asked(study):
    inbox_of(study)

    def kept() -> set[str]:
        with opened(log_file(study)) as connection:
            return {text for (text,) in connection.execute("SELECT text FROM wording")}

    assert kept() == {"do i get a refund", "how long does a refund take", "who won"}
    assert erase(study, "visitor 4") == 1 and erase(study, "visitor 0") == 1
    assert kept() == {"do i get a refund", "how long does a refund take"}


def test_an_inbox_of_100_000_conversations_opens_in_two_seconds():
    study = new_study("crowd")
    with opened(log_file(study)) as connection:
        connection.executemany(
            "INSERT INTO question (id, time, visitor, model, declined, question, answer, wording) "
            "VALUES (?, ?, ?, 'crowd-lora', ?, ?, ?, ?)",
            (
                (
                    f"q-{n}",
                    NOW - 60 * n,
                    f"visitor {n % 9000}",
                    n % 4 == 0,
                    f"Question {n % 30_000}?",
                    "An answer. " * 20,
                    f"question {n % 30_000}",
                )
                for n in range(100_000)
            ),
        )
    started = time.process_time()
    inbox = read_inbox(study, NOW)
    taken = time.process_time() - started
    assert inbox.whole.asked == 100_000 and sum(group.count for group in inbox.groups) == 25_000
    assert taken < 2, f"{taken:.2f} s"


HOSTILE = "Pay\x9b2J \u202ereversed\u2066 😀\x1b]0;title\x07\u2028q-9  99  declined"


@pytest.mark.parametrize("words", [(), ("--json",), ("--later", "q-0")])
def test_the_command_line_shows_what_visitors_wrote_as_text(words, monkeypatch):
    made = new_study("shown")
    keep(
        made,
        (HOSTILE, HOSTILE, True, None),
        ("Who won?\nq-8  99  declined  Faked", "No.", True, None),
    )
    monkeypatch.setattr("assistant_builder.chat.inbox.group_with_embedder", lambda study: None)
    done = CliRunner().invoke(app, ["inbox", "shown", *words])
    assert done.exit_code == 0 and "Pay" in done.output
    assert not [char for char in done.output if not char.isprintable() and char != "\n"]
    assert not [line for line in done.output.splitlines() if line.startswith(("q-8", "q-9"))], (
        "no faked row"
    )


def test_the_command_that_is_shown_for_copying_quotes_what_a_handed_on_database_contains(
    monkeypatch,
):
    made = new_study("shown")
    keep(made, ("Who won?", "No.", True, None))
    with opened(log_file(made)) as connection:
        connection.execute("UPDATE question SET id = 'q; touch stolen;' || char(10) || 'q-9'")
    monkeypatch.setattr("assistant_builder.chat.inbox.group_with_embedder", lambda study: None)
    lines = CliRunner().invoke(app, ["inbox", "shown"]).output.splitlines()
    assert not [line for line in lines if line.startswith("q-9 ")], "no faked row"
    command = next(line for line in lines if "--accept" in line)
    assert "--accept 'q; touch stolen;" in command


def test_the_command_line_lists_the_wordings_that_an_answer_is_trained_for(study, monkeypatch):
    inbox_of(study)
    monkeypatch.setattr("assistant_builder.chat.inbox.group_with_embedder", lambda study: None)
    shown = CliRunner().invoke(app, ["inbox", "help"]).output
    assert all(
        wording in shown
        for wording in ("Do I get a refund?", "How long does a refund take?", "Who won?")
    )


def test_questions_are_found_by_text_and_the_versions_named_that_were_trained_with_them(study):
    inbox_of(study)
    find = ["inbox", "help", "--find", "REFUND"]
    shown = CliRunner().invoke(app, find).output
    assert (
        "visitor 1" in shown and "Do I get a refund?" in shown and "When do you open?" not in shown
    )
    assert "still part of" not in shown
    add_correction(study, "do I get a refund", "Yes.")
    assert "still part of: help" in CliRunner().invoke(app, find).output
    (first, *_) = json.loads(CliRunner().invoke(app, [*find, "--json"]).output)
    erased = CliRunner().invoke(app, ["inbox", "help", "--erase", first["visitor"]]).output
    assert "Deleted 1 questions" in erased and "still part of: help" in erased
    assert first["id"] not in CliRunner().invoke(app, [*find, "--json"]).output


def test_the_command_lists_answers_exports_and_erases(study, tmp_path, monkeypatch):
    monkeypatch.setattr(Embedder, "of", lambda *_: FakeEmbedder())
    listed = command("inbox help", inside=True)
    assert "6 questions: 3 declined, 1 voted down" in listed.stdout
    assert "Do I get a refund?" in listed.stdout
    document = record_of("inbox help", inside=True)
    assert document["overview"]["asked"] == 6 and document["groups"]
    key = document["groups"][0]["key"]
    answered = command(f"inbox help --accept {key} --answer 'Yes, within two weeks.'", inside=True)
    assert "corrections" in answered.stdout
    assert "Do I get a refund?" in {each.question for each in read_corrections(study)}
    command("inbox help --visitor 'visitor 3' --export", tmp_path / "all.jsonl", inside=True)
    (line,) = (tmp_path / "all.jsonl").read_text().splitlines()
    assert json.loads(line)["question"] == "When do you open?"
    assert "Deleted 1 questions" in command("inbox help --erase 'visitor 3'", inside=True).stdout
    for words in ("--accept q-9 --answer x", "--accept q-1", "--reject q-1 --later q-1"):
        assert refusal_of(f"inbox help {words}", inside=True)
    new_study("quiet")
    assert "Nothing is kept" in command("inbox quiet", inside=True).stdout


def test_an_answer_that_was_judged_wrong_waits_for_a_better_one():
    study = new_study()
    log = VisitorLog(log_file(study), "texts", 90)
    for number, question in enumerate(("Is it open?", "Is it far?")):
        log.asked(
            f"q-{number}",
            "v",
            "library-lora",
            question,
            "Yes.",
            declined=False,
            judged={"confidence": 0.9},
        )
    log.close()
    assert not inbox_of(study).groups
    judge(study, study, "q-0", right=True)
    judge(study, study, "q-1", right=False)
    (group,) = inbox_of(study).groups
    assert group.wordings == ("Is it far?",) and group.answers == ("Yes.",)
    assert group.problem == "judged wrong"
    judge(study, study, "q-1", right=True)
    assert not inbox_of(study).groups


def test_an_answer_that_is_corrected_need_not_be_judged():
    study = new_study()
    log = VisitorLog(log_file(study), "texts", 90)
    for number, answer in enumerate(("Yes.", "Yes.", "No.")):
        log.asked(
            f"q-{number}",
            "v",
            "library-lora",
            "Is it far?" if number else "Is it open?",
            answer,
            declined=False,
            judged={"confidence": 0.9},
        )
    log.voted("q-1", -1, "")
    log.close()
    assert len(read_watch(study, study).waiting) == 3
    (group,) = inbox_of(study).groups
    accept(study, group, "A mile.")
    watch = read_watch(study, study)
    assert (watch.judged, watch.wrong) == (1, 1)
    assert [(each.question, each.answer) for each in watch.waiting] == [
        ("Is it open?", "Yes."),
        ("Is it far?", "No."),
    ]
