"""XLSX and Parquet files: typed cells are converted to the text that their author sees."""

from __future__ import annotations

import datetime
import io
import zipfile
from typing import Any

from assistant_builder.atomic_io import MAX_DEPTH
from assistant_builder.data.columns import is_known_column
from assistant_builder.data.limits import TITLE_ROWS, check_bytes, check_cells, check_columns
from assistant_builder.data.types import RawRow, RowNumbers, Table, header_names, is_empty
from assistant_builder.errors import DataError
from assistant_builder.i18n import Text, m, mn

_MAX_SHEET_ROWS = 2**20  # the limit of spreadsheet programs
_TEXT_TYPES = ("STRING", "JSON", "ENUM")
_MAX_EXACT_INTEGER = 1e15


def read_xlsx(data: bytes) -> Table:
    """Read the first sheet that has content.

    Raises:
        DataError: The workbook is damaged or has no content.
    """
    import openpyxl

    try:
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
        cells = 0
        for sheet in book.worksheets:
            sheet.reset_dimensions()  # some programs write wrong dimensions; without them all rows are read
            rows = []
            # a single cell far to the right yields all empty cells before it
            for row in sheet.iter_rows():
                cells += len(row) + 1
                check_cells(cells)
                rows.append([_cell_text(cell) for cell in row])
                if len(rows) > _MAX_SHEET_ROWS:
                    raise DataError(
                        m(
                            "sheet {title!r} has more than {max_sheet_rows:,} rows",
                            title=sheet.title,
                            max_sheet_rows=_MAX_SHEET_ROWS,
                        ),
                        remedy=m("Save the workbook again in a spreadsheet program"),
                    )
            if any(cell is not None for row in rows for cell in row):
                uncomputed = _count_uncomputed_formulas(data, sheet.title)
                return _sheet_table(rows, sheet.title, len(book.worksheets), uncomputed)
    except DataError:
        raise
    except Exception as error:  # openpyxl raises whatever zip, XML and value parsing raise
        raise DataError(
            m("the workbook is damaged: {error}", error=str(error)[:300]),
            remedy=m("Open it in a spreadsheet program and save it again"),
        ) from error
    raise DataError(
        m("no sheet of the workbook has content"), remedy=m("Add a header row and rows to a sheet")
    )


def _sheet_table(rows: list[list[str | None]], title: str, sheets: int, uncomputed: int) -> Table:
    notes: list[Text] = [
        m("sheet {title!r}, the first of {sheets} sheets with content", title=title, sheets=sheets)
        if sheets > 1
        else m("sheet {title!r}", title=title)
    ]
    if uncomputed:
        notes.append(
            mn(
                "formulas without a stored result are read as empty ({count} formula): open the file in a spreadsheet "
                "program and save it",
                "formulas without a stored result are read as empty ({count} formulas): open the file in a "
                "spreadsheet program and save it",
                uncomputed,
            )
        )
    blank = [not any(cell is not None for cell in row) for row in rows]
    header = _header_row(rows)
    if header > blank.index(False):
        notes.append(
            m(
                "the column names are in row {header}; the rows above are read as a title",
                header=header + 1,
            )
        )
    end = len(rows) - blank[::-1].index(False)
    width = max(
        index + 1 for row in rows[header:end] for index, cell in enumerate(row) if cell is not None
    )
    check_columns(width)
    # a single cell far down and to the right makes every row that wide
    check_cells((end - header) * width)
    padded = [(row + [None] * width)[:width] for row in rows[header:end]]
    names = header_names([cell or "" for cell in padded[0]], notes)
    table_rows = [
        RawRow(number, None, m("the row is empty"))
        if blank[header + number]
        else RawRow(number, dict(zip(names, cells, strict=True)))
        for number, cells in enumerate(padded[1:], start=1)
    ]
    numbers = RowNumbers(
        m(
            "Row numbers are those of sheet {title!r}, as a spreadsheet program shows them.",
            title=title,
        ),
        ((1, header + 1),),
    )
    return Table("xlsx", names, table_rows, notes, numbers=numbers)


def _header_row(rows: list[list[str | None]]) -> int:
    """Index of the header: the first row with content, or a row below it if that is a title in a single cell."""
    filled = [sum(cell is not None for cell in row) for row in rows]
    top = next(index for index, count in enumerate(filled) if count)
    if any(is_known_column(cell) for cell in rows[top] if cell is not None):
        return top
    return next(
        (index for index in range(top, min(top + TITLE_ROWS, len(rows))) if filled[index] > 1), top
    )


def _count_uncomputed_formulas(data: bytes, title: str) -> int:
    """Number of formulas of a sheet whose results were not stored by the program that wrote the workbook."""
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
        formula.data_type == "f" and value.value is None
        for value_row, formula_row in zip(values.iter_rows(), formulas.iter_rows(), strict=True)
        for value, formula in zip(value_row, formula_row, strict=True)
    )


def _cell_text(cell: Any) -> str | None:
    value = cell.value
    if is_empty(value):
        return None
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int | float):
        return _format_number(value, cell.number_format or "General")
    if isinstance(value, datetime.datetime):
        return (
            value.date().isoformat()
            if value.time() == datetime.time()
            else value.isoformat(sep=" ")
        )
    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else str(value)


def _format_number(value: float, number_format: str) -> str:
    """A number with at most 15 significant digits, or a percentage if the cell has that format."""
    if number_format.rstrip().endswith("%") and ";" not in number_format:
        decimals = (
            min(30, len(number_format.split(".")[1].rstrip("% "))) if "." in number_format else 0
        )
        return f"{value * 100:.{decimals}f}%"
    if isinstance(value, int) or value.is_integer() and abs(value) < _MAX_EXACT_INTEGER:
        return str(int(value))
    return format(value, ".15g")


def read_parquet(data: bytes) -> Table:
    """Read a Parquet file without its columns of raw bytes (images, embeddings).

    Raises:
        DataError: The file is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: list[RawRow] = []
    size = 0
    try:
        footer = pq.read_metadata(pa.BufferReader(data))
        _check_footer(footer)
        columns = [footer.schema.column(index) for index in range(footer.num_columns)]
        # Dictionary-encoded texts stay small in memory until their expanded size is known.
        texts = [
            column.path
            for column in columns
            if column.physical_type == "BYTE_ARRAY" and column.logical_type.type in _TEXT_TYPES
        ]
        file = pq.ParquetFile(pa.BufferReader(data), read_dictionary=texts)
        schema = footer.schema.to_arrow_schema()
        binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
        skipped = [field.name for field in schema if any(is_kind(field.type) for is_kind in binary)]
        names = [name for name in schema.names if name not in skipped]
        for batch in file.iter_batches(batch_size=4096, columns=names):
            size += sum(map(_expanded_size, batch.columns))
            check_bytes(size)
            for record in batch.to_pylist():
                rows.append(
                    RawRow(len(rows) + 1, {name: _plain_value(record[name]) for name in names})
                )
    except (pa.ArrowException, OSError, ValueError, KeyError, UnicodeDecodeError) as error:
        raise DataError(
            m("the Parquet file is damaged: {error}", error=str(error)[:300]),
            remedy=m("Export it again"),
        ) from error
    notes: list[Text] = (
        [m("columns of raw bytes are not read: {join}", join=", ".join(skipped))] if skipped else []
    )
    return Table("parquet", tuple(names), rows, notes)


def _check_footer(footer: Any) -> None:
    columns = range(footer.num_columns)
    check_columns(footer.num_columns)
    chunks = [
        footer.row_group(group).column(column)
        for group in range(footer.num_row_groups)
        for column in columns
    ]
    check_cells(
        max(footer.num_rows * footer.num_columns, sum(max(0, chunk.num_values) for chunk in chunks))
    )
    check_bytes(sum(max(0, chunk.total_uncompressed_size) for chunk in chunks))
    if any(footer.schema.column(column).path.count(".") > 3 * MAX_DEPTH for column in columns):
        raise DataError(
            m("its columns are nested more than {max_depth} levels deep", max_depth=MAX_DEPTH),
            remedy=m("Export flat columns"),
        )


def _expanded_size(array: Any) -> int:
    """Bytes of an Arrow array in which every occurrence of a dictionary-encoded text counts."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = array.type
    if pa.types.is_dictionary(kind):
        lengths = pc.binary_length(array.dictionary)
        return int(pc.sum(lengths.take(array.indices)).as_py() or 0)
    if pa.types.is_struct(kind):
        return sum(map(_expanded_size, array.flatten()))
    if pa.types.is_nested(kind):
        return _expanded_size(array.flatten())
    return int(array.nbytes)


def _plain_value(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) < _MAX_EXACT_INTEGER:
        return int(value)  # integer columns with missing values are stored as floats
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    return value
