"""Data types of the package: messages, pairs, rejected rows and datasets, and the raw rows that they are made from."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar, get_args

from assistant_builder import i18n
from assistant_builder.i18n import Rows, Text, m, text_of, written

ChatRole = Literal["system", "user", "assistant"]
SplitName = Literal["train", "validation", "heldout"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
COLUMN_ROLES = tuple(
    "question answer group cluster family split answerable system context messages".split()
)
"""Roles of a column: ``context`` is appended to the question, ``messages`` holds a complete conversation."""

_SHORT_OPENER_WORDS = 4
_Key = TypeVar("_Key")


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: ChatRole
    content: str

    def to_record(self) -> dict[str, str]:
        """The message as data files and chat templates represent it."""
        return asdict(self)


@dataclass(frozen=True)
class Pair:
    """One training or test example: a question with its answer, or a conversation of several turns."""

    row: int  # 1-based number in file order without the header; in JSONL the line number
    messages: tuple[Message, ...]  # [system] user assistant (user assistant)*
    group: str | None = None  # rows of one group belong to the same split
    cluster: str | None = None  # phrasings of one fact, resampled together; may span splits
    split: SplitName | None = None  # given by the file
    answerable: bool = True  # False where the correct answer is to decline
    # facts of one kind, such as those of one sentence pattern; may span splits
    family: str | None = None
    # the training row whose question this is, typed otherwise; the file has no such row
    respelled: int | None = None

    @property
    def question(self) -> str:
        """The first user turn."""
        return next(self._contents("user"), "")

    @property
    def answer(self) -> str:
        """The last assistant turn."""
        return next(reversed([*self._contents("assistant")]), "")

    @property
    def system(self) -> str | None:
        """The system prompt, or None."""
        return next(self._contents("system"), None)

    def _contents(self, role: ChatRole) -> Iterator[str]:
        return (message.content for message in self.messages if message.role == role)

    @property
    def turns(self) -> int:
        """Number of assistant turns."""
        return sum(message.role == "assistant" for message in self.messages)

    @property
    def compared_question(self) -> str:
        """The text that duplicate, conflict and leak detection compares: the first user turn.

        In a conversation that opens with a few words ("Hi there!"), these are all user turns.
        """
        questions = [*self._contents("user")]
        if len(questions) > 1 and len(questions[0].split()) < _SHORT_OPENER_WORDS:
            return "\n".join(questions)
        return questions[0] if questions else ""

    def to_record(self) -> dict[str, Any]:
        """One line of a split file, whose name states the split."""
        return {
            "row": self.row,
            "messages": [message.to_record() for message in self.messages],
            "group": self.group,
            "cluster": self.cluster,
            **({} if self.family is None else {"family": self.family}),
            "answerable": self.answerable,
            **({} if self.respelled is None else {"respelled": self.respelled}),
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any], split: SplitName | None = None) -> Pair:
        """The inverse of :meth:`to_record` for a line of the split file of ``split``."""
        return cls(
            row=record["row"],
            messages=tuple(Message(turn["role"], turn["content"]) for turn in record["messages"]),
            group=record.get("group"),
            cluster=record.get("cluster"),
            split=split,
            answerable=record.get("answerable", True),
            family=record.get("family"),
            respelled=record.get("respelled"),
        )


def group_by(pairs: Iterable[Pair], key: Callable[[Pair], _Key]) -> dict[_Key, list[Pair]]:
    """Key → its pairs, in the order given."""
    groups: dict[_Key, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(key(pair), []).append(pair)
    return groups


DECLINE_SENTENCE = "I can't answer that from what I was given."
"""What is said instead of an answer where the data have no answer of that kind."""


def declining_answer(pairs: Iterable[Pair]) -> str:
    """The most frequent answer of the pairs that should be declined, which is said wherever it declines; or empty."""
    given = Counter(pair.answer for pair in pairs if not pair.answerable)
    return given.most_common(1)[0][0] if given else ""


@dataclass(frozen=True)
class RejectedRow:
    """A row that cannot be used, and the reason, addressed to the author of the row."""

    row: int
    reason: Text
    # the cells, or the raw text of a row that could not be parsed
    record: Any = field(default=None, compare=False)

    def to_record(self) -> dict[str, Any]:
        """Row and reason, as ``data check --json`` prints them."""
        return {"row": self.row, "reason": written(self.reason)[0]}

    def to_line(self) -> dict[str, Any]:
        """A line of ``rejected.jsonl``."""
        return {**self.to_record(), "said": written(self.reason)[1], "record": self.record}

    @classmethod
    def from_line(cls, record: Mapping[str, Any]) -> RejectedRow:
        """The inverse of :meth:`to_line`."""
        reason = text_of(record.get("said"), record["reason"])
        return cls(record["row"], reason, record.get("record"))


@dataclass(frozen=True)
class RowNumbers:
    """The row numbers that a spreadsheet program or an editor shows for a file.

    Attributes:
        note: What they are, in a sentence; empty if they are the numbers of :class:`Pair`.
        starts: First row (1-based, the header not counted) and what is added to it and to later rows, in order.
        copies: Rows of respelled pairs, which the file does not have, and the rows that they are copies of.
    """

    note: Text = ""
    starts: tuple[tuple[int, int], ...] = ()
    copies: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of_record(cls, record: Mapping[str, Any] | None) -> RowNumbers:
        """The row numbers in ``Findings.to_record()``; plain ones for a record of an earlier version."""
        numbers = (record or {}).get("row_numbers") or {}
        starts, copies = (
            tuple((first, second) for first, second in numbers.get(name, ()))
            for name in ("starts", "copies")
        )
        return cls(text_of(numbers.get("said"), numbers.get("note")), starts, copies)

    def to_record(self) -> dict[str, Any]:
        """The row numbers for ``Findings.to_record()``."""
        note, said = written(self.note)
        return {"note": note, "said": said, "starts": self.starts, "copies": self.copies}

    def shown(self, row: int) -> int:
        """The number that a person sees."""
        row = dict(self.copies).get(row, row)
        return row + next((added for first, added in reversed(self.starts) if first <= row), 0)

    def row_of(self, shown: int) -> int:
        """The inverse of :meth:`shown`."""
        return shown - next(
            (added for first, added in reversed(self.starts) if first + added <= shown), 0
        )

    def in_message(self, text: Text) -> Text:
        """A message with these row numbers in it, for a place that does not know the file."""

        def renumbered(rows: Rows) -> Rows:
            return Rows(tuple(map(self.shown, rows.numbers)))

        return text.map(renumbered, Rows) if isinstance(text, i18n.Message) else text


@dataclass(frozen=True)
class Dataset:
    """The content of a data file: usable and rejected rows in file order, and how they were read."""

    source: str  # path as given
    format: str  # csv, tsv, json, jsonl, xlsx or parquet, determined from the content
    columns: dict[str, str | None]  # role → column name
    pairs: tuple[Pair, ...]
    rejected: tuple[RejectedRow, ...]
    rows: int
    notes: tuple[Text, ...] = ()  # encoding, separator, sheet, choice of columns
    # change made to the text while reading → rows
    changes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    column_names: tuple[str, ...] = ()
    numbers: RowNumbers = RowNumbers()
    first_rows: tuple[dict[str, Any], ...] = ()  # cells of the first rows, as read


@dataclass(frozen=True)
class RawRow:
    """One row of a file before its columns are interpreted; ``cells`` is None where it could not be parsed."""

    row: int
    cells: dict[str, Any] | None
    problem: Text = ""  # why it could not be parsed
    raw: Any = None  # content of a row that could not be parsed


@dataclass
class Table:
    """The rows of a file with their unique column names, and notes on how the file was interpreted."""

    format: str
    columns: tuple[str, ...]
    rows: list[RawRow]
    notes: list[Text] = field(default_factory=list)
    # observation about single rows → those rows
    remarks: dict[str, list[int]] = field(default_factory=dict)
    numbers: RowNumbers = RowNumbers()


def header_names(cells: Iterable[str], notes: list[Text]) -> tuple[str, ...]:
    """Unique column names from a header row; empty and repeated names get a number, the latter with a note."""
    names: list[str] = []
    seen: Counter[str] = Counter()
    for position, cell in enumerate(cells, start=1):
        name = " ".join(cell.split()) or f"column {position}"
        seen[name] += 1
        if seen[name] > 1:
            numbered = f"{name} ({seen[name]})"
            notes.append(
                m(
                    "two columns are named {name!r}; column {position} is renamed to {numbered!r}",
                    name=name,
                    position=position,
                    numbered=numbered,
                )
            )
            name = numbered
        names.append(name)
    return tuple(names)


def is_empty(value: Any) -> bool:
    """Whether a cell is None, NaN, an empty collection, or text without a visible character."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    if isinstance(value, str):
        return not has_visible_text(value)
    return isinstance(value, list | dict | tuple) and not value


def has_visible_text(text: str) -> bool:
    """Whether a text contains a visible character; whitespace and zero-width characters are not visible."""
    return any(character.isprintable() and not character.isspace() for character in text)


def to_json_safe(value: Any) -> Any:
    """Convert a cell to a value that JSON can represent."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): to_json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json_safe(item) for item in value]
    return str(value)
