"""What visitors of a published assistant asked: a SQLite database in the folder of the study.

Counts are kept by default, texts only on request, cut and masked before they are written, as are names of visitors. One
thread masks and writes; an error loses what could not be written, and never an answer to a visitor.
"""

from __future__ import annotations

import json
import queue
import random
import secrets
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from assistant_builder.chat.masking import mask, mask_name
from assistant_builder.data.similarity import casefold_normalize
from assistant_builder.errors import StudyError
from assistant_builder.i18n import m, render
from assistant_builder.study import Study
from assistant_builder.study.admin import confirmed_time
from assistant_builder.study.steps import UnixTime

Kept = Literal["nothing", "counts", "texts"]
"""What is kept of a question: nothing, when it was asked and whether it was declined or voted on, or its texts, too."""
VERSION = 1
_FILE = "visitors.db"
_DAY = 86_400.0
_BUSY_SECONDS = 10.0
_WAITING = 10_000
"""Entries that may wait to be written; further ones are dropped."""
_PURGE_SECONDS = 3_600.0
# question.wording is the normalized question; the table wording has the embeddings of those that wait for an answer,
# and the numbers of their meanings
_SCHEMA = """
CREATE TABLE question (
  id TEXT PRIMARY KEY, time REAL NOT NULL, visitor TEXT NOT NULL, model TEXT NOT NULL, declined INTEGER NOT NULL,
  question TEXT, answer TEXT, vote INTEGER, suggestion TEXT, state TEXT NOT NULL DEFAULT 'open', wording TEXT);
CREATE INDEX question_time ON question (time);
CREATE INDEX question_visitor ON question (visitor);
CREATE INDEX question_wording ON question (wording);
CREATE TABLE wording (text TEXT PRIMARY KEY, embedder TEXT NOT NULL, vector BLOB NOT NULL, meaning INTEGER);
"""
_DAYS = "CREATE TABLE IF NOT EXISTS purge_day (day INTEGER PRIMARY KEY)"
# of a declined question, the question of the data that its visitor chose instead
_CHOSEN = "CREATE TABLE IF NOT EXISTS chosen (id TEXT PRIMARY KEY, question TEXT NOT NULL)"
# answers of which some are judged, see :mod:`assistant_builder.chat.watch`: those whose random number is below the
# probability of a judgement
_DRAWN = (
    "CREATE TABLE IF NOT EXISTS drawn (id TEXT PRIMARY KEY, confidence REAL NOT NULL, chance REAL NOT NULL, "
    "draw REAL NOT NULL, correct INTEGER)"
)
# of a question that was looked up, the score of the best answer, see :mod:`assistant_builder.chat.drift`
_FOUND = "CREATE TABLE IF NOT EXISTS found (id TEXT PRIMARY KEY, similarity REAL NOT NULL)"
_FORGOTTEN = (
    "DELETE FROM drawn WHERE id NOT IN (SELECT id FROM question)",
    "DELETE FROM wording WHERE text NOT IN (SELECT wording FROM question WHERE wording IS NOT NULL)",
    "DELETE FROM chosen WHERE id NOT IN (SELECT id FROM question)",
    "DELETE FROM found WHERE id NOT IN (SELECT id FROM question)",
)
A_WEEK = 10
"""Answers a week that are drawn to be judged, about."""
Asked = Literal["open", "talk", "clarified"]
"""State in which a question is kept: it can wait for an answer; a greeting; one that was answered by asking back."""
MAX_QUESTION, MAX_ANSWER, MAX_QUESTIONS = 2_000, 8_000, 100_000
"""Characters that are kept of a question or a suggestion, and of an answer; questions that are kept, the latest."""


@dataclass(frozen=True)
class VisitorQuestion:
    """A question as it is kept; texts are None where only counts are kept."""

    id: str
    time: UnixTime
    visitor: str  # random, of one tab of a browser
    model: str  # name of the assistant
    declined: bool
    question: str | None = None
    answer: str | None = None
    vote: int | None = None  # 1: helpful, -1: not
    suggestion: str | None = None  # what the visitor thinks it should have said
    state: str = "open"


_JOURNAL_END = bytes.fromhex("d9d505f920a163d7")
"""The last bytes of a rollback journal that names another file, which SQLite deletes after it has rolled back."""
_LONGEST, _LARGEST = 2**17, 2**31
"""Bytes of a text or a row, and of a database; what is kept has at most half of them."""

_Entry = tuple[str, Callable[[], tuple[Any, ...]]]
"""A statement, and a function that makes its values."""
_FIELDS = tuple(field.name for field in fields(VisitorQuestion))


def new_id() -> str:
    """A random id of a question."""
    return f"q-{secrets.token_urlsafe(12)}"


def log_file(study: Study) -> Path:
    """The database of a study."""
    return study.folder / _FILE


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection to a database, which is made if it does not exist; changes are committed at the end.

    Raises:
        StudyError: The file is of a later release, no database, or one of somebody else that this program did not make.
    """
    try:
        _check_journal(path)
        if path.exists() and path.stat().st_size > _LARGEST:
            raise sqlite3.DatabaseError("it is too large")
        connection = sqlite3.connect(path, timeout=_BUSY_SECONDS)
        with closing(connection), connection:
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST)
            _prepare(connection, path)
            _check_tables(connection)
            yield connection
    except sqlite3.DatabaseError as error:
        raise StudyError(
            m("the questions of visitors cannot be read or written: {error}", error=error),
            where=str(path),
            remedy=m("Free disk space; move the file away if it is damaged"),
        ) from error


def _check_journal(path: Path) -> None:
    journal = path.with_name(f"{path.name}-journal")
    with suppress(FileNotFoundError), journal.open("rb") as file:
        file.seek(max(0, journal.stat().st_size - len(_JOURNAL_END)))
        if file.read() == _JOURNAL_END:
            raise sqlite3.DatabaseError(f"{journal.name} names another file")


def _check_tables(connection: sqlite3.Connection) -> None:
    """Refuse views and triggers, which run without end, and tables of other columns."""
    if not {*connection.execute(_OBJECTS)} <= _objects():
        raise sqlite3.DatabaseError("it has other tables")


_OBJECTS = "SELECT type, name, sql FROM sqlite_master"


@cache
def _objects() -> frozenset[tuple[str, str, str]]:
    with closing(sqlite3.connect(":memory:")) as made:
        made.executescript(f"{_SCHEMA} {_DAYS}; {_CHOSEN}; {_DRAWN}; {_FOUND}")
        return frozenset(made.execute(_OBJECTS))


@cache
def _adapter(row: Any) -> TypeAdapter[Any]:
    return TypeAdapter(list[row])


def checked(rows: list[Any], row: Any) -> list[Any]:
    """Rows of a type: SQLite keeps any value in any column.

    Raises:
        sqlite3.DatabaseError: A value is of another type.
    """
    try:
        return list(_adapter(row).validate_python(rows))
    except ValidationError as error:
        raise sqlite3.DatabaseError("a value is of a wrong type") from error


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables unless there are some; SQLite does not wait by itself for another process that makes them."""
    patience = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version > VERSION:
                raise StudyError(
                    m(
                        "the questions of visitors were written by a later release (schema {version})",
                        version=version,
                    ),
                    where=str(path),
                    remedy=m("Update Assistant Builder"),
                )
            if version == 0:
                connection.executescript(
                    f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version={VERSION}; COMMIT;"
                )
            for table in (_CHOSEN, _DRAWN, _FOUND):  # earlier releases had none
                connection.execute(table)
            return
        except sqlite3.OperationalError as error:
            connection.rollback()
            if time.monotonic() > patience or not (
                "locked" in str(error) or "already exists" in str(error)
            ):
                raise
            time.sleep(0.02)


class VisitorLog:
    """Writes questions, votes and suggestions of visitors in a thread of its own.

    Args:
        path: The database.
        kept: What is kept of a question.
        days: Days after which questions are deleted, see :func:`purge`.
        report: Called with a line if something could not be written; not more often than once a minute.
    """

    def __init__(
        self, path: Path, kept: Kept, days: int, report: Callable[[str], None] | None = None
    ) -> None:
        self._path, self._kept, self._days = path, kept, days
        self._report = report or (
            lambda line: print(f"assistant-builder: {line}", file=sys.stderr, flush=True)
        )
        self._waiting: queue.Queue[_Entry | None] = queue.Queue(_WAITING)
        self._reported = float("-inf")
        self._chance = 1.0  # of an answer to be drawn
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def asked(
        self,
        id: str,
        visitor: str,
        model: str,
        question: str,
        answer: str,
        *,
        declined: bool,
        state: Asked = "open",
        judged: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep a question with its answer.

        ``judged``: what :func:`~assistant_builder.retrieval.decline.judgement` says of the answer.
        """
        now, question, answer = time.time(), question[: 2 * MAX_QUESTION], answer[: 2 * MAX_ANSWER]

        def values() -> tuple[Any, ...]:
            texts: tuple[str | None, ...] = (None, None, None)
            if self._kept == "texts":
                masked = mask(question, MAX_QUESTION)
                texts = (masked, mask(answer, MAX_ANSWER), casefold_normalize(masked))
            return (id, now, mask_name(visitor), model, int(declined), state, *texts)

        self._put(
            "INSERT OR IGNORE INTO question (id, time, visitor, model, declined, state, question, answer, "
            "wording) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            values,
        )
        if state == "talk" or not judged:
            return
        if (similarity := judged.get("evidence", {}).get("similarity")) is not None:
            self._put(
                "INSERT OR IGNORE INTO found SELECT id, ? FROM question WHERE id = ?",
                lambda: (similarity, id),
            )
        confidence = judged.get("confidence")
        judgeable = state == "open" and not declined
        if confidence is not None and self._kept == "texts" and judgeable:
            self._put(
                "INSERT OR IGNORE INTO drawn SELECT id, ?, ?, ?, NULL FROM question WHERE id = ?",
                lambda: (confidence, self._chance, random.random(), id),
            )

    def voted(self, id: str, vote: int | None, suggestion: str, chosen: str = "") -> None:
        """Keep a vote on an answer, and where texts are kept what it should have said, and what was chosen instead."""
        if vote is not None:
            self._put("UPDATE question SET vote = ? WHERE id = ?", lambda: (vote, id))
        if suggestion.strip() and self._kept == "texts":
            self._put(
                "UPDATE question SET suggestion = ? WHERE id = ?",
                lambda: (mask(suggestion.strip(), MAX_QUESTION), id),
            )

        if chosen.strip() and self._kept == "texts":
            self._put(
                "INSERT OR REPLACE INTO chosen SELECT id, ? FROM question WHERE id = ?",
                lambda: (mask(chosen.strip(), MAX_QUESTION), id),
            )

    def close(self) -> None:
        """Write what waits, and end the thread."""
        with suppress(queue.Full):
            self._waiting.put(None, timeout=_BUSY_SECONDS)
        self._thread.join(_BUSY_SECONDS)

    def _put(self, statement: str, values: Callable[[], tuple[Any, ...]]) -> None:
        try:
            self._waiting.put_nowait((statement, values))
        except queue.Full:
            self._failed("too many wait")

    def _write(self) -> None:
        purged = float("-inf")
        if self._path.is_file():  # else the first answers are drawn
            with suppress(StudyError), opened(self._path) as connection:
                self._chance = _chance(connection)
        while True:
            entries = [self._waiting.get()]
            with suppress(queue.Empty):
                while len(entries) < 500:
                    entries.append(self._waiting.get_nowait())
            # before the database is locked: masking takes time
            rows = list(self._rows(filter(None, entries)))
            try:
                with opened(self._path) as connection:
                    for row in rows:
                        connection.execute(*row)
                    connection.execute(
                        "DELETE FROM question WHERE rowid <= (SELECT MAX(rowid) FROM question) - ?",
                        (MAX_QUESTIONS,),
                    )
                    if time.monotonic() - purged > _PURGE_SECONDS:
                        purge(connection, self._days, time.time())
                        purged = time.monotonic()
                    self._chance = _chance(connection)
            except StudyError as error:
                self._failed(render(error.what))
            if None in entries:
                return

    def _rows(self, entries: Iterable[_Entry]) -> Iterator[tuple[str, tuple[Any, ...]]]:
        for statement, values in entries:
            try:
                yield statement, values()
            except Exception as error:  # of a library, on a text that nobody foresaw
                self._failed(f"a text cannot be masked ({type(error).__name__})")

    def _failed(self, why: str) -> None:
        if time.monotonic() - self._reported > 60:
            self._reported = time.monotonic()
            self._report(f"questions of visitors are not kept: {why}")


def _chance(connection: sqlite3.Connection) -> float:
    """The probability with which the next answer is drawn: it depends on what was asked in the last week alone."""
    (asked,) = connection.execute(
        "SELECT COUNT(*) FROM question WHERE time > ?", (time.time() - 7 * _DAY,)
    ).fetchone()
    return min(1.0, A_WEEK / max(A_WEEK, int(asked)))


def purge(connection: sqlite3.Connection, days: int, now: float) -> None:
    """Delete the questions that are older than ``days`` by :func:`~assistant_builder.study.admin.confirmed_time`.

    Those of the future get the present time: they are as old as that at least.
    """
    connection.execute(_DAYS)
    before = [day for (day,) in connection.execute("SELECT day FROM purge_day")]
    last, confirmed = confirmed_time(before, now)
    connection.execute("DELETE FROM purge_day")
    connection.executemany("INSERT INTO purge_day VALUES (?)", [(day,) for day in last])
    if confirmed is not None:
        # asked while the clock was ahead, and else kept until then
        connection.execute("UPDATE question SET time = ? WHERE time > ?", (now, now + _DAY))
        connection.execute("DELETE FROM question WHERE time < ?", (confirmed - days * _DAY,))
        _forget(connection)


def read_questions(
    study: Study, *, visitor: str | None = None, since: float = 0.0
) -> list[VisitorQuestion]:
    """The questions that are kept, oldest first: all, or those of one visitor."""
    path = log_file(study)
    if not path.is_file():
        return []
    condition, values = (
        ("AND visitor IN (?, ?)", (since, visitor, mask_name(visitor)))
        if visitor is not None
        else ("", (since,))
    )
    with opened(path) as connection:
        rows = connection.execute(
            f"SELECT {', '.join(_FIELDS)} FROM question WHERE time >= ? {condition} ORDER BY time DESC LIMIT ?",
            (*values, MAX_QUESTIONS),  # a database of somebody else can have more
        ).fetchall()
        named = [dict(zip(_FIELDS, row, strict=True)) for row in reversed(rows)]
        return checked(
            [{**row, "declined": bool(row["declined"])} for row in named], VisitorQuestion
        )


def find_text(study: Study, text: str) -> list[VisitorQuestion]:
    """The questions that are kept with a text in question, answer or suggestion: as it is given, or as it is masked."""
    wanted = {casefold_normalize(text), casefold_normalize(mask(text, MAX_QUESTION))} - {""}
    return [
        each
        for each in read_questions(study)
        if any(
            part in casefold_normalize(kept)
            for kept in (each.question, each.answer, each.suggestion)
            if kept
            for part in wanted
        )
    ]


def erase(study: Study, visitor: str) -> int:
    """Delete everything of a visitor; returns the number of questions."""
    path = log_file(study)
    if not path.is_file():
        return 0
    with opened(path) as connection:
        connection.execute("PRAGMA secure_delete=ON")
        count = connection.execute(
            "DELETE FROM question WHERE visitor IN (?, ?)", (visitor, mask_name(visitor))
        ).rowcount
        _forget(connection)
    return int(count)


def _forget(connection: sqlite3.Connection) -> None:
    """Delete what belongs to questions that are deleted."""
    for statement in _FORGOTTEN:
        connection.execute(statement)


def to_jsonl(questions: list[VisitorQuestion]) -> str:
    """The questions as JSON lines."""
    return "".join(json.dumps(asdict(each), ensure_ascii=False) + "\n" for each in questions)
