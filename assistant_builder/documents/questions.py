"""Questions about the documents of a study: drafted ones that a person accepts, and those that people asked.

``documents/questions.jsonl`` has them. A drafted question is proposed until somebody has accepted or dropped it, or has
chosen to train on it unseen; one that nobody saw is never in the test set.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from assistant_builder.atomic_io import read_jsonl, write_jsonl, write_text
from assistant_builder.data.csv_reader import escape_formula, unescape_formula
from assistant_builder.data.reading_process import read_table
from assistant_builder.data.similarity import casefold_normalize
from assistant_builder.data.types import is_empty
from assistant_builder.documents.store import StatementLine
from assistant_builder.documents.types import Statement
from assistant_builder.errors import ConfigError, DataError
from assistant_builder.i18n import m
from assistant_builder.study import Study

FILE, TRAINED = "questions.jsonl", "statements.jsonl"
PEOPLE = "people"
"""Origin of a question that a person asked."""
MAX_QUESTION = 1_000
"""Characters of a drafted question; a model of somebody else may send a megabyte."""
BETWEEN = "\n"
"""Between the parts of an answer from two statements, each of which is checked alone before it is shown."""
QuestionKind = Literal["statement", "part", "two", "unanswerable"]
"""What the answer is: a statement, a part of one, parts of two, or none."""
QuestionState = Literal["proposed", "accepted", "training", "dropped"]
STATES: tuple[QuestionState, ...] = get_args(QuestionState)
"""``training``: nobody saw it; it is trained on and tests nothing."""
_WORDS: Mapping[str, QuestionState] = {
    **dict.fromkeys(("yes", "y", "ja", "oui", "sí", "si", "1", "x"), "accepted"),
    **dict.fromkeys(("no", "n", "nein", "non", "0"), "dropped"),
    "train": "training",
}
COLUMNS = ("accept", "question", "answer", "statement", "place", "kind", "key")
"""Columns of a review list."""


@dataclass(frozen=True)
class DocumentQuestion:
    """A question about the documents.

    Attributes:
        question: The question.
        answer: Its answer; empty if the documents do not have it.
        keys: Keys of the statements that it rests on.
        kind: See :data:`QuestionKind`.
        origin: ``template``, the name of the model that drafted it, or ``people``.
        state: What somebody decided.
    """

    question: str
    answer: str
    keys: tuple[str, ...]
    kind: QuestionKind
    origin: str
    state: QuestionState = "proposed"

    @property
    def key(self) -> str:
        """Identifies the question by its words."""
        return hashlib.sha256(casefold_normalize(self.question).encode()).hexdigest()[:12]

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> DocumentQuestion:
        """The question of a line of the file."""
        return cls(**{**record, "keys": tuple(record["keys"])})


def question_prompt(statement: Statement, number: int) -> str:
    """The prompt that asks a model for questions about a statement."""
    return (
        f"A document says: {statement.searched}\n\nWrite {number} questions that a customer could ask and that this "
        "answers, in its language and in other words. One per line: the question, then |, then the answer, copied "
        "from the document. No numbers before them, nothing else."
    )


def parse_questions(
    reply: str, statement: Statement, number: int, origin: str
) -> list[DocumentQuestion]:
    """The questions of a model's reply, at most ``number``; an answer that is not in the statement is the statement."""
    found = []
    for line in reply.splitlines():
        asked, _, said = line.strip().lstrip("-*•0123456789.) ").partition("|")
        question, answer = asked.strip(" \t\"“”'«»"), said.strip(' \t"“”«»')
        if len(question.split()) < 2 or not question.endswith("?") or len(question) > MAX_QUESTION:
            continue
        part = bool(answer) and answer.casefold() in statement.text.casefold()
        kind: QuestionKind = "part" if part and answer != statement.text else "statement"
        answer = answer if part else statement.answer
        found.append(DocumentQuestion(question, answer, (statement.key,), kind, origin))
    return found[:number]


def trained_file(study: Study) -> Path:
    """``data/statements.jsonl``: the statements that the study's assistants are trained to read; else it is missing."""
    return study.folder / "data" / TRAINED


def trained_statements(study: Study) -> list[Statement]:
    """The statements of :func:`trained_file`; none if the study's pairs are no questions about its documents."""
    path = trained_file(study)
    return [Statement.from_record(line) for line in read_jsonl(path, StatementLine)]


class Questions:
    """The questions of a study about its documents."""

    def __init__(self, study: Study) -> None:
        self.path = study.folder / "documents" / FILE

    def all(self) -> list[DocumentQuestion]:
        """All questions, in the order in which they were added.

        Raises:
            StudyError: The file is damaged.
        """
        if not self.path.is_file():
            return []
        return read_jsonl(self.path, DocumentQuestion)

    def add(self, questions: Iterable[DocumentQuestion]) -> list[DocumentQuestion]:
        """Add questions that are not known yet; one that a person asked replaces a draft. Returns those added."""
        known = {each.key: each for each in self.all()}
        added = {
            each.key: each
            for each in questions
            if each.key not in known or (each.origin == PEOPLE and known[each.key] != each)
        }
        self._write([*(each for key, each in known.items() if key not in added), *added.values()])
        return list(added.values())

    def decide(self, decisions: Mapping[str, QuestionState]) -> int:
        """Set the state of questions by their keys; returns how many changed.

        Raises:
            ConfigError: There is no question with one of the keys.
        """
        known = {each.key: each for each in self.all()}
        for key in decisions:
            if key not in known:
                raise ConfigError(
                    m("there is no question {key}", key=key),
                    remedy=m("'data questions' lists them"),
                )
        changed = {
            key: replace(each, state=decisions[key])
            for key, each in known.items()
            if decisions.get(key, each.state) != each.state
        }
        self._write({**known, **changed}.values())
        return len(changed)

    def decide_proposed(self, state: QuestionState) -> int:
        """Decide on all drafts that wait for it; returns how many there were."""
        return self.decide({each.key: state for each in self.all() if each.state == "proposed"})

    def write_list(self, path: Path, statements: Sequence[Statement]) -> int:
        """Write the drafts that wait for a decision as a CSV file; returns how many there are."""
        by_key = {each.key: each for each in statements}
        out = io.StringIO(newline="")
        writer = csv.writer(out)
        writer.writerow(COLUMNS)
        waiting = [each for each in self.all() if each.state == "proposed"]
        for each in waiting:
            known = [by_key[key] for key in each.keys if key in by_key]
            texts = " / ".join(known.text for known in known)
            places = " / ".join(dict.fromkeys(known.place for known in known))
            cells = (each.question, each.answer, texts, places, each.kind, each.key)
            writer.writerow(["", *map(escape_formula, cells)])
        write_text(path, "\ufeff" + out.getvalue())
        return len(waiting)

    def read_list(self, path: Path) -> dict[QuestionState, int] | None:
        """Take over the decisions and edits of a list; returns how many there are of each, None if it is no such list.

        A row without a word in the column ``accept`` stays as it is. A question or an answer that was edited is
        accepted in its new words.

        Raises:
            DataError: The file cannot be read, a row names no question of the list, or has an unknown decision.
        """
        table = read_table(path)
        if not {"accept", "key", "question", "answer"} <= set(table.columns):
            return None
        known = {each.key: each for each in self.all()}
        edited: dict[str, DocumentQuestion] = {}
        for row in table.rows:
            cells = {
                name: unescape_formula(str(cell)).strip()
                for name, cell in (row.cells or {}).items()
                if not is_empty(cell)
            }
            word = cells.get("accept", "").casefold()
            if not word:
                continue
            draft = known.get(cells.get("key", ""))
            if draft is None or word not in _WORDS:
                problem = (
                    m("{word!r} is no decision", word=word)
                    if draft
                    else m("no question has the key {key!r}", key=cells.get("key", ""))
                )
                raise DataError(
                    problem,
                    where=m("{file}, row {row}", file=str(path), row=row.row),
                    remedy=m("Write yes, no or train into the column accept, and leave the others"),
                )
            changed = replace(
                draft,
                question=cells.get("question", draft.question),
                answer=cells.get("answer", draft.answer),
                state=_WORDS[word],
            )
            edited[draft.key] = changed
        self._write({**known, **edited}.values())
        states = [each.state for each in edited.values()]
        return {state: states.count(state) for state in STATES if state in states}

    def _write(self, questions: Iterable[DocumentQuestion]) -> None:
        self.path.parent.mkdir(exist_ok=True)
        unique = {each.key: each for each in questions}
        write_jsonl(self.path, map(asdict, unique.values()))
