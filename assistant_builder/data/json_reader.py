"""JSON and JSON Lines files: each object becomes a row, and a line that is not an object is one rejected row.

Numbers keep the spelling of the file (``3.50`` remains ``3.50``), because they may be part of an answer.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from assistant_builder.atomic_io import MAX_DEPTH, exceeds_max_depth
from assistant_builder.data.columns import parse_split
from assistant_builder.data.limits import check_cells
from assistant_builder.data.types import RawRow, RowNumbers, Table
from assistant_builder.errors import DataError
from assistant_builder.i18n import N_, Message, Text, m

_DECODER = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=lambda name: None)
_LIST_KEYS = ("data", "rows", "examples", "items", "records", "train", "pairs", "samples")
_JSONL_SUFFIXES = (".jsonl", ".ndjson", ".jsonlines")
_OBJECT = N_("one object with a question and an answer for each pair")
_MAX_RAW_CHARACTERS = 10_000


def parse_json(text: str) -> Any:
    """Parse a JSON document; numbers become text, and NaN and infinities become None.

    Raises:
        ValueError: The document is invalid or nested too deeply.
    """
    try:
        document = _DECODER.decode(text)
    except RecursionError as error:
        raise ValueError(m("nested too deeply")) from error
    return _check_depth(text, document)


def parse_cell(text: str) -> Any:
    """Parse a list or an object in a text cell, written as JSON or as a Python literal.

    Raises:
        ValueError: The text is neither.
    """
    try:
        return parse_json(text)
    except ValueError:
        try:
            return _check_depth(text, ast.literal_eval(text))
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError) as error:
            raise ValueError(m("neither JSON nor a Python literal")) from error


def _check_depth(text: str, value: Any) -> Any:
    """Return a value that can be traversed; only a text with many brackets needs the check."""
    if sum(map(text.count, "[{(")) > MAX_DEPTH and exceeds_max_depth(value):
        raise ValueError(m("nested more than {max_depth} levels deep", max_depth=MAX_DEPTH))
    return value


def looks_like_json(text: str) -> bool:
    """Whether a text file is JSON or JSON Lines, decided from its beginning and its first lines."""
    start = text.lstrip()
    return bool(
        start.startswith("{") or re.match(r"\[\s*[\]{\[\"]", start)
    ) or _is_mostly_json_lines(text)


def contains_json_object(text: str) -> bool:
    """Whether at least one line of a text is a JSON object."""
    for line in text.split("\n"):
        if line.lstrip().startswith("{"):
            try:
                return isinstance(parse_json(line), dict)
            except ValueError:
                continue
    return False


def read_json_text(text: str, suffix: str) -> Table:
    """Read a JSON or JSON Lines file; the suffix decides how an invalid or ambiguous file is interpreted.

    Raises:
        DataError: The document is invalid, or contains no list of rows.
    """
    check_cells(sum(map(text.count, "[{,\n")))
    notes: list[Text] = []
    try:
        document = parse_json(text)
    except ValueError as error:
        objects = _concatenated_objects(text)
        if not objects:
            if suffix in _JSONL_SUFFIXES or _is_mostly_json_lines(text):
                return _read_json_lines(text)
            what = m("the JSON is invalid: {reason}", reason=reason_of(error))
            if isinstance(error, json.JSONDecodeError):
                what = m(
                    "the JSON is invalid at line {line}, column {column}: {reason}",
                    line=error.lineno,
                    column=error.colno,
                    reason=reason_of(error),
                )
            raise DataError(
                what,
                remedy=m(
                    "Correct it, or use JSON Lines: {object}, one per line", object=m(_OBJECT)
                ),
            ) from error
        notes.append(m("the file contains JSON objects of several lines, one after another"))
    else:
        if suffix in _JSONL_SUFFIXES and isinstance(document, dict) and not _row_lists(document):
            return _read_json_lines(text)
        objects = _rows_of(document, notes)
    rows = [_raw_row(row, value) for row, value in enumerate(objects, start=1)]
    return Table("json", _columns(rows), rows, notes)


def reason_of(error: ValueError) -> Text:
    """Why a text cannot be parsed."""
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    return error.args[0] if isinstance(error.args[0], Message) else str(error)


def _concatenated_objects(text: str) -> list[Any]:
    """The objects of a file of indented JSON objects, one after another; empty for any other file."""
    if not re.match(r"\s*{[ \t]*\r?\n", text):
        return []
    documents, position, end = [], 0, len(text.rstrip())
    try:
        while position < end:
            if text[position] in " \t\r\n,":
                position += 1
                continue
            document, following = _DECODER.raw_decode(text, position)
            documents.append(_check_depth(text[position:following], document))
            position = following
    except (ValueError, RecursionError):
        return []
    return documents


def _is_mostly_json_lines(text: str) -> bool:
    lines = [line for line in text.split("\n")[:50] if line.strip()]
    valid = 0
    for line in lines:
        try:
            valid += isinstance(parse_json(line), dict | list)
        except ValueError:
            continue
    return valid * 2 >= len(lines) > 0


def _read_json_lines(text: str) -> Table:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.strip().lstrip("\ufeff")
        if not line:
            continue
        try:
            rows.append(_raw_row(number, parse_json(line)))
        except ValueError as error:
            problem = m("the line is not JSON: {reason}", reason=reason_of(error))
            rows.append(RawRow(number, None, problem, line[:_MAX_RAW_CHARACTERS]))
    if rows and all(row.cells is None for row in rows):
        raise DataError(
            m(
                "none of the {rows} lines is a JSON object (first line: {problem})",
                rows=len(rows),
                problem=rows[0].problem,
            ),
            remedy=m("JSON Lines contain {object}, one per line", object=m(_OBJECT)),
        )
    numbers = RowNumbers(m("Row numbers are those of the lines of the file."))
    return Table("jsonl", _columns(rows), rows, numbers=numbers)


def _raw_row(row: int, value: Any) -> RawRow:
    if isinstance(value, dict):
        return RawRow(row, value)
    if isinstance(value, list) and value and all(isinstance(turn, dict) for turn in value):
        return RawRow(row, {"messages": value})  # a conversation without an enclosing object
    kinds: dict[type, Text] = {list: m("a list"), str: m("a text"), type(None): "null"}
    kind = kinds.get(type(value), "a single value")
    return RawRow(row, None, m("{kind} instead of an object", kind=kind), value)


def _columns(rows: list[RawRow]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(key for row in rows if row.cells is not None for key in row.cells))


def _row_lists(document: dict[str, Any]) -> dict[str, list[Any]]:
    """The entries of an object that are lists of rows: lists of objects that are not one conversation."""
    lists = {key: value for key, value in document.items() if isinstance(value, list) and value}
    return {
        key: value
        for key, value in lists.items()
        if all(isinstance(item, dict) for item in value) and not _is_conversation(value)
    }


def _is_conversation(value: list[Any]) -> bool:
    return bool(value) and all(
        isinstance(item, dict) and ("role" in item or "from" in item) for item in value
    )


def _rows_of(document: Any, notes: list[Text]) -> list[Any]:
    if isinstance(document, list):
        return [document] if _is_conversation(document) else document
    if not isinstance(document, dict):
        raise DataError(
            m("the JSON contains no rows"), remedy=m("Use an array: {object}", object=m(_OBJECT))
        )
    lists = _row_lists(document)
    names = ", ".join(map(repr, lists))
    if len(lists) > 1 and all(parse_split(key) for key in lists):
        notes.append(
            m("rows are read from the keys {names}, each as the split of that name", names=names)
        )
        return [{"split": key, **row} for key, rows in lists.items() for row in rows]
    if len(lists) > 1:
        known = [key for key in _LIST_KEYS if key in lists]
        if len(known) != 1:
            raise DataError(
                m("several keys contain lists of objects: {names}", names=names),
                remedy=m("Save the list of pairs as a separate file"),
            )
        lists = {known[0]: lists[known[0]]}
    if lists:
        key, rows = next(iter(lists.items()))
        notes.append(m("rows are read from the key {key!r}", key=key))
        return rows
    return _from_columns(document, notes) or [document]


def _from_columns(document: dict[str, Any], notes: list[Text]) -> list[Any] | None:
    """Rows of an object of equally long lists (one per column), or of an object of objects (one per row or column)."""
    values, names = list(document.values()), ", ".join(map(repr, document))
    if len(values) > 1 and all(isinstance(value, list) for value in values):
        if len({len(value) for value in values}) == 1 and not all(
            isinstance(item, dict) for item in values[0]
        ):
            notes.append(m("the file contains one list per column ({names})", names=names))
            return [dict(zip(document, cells, strict=True)) for cells in zip(*values, strict=True)]
    if values and all(isinstance(value, dict) for value in values):
        keys = [tuple(value) for value in values]
        if len(values) > 1 and len(set(keys)) == 1 and all(key.isdigit() for key in keys[0]):
            notes.append(m("the file contains one object per column ({names})", names=names))
            return [{name: document[name][index] for name in document} for index in keys[0]]
        notes.append(
            m("the file contains one object per row under a separate key; the keys are not used")
        )
        return values
    return None
