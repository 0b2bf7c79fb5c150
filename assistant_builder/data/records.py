"""What a data file is turned into: messages, pairs, rejected rows, and the dataset that holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    import datasets

RoleOfTurn = Literal["system", "user", "assistant"]
SplitName = Literal["train", "validation", "heldout"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
COLUMN_ROLES = ("question", "answer", "group", "cluster", "split", "answerable", "system", "context", "messages")
"""What a column can be: ``context`` is put after the question, ``messages`` holds a whole conversation."""

_OPENER_WORDS = 4


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: RoleOfTurn
    content: str

    def to_record(self) -> dict[str, str]:
        """The form in which files and chat templates carry it."""
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True)
class Pair:
    """One row that can be trained on or scored: a question with its answer, or a conversation of several turns.

    Attributes:
        row: 1-based, in file order, header not counted (JSONL: the line).
        messages: ``[system] user assistant (user assistant)*``; ends with an assistant turn.
        group: Rows of one group never straddle the splits.
        cluster: Rows of one cluster are resampled together (phrasings of one fact); they may straddle.
        split: As the file gives it, None where the file gives none.
        answerable: False where the right answer is to decline.
    """

    row: int
    messages: tuple[Message, ...]
    group: str | None = None
    cluster: str | None = None
    split: SplitName | None = None
    answerable: bool = True

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
        """The system prompt, None where there is none."""
        return next((message.content for message in self.messages if message.role == "system"), None)

    @property
    def turns(self) -> int:
        """Number of assistant turns."""
        return sum(message.role == "assistant" for message in self.messages)

    @property
    def compared_question(self) -> str:
        """The text by which two rows are compared: duplicates, conflicts and leaks are matters of this.

        It is the first user turn. A conversation that opens with a few words ("Hi there!") is told by all its user
        turns together, for the opening says nothing about what is asked.
        """
        asked = [message.content for message in self.messages if message.role == "user"]
        if len(asked) > 1 and len(asked[0].split()) < _OPENER_WORDS:
            return "\n".join(asked)
        return asked[0] if asked else ""

    def to_record(self) -> dict[str, Any]:
        """One line of a split file; the split is the file, and is not repeated in it."""
        return {
            "row": self.row,
            "messages": [message.to_record() for message in self.messages],
            "group": self.group,
            "cluster": self.cluster,
            "answerable": self.answerable,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any], split: SplitName | None = None) -> Pair:
        """The reverse of :meth:`to_record`.

        Args:
            record: One line of a split file.
            split: The split whose file it stands in.
        """
        return cls(
            row=record["row"],
            messages=tuple(Message(message["role"], message["content"]) for message in record["messages"]),
            group=record.get("group"),
            cluster=record.get("cluster"),
            split=split,
            answerable=record.get("answerable", True),
        )


@dataclass(frozen=True)
class Rejection:
    """A row that cannot be used, and why.

    Attributes:
        row: As in :class:`Pair`.
        reason: What is wrong with it, in words for the person who wrote the row.
        record: The row's cells as they stood in the file, None where it could not be taken apart.
    """

    row: int
    reason: str
    record: Any = field(default=None, compare=False)

    def to_record(self) -> dict[str, Any]:
        """Row and reason, as ``data check --json`` prints them."""
        return {"row": self.row, "reason": self.reason}


@dataclass(frozen=True)
class Dataset:
    """A data file, read: the pairs it holds, the rows it could not use, and how it was understood.

    Attributes:
        source: Path of the file as given.
        format: ``csv``, ``tsv``, ``json``, ``jsonl``, ``xlsx`` or ``parquet``: what the content is.
        columns: Role (:data:`COLUMN_ROLES`) → name of the column in the file that plays it, or None.
        pairs: The rows that are whole, in file order.
        rejected: The others, in file order.
        rows: Rows in the file; ``len(pairs) + len(rejected)``.
        notes: What was found out about the file: encoding, separator, sheet, which column was taken and why.
        changes: What was changed in the text while reading → rows it concerned.
        column_names: Every column of the file, in its order.
    """

    source: str
    format: str
    columns: dict[str, str | None]
    pairs: tuple[Pair, ...]
    rejected: tuple[Rejection, ...]
    rows: int
    notes: tuple[str, ...] = ()
    changes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    column_names: tuple[str, ...] = ()

    def to_hf(self) -> datasets.Dataset:
        """The pairs as a ``datasets.Dataset`` of columns row, messages, group, cluster, answerable, split."""
        import datasets

        text, number = datasets.Value("string"), datasets.Value("int64")
        features = datasets.Features(
            {
                "row": number,
                "messages": datasets.List({"role": text, "content": text}),
                "group": text,
                "cluster": text,
                "answerable": datasets.Value("bool"),
                "split": text,
            }
        )
        records = [{**pair.to_record(), "split": pair.split} for pair in self.pairs]
        return datasets.Dataset.from_list(records, features=features)
