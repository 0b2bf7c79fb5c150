"""JSON and JSON Lines: objects become rows, and a line that is no object is one rejected row.

Numbers keep the spelling of the file (``3.50`` stays ``3.50``), since they may stand in an answer.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from typing import Any

from assistant_builder.data.bounds import DEEPEST, check_cells, is_deep
from assistant_builder.data.table import RawRow, Table
from assistant_builder.errors import DataError

_LIST_KEYS = ("data", "rows", "examples", "items", "records", "train", "pairs", "samples")
_LINE_SUFFIXES = (".jsonl", ".ndjson", ".jsonlines")
_OBJECT = "one object with a question and an answer for each pair"


def parse_json(text: str) -> Any:
    """One JSON document; numbers come as text, NaN and infinities as None.

    Raises:
        ValueError: It is none, or is nested too deeply.
    """
    try:
        document = json.loads(text, parse_float=str, parse_int=str, parse_constant=lambda name: None)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return _shallow(text, document)


def parse_cell(text: str) -> Any:
    """What a text cell holds that looks like a list or an object: JSON, or Python's way of writing the same.

    Raises:
        ValueError: Neither.
    """
    try:
        return parse_json(text)
    except ValueError:
        try:
            return _shallow(text, ast.literal_eval(text))
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError) as error:
            raise ValueError("neither JSON nor a Python literal") from error


def _shallow(text: str, value: Any) -> Any:
    """A value that later steps can walk through; only a text with many brackets needs a look."""
    if sum(map(text.count, "[{(")) > DEEPEST and is_deep(value):
        raise ValueError(f"nested more than {DEEPEST} deep")
    return value


def looks_like_json(text: str) -> bool:
    """Whether a text file holds JSON or JSON Lines, judged by how it begins and by its first lines."""
    start = text.lstrip()
    if start.startswith(("{", "[")):
        if start[:1] == "{" or re.match(r"\[\s*[\]{\[\"]", start):
            return True
    return _has_whole_lines(text)


def read_json_text(text: str, suffix: str, where: str, split_of: Callable[[str], str | None]) -> Table:
    """Read a JSON or JSON Lines file.

    Args:
        text: The decoded file.
        suffix: Ends the name; decides only what a broken file is reported as.
        where: What errors call the file.
        split_of: Tells which split a key such as ``test`` stands for, None for other keys.

    Raises:
        DataError: The document is broken, or holds no list of rows.
    """
    check_cells(sum(map(text.count, "[{,\n")), where)
    try:
        document = parse_json(text)
    except ValueError as error:
        if documents := _one_after_another(text):
            rows = [_object_row(row, value) for row, value in enumerate(documents, start=1)]
            said = ["the file holds JSON objects of several lines, one after another"]
            return Table("json", _columns(rows), rows, said)
        if suffix in _LINE_SUFFIXES or _has_whole_lines(text):
            return _lines(text, where)
        place = f" at line {error.lineno}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise DataError(
            f"the JSON is broken{place}: {reason}", where=where,
            remedy=f"Mend it, or give JSON Lines: {_OBJECT}, one a line",
        ) from error
    if suffix in _LINE_SUFFIXES and (isinstance(document, dict) and not _lists(document)):
        return _lines(text, where)
    notes: list[str] = []
    values = _rows_of(document, where, notes, split_of)
    rows = [_object_row(row, value) for row, value in enumerate(values, start=1)]
    return Table("json", _columns(rows), rows, notes)


def _one_after_another(text: str) -> list[Any] | None:
    """The documents of a file of JSON objects that are printed over several lines; None if it is no such file."""
    if not re.match(r"\s*{[ \t]*\r?\n", text):
        return None
    decoder = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=lambda name: None)
    documents, place, end = [], 0, len(text.rstrip())
    try:
        while place < end:
            if text[place] in " \t\r\n,":
                place += 1
                continue
            document, place = decoder.raw_decode(text, place)
            documents.append(_shallow(text, document))
    except (ValueError, RecursionError):
        return None
    return documents


def _has_whole_lines(text: str) -> bool:
    """Whether at least half of the first lines are JSON objects of their own."""
    lines = [line for line in text.split("\n")[:50] if line.strip()]
    good = 0
    for line in lines:
        try:
            good += isinstance(parse_json(line), dict | list)
        except ValueError:
            continue
    return good * 2 >= len(lines) > 0


def holds_an_object(text: str) -> bool:
    """Whether a line of a text is a JSON object by itself, however many others are broken."""
    for line in text.split("\n"):
        if line.lstrip().startswith("{"):
            try:
                return isinstance(parse_json(line), dict)
            except ValueError:
                continue
    return False


def _lines(text: str, where: str) -> Table:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.strip().lstrip("\ufeff")
        if not line:
            continue
        try:
            rows.append(_object_row(number, parse_json(line)))
        except ValueError as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            rows.append(RawRow(number, None, f"the line is not JSON: {reason}", line[:10_000]))
    if rows and all(row.cells is None for row in rows):
        raise DataError(
            f"none of its {len(rows)} lines is a JSON object (first: {rows[0].problem})", where=where,
            remedy=f"JSON Lines hold {_OBJECT}, one a line",
        )
    return Table("jsonl", _columns(rows), rows, [])


def _object_row(row: int, value: Any) -> RawRow:
    if isinstance(value, dict):
        return RawRow(row, value)
    if isinstance(value, list) and value and all(isinstance(turn, dict) for turn in value):
        return RawRow(row, {"messages": value})  # a conversation without an object around it
    kind = {list: "a list", str: "a text", type(None): "null"}.get(type(value), "a bare value")
    return RawRow(row, None, f"{kind} instead of an object", value)


def _columns(rows: list[RawRow]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(key for row in rows if row.cells is not None for key in row.cells))


def _lists(document: dict[str, Any]) -> dict[str, list[Any]]:
    """The entries of an object that are lists of objects, as a list of rows is."""
    return {
        key: value
        for key, value in document.items()
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value) and not _is_turns(value)
    }


def _is_turns(value: list[Any]) -> bool:
    """Whether a list of objects is one conversation rather than a list of rows."""
    return bool(value) and all(isinstance(item, dict) and ("role" in item or "from" in item) for item in value)


def _rows_of(document: Any, where: str, notes: list[str], split_of: Callable[[str], str | None]) -> list[Any]:
    if isinstance(document, list):
        return [document] if _is_turns(document) else document
    if not isinstance(document, dict):
        raise DataError("the JSON holds no rows", where=where, remedy=f"Give an array: {_OBJECT}")
    lists = _lists(document)
    if len(lists) > 1 and all(split_of(key) for key in lists):
        notes.append(f"rows are taken from the keys {', '.join(map(repr, lists))}, each read as the split of that name")
        return [{"split": key, **row} for key, rows in lists.items() for row in rows]
    if len(lists) > 1:
        known = [key for key in _LIST_KEYS if key in lists]
        if len(known) != 1:
            raise DataError(
                f"several keys hold lists of objects: {', '.join(map(repr, lists))}", where=where,
                remedy="Give the one that holds the pairs as a file of its own",
            )
        lists = {known[0]: lists[known[0]]}
    if lists:
        key, rows = next(iter(lists.items()))
        notes.append(f"rows are taken from the key {key!r}")
        return rows
    return _from_columns(document, notes) or [document]


def _from_columns(document: dict[str, Any], notes: list[str]) -> list[Any] | None:
    """Rows of an object of equally long lists (one a column), or of an object of objects (one a row)."""
    values = list(document.values())
    if len(values) > 1 and all(isinstance(value, list) for value in values):
        if len({len(value) for value in values}) == 1 and not all(isinstance(item, dict) for item in values[0]):
            notes.append(f"the file holds one list a column ({', '.join(map(repr, document))})")
            return [dict(zip(document, cells, strict=True)) for cells in zip(*values, strict=True)]
    if values and all(isinstance(value, dict) for value in values):
        keys = [tuple(value) for value in values]
        if len(values) > 1 and len(set(keys)) == 1 and all(key.isdigit() for key in keys[0]):
            notes.append(f"the file holds one object a column ({', '.join(map(repr, document))})")
            return [{name: document[name][index] for name in document} for index in keys[0]]
        notes.append("the file holds one object a row under a key of its own; the keys are not used")
        return values
    return None
