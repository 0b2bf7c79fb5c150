"""What a file is, by its content first and its name second."""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from pathlib import Path
from typing import Literal

from assistant_builder.data.bounds import MOST_BYTES, check_bytes
from assistant_builder.errors import DataError

Kind = Literal["text", "xlsx", "parquet"]
_READABLE = "Give a CSV, TSV, JSON, JSONL, XLSX or Parquet file"
_FOREIGN: tuple[tuple[bytes, str, str], ...] = (
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel file (.xls), or a workbook locked with a password",
     "Open it in a spreadsheet program and save it as .xlsx without a password"),
    (b"%PDF", "a PDF document", _READABLE),
    (b"\x89PNG", "a picture", _READABLE),
    (b"\xff\xd8\xff", "a picture", _READABLE),
    (b"GIF8", "a picture", _READABLE),
    (b"SQLite format 3\0", "an SQLite database", "Export the table as CSV"),
    (b"ARROW1", "an Arrow file", "Save it as Parquet"),
    (b"Obj\x01", "an Avro file", "Save it as Parquet"),
    (b"BZh", "compressed with bzip2", "Unpack it first"),
    (b"\xfd7zXZ\0", "compressed with xz", "Unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "Unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "Unpack it first"),
    (b"Rar!", "a RAR archive", "Unpack it first"),
    (b"version https://git-lfs.github.com/spec/", "a Git LFS pointer, not the data",
     "Fetch the file itself with 'git lfs pull'"),
)
_MEMBER, _MOST_MEMBERS = b"PK\x01\x02", 10_000
_WEB_PAGE = (b"<!doctype html", b"<html", b"<?xml")


def load_bytes(path: Path) -> tuple[bytes, str, list[str]]:
    """Read a file whole, unpacking gzip.

    Returns:
        The bytes, the suffix that tells the type (that before ``.gz``), and notes.

    Raises:
        DataError: The file is missing, unreadable, empty, or its gzip stream is damaged.
    """
    where = str(path)
    try:
        if path.is_dir():
            raise DataError("this is a folder, not a file", where=where, remedy=_READABLE)
        if path.exists() and not path.is_file():  # a pipe or a device never ends
            raise DataError("this is no regular file", where=where, remedy=_READABLE)
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        check_bytes(len(data), where)
    except (FileNotFoundError, ValueError) as error:  # a path with a NUL byte names no file
        raise DataError("no such file", where=where, remedy="Check the path") from error
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror}", where=where, remedy="Copy it anew") from error
    suffix, notes = path.suffix.lower(), []
    if data.startswith(b"\x1f\x8b"):
        if suffix in (".gz", ".gzip"):
            suffix = Path(path.stem).suffix.lower()
        else:
            notes.append(f"the content is compressed with gzip, though the name ends in {suffix or 'nothing'}")
        data = _unpack(data, where)
    elif suffix in (".gz", ".gzip"):
        suffix = Path(path.stem).suffix.lower()
        notes.append("the name ends in .gz, but the content is not compressed")
    if not data.strip(b"\0 \t\r\n\xef\xbb\xbf\xff\xfe"):
        raise DataError("the file is empty", where=where, remedy="Give a file with a header and a few rows")
    return data, suffix, notes


def _unpack(data: bytes, where: str) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            unpacked = stream.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"the gzip stream is damaged: {error}", where=where, remedy="Pack or copy it again") from error
    check_bytes(len(unpacked), where)
    return unpacked


def kind_of(data: bytes, where: str) -> Kind:
    """Tell a workbook and a Parquet file from text, and name what is neither.

    Raises:
        DataError: The content is of a kind that holds no rows, or must be converted first.
    """
    if data.startswith(b"PAR1"):
        if not data.endswith(b"PAR1") or len(data) < 12:
            raise DataError("the Parquet file is cut off", where=where, remedy="Copy or export it again")
        return "parquet"
    if data.startswith(b"PK\x03\x04"):
        return _zip_kind(data, where)
    for magic, what, remedy in _FOREIGN:
        if data.startswith(magic):
            raise DataError(f"this is {what}", where=where, remedy=remedy)
    if data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_WEB_PAGE):
        raise DataError("this is a web page or XML, not the data", where=where, remedy="Download the data file itself")
    return "text"


def _zip_kind(data: bytes, where: str) -> Kind:
    try:
        members = [] if data.count(_MEMBER) > _MOST_MEMBERS else zipfile.ZipFile(io.BytesIO(data)).infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OverflowError) as error:
        raise DataError("the workbook or archive is damaged", where=where, remedy="Save or copy it again") from error
    if not members:
        raise DataError(f"this is a zip archive of no files or of more than {_MOST_MEMBERS:,}", where=where,
                        remedy=_READABLE)
    names = [member.filename for member in members]
    check_bytes(sum(member.file_size for member in members), where)  # nothing beyond its declared size is unpacked
    if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
        raise DataError("the archive is packed in a way that no workbook is", where=where, remedy="Save it anew")
    if any(name.startswith("xl/workbook") for name in names):
        return "xlsx"
    if "mimetype" in names or any(name.startswith("word/") for name in names):
        raise DataError(
            "this is an office document, but no Excel workbook", where=where, remedy="Save the table as .xlsx or CSV"
        )
    raise DataError(
        f"this is a zip archive of {len(names)} files", where=where, remedy="Unpack it and give the data file in it"
    )
