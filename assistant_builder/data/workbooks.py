"""XLSX and Parquet: cells of a type, turned into what people wrote."""

from __future__ import annotations

import datetime
import io
import zipfile
from typing import Any

from assistant_builder.data.bounds import DEEPEST, check_bytes, check_cells, check_columns
from assistant_builder.data.columns import is_known_name
from assistant_builder.data.table import RawRow, Table, header_names, is_empty
from assistant_builder.errors import DataError

_SHEET_ROWS = 2**20  # as many as a spreadsheet program knows
_TEXTS = ("STRING", "JSON", "ENUM")
_TITLE_ROWS = 10
"""Rows from the first content on in which the column names must begin."""


def read_xlsx(data: bytes, where: str) -> Table:
    """Read the first sheet that has content.

    Args:
        data: The bytes of the workbook.
        where: What errors call the file.

    Raises:
        DataError: The workbook is damaged or has no content.
    """
    import openpyxl

    try:
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
        cells = 0
        for sheet in book.worksheets:
            sheet.reset_dimensions()  # written by programs that get it wrong; without it all rows are read
            rows = []
            for row in sheet.iter_rows():  # a single cell far out brings all empty ones before it
                cells += len(row) + 1
                check_cells(cells, where)
                rows.append([_written(cell) for cell in row])
                if len(rows) > _SHEET_ROWS:
                    raise DataError(f"sheet {sheet.title!r} has more than {_SHEET_ROWS:,} rows", where=where,
                                    remedy="Save the workbook anew in a spreadsheet program")
            if any(cell is not None for row in rows for cell in row):
                return _sheet(rows, sheet.title, len(book.worksheets), _uncomputed(data, sheet.title))
    except DataError:
        raise
    except Exception as error:  # openpyxl lets through whatever zip, XML and value parsing raise
        raise DataError(
            f"the workbook is damaged: {str(error)[:300]}", where=where,
            remedy="Open it in a spreadsheet program and save it anew",
        ) from error
    raise DataError("no sheet of the workbook has content", where=where, remedy="Fill one, with a header row")


def _sheet(rows: list[list[str | None]], title: str, sheets: int, uncomputed: int) -> Table:
    notes = [f"sheet {title!r}" + (f", the first with content of {sheets} sheets" if sheets > 1 else "")]
    if uncomputed:
        notes.append(
            f"{uncomputed} formulas have no stored result and read as empty: open the file in a spreadsheet program "
            "and save it"
        )
    blank = [not any(cell is not None for cell in row) for row in rows]
    top = _header_row(rows)
    if top > blank.index(False):
        notes.append(f"the column names are taken from row {top + 1} of the sheet; what stands above is a title")
    last = len(rows) - blank[::-1].index(False)
    width = max(place + 1 for row in rows[top:last] for place, cell in enumerate(row) if cell is not None)
    header = [cell or "" for cell in rows[top][:width]]
    names = header_names(header + [""] * (width - len(header)), notes)
    table_rows = []
    for number, row in enumerate(rows[top + 1 : last], start=1):
        cells = (row + [None] * width)[:width]
        if blank[top + number]:
            table_rows.append(RawRow(number, None, "the row is empty"))
        else:
            table_rows.append(RawRow(number, dict(zip(names, cells, strict=True))))
    return Table("xlsx", names, table_rows, notes)


def _header_row(rows: list[list[str | None]]) -> int:
    """Place of the column names: the first row with content, or the one below a title that fills a single cell."""
    filled = [sum(cell is not None for cell in row) for row in rows]
    top = next(place for place, number in enumerate(filled) if number)
    if any(is_known_name(cell) for cell in rows[top] if cell is not None):
        return top
    return next((place for place in range(top, min(top + _TITLE_ROWS, len(rows))) if filled[place] > 1), top)


def _uncomputed(data: bytes, title: str) -> int:
    """Formulas of a sheet whose result the writing program left out."""
    import openpyxl

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        sheets = [name for name in archive.namelist() if name.startswith("xl/worksheets/")]
        if not any(b"<f>" in (xml := archive.read(name)) or b"<f " in xml for name in sheets):
            return 0
    values = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)[title]
    formulas = openpyxl.load_workbook(io.BytesIO(data), read_only=True)[title]
    values.reset_dimensions()
    formulas.reset_dimensions()
    return sum(
        written.data_type == "f" and value.value is None
        for value_row, written_row in zip(values.iter_rows(), formulas.iter_rows(), strict=True)
        for value, written in zip(value_row, written_row, strict=True)
    )


def _written(cell: Any) -> str | None:
    """A cell of a workbook as its author sees it, None for an empty one."""
    value = cell.value
    if is_empty(value):
        return None
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int | float):
        return _number(value, cell.number_format or "General")
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat(sep=" ") if isinstance(value, datetime.datetime) else value.isoformat()
    return str(value)


def _number(value: float, number_format: str) -> str:
    """A number in at most 15 digits, as a spreadsheet shows it; per cent where the cell is formatted so."""
    if number_format.rstrip().endswith("%") and ";" not in number_format:
        places = min(30, len(number_format.split(".")[1].rstrip("% "))) if "." in number_format else 0
        return f"{value * 100:.{places}f}%"
    if isinstance(value, int) or value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return format(value, ".15g")


def read_parquet(data: bytes, where: str) -> Table:
    """Read a Parquet file; columns of raw bytes (pictures, embeddings) are left out.

    Args:
        data: The bytes of the file.
        where: What errors call the file.

    Raises:
        DataError: The file is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: list[RawRow] = []
    characters = 0
    try:
        footer = pq.read_metadata(pa.BufferReader(data))
        leaves = [footer.schema.column(place) for place in range(footer.num_columns)]
        _check_footer(footer, where)
        # Kept as dictionaries, texts that repeat stay small until it is known how large they are written out.
        texts = [leaf for leaf in leaves if leaf.physical_type == "BYTE_ARRAY" and leaf.logical_type.type in _TEXTS]
        file = pq.ParquetFile(pa.BufferReader(data), read_dictionary=[leaf.path for leaf in texts])
        schema = footer.schema.to_arrow_schema()
        kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
        left_out = [field.name for field in schema if any(kind(field.type) for kind in kinds)]
        names = [name for name in schema.names if name not in left_out]
        for batch in file.iter_batches(batch_size=4096, columns=names):
            characters += sum(map(_written_out, batch.columns))
            check_bytes(characters, where)
            for record in batch.to_pylist():
                rows.append(RawRow(len(rows) + 1, {name: _plain(record[name]) for name in names}))
    except (pa.ArrowException, OSError, ValueError, KeyError, UnicodeDecodeError) as error:
        raise DataError(
            f"the Parquet file is damaged: {str(error)[:300]}", where=where, remedy="Export it again"
        ) from error
    notes = [f"columns of raw bytes are left out: {', '.join(left_out)}"] if left_out else []
    return Table("parquet", tuple(names), rows, notes)


def _check_footer(footer: Any, where: str) -> None:
    """Refuse what the footer declares before anything of it is read."""
    leaves = range(footer.num_columns)
    check_columns(footer.num_columns, where)
    chunks = [
        footer.row_group(group).column(leaf) for group in range(footer.num_row_groups) for leaf in leaves
    ]
    check_cells(max(footer.num_rows * footer.num_columns, sum(max(0, chunk.num_values) for chunk in chunks)), where)
    check_bytes(sum(max(0, chunk.total_uncompressed_size) for chunk in chunks), where)
    if any(footer.schema.column(leaf).path.count(".") > 3 * DEEPEST for leaf in leaves):
        raise DataError(f"its columns are nested more than {DEEPEST} deep", where=where, remedy="Export them flat")


def _written_out(array: Any) -> int:
    """Bytes of an Arrow array with every repeated text counted as often as it stands there."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = array.type
    if pa.types.is_dictionary(kind):
        lengths = pc.binary_length(array.dictionary)
        return int(pc.sum(lengths.take(array.indices)).as_py() or 0)
    if pa.types.is_struct(kind):
        return sum(map(_written_out, array.flatten()))
    if pa.types.is_nested(kind):
        return _written_out(array.flatten())
    return int(array.nbytes)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return int(value)  # whole numbers turn into floats when a column has gaps
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    return value
