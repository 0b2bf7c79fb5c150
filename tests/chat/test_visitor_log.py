"""What visitors asked: masking, retention, erasing, kills, a full disk, and what is not kept."""

import json
import os
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from assistant_builder.chat import inbox, visitor_log
from assistant_builder.chat.inbox import read_inbox
from assistant_builder.chat.visitor_log import (
    VisitorLog,
    erase,
    find_text,
    log_file,
    opened,
    read_questions,
    to_jsonl,
)
from assistant_builder.errors import StudyError
from assistant_builder.study.admin import CONFIRMING_DAYS
from tests.cluster.conftest import wait_until
from tests.synthetic_study import new_study


def filled(kept: visitor_log.Kept, path: Path, days: int = 90) -> VisitorLog:
    log = VisitorLog(path, kept, days)
    log.asked(
        "q-1", "ann", "help-lora", "Mail ann@shop.example?", "Yes, 0301234567.", declined=False
    )
    log.asked("q-2", "bob", "help-lora", "Who won?", "I do not know.", declined=True)
    log.voted("q-1", -1, "No, ann@shop.example is wrong.")
    log.voted("q-unknown", 1, "")
    log.close()
    return log


def test_texts_are_kept_masked_and_on_request_alone():
    study = new_study("help")
    filled("counts", log_file(study))
    first, second = read_questions(study)
    assert (first.question, first.answer, first.suggestion, first.vote) == (None, None, None, -1)
    assert second.declined and second.vote is None and second.visitor == "bob"
    log_file(study).unlink()
    filled("texts", log_file(study))
    first, _ = read_questions(study)
    assert first.question == "Mail [e-mail]?" and first.answer == "Yes, [number]."
    assert first.suggestion == "No, [e-mail] is wrong."
    assert b"ann@shop" not in log_file(study).read_bytes()
    assert json.loads(to_jsonl([first]))["question"] == "Mail [e-mail]?"


def test_a_visitor_is_exported_and_erased_alone():
    study = new_study("help")
    assert read_questions(study) == [] and erase(study, "ann") == 0
    filled("texts", log_file(study))
    assert [each.id for each in read_questions(study, visitor="ann")] == ["q-1"]
    assert erase(study, "ann") == 1 and [each.visitor for each in read_questions(study)] == ["bob"]
    with opened(log_file(study)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert b"shop" not in log_file(study).read_bytes()


def test_questions_are_found_by_a_text_also_by_one_that_was_masked():
    study = new_study("help")
    assert find_text(study, "won") == []
    filled("texts", log_file(study))
    assert [each.visitor for each in find_text(study, "WHO won?")] == ["bob"]
    assert [each.visitor for each in find_text(study, "ann@shop.example")] == ["ann"]
    assert [each.visitor for each in find_text(study, "is wrong")] == ["ann"]  # what it should say
    assert find_text(study, "kayak") == [] and find_text(study, "") == []


def test_a_visitor_whose_name_identifies_them_is_kept_under_another(home):
    study = new_study("help")
    log = VisitorLog(log_file(study), "counts", 90)
    names = ["ann@shop.example", "bob@shop.example", "+49 151 23456789", "customer-17"]
    for number, name in enumerate(names * 2):
        log.asked(f"q-{number}", name, "m", "?", "!", declined=False)
    log.close()
    kept = [each.visitor for each in read_questions(study)]
    assert kept[:4] == kept[4:] and len(set(kept)) == 4 and kept[3] == "customer-17"
    assert kept[0].startswith("[e-mail] ") and kept[2].startswith("[number] ")
    assert not any(name in log_file(study).read_bytes().decode("latin-1") for name in names[:3])
    for name in names:  # under the name that the program knows
        assert len(read_questions(study, visitor=name)) == 2 and erase(study, name) == 2
    assert read_questions(study) == []


def test_the_log_is_bounded(monkeypatch):
    """Long texts are cut, without half of a number at the end, and of many questions the latest are kept."""
    study = new_study("help")
    monkeypatch.setattr(visitor_log, "MAX_QUESTIONS", 20)
    log = VisitorLog(log_file(study), "texts", 90)
    text = "word " * 398 + "x 4111 1111 1111 1111" + " word" * 200_000
    for number in range(60):
        log.asked(f"q-{number}", "ann", "m", text, text, declined=False)
        log.voted(f"q-{number}", -1, text[:2_000] * 9)
    log.close()
    kept = read_questions(study)
    assert [each.id for each in kept] == [f"q-{number}" for number in range(40, 60)]
    longest = visitor_log.MAX_QUESTION + visitor_log.MAX_ANSWER
    assert all(len((each.question or "") + (each.answer or "")) <= longest for each in kept)
    assert (kept[0].question or "").endswith("x [number]")
    assert len(kept[0].suggestion or "") <= visitor_log.MAX_QUESTION
    assert log_file(study).stat().st_size < 10**7


def test_a_database_of_somebody_else_is_bounded(monkeypatch):
    study = new_study("help")
    filled("texts", log_file(study))
    monkeypatch.setattr(visitor_log, "MAX_QUESTIONS", 5)
    monkeypatch.setattr(inbox, "MAX_QUESTIONS", 5)
    with closing(sqlite3.connect(log_file(study))) as connection, connection:
        copied = (
            "INSERT INTO question SELECT ?, time + ?, visitor, model, declined, question, answer, "
            "vote, suggestion, state, ? FROM question WHERE id = 'q-2'"
        )
        connection.executemany(copied, [(f"q{n}", n, f"w{n}") for n in range(20)])
    assert [each.id for each in read_questions(study)] == [f"q{n}" for n in range(15, 20)]
    assert {group.key for group in read_inbox(study, time.time()).groups} == {
        f"q{n}" for n in range(15, 20)
    }
    for change, why in (
        ("time = 1e300", "a value is of a wrong type"),
        ("time = 9e999", "a value is of a wrong type"),
        ("time = 1, answer = zeroblob(200000)", "too big"),
    ):
        with closing(sqlite3.connect(log_file(study))) as connection, connection:
            connection.execute(f"UPDATE question SET {change}")
        with pytest.raises(StudyError, match=why):
            find_text(study, "won")


def test_a_text_that_cannot_be_masked_is_not_kept(monkeypatch):
    study, said = new_study("help"), list[str]()
    log = VisitorLog(log_file(study), "texts", 90, said.append)

    def broken(text: str, most: int) -> str:
        if "odd" in text:
            raise ValueError(text)
        return text

    monkeypatch.setattr(visitor_log, "mask", broken)
    for number, text in enumerate(("fine", "odd", "fine")):
        log.asked(f"q-{number}", "ann", "m", text, "!", declined=False)
    log.close()
    assert [each.id for each in read_questions(study)] == ["q-0", "q-2"]
    assert len(said) == 1 and "ValueError" in said[0] and "odd" not in said[0]


def test_old_questions_are_deleted(monkeypatch):
    study, now = new_study("help"), time.time()
    monkeypatch.setattr(time, "time", lambda: now - 10 * 86_400)
    filled("counts", log_file(study))
    for later in range(CONFIRMING_DAYS + 1):
        monkeypatch.setattr(time, "time", lambda later=later: now + later * 86_400)
        VisitorLog(log_file(study), "counts", 100).close()
        assert len(read_questions(study)) == 2
    VisitorLog(log_file(study), "counts", 9).close()
    assert read_questions(study) == []


def test_a_clock_that_was_ahead_deletes_no_question(monkeypatch):
    study, now = new_study("help"), time.time()
    for clock in (-3, -2, -1, 0, 100, 100.1, 0.1, 100.2, 1, -20_000, 1.1):
        monkeypatch.setattr(time, "time", lambda clock=clock: now + clock * 86_400)
        filled("texts", log_file(study))  # the first of these questions stay: their ids are known
    assert [each.time for each in read_questions(study)] == [pytest.approx(now - 3 * 86_400)] * 2


def test_a_disk_that_is_full_is_said_once_and_loses_nothing_else(tmp_path, monkeypatch):
    said: list[str] = []

    def full(path: Path) -> None:
        raise StudyError("database or disk is full", where=str(path))

    with monkeypatch.context() as patch:
        patch.setattr(visitor_log, "opened", full)
        log = VisitorLog(tmp_path / "v.db", "counts", 90, said.append)
        for number in range(5):
            log.asked(f"q-{number}", "ann", "m", "?", "!", declined=False)
            time.sleep(0.02)
        wait_until(lambda: log._waiting.empty())
    log.asked("q-9", "ann", "m", "?", "!", declined=False)
    log.close()
    assert len(said) == 1 and "disk is full" in said[0]
    with sqlite3.connect(tmp_path / "v.db") as connection:
        assert connection.execute("SELECT id FROM question").fetchall() == [("q-9",)]
    connection.close()


def test_what_was_written_survives_a_kill(home):
    study = new_study("help")
    code = f"""
import sys, time
from contextlib import closing
from pathlib import Path
from assistant_builder.chat.visitor_log import VisitorLog
log = VisitorLog(Path({str(log_file(study))!r}), "texts", 90)
for number in range(10**6):
    log.asked(f"q-{{number:07}}", "ann", "m", "How much?", "Much.", declined=False)
    time.sleep(0.0005)
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    wait_until(lambda: log_file(study).is_file() and len(read_questions(study)) > 200)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    ids = [each.id for each in read_questions(study)]
    # a prefix: nothing in the middle is missing
    assert ids == [f"q-{number:07}" for number in range(len(ids))]
    filled("texts", log_file(study))
    assert len(read_questions(study)) == len(ids) + 2


def test_two_servers_write_to_one_study():
    study = new_study("help")
    logs = [VisitorLog(log_file(study), "counts", 90) for _ in range(2)]
    for number in range(200):
        logs[number % 2].asked(f"q-{number}", "ann", "m", "?", "!", declined=False)
    for log in logs:
        log.close()
    assert len(read_questions(study)) == 200


def test_a_damaged_file_and_one_of_a_later_release_are_named():
    study = new_study("help")
    log_file(study).write_bytes(b"no database" * 100)
    with pytest.raises(StudyError, match="cannot be read"):
        read_questions(study)
    log_file(study).unlink()
    filled("counts", log_file(study))
    with opened(log_file(study)) as connection:
        connection.execute("PRAGMA user_version=99")
    with pytest.raises(StudyError, match="later release"):
        read_questions(study)


def journal_that_names(victim: Path, database: bytes) -> bytes:
    """A rollback journal with a page of a database and the name of a file that SQLite deletes with it."""
    magic, size, name = bytes.fromhex("d9d505f920a163d7"), 4096, str(victim).encode()
    header = magic + struct.pack(">5I", 1, 0, len(database) // size, 512, size)
    checksum = sum(database[size - 200 : 0 : -200])
    page = struct.pack(">I", 1) + database[:size] + struct.pack(">I", checksum)
    end = struct.pack(">I", 2**30 // size + 1) + name + struct.pack(">II", len(name), sum(name))
    return header.ljust(512, b"\0") + page + end + magic


def test_the_journal_of_a_handed_on_database_deletes_no_other_file(tmp_path):
    study, victim = new_study("help"), tmp_path / "thesis.txt"
    path = log_file(study)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE anything (x)")
    victim.write_text("years of work")
    path.with_name("visitors.db-journal").write_bytes(journal_that_names(victim, path.read_bytes()))
    with pytest.raises(StudyError, match="visitors.db-journal names another file"):
        read_questions(study)
    assert victim.read_text() == "years of work"


ENDLESS = (
    "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT n AS id, n AS time, n AS visitor, "
    "n AS model, 1 AS declined, n AS question, n AS answer, -1 AS vote, n AS suggestion, n AS state, n AS wording "
    "FROM c"
)


@pytest.mark.parametrize(
    "tables",
    [
        f"CREATE VIEW question AS {ENDLESS}",
        f"{visitor_log._SCHEMA} CREATE TRIGGER t AFTER UPDATE ON question BEGIN DELETE FROM question; END",
        "CREATE TABLE question (id, time AS (zeroblob(1000000000)))",
    ],
    ids=["view", "trigger", "computed column"],
)
def test_a_handed_on_database_has_no_other_tables(tables):
    study = new_study("help")
    with closing(sqlite3.connect(log_file(study))) as connection:
        connection.executescript(f"{tables}; PRAGMA user_version=1")
    for read in (read_questions, lambda study: read_inbox(study, time.time())):
        with pytest.raises(StudyError, match="other tables"):
            read(study)


@pytest.mark.parametrize(
    ("column", "value"),
    [("id", "x'ff'"), ("declined", "9e999"), ("question", "x'ff'"), ("answer", "x'ff'")],
)
def test_values_of_a_wrong_type_are_an_error_that_names_the_file(column, value):
    study = new_study("help")
    filled("texts", log_file(study))
    with opened(log_file(study)) as connection:
        connection.execute(f"UPDATE question SET {column} = {value} WHERE id = 'q-2'")
    with pytest.raises(StudyError, match="wrong type") as caught:
        read_inbox(study, time.time())
    assert str(caught.value.where) == str(log_file(study))


def test_a_chosen_question_is_kept_masked_with_texts_alone_and_goes_with_its_question():
    study = new_study("shop")
    path = log_file(study)
    for kept in ("counts", "texts"):
        log = VisitorLog(path, kept, 90)
        log.asked(f"q-{kept}", "v1", "m", "Are you there?", "No idea.", declined=True)
        log.asked(f"t-{kept}", "v1", "m", "hi", "Hello!", declined=False, state="talk")
        log.asked(f"c-{kept}", "v1", "m", "How?", "A or B?", declined=False, state="clarified")
        log.asked(f"d-{kept}", "v1", "m", "Which?", "A or B?", declined=False, state="clarified")
        log.voted(f"d-{kept}", -1, "")
        log.asked(f"g-{kept}", "v1", "m", "hello", "Hello!", declined=False, state="talk")
        log.voted(f"g-{kept}", -1, "")
        log.voted(f"q-{kept}", None, "", "Is ann@shop.example there?")
        log.close()
    whole = read_inbox(study, time.time())
    counted = whole.whole
    assert (counted.asked, counted.declined, counted.greetings) == (6, 2, 4)
    # a greeting and an answer that asks back are not answered; they count as asked if they are voted down
    assert (counted.asked_back, counted.voted_down, counted.answered) == (4, 4, 0)
    voted, group = whole.groups
    assert (voted.wordings, voted.problem) == (("Which?",), "voted down")
    (chosen,) = group.chosen
    assert chosen.startswith("Is [e-mail]") and chosen.endswith("there?")
    assert erase(study, "v1") == 10
    with opened(path) as connection:
        assert connection.execute("SELECT COUNT(*) FROM chosen").fetchone() == (0,)
        connection.execute("DROP TABLE chosen")  # as in the files of earlier releases
    assert read_inbox(study, time.time()).groups == ()


def test_a_question_of_the_future_is_not_kept_until_then(tmp_path):
    path, now, day = tmp_path / "visitors.db", time.time(), 86_400
    filled("texts", path).close()
    with visitor_log.opened(path) as connection:
        connection.execute("UPDATE question SET time = ?", (now + 3650 * day,))
        for days in range(2):
            visitor_log.purge(connection, 30, now + days * day)
        [(least,)] = connection.execute("SELECT MIN(time) FROM question")
        assert least > now + 3000 * day  # the clock may be behind now
        for days in range(2, 40):
            visitor_log.purge(connection, 30, now + days * day)
        assert connection.execute("SELECT COUNT(*) FROM question").fetchone() == (0,)
