"""From a data file to pairs: type, encoding, columns and rows, with a reason for every row that cannot be used."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from assistant_builder.data.bounds import check_bytes, check_cells, check_columns
from assistant_builder.data.columns import Roles, canonical_split, find_roles, is_known_name, plain_name, truth
from assistant_builder.data.content import kind_of, load_bytes
from assistant_builder.data.conversations import RowError, is_conversation, ordered, read_turns
from assistant_builder.data.decoding import decode
from assistant_builder.data.delimited import SEPARATORS, read_delimited
from assistant_builder.data.formulas import restore
from assistant_builder.data.objects import holds_an_object, looks_like_json, read_json_text
from assistant_builder.data.records import Dataset, Message, Pair, Rejection
from assistant_builder.data.table import RawRow, Table, has_text, is_empty, storable
from assistant_builder.data.workbooks import read_parquet, read_xlsx
from assistant_builder.errors import DataError

_SUFFIXES = {
    ".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl",
    ".jsonlines": "jsonl", ".xlsx": "xlsx", ".xlsm": "xlsx", ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip
_CONTROLS = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")  # not tab, line feed, next line
# U+0080…U+009F in text are Windows-1252 bytes that something took for Latin-1; HTML reads them the same way.
_MISREAD = {code: bytes([code]).decode("windows-1252") for code in range(0x80, 0xA0)
            if code not in (0x81, 0x85, 0x8D, 0x8F, 0x90, 0x9D)}
_SURROGATES = re.compile("[\ud800-\udfff]")
_REMOVED_CONTROLS = "control characters were removed"
_RESTORED = "Windows-1252 signs stored as control codes were restored"


def load_pairs(
    path: str | Path, *, columns: Mapping[str, str] | None = None, system: str | None = None
) -> Dataset:
    r"""Read question-answer pairs or conversations from a file.

    The type is told by the content; a name that says otherwise is noted. See :mod:`assistant_builder.data.columns`
    for the column names that are understood and :mod:`assistant_builder.data.conversations` for chat formats.
    In the text of a cell, outer blanks and control characters are removed and line ends become ``\n``.

    Args:
        path: CSV, TSV, JSON, JSONL, XLSX or Parquet; text formats also packed with gzip.
        columns: Role → column name, for files whose names do not say it; an empty name leaves the role out.
        system: System prompt for the rows that bring none.

    Raises:
        DataError: The file cannot be read, its encoding or separator cannot be told, or the columns are not found.
    """
    source = Path(path)
    table, roles = load_rows(source, columns)
    return _dataset(str(source), table, roles, system)


def load_rows(source: Path, columns: Mapping[str, str] | None = None) -> tuple[Table, Roles]:
    """The rows of a data file as they stand in it, with every column, and what its columns mean.

    Args:
        source: As in :func:`load_pairs`.
        columns: As in :func:`load_pairs`.

    Raises:
        DataError: As in :func:`load_pairs`.
    """
    table = read_table(source, {name for name in (columns or {}).values() if name})
    if not table.rows:
        raise DataError("the file has a header, but no rows" if table.columns else "the file has no rows",
                        where=str(source), remedy="Give a file with at least a few question-answer pairs")
    if not table.columns:
        raise DataError(f"none of its {len(table.rows)} rows can be read (row 1: {table.rows[0].problem})",
                        where=str(source), remedy="Give one object with a question and an answer for each pair")
    return table, find_roles(table.columns, columns, str(source))


def column_names(path: str | Path) -> tuple[str, ...]:
    """The columns of a data file, in its order, for someone who has to say which is which.

    Raises:
        DataError: The file cannot be read.
    """
    return read_table(Path(path)).columns


def read_table(path: Path, mapped: Collection[str] = ()) -> Table:
    """The rows of a data file, before anything is known about questions and answers.

    Args:
        path: As in :func:`load_pairs`.
        mapped: Column names that the user gave; they help to tell the separator.

    Raises:
        DataError: The file cannot be read.
    """
    where = str(path)
    data, suffix, notes = load_bytes(path)
    kind = kind_of(data, where)
    if kind == "xlsx":
        table = read_xlsx(data, where)
    elif kind == "parquet":
        table = read_parquet(data, where)
    else:
        table = _read_text(data, suffix, where, {plain_name(name) for name in mapped})
    restore(table)
    check_columns(len(table.columns), where)
    check_cells(len(table.rows) * len(table.columns), where)  # objects of keys of their own make a wide, empty table
    check_bytes(_characters(table), where)  # one text that many cells share is written once a cell
    named = _SUFFIXES.get(suffix)
    alike = {named, table.format} <= {"csv", "tsv"}  # a .csv with tabs is told by the separator already
    if named != table.format and not alike:
        said = f"the name ends in {suffix}" if suffix else "the name has no ending"
        table.notes.insert(0, f"read as {table.format.upper()}, which the content is, though {said}")
    table.notes[:0] = notes
    return table


def _characters(table: Table) -> int:
    """Characters of all text cells."""
    return sum(
        len(cell) for row in table.rows if row.cells is not None for cell in row.cells.values() if isinstance(cell, str)
    )


def _read_text(data: bytes, suffix: str, where: str, mapped: set[str]) -> Table:
    decoded = decode(data, where)
    text = decoded.text
    as_json = looks_like_json(text)
    if not as_json and _SUFFIXES.get(suffix) in ("json", "jsonl"):
        first = text.lstrip().split("\n", 1)[0]
        cells = re.split(f"[{re.escape(''.join(SEPARATORS))}]", first)
        as_json = not any(is_known_name(cell.strip(' "\r')) for cell in cells) or holds_an_object(text)
    if as_json:
        table = read_json_text(text, suffix, where, canonical_split)
    else:
        table = read_delimited(text, suffix, where, lambda name: plain_name(name) in mapped or is_known_name(name))
    table.notes[:0] = decoded.notes
    return table


def _dataset(source: str, table: Table, roles: Roles, system: str | None) -> Dataset:
    pairs: list[Pair] = []
    rejected: list[Rejection] = []
    changes: dict[str, list[int]] = {what: list(rows) for what, rows in table.remarks.items()}
    for raw in table.rows:
        changed: list[str] = []
        try:
            pairs.append(_pair(raw, roles, system, changed))
        except RowError as error:
            cells = raw.raw if raw.cells is None else raw.cells
            rejected.append(Rejection(raw.row, str(error), storable(cells)))
        else:
            for what in dict.fromkeys(changed):
                changes.setdefault(what, []).append(raw.row)
    messages = roles["messages"]
    return Dataset(
        source=source,
        format=table.format,
        columns={**roles.columns, "question": roles["question"] or messages, "answer": roles["answer"] or messages},
        pairs=tuple(pairs),
        rejected=tuple(rejected),
        rows=len(table.rows),
        notes=(*table.notes, *roles.notes),
        changes={what: tuple(rows) for what, rows in changes.items()},
        column_names=table.columns,
    )


def _pair(raw: RawRow, roles: Roles, system: str | None, changes: list[str]) -> Pair:
    """One row as a pair.

    Raises:
        RowError: It cannot be used.
    """
    if raw.cells is None:
        raise RowError(raw.problem)
    cells = {role: raw.cells.get(name) if name else None for role, name in roles.columns.items()}
    if all(is_empty(value) for value in raw.cells.values()):
        raise RowError("the row is empty")
    own_system = None if is_empty(cells["system"]) else _clean(_text("system", cells["system"]), changes)
    messages = _messages(cells, own_system or system or None, roles, changes)
    return Pair(
        row=raw.row,
        messages=messages,
        group=_label(cells, "group", changes),
        cluster=_label(cells, "cluster", changes),
        split=_split(cells["split"]),
        answerable=_answerable(cells["answerable"]),
    )


def _messages(
    cells: Mapping[str, Any], system: str | None, roles: Roles, changes: list[str]
) -> tuple[Message, ...]:
    if roles["messages"]:
        if is_empty(cells["messages"]):
            raise RowError("the conversation is empty")
        turns = read_turns(cells["messages"])
    elif is_conversation(cells["question"]) and is_conversation(cells["answer"]):
        turns = read_turns(cells["question"]) + read_turns(cells["answer"])  # TRL's conversational form
    else:
        empty = [role for role in ("question", "answer") if is_empty(cells[role])]
        if empty:
            raise RowError(f"the {' and the '.join(empty)} {'are' if len(empty) > 1 else 'is'} empty")
        question, answer = (_text(role, cells[role]) for role in ("question", "answer"))
        if not is_empty(cells["context"]):
            question = f"{question.rstrip()}\n\n{_text('context', cells['context']).strip()}"
        turns = [Message("user", question), Message("assistant", answer)]
    cleaned = [Message(turn.role, _clean(turn.content, changes)) for turn in turns]
    if bare := next((turn for turn in cleaned if not has_text(turn.content)), None):
        raise RowError(f"the {'answer' if bare.role == 'assistant' else 'question'} holds no visible character")
    return ordered(cleaned, system, changes)


def _text(role: str, value: Any) -> str:
    """The text of a cell; a list that holds exactly one text counts as that text."""
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if isinstance(value, list | tuple | dict):
        kind = "an object" if isinstance(value, dict) else f"a list of {len(value)}"
        raise RowError(f"the {role} is {kind}, not a text")
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _clean(text: str, changes: list[str]) -> str:
    if half := _SURROGATES.search(text):
        code = ord(half.group())
        if 0xDC80 <= code <= 0xDCFF:
            raise RowError(f"it holds the byte 0x{code - 0xDC00:02X}, which is not UTF-8")
        raise RowError(f"it holds half a character (the lone surrogate U+{code:04X})")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    restored = text.translate(_MISREAD)
    cleaned = _CONTROLS.sub("", restored)
    if restored != text:
        changes.append(_RESTORED)
    if cleaned != restored:
        changes.append(_REMOVED_CONTROLS)
    return cleaned.strip()


def _label(cells: Mapping[str, Any], role: str, changes: list[str]) -> str | None:
    value = cells[role]
    return None if is_empty(value) else _clean(_text(role, value), changes)


def _split(value: Any) -> Any:
    if is_empty(value):
        return None
    split = canonical_split(_text("split", value))
    if split is None:
        raise RowError(f"the split {_text('split', value)!r} is none of train, validation, heldout (or test)")
    return split


def _answerable(value: Any) -> bool:
    if is_empty(value):
        return True
    answer = truth(_text("answerable", value))
    if answer is None:
        raise RowError(f"answerable is {_text('answerable', value)!r}, neither true nor false")
    return answer
