"""JSON and JSON Lines files, file hashes, and writes by ``os.replace``, so that readers never see a partial file."""

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


def write_bytes(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace ``path`` atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` with UTF-8 text; unpaired surrogates are escaped."""
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def write_json(path: Path, record: Any) -> None:
    """Replace ``path`` with one JSON document; NaN raises ValueError."""
    write_text(path, json.dumps(record, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def write_jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Replace ``path`` with one JSON object per line."""
    write_text(path, "".join(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in records))


def append_jsonl(path: Path, record: Mapping[str, Any]) -> None:
    """Append one line atomically, after removing an incomplete last line that a crash left.

    Raises:
        OSError: The line could not be written, e.g. on a full disk; the file is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(record, ensure_ascii=False, allow_nan=False).encode("utf-8", errors="backslashreplace") + b"\n"
    _repair_last_line(path)
    with path.open("ab", buffering=0) as file:  # a single write, so that lines of two writers are not mixed
        before = file.tell()
        try:
            written = file.write(line)
            if written != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        except OSError:
            file.truncate(before)
            raise


def _repair_last_line(path: Path) -> None:
    """Terminate the last line, or remove it if it is incomplete, so that the next line starts on its own."""
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
    """Read one JSON document; raises StudyError if the file is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise StudyError("the file is damaged", where=str(path),
                         remedy="Run the study again with --redo to recreate it") from error


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read one JSON object per line; an incomplete last line is ignored, and a missing file has no lines."""
    return list(_iter_jsonl(path))


def _iter_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    lines = path.read_bytes().split(b"\n")  # splitlines() would also split at U+2028 inside a text
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                return
            raise StudyError(f"line {number} is damaged", where=str(path),
                             remedy="Run the study again with --redo to recreate it") from error


def file_hash(path: Path) -> str:
    """SHA-256 of a file as a hex string."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
