"""Reading of data files in a separate process with limits on memory and time.

A file of a few kilobytes can expand to gigabytes, and a parser that takes minutes would stop every thread of the page.
The process (``reading_worker``) sends rows and pairs as JSON; nothing of it is executed.
"""

from __future__ import annotations

import atexit
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import psutil

from assistant_builder.data.columns import ColumnMapping
from assistant_builder.data.limits import MAX_BYTES
from assistant_builder.data.types import (
    Dataset,
    Message,
    Pair,
    RawRow,
    RejectedRow,
    RowNumbers,
    Table,
)
from assistant_builder.i18n import Text, m, text_of
from assistant_builder.limited_process import ReadingProcess

MEMORY_BYTES = min(4 * 2**30, psutil.virtual_memory().total // 2)
"""Memory limit of the process; a file at the limits of :mod:`assistant_builder.data.limits` needs three quarters."""
SECONDS = 60.0
REMEDY = m("Use a part of the file, or keep only the question and answer columns")


def load_pairs(
    path: str | Path, *, columns: Mapping[str, str] | None = None, system: str | None = None
) -> Dataset:
    r"""Read question-answer pairs or conversations from a file, whose content determines the format.

    Surrounding whitespace and control characters of cells are removed, and line ends become ``\n``.

    Args:
        path: CSV, TSV, JSON, JSONL, XLSX or Parquet file; text formats may be compressed with gzip.
        columns: Role → column name, for files with other column names; an empty name disables the role.
        system: System prompt for rows without one.

    Raises:
        DataError: The file cannot be read, needs more memory or time than the limits, its encoding or separator is
            ambiguous, or it has no question and answer columns.
    """
    parts = _read("pairs", path, columns=dict(columns or {}), system=system)
    head = parts["head"][0]
    for name in ("column_names", "first_rows"):
        head[name] = tuple(head[name])
    head["notes"] = tuple(_texts(head["notes"]))
    head["changes"] = {change: tuple(rows) for change, rows in head["changes"].items()}
    head["numbers"] = _numbers(head["numbers"])
    head["pairs"] = tuple(
        Pair(row, tuple(Message(*turn) for turn in turns), *others)
        for row, turns, *others in parts.get("pairs", ())
    )
    head["rejected"] = tuple(
        RejectedRow(row, _text(reason), record) for row, reason, record in parts.get("rejected", ())
    )
    return Dataset(**head)


def load_rows(
    source: Path, columns: Mapping[str, str] | None = None
) -> tuple[Table, ColumnMapping]:
    """Read the rows of a data file with all their columns, and map the columns to roles as :func:`load_pairs` does."""
    parts = _read("rows", source, columns=dict(columns or {}))
    mapping = parts["mapping"][0]
    return _table(parts), ColumnMapping(mapping["columns"], _texts(mapping["notes"]))


def read_table(path: Path, mapped: Collection[str] = ()) -> Table:
    """Read the rows of a data file without interpreting its columns; ``mapped`` names help to detect the separator.

    Raises:
        DataError: The file cannot be read.
    """
    return _table(_read("table", path, mapped=list(mapped)))


_process = ReadingProcess(
    "assistant_builder.data.reading_worker",
    memory=MEMORY_BYTES,
    seconds=SECONDS,
    most=MAX_BYTES,
    reply_bytes=4 * MAX_BYTES,
    remedy=REMEDY,
)
atexit.register(_process.close)


def _read(operation: str, path: str | Path, **values: Any) -> dict[str, list[Any]]:
    """The parts of the reply by their names, those of one name joined."""
    parts: dict[str, list[Any]] = {}

    def receive(part: dict[str, list[Any]]) -> None:
        for name, entries in part.items():
            parts.setdefault(name, []).extend(entries)

    _process.read(operation, path, receive, **values)
    return parts


def _text(record: object) -> Text:
    return text_of(record, record)


def _texts(records: Iterable[object]) -> list[Text]:
    return list(map(_text, records))


def _numbers(record: Mapping[str, Any]) -> RowNumbers:
    return RowNumbers.of_record({"row_numbers": record})


def _table(parts: Mapping[str, list[Any]]) -> Table:
    head = parts["head"][0]
    columns = tuple(head["columns"])
    rows = [_raw_row(columns, *fields) for fields in parts.get("rows", ())]
    changed = {"columns": columns, "rows": rows, "numbers": _numbers(head["numbers"])}
    return Table(**head | changed | {"notes": _texts(head["notes"])})


def _raw_row(columns: tuple[str, ...], row: int, cells: Any, problem: str, raw: Any) -> RawRow:
    if isinstance(cells, list):
        cells = dict(zip(columns, cells, strict=True))
    elif cells is not None:
        cells = {columns[int(place)]: cell for place, cell in cells.items()}
    return RawRow(row, cells, _text(problem), raw)
