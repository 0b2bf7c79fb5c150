"""How the product reads and writes its files: whole or not at all, and hashed.

A file is replaced by a temporary file and ``os.replace``, so that no reader ever sees half of it; only logs are
appended to.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from assistant_builder.errors import StudyError


def write_bytes(path: Path, content: bytes) -> None:
    """Replace ``path`` whole, so that no reader ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` with UTF-8 text; a lone surrogate is written as its escape."""
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def write_json(path: Path, record: Any) -> None:
    """Replace ``path`` with one JSON document; NaN is refused."""
    write_text(path, json.dumps(record, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def write_jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Replace ``path`` with one JSON object a line."""
    write_text(path, "".join(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in records))


def append_jsonl(path: Path, record: Mapping[str, Any]) -> None:
    """Append one line, whole or not at all; what a crash left half-written before it is cut off.

    Raises:
        OSError: It could not be written, on a full disk for example; the file is then as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(record, ensure_ascii=False, allow_nan=False).encode("utf-8", errors="backslashreplace") + b"\n"
    _repair_last_line(path)
    with path.open("ab", buffering=0) as file:  # one write, so that the lines of two writers do not mix
        before = file.tell()
        try:
            written = file.write(line)
            if written != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        except OSError:
            file.truncate(before)
            raise


def _repair_last_line(path: Path) -> None:
    """Give a whole last line its end, or cut off half of one: the next line must not be glued to it."""
    if not path.exists() or not path.stat().st_size:
        return
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        if file.read() == b"\n":
            return
    content = path.read_bytes()
    start = content.rfind(b"\n") + 1
    try:
        json.loads(content[start:])
        write_bytes(path, content + b"\n")
    except ValueError:
        write_bytes(path, content[:start])


def read_json(path: Path) -> Any:
    """Read one JSON document.

    Raises:
        StudyError: The file is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise StudyError(
            "the file is damaged", where=str(path), remedy="Run the study again with --redo to make it anew"
        ) from error


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read one JSON object a line, leaving out a half-written last line; an absent file has no lines."""
    return list(_iter_jsonl(path))


def _iter_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    lines = path.read_bytes().split(b"\n")  # not splitlines(): U+2028 inside a text ends no record
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                return
            raise StudyError(
                f"line {number} is damaged", where=str(path), remedy="Run the study again with --redo to make it anew"
            ) from error


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
