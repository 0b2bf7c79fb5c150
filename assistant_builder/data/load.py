"""Readers of data files: detection of the file type, rows of every format, and their conversion to pairs.

They run in the process that calls them, without limits of memory and time, and their errors do not name the file: files
of others are read by :mod:`assistant_builder.data.reading_process`, which has the same functions as ``load_pairs``,
``load_rows``, ``read_table``.
"""

from __future__ import annotations

import gzip
import io
import itertools
import os
import re
import zipfile
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from assistant_builder.data import limits
from assistant_builder.data.chat_formats import RowError
from assistant_builder.data.columns import (
    ColumnMapping,
    column_settings,
    guess_columns,
    is_known_column,
    map_columns,
    normalize_name,
)
from assistant_builder.data.csv_reader import SEPARATORS, read_csv, unescape_rejected_rows
from assistant_builder.data.encoding import decode
from assistant_builder.data.json_reader import contains_json_object, looks_like_json, read_json_text
from assistant_builder.data.parse_rows import parse_pair
from assistant_builder.data.types import (
    Dataset,
    Pair,
    RejectedRow,
    Table,
    to_json_safe,
)
from assistant_builder.data.xlsx_parquet_reader import read_parquet, read_xlsx
from assistant_builder.errors import DataError
from assistant_builder.i18n import N_, Text, m

FileType = Literal["text", "xlsx", "parquet"]
_FORMATS = {".csv": "csv", ".json": "json"} | {
    **dict.fromkeys((".tsv", ".tab"), "tsv"),
    **dict.fromkeys((".jsonl", ".ndjson", ".jsonlines"), "jsonl"),
    **dict.fromkeys((".xlsx", ".xlsm"), "xlsx"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
}
_USE_SUPPORTED = N_("Use a CSV, TSV, JSON, JSONL, XLSX or Parquet file")
_MAKE_TABLE = N_(
    "Copy each question and its answer into one row of a spreadsheet with the columns question and "
    "answer, and save it as .xlsx or CSV"
)
_READ_AS_DOCUMENT = N_(
    "Use it as a document (“From documents or a website”; assistant-builder run FOLDER), or copy each question and its "
    "answer into one row of a spreadsheet"
)
_UNSUPPORTED: tuple[tuple[bytes | tuple[bytes, ...], str, str], ...] = (
    (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        N_("an old Office file (.xls or .doc), or one with a password"),
        N_(
            "Open a workbook in a spreadsheet program and save it as .xlsx without a password. From a Word document, "
            "copy each question and its answer into one row of a spreadsheet"
        ),
    ),
    (
        b"%PDF",
        N_("a PDF document, and questions and answers are read from a table"),
        _READ_AS_DOCUMENT,
    ),
    (
        b"{\\rtf",
        N_("a text document (RTF), and questions and answers are read from a table"),
        _MAKE_TABLE,
    ),
    ((b"\x89PNG", b"\xff\xd8\xff", b"GIF8"), N_("an image"), _MAKE_TABLE),
    (b"SQLite format 3\0", N_("an SQLite database"), N_("Export the table as CSV")),
    (b"ARROW1", N_("an Arrow file"), N_("Save it as Parquet")),
    (b"Obj\x01", N_("an Avro file"), N_("Save it as Parquet")),
    (b"BZh", N_("compressed with bzip2"), N_("Decompress it first")),
    (b"\xfd7zXZ\0", N_("compressed with xz"), N_("Decompress it first")),
    (b"\x28\xb5\x2f\xfd", N_("compressed with zstd"), N_("Decompress it first")),
    (b"7z\xbc\xaf\x27\x1c", N_("a 7-Zip archive"), N_("Extract it first")),
    (b"Rar!", N_("a RAR archive"), N_("Extract it first")),
    (
        b"version https://git-lfs.github.com/spec/",
        N_("a Git LFS pointer, not the data"),
        N_("Download the file itself with 'git lfs pull'"),
    ),
)
_LONGEST_NAME = 200  # characters of a column that a message repeats in full
_FIRST_ROWS = 3
_ZIP_MEMBER, _MAX_ZIP_MEMBERS = b"PK\x01\x02", 10_000
_WEB_PAGE = (b"<!doctype html", b"<html", b"<?xml")


def pairs_of_file(
    path: str | Path, columns: Mapping[str, str] | None = None, system: str | None = None
) -> Dataset:
    """Read pairs in this process, without limits on memory and time.

    Arguments and errors are those of :func:`~assistant_builder.data.reading_process.load_pairs`.
    """
    table, mapping = rows_of_file(Path(path), columns)
    pairs: list[Pair] = []
    rejected: list[RejectedRow] = []
    changes: dict[str, list[int]] = {remark: list(rows) for remark, rows in table.remarks.items()}
    for raw in table.rows:
        row_changes: list[str] = []
        try:
            pairs.append(parse_pair(raw, mapping, system, row_changes))
        except RowError as error:
            content = raw.raw if raw.cells is None else raw.cells
            rejected.append(RejectedRow(raw.row, error.reason, to_json_safe(content)))
        else:
            for change in dict.fromkeys(row_changes):
                changes.setdefault(change, []).append(raw.row)
    columns_of_pair = {
        role: mapping[role] or mapping["messages"] for role in ("question", "answer")
    }
    return Dataset(
        source=str(Path(path)),
        format=table.format,
        columns=mapping.columns | columns_of_pair,
        pairs=tuple(pairs),
        rejected=tuple(rejected),
        rows=len(table.rows),
        notes=(*table.notes, *mapping.notes),
        changes={change: tuple(rows) for change, rows in changes.items()},
        column_names=table.columns,
        numbers=table.numbers,
        first_rows=first_rows(table),
    )


def rows_of_file(
    source: Path, columns: Mapping[str, str] | None = None
) -> tuple[Table, ColumnMapping]:
    """Read the rows of a data file with all their columns, and map the columns to roles like :func:`pairs_of_file`."""
    table = table_of_file(source, {name for name in (columns or {}).values() if name})
    _require_table(table, source)
    if not table.rows:
        raise DataError(
            m("the file has a header, but no rows") if table.columns else m("the file has no rows"),
            remedy=m("Add at least a few question-answer pairs"),
        )
    if not table.columns:
        raise DataError(
            m(
                "none of its {rows} rows can be read (row 1: {problem})",
                rows=len(table.rows),
                problem=table.rows[0].problem,
            ),
            remedy=m("Use one object with a question and an answer for each pair"),
        )
    try:
        return table, map_columns(table.columns, columns)
    except DataError as error:
        guess = None if columns else guess_columns(table)
        if guess is None or max(map(len, guess.values())) > _LONGEST_NAME:
            raise
        found = column_settings({role: repr(name) for role, name in guess.items()})
        raise DataError(
            error.what,
            remedy=m(
                "By their content these may be {found}. {remedy}", found=found, remedy=error.remedy
            ),
        ) from error


def first_rows(table: Table) -> tuple[dict[str, Any], ...]:
    """The cells of the first rows that can be parsed."""
    cells = (row.cells for row in table.rows if row.cells is not None)
    return tuple(itertools.islice(cells, _FIRST_ROWS))


def _require_table(table: Table, source: Path) -> None:
    """Raise DataError for running text, which reads as a table of one column."""
    if (
        table.format not in ("csv", "tsv")
        or len(table.columns) != 1
        or is_known_column(table.columns[0])
    ):
        return
    suffix = source.suffix.lower()
    what = m(
        "this is text in one column, and not a table with a column of questions and one of answers"
    )
    if _FORMATS.get(suffix) in ("xlsx", "parquet"):
        what = m(
            "the name ends in {suffix}, but this is a text file and not a workbook", suffix=suffix
        )
    raise DataError(what, remedy=m(_MAKE_TABLE))


def table_of_file(path: Path, mapped: Collection[str] = ()) -> Table:
    """Read the rows of a data file without interpreting its columns; ``mapped`` names help to detect the separator.

    Raises:
        DataError: The file cannot be read.
    """
    data, suffix, notes = _read_bytes(path)
    file_type = detect_file_type(data)
    if file_type == "xlsx":
        table = read_xlsx(data)
    elif file_type == "parquet":
        table = read_parquet(data)
    else:
        table = _read_text(data, suffix, {normalize_name(name) for name in mapped})
    unescape_rejected_rows(table)
    limits.check_columns(len(table.columns))
    # objects with different keys give a sparse table
    limits.check_cells(len(table.rows) * len(table.columns))
    cells = (cell for row in table.rows if row.cells is not None for cell in row.cells.values())
    # a text that many cells share is written once for each cell
    limits.check_bytes(sum(len(cell) for cell in cells if isinstance(cell, str)))
    formats = {_FORMATS.get(suffix), table.format}
    if len(formats) > 1 and not formats <= {"csv", "tsv"}:  # the separator note covers TSV
        kind = table.format.upper()
        note = m(
            "read as {format} because of the content, although the name has no suffix", format=kind
        )
        if suffix:
            note = m(
                "read as {format} because of the content, although the name ends in {suffix}",
                format=kind,
                suffix=suffix,
            )
        notes.append(note)
    table.notes[:0] = notes
    return table


def _read_text(data: bytes, suffix: str, mapped: set[str]) -> Table:
    text, note = decode(data)
    is_json = looks_like_json(text)
    if not is_json and _FORMATS.get(suffix) in ("json", "jsonl"):
        first = text.lstrip().split("\n", 1)[0]
        cells = re.split(f"[{re.escape(''.join(SEPARATORS))}]", first)
        has_header = any(is_known_column(cell.strip(' "\r')) for cell in cells)
        is_json = not has_header or contains_json_object(text)
    if is_json:
        table = read_json_text(text, suffix)
    else:
        table = read_csv(
            text, suffix, lambda name: normalize_name(name) in mapped or is_known_column(name)
        )
    if note:
        table.notes.insert(0, note)
    return table


def _read_bytes(path: Path) -> tuple[bytes, str, list[Text]]:
    """Read a complete file and decompress gzip; return the bytes, the suffix without ``.gz``, and notes."""
    try:
        if path.is_dir():
            raise DataError(m("this is a folder, not a file"), remedy=m(_USE_SUPPORTED))
        if path.exists() and not path.is_file():  # reading a pipe or a device may never end
            raise DataError(m("this is not a regular file"), remedy=m(_USE_SUPPORTED))
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size  # read() allocates as much as it is asked for
            data = file.read(min(size, limits.MAX_BYTES) + 1)
        limits.check_bytes(len(data))
    except (FileNotFoundError, ValueError) as error:  # ValueError: the path contains a NUL byte
        raise DataError(m("no such file"), remedy=m("Check the path")) from error
    except OSError as error:
        raise DataError(
            m("the file cannot be read: {strerror}", strerror=error.strerror),
            remedy=m("Copy it again"),
        ) from error
    suffix, notes = path.suffix.lower(), list[Text]()
    is_gzip, named_gzip = data.startswith(b"\x1f\x8b"), suffix in (".gz", ".gzip")
    if is_gzip and not named_gzip:
        notes.append(
            m(
                "the content is compressed with gzip, although the name ends in {suffix}",
                suffix=suffix,
            )
            if suffix
            else m("the content is compressed with gzip, although the name has no suffix")
        )
    if named_gzip:
        suffix = Path(path.stem).suffix.lower()
        if not is_gzip:
            notes.append(m("the name ends in .gz, but the content is not compressed"))
    if is_gzip:
        data = _decompress(data)
    if not data.strip(b"\0 \t\r\n\xef\xbb\xbf\xff\xfe"):
        raise DataError(m("the file is empty"), remedy=m("Use a file with a header and a few rows"))
    return data, suffix, notes


def _decompress(data: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            content = stream.read(limits.MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            m("the gzip stream is damaged: {error}", error=error),
            remedy=m("Compress or copy the file again"),
        ) from error
    limits.check_bytes(len(content))
    return content


def detect_file_type(data: bytes) -> FileType:
    """Distinguish workbooks and Parquet files from text.

    Raises:
        DataError: The file contains no rows, or must be converted first.
    """
    if data.startswith(b"PAR1"):
        if not data.endswith(b"PAR1") or len(data) < 12:
            raise DataError(m("the Parquet file is truncated"), remedy=m("Copy or export it again"))
        return "parquet"
    if data.startswith(b"PK\x03\x04"):
        _check_workbook(data)
        return "xlsx"
    for magic, description, remedy in _UNSUPPORTED:
        if data.startswith(magic):
            raise DataError(m("this is {kind}", kind=m(description)), remedy=m(remedy))
    if data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_WEB_PAGE):
        raise DataError(
            m("this is a web page or XML, not the data"), remedy=m("Download the data file itself")
        )
    return "text"


def _check_workbook(data: bytes) -> None:
    try:
        members = (
            []
            if data.count(_ZIP_MEMBER) > _MAX_ZIP_MEMBERS
            else zipfile.ZipFile(io.BytesIO(data)).infolist()
        )
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OverflowError) as error:
        raise DataError(
            m("the workbook or archive is damaged"), remedy=m("Save or copy it again")
        ) from error
    if not members:
        raise DataError(
            m(
                "this is a zip archive without files or with more than {max_zip_members:,}",
                max_zip_members=_MAX_ZIP_MEMBERS,
            ),
            remedy=m(_USE_SUPPORTED),
        )
    names = [member.filename for member in members]
    # zipfile reads no more than this size
    limits.check_bytes(sum(member.file_size for member in members))
    if any(
        member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members
    ):
        raise DataError(
            m("the archive uses a compression method that workbooks do not use"),
            remedy=m("Save the workbook again in a spreadsheet program"),
        )
    if any(name.startswith("xl/workbook") for name in names):
        return
    if "mimetype" in names or any(name.startswith("word/") for name in names):
        kind = (
            m("a Word document")
            if any(name.startswith("word/") for name in names)
            else m("an office document")
        )
        raise DataError(
            m("this is {kind}, and questions and answers are read from a table", kind=kind),
            remedy=m(_READ_AS_DOCUMENT),
        )
    raise DataError(
        m("this is a zip archive of {names} files", names=len(names)),
        remedy=m("Extract it and use the data file in it"),
    )
