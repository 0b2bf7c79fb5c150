"""Data types of the package: blocks of a document, its statements, and the document that was read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from assistant_builder.data.similarity import casefold_normalize

BlockKind = Literal["heading", "text", "item", "row"]
HEADINGS = " › "
"""Between the headings of a statement."""
OVERHEAD = 100
"""Characters that need as much memory as an object of a text."""
DocumentKind = Literal["pdf", "docx", "pptx", "html", "markdown", "text"]


@dataclass(frozen=True)
class Block:
    """A part of a document in reading order.

    Attributes:
        kind: What it is; of a table each row is a block.
        text: Its text in one line; of a row its cells, joined.
        page: Page from 1; ``None`` where the format has no pages.
        level: Of a heading: 1 for the largest.
        cells: Of a row: its cells.
        first: Of a row: whether it is the first of its table.
        head: Of the first row: whether the document says that it names the columns.
    """

    kind: BlockKind
    text: str
    page: int | None = None
    level: int = 0
    cells: tuple[str, ...] = ()
    first: bool = False
    head: bool = False


@dataclass(frozen=True)
class Statement:
    """One or a few sentences of a document that can be read alone.

    Attributes:
        document: Name of the document: its path below the folder that was read, or its address.
        page: Page from 1; ``None`` where the format has no pages.
        heading: Headings above it, the largest first, joined by `` › ``.
        text: The statement: sentences, a list item after what introduces the list, or a table row with column names.
        start: First character of its span in the text of the page.
        end: The character after its span.
        kind: Of the block that it is from.
    """

    document: str
    page: int | None
    heading: str
    text: str
    start: int
    end: int
    kind: BlockKind = "text"

    @property
    def answer(self) -> str:
        """The statement as an answer: a list item or table row after the heading that it is under."""
        last = self.heading.rpartition(HEADINGS)[2]
        return f"{last}: {self.text}" if last and self.kind != "text" else self.text

    @property
    def searched(self) -> str:
        """The text that is searched: the headings and the statement."""
        return f"{self.heading}: {self.text}" if self.heading else self.text

    @property
    def key(self) -> str:
        """Hash of document, heading and text; it stays the same where the statement only moves."""
        parts = (self.document, self.heading, self.text)
        content = "\0".join(casefold_normalize(part) for part in parts)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def place(self) -> str:
        """Document and page, for a source."""
        return self.document if self.page is None else f"{self.document}, p. {self.page}"

    def to_record(self) -> dict[str, Any]:
        """The statement as a line of ``statements.jsonl``."""
        return {"key": self.key, **asdict(self)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Statement:
        """The inverse of :meth:`to_record`."""
        return cls(**{name: record[name] for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Document:
    """A document that was read.

    Attributes:
        name: See :attr:`Statement.document`.
        kind: Its format.
        title: Its title, or its first heading; may be empty.
        pages: The text of each page; of a format without pages there is one.
        statements: What it states, in reading order.
        links: Targets of the links of a web page, as written.
    """

    name: str
    kind: DocumentKind
    title: str
    pages: tuple[str, ...]
    statements: tuple[Statement, ...]
    links: tuple[str, ...] = field(default=(), compare=False)

    @property
    def size(self) -> int:
        """Characters of all its texts, and :data:`OVERHEAD` for each of them."""
        texts = [self.title, *self.pages, *self.links]
        texts += [text for each in self.statements for text in (each.heading, each.text)]
        return sum(map(len, texts)) + OVERHEAD * len(texts)
