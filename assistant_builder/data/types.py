"""Data types of the package: messages, pairs, rejected rows and datasets, and the raw rows that they are made from."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar, get_args

ChatRole = Literal["system", "user", "assistant"]
SplitName = Literal["train", "validation", "heldout"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
COLUMN_ROLES = ("question", "answer", "group", "cluster", "family", "split", "answerable", "system", "context",
                "messages")
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
    """One training or test example: a question with its answer, or a conversation of several turns.

    Attributes:
        row: 1-based row number in file order; the header is not counted. In JSONL it is the line number.
        messages: ``[system] user assistant (user assistant)*``; the last turn is the assistant's.
        group: Rows of one group always belong to the same split.
        cluster: Rows of one cluster (phrasings of one fact) are resampled together; they may belong to several splits.
        family: Facts of one kind, such as those that share a sentence pattern; they may belong to several splits.
        split: The split that the file specifies, or None.
        answerable: False where the correct answer is to decline.
    """

    row: int
    messages: tuple[Message, ...]
    group: str | None = None
    cluster: str | None = None
    split: SplitName | None = None
    answerable: bool = True
    family: str | None = None

    @property
    def question(self) -> str:
        """The first user turn."""
        return next((message.content for message in self.messages if message.role == "user"), "")

    @property
    def answer(self) -> str:
        """The last assistant turn."""
        return next((message.content for message in reversed(self.messages) if message.role == "assistant"), "")

    @property
    def system(self) -> str | None:
        """The system prompt, or None."""
        return next((message.content for message in self.messages if message.role == "system"), None)

    @property
    def turns(self) -> int:
        """Number of assistant turns."""
        return sum(message.role == "assistant" for message in self.messages)

    @property
    def compared_question(self) -> str:
        """The text that duplicate, conflict and leak detection compares.

        This is the first user turn. A conversation that opens with a few words ("Hi there!") is compared by all its
        user turns, because such an opening does not identify the question.
        """
        questions = [message.content for message in self.messages if message.role == "user"]
        if len(questions) > 1 and len(questions[0].split()) < _SHORT_OPENER_WORDS:
            return "\n".join(questions)
        return questions[0] if questions else ""

    def to_record(self) -> dict[str, Any]:
        """One line of a split file. The file name already states the split."""
        return {
            "row": self.row,
            "messages": [message.to_record() for message in self.messages],
            "group": self.group,
            "cluster": self.cluster,
            **({} if self.family is None else {"family": self.family}),
            "answerable": self.answerable,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any], split: SplitName | None = None) -> Pair:
        """Build a pair from a line of the split file of ``split``; the inverse of :meth:`to_record`."""
        return cls(
            row=record["row"],
            messages=tuple(Message(message["role"], message["content"]) for message in record["messages"]),
            group=record.get("group"),
            cluster=record.get("cluster"),
            split=split,
            answerable=record.get("answerable", True),
            family=record.get("family"),
        )


def group_by(pairs: Iterable[Pair], key: Callable[[Pair], _Key]) -> dict[_Key, list[Pair]]:
    """Key → its pairs, in the order given."""
    groups: dict[_Key, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(key(pair), []).append(pair)
    return groups


@dataclass(frozen=True)
class RejectedRow:
    """A row that cannot be used.

    Attributes:
        row: Row number as in :class:`Pair`.
        reason: The reason, addressed to the author of the row.
        record: The cells of the row, the raw text where it could not be parsed, or None.
    """

    row: int
    reason: str
    record: Any = field(default=None, compare=False)

    def to_record(self) -> dict[str, Any]:
        """Row and reason, as ``data check --json`` prints them."""
        return {"row": self.row, "reason": self.reason}


@dataclass(frozen=True)
class Dataset:
    """The content of a data file.

    Attributes:
        source: Path of the file as given.
        format: Format of the content: ``csv``, ``tsv``, ``json``, ``jsonl``, ``xlsx`` or ``parquet``.
        columns: Role (:data:`COLUMN_ROLES`) → column name, or None where no column has the role.
        pairs: The usable rows in file order.
        rejected: The other rows in file order.
        rows: Number of rows, equal to ``len(pairs) + len(rejected)``.
        notes: How the file was interpreted: encoding, separator, sheet, choice of columns.
        changes: Change made to the text while reading → rows it applies to.
        column_names: All columns of the file in file order.
    """

    source: str
    format: str
    columns: dict[str, str | None]
    pairs: tuple[Pair, ...]
    rejected: tuple[RejectedRow, ...]
    rows: int
    notes: tuple[str, ...] = ()
    changes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    column_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class RawRow:
    """One row of a file before its columns are interpreted.

    Attributes:
        row: Row number as in :class:`Pair`.
        cells: Column → value, or None where the row could not be parsed.
        problem: Why the row could not be parsed; empty otherwise.
        raw: The content of a row that could not be parsed.
    """

    row: int
    cells: dict[str, Any] | None
    problem: str = ""
    raw: Any = None


@dataclass
class Table:
    """The rows of a file with their column names.

    Attributes:
        format: Format of the content, as in :class:`Dataset`.
        columns: Unique column names in file order.
        rows: Rows in file order.
        notes: How the file was interpreted.
        remarks: Observation about single rows → those rows.
    """

    format: str
    columns: tuple[str, ...]
    rows: list[RawRow]
    notes: list[str] = field(default_factory=list)
    remarks: dict[str, list[int]] = field(default_factory=dict)


def header_names(cells: Iterable[str], notes: list[str]) -> tuple[str, ...]:
    """Unique column names from a header row; empty and repeated names get a number, the latter with a note."""
    names: list[str] = []
    seen: Counter[str] = Counter()
    for position, cell in enumerate(cells, start=1):
        name = " ".join(cell.split()) or f"column {position}"
        seen[name] += 1
        if seen[name] > 1:
            numbered = f"{name} ({seen[name]})"
            notes.append(f"two columns are named {name!r}; column {position} is renamed to {numbered!r}")
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


def count_noun(count: int, noun: str) -> str:
    """``1 row``, ``12 rows``."""
    return f"{count:,} {noun if count == 1 else noun + 's'}"


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
