"""The documents of a study: ``documents/`` in its folder, beside the pairs.

===================== ==================================================================================
``documents.json``    the documents, with name, format, title, hash and where they come from; written last
``statements.jsonl``  their statements, in reading order
``pages.jsonl``       the text of each page
``changes.jsonl``     what changed since the documents were read first, and what was decided about it
===================== ==================================================================================
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired

from typing_extensions import TypedDict

from assistant_builder.atomic_io import file_hash, read_json, read_jsonl, write_json, write_jsonl
from assistant_builder.documents.changes import Change, Decision, changed_statements
from assistant_builder.documents.types import Document, Statement
from assistant_builder.errors import AssistantBuilderError, ConfigError
from assistant_builder.i18n import m
from assistant_builder.study import Study

VERSION = 1
RECORD, STATEMENTS, PAGES, CHANGES = (
    "documents.json",
    "statements.jsonl",
    "pages.jsonl",
    "changes.jsonl",
)
_CONTEXT = 300  # characters before and after a passage


class DocumentRecord(TypedDict):
    """A document in ``documents.json``."""

    name: str
    kind: str
    title: str
    sha256: str
    root: str
    pages: int
    statements: int


class _Record(TypedDict):
    version: int
    documents: list[DocumentRecord]


class _PageLine(TypedDict):
    document: str
    page: int
    text: str


class StatementLine(TypedDict):
    """A line of ``statements.jsonl``."""

    key: str
    document: str
    page: int | None
    heading: str
    text: str
    start: int
    end: int
    kind: str


class _ChangeLine(TypedDict):
    key: str
    old: StatementLine
    new: StatementLine | None
    decision: NotRequired[str | None]


@dataclass(frozen=True)
class Reading:
    """A document that was read, and its file's hash."""

    document: Document
    sha256: str

    @classmethod
    def of(cls, path: Path, document: Document) -> Reading:
        """The reading of a file."""
        return cls(document, file_hash(path))


@dataclass(frozen=True)
class Update:
    """What an update of the documents did.

    Attributes:
        documents: Names of the documents that were read.
        added: Statements that are new.
        changes: Statements that changed or are gone, and that nobody has decided on.
        problems: Name of a document that could not be read → its error; its earlier statements are kept.
    """

    documents: tuple[str, ...]
    added: tuple[Statement, ...]
    changes: tuple[Change, ...]
    problems: Mapping[str, AssistantBuilderError]


class Documents:
    """The documents of a study.

    Attributes:
        folder: ``documents/`` of the study.
    """

    def __init__(self, study: Study) -> None:
        self.folder = study.folder / "documents"

    def __bool__(self) -> bool:
        """Whether the study has documents."""
        return (self.folder / RECORD).is_file()

    @property
    def stamp(self) -> str:
        """A text that changes with the documents and with what was decided."""
        paths = (self.folder / name for name in (RECORD, CHANGES))
        found = (path.stat() for path in paths if path.is_file())
        return " ".join(f"{each.st_mtime_ns}.{each.st_size}" for each in found)

    @property
    def records(self) -> list[DocumentRecord]:
        """The documents, by name."""
        if not self:
            return []
        record: _Record = read_json(self.folder / RECORD, _Record)
        return record["documents"]

    @property
    def statements(self) -> list[Statement]:
        """What the documents state now, in reading order."""
        if not self:
            return []
        lines = read_jsonl(self.folder / STATEMENTS, StatementLine)
        return [Statement.from_record(line) for line in lines]

    @property
    def changes(self) -> list[Change]:
        """What changed, decided or not."""
        path = self.folder / CHANGES
        lines = read_jsonl(path, _ChangeLine) if path.is_file() else []
        return [Change.from_record(line) for line in lines]

    @property
    def undecided(self) -> list[Change]:
        """The changes that nobody has decided on."""
        return [change for change in self.changes if change.decision is None]

    def passage(self, statement: Statement) -> tuple[str, str, str]:
        """The text before a statement on its page, the statement, and the text after it."""
        path = self.folder / PAGES
        text = _pages(path, path.stat().st_mtime_ns).get(
            (statement.document, statement.page or 1), ""
        )
        before = text[max(0, statement.start - _CONTEXT) : statement.start]
        after = text[statement.end : statement.end + _CONTEXT]
        return before, text[statement.start : statement.end] or statement.text, after

    def update(
        self,
        readings: Sequence[Reading],
        root: str,
        problems: Mapping[str, AssistantBuilderError],
        *,
        complete: bool,
    ) -> Update:
        """Add documents, or replace those of the same names.

        Args:
            readings: The documents.
            root: Folder or address that they come from.
            problems: Documents that could not be read; what is known of them is kept.
            complete: Whether other documents of ``root`` are gone.
        """
        names = {reading.document.name for reading in readings}
        kept = [
            record
            for record in self.records
            if record["name"] not in names
            and (record["name"] in problems or not complete or record["root"] != root)
        ]
        kept_names = {record["name"] for record in kept}
        old, changes = self.statements, self.changes
        undecided = [change for change in changes if change.decision is None]
        # nobody has decided on the last changes: compared with what was before them
        pending = {change.new.key for change in undecided if change.new is not None}
        before = [each for each in old if each.key not in pending]
        before += [change.old for change in undecided]
        now = [each for each in old if each.document in kept_names]
        now += [each for reading in readings for each in reading.document.statements]
        found, added = changed_statements(before, now)
        records = kept + [_record(reading, root) for reading in readings]
        self._write(
            sorted(records, key=lambda record: record["name"]),
            now,
            [*self._page_lines(kept_names), *_lines_of(readings)],
            [*(change for change in changes if change.decision is not None), *found],
        )
        return Update(tuple(sorted(names)), tuple(added), tuple(found), problems)

    def decide(self, keys: Collection[str] | None, decision: Decision) -> list[Change]:
        """Decide on changes, on all that are undecided if ``keys`` is None; returns them.

        Raises:
            ConfigError: There is no undecided change with one of the keys.
        """
        changes = self.changes
        known = {change.key for change in changes if change.decision is None}
        unknown = sorted(set(keys or ()) - known)
        if unknown:
            raise ConfigError(
                m("there is no undecided change {key}", key=unknown[0]),
                remedy=m("'data changes' lists them"),
            )
        chosen = known if keys is None else set(keys)
        decided = [
            change.decided(decision) if change.decision is None and change.key in chosen else change
            for change in changes
        ]
        write_jsonl(self.folder / CHANGES, (change.to_record() for change in decided))
        return [change for change in decided if change.key in chosen]

    def _page_lines(self, names: Collection[str]) -> list[dict[str, Any]]:
        path = self.folder / PAGES
        lines = read_jsonl(path, _PageLine) if path.is_file() else []
        return [dict(line) for line in lines if line["document"] in names]

    def _write(
        self,
        records: Sequence[DocumentRecord],
        statements: Iterable[Statement],
        pages: Iterable[Mapping[str, Any]],
        changes: Iterable[Change],
    ) -> None:
        self.folder.mkdir(exist_ok=True)
        write_jsonl(self.folder / STATEMENTS, (each.to_record() for each in statements))
        write_jsonl(self.folder / PAGES, pages)
        write_jsonl(self.folder / CHANGES, (change.to_record() for change in changes))
        write_json(self.folder / RECORD, {"version": VERSION, "documents": list(records)})


def no_documents(name: str) -> ConfigError:
    """The error for a study that has no documents."""
    return ConfigError(
        m("the {study} has no documents"),
        where=m("{study} {name}", name=name),
        remedy=m("Add some with 'assistant-builder data documents {name} FOLDER'", name=name),
    )


def _record(reading: Reading, root: str) -> DocumentRecord:
    document = reading.document
    return DocumentRecord(
        name=document.name,
        kind=document.kind,
        title=document.title,
        sha256=reading.sha256,
        root=root,
        pages=len(document.pages),
        statements=len(document.statements),
    )


def _lines_of(readings: Iterable[Reading]) -> Iterable[_PageLine]:
    for reading in readings:
        for number, text in enumerate(reading.document.pages, 1):
            yield _PageLine(document=reading.document.name, page=number, text=text)


@functools.lru_cache(maxsize=4)
def _pages(path: Path, changed: int) -> dict[tuple[str, int], str]:
    lines: list[_PageLine] = read_jsonl(path, _PageLine)
    return {(line["document"], line["page"]): line["text"] for line in lines}
