"""The process of :mod:`assistant_builder.data.reading_process`: reads files and sends their rows or pairs as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import astuple, replace
from functools import partial
from pathlib import Path
from typing import Any

from assistant_builder.data import load
from assistant_builder.data.types import Dataset, RawRow, RowNumbers, Table
from assistant_builder.errors import DataError
from assistant_builder.i18n import Message, m
from assistant_builder.limited_process import serve_requests

_PART_CHARACTERS = 256 * 2**10


def _answer(request: Mapping[str, Any]) -> Iterator[str]:
    if request["folder"]:
        os.chdir(request["folder"])  # the path may be relative
    path, columns = Path(request["path"]), request.get("columns")
    try:
        if request["op"] == "pairs":
            return _parts_of_pairs(load.pairs_of_file(path, columns, request["system"]))
        if request["op"] == "rows":
            table, mapping = load.rows_of_file(path, columns)
            return _parts_of_table(table, mapping=vars(mapping))
        return _parts_of_table(load.table_of_file(path, request["mapped"]))
    except DataError as error:
        raise DataError(error.what, where=str(path), remedy=error.remedy) from error


def _parts_of_pairs(dataset: Dataset) -> Iterator[str]:
    yield from _parts("head", [vars(replace(dataset, pairs=(), rejected=()))])
    yield from _parts("pairs", dataset.pairs, astuple)
    yield from _parts(
        "rejected",
        dataset.rejected,
        lambda rejected: [rejected.row, rejected.reason, rejected.record],
    )


def _parts_of_table(table: Table, **more: Any) -> Iterator[str]:
    yield from _parts("head", [vars(replace(table, rows=[]))])
    for name, entry in more.items():
        yield from _parts(name, [entry])
    places = {name: place for place, name in enumerate(table.columns)}
    yield from _parts("rows", table.rows, partial(_fields_of_row, table.columns, places))


def _fields_of_row(columns: tuple[str, ...], places: Mapping[str, int], row: RawRow) -> list[Any]:
    cells: Any = row.cells
    if cells is not None:  # without the names, which would be repeated in each row
        cells = (
            list(cells.values())
            if tuple(cells) == columns
            else {places[name]: cells[name] for name in cells}
        )
    return [row.row, cells, row.problem, row.raw]


def _parts(
    name: str, entries: Iterable[Any], fields: Callable[[Any], Any] = lambda entry: entry
) -> Iterator[str]:
    """JSON texts of a limited length, so that no thread of the reader parses one for long."""
    texts: list[str] = []
    size = 0
    for entry in entries:
        texts.append(json.dumps(fields(entry), ensure_ascii=False, default=_json_value))
        size += len(texts[-1])
        if size > _PART_CHARACTERS:
            yield f'{{"{name}": [{", ".join(texts)}]}}'
            texts, size = [], 0
    if texts:
        yield f'{{"{name}": [{", ".join(texts)}]}}'


def _json_value(value: Any) -> Any:
    """Messages and row numbers as their records, and cells that are no values of JSON as texts."""
    return value.to_record() if isinstance(value, Message | RowNumbers) else str(value)


def _failed(request: Mapping[str, Any], reason: str) -> DataError:
    return DataError(
        m("the file cannot be read: {strerror}", strerror=reason),
        where=request["path"],
        remedy=m("Copy or export it again"),
    )


if __name__ == "__main__":
    serve_requests(lambda: _answer, _failed)
