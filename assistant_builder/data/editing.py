"""Rows of a data file as a grid of texts that a person edits, and the file that the edited grid makes.

A cell that nobody touched keeps its value, whatever its type, and rows that are not in the grid stay as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from assistant_builder.data.objects import parse_json
from assistant_builder.data.table import RawRow, Table, is_empty, storable
from assistant_builder.errors import DataError

NUMBER, REASON = "Row", "What is the matter"
"""Titles of the two columns before those of the file; neither is edited."""
_RAW_SHOWN = 500


@dataclass(frozen=True)
class Edits:
    """What was changed.

    Attributes:
        cells: Cells that read otherwise.
        added: Rows added at the end.
        removed: Rows taken out.
    """

    cells: int = 0
    added: int = 0
    removed: int = 0

    def __bool__(self) -> bool:
        return bool(self.cells or self.added or self.removed)


def cell_text(value: Any) -> str:
    """A cell as text to edit: lists and objects as JSON, an empty one as nothing."""
    if isinstance(value, str):
        return value
    if is_empty(value):
        return ""
    plain = storable(value)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def grid(table: Table, numbers: Iterable[int], reasons: Mapping[int, str]) -> list[list[str]]:
    """Rows as texts: number, what is the matter, then the file's columns.

    Args:
        table: The rows of the file.
        numbers: Which of them.
        reasons: Row → what is the matter with it.
    """
    wanted = set(numbers)
    return [
        [str(row.row), _matter(row, reasons.get(row.row, "")), *_texts(row, table.columns)]
        for row in table.rows
        if row.row in wanted
    ]


def _matter(row: RawRow, reason: str) -> str:
    if row.cells is not None or is_empty(row.raw):
        return reason
    return f"{reason}. It reads: {cell_text(row.raw)[:_RAW_SHOWN]}"


def _texts(row: RawRow, columns: Sequence[str]) -> list[str]:
    cells = row.cells or {}
    return [cell_text(cells.get(name)) for name in columns]


def apply_edits(
    table: Table, shown: Iterable[int], edited: Sequence[Sequence[Any]]
) -> tuple[list[RawRow], Edits]:
    """The rows of the file after editing.

    Args:
        table: The rows of the file, as they were when the grid was made.
        shown: Numbers of the rows that the grid held.
        edited: The grid as it came back; a line without a number is a new row.

    Returns:
        All rows, those that were removed left out, with ascending numbers; and what was changed.

    Raises:
        DataError: The grid has columns more or fewer than the file.
    """
    width = 2 + len(table.columns)
    if any(len(line) != width for line in edited):
        raise DataError(
            "columns were added or taken out in the table",
            remedy="Press “Undo all edits” and change cells and rows only; add a column in a spreadsheet program",
        )
    lines = {int(line[0]): line for line in edited if _is_number(line[0])}
    removed = set(shown) - lines.keys()
    changed = 0
    rows: list[RawRow] = []
    for row in table.rows:
        if row.row in removed:
            continue
        if row.row in lines:
            row, cells = _edited(row, table.columns, [_text(cell) for cell in lines[row.row][2:]])
            changed += cells
        rows.append(row)
    fresh = [[_text(cell) for cell in line[2:]] for line in edited if not _is_number(line[0])]
    fresh = [line for line in fresh if any(text.strip() for text in line)]
    last = table.rows[-1].row if table.rows else 0
    rows += [
        RawRow(number, dict(zip(table.columns, line, strict=True))) for number, line in enumerate(fresh, start=last + 1)
    ]
    if removed:  # number anew, or the rows taken out would stand as blank lines
        rows = [RawRow(number, row.cells, row.problem, row.raw) for number, row in enumerate(rows, start=1)]
    return rows, Edits(changed, len(fresh), len(removed))


def _edited(row: RawRow, columns: Sequence[str], texts: Sequence[str]) -> tuple[RawRow, int]:
    before = _texts(row, columns)
    touched = [
        (name, text)
        for name, old, text in zip(columns, before, texts, strict=True)
        if _lines_as_one(old) != _lines_as_one(text)
    ]
    if not touched:
        return row, 0
    cells = dict(row.cells) if row.cells is not None else dict.fromkeys(columns, "")
    for name, text in touched:
        cells[name] = _value(cells.get(name), text)
    return RawRow(row.row, cells), len(touched)


def _value(old: Any, text: str) -> Any:
    """An edited text in the place of a list or an object is one again, if it still reads as such."""
    if isinstance(old, list | dict | tuple):
        try:
            return parse_json(text)
        except ValueError:
            return text
    return text


def _lines_as_one(text: str) -> str:
    """Browsers spell line ends their own way."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell)


def _is_number(cell: Any) -> bool:
    return _text(cell).strip().isdecimal()
