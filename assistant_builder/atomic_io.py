"""JSON and JSON Lines files, file hashes, and writes by ``os.replace``, so that readers never see a partial file."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shutil
import socket
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil
from pydantic import BaseModel, TypeAdapter, ValidationError

from assistant_builder.errors import ResourceError, StudyError
from assistant_builder.i18n import Text, m, t
from assistant_builder.i18n.quantities import format_bytes

MAX_BYTES = 512 * 2**20
"""Size up to which a file is read; the largest reports have a hundredth of it."""
MAX_DEPTH = 64
"""Nesting up to which a document is read: a conversation has three levels, the deepest report a fifth of it."""
MAX_CONTAINERS, MAX_COMMAS = 1_000_000, 4_000_000
"""Lists and objects of a document, and its commas: they need up to thirty times the memory of their text, and minutes
for the largest file. A report has 18 and 85 of them for each held-out question."""
_HOST = f"{zlib.crc32(socket.gethostname().encode()):08x}"
_LEFTOVER_SECONDS = 86_400.0


def write_bytes(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace ``path`` atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    handle, temporary = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.name}.{_HOST}-{os.getpid()}-"
    )
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


def _remove_leftovers(path: Path) -> None:
    """Remove the temporary files of writers of ``path`` that were killed, on this machine or more than a day ago."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.(?:([0-9a-f]{{8}})-(\d+)-)?[a-z0-9_]{{8}}")
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            named = pattern.fullmatch(entry.name)
            if named is not None and (
                not psutil.pid_exists(int(named[2]))
                if named[1] == _HOST
                else time.time() - entry.stat(follow_symlinks=False).st_mtime > _LEFTOVER_SECONDS
            ):
                os.unlink(entry.path)


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` with UTF-8 text; unpaired surrogates are escaped."""
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def write_json(path: Path, record: Any) -> None:
    """Replace ``path`` with one JSON document; NaN raises ValueError."""
    write_text(path, json.dumps(record, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def write_jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Replace ``path`` with one JSON object per line."""
    write_text(path, json_lines(records))


def json_lines(records: Iterable[Mapping[str, Any]]) -> str:
    """One JSON object per line; NaN raises ValueError."""
    lines = (json.dumps(record, ensure_ascii=False, allow_nan=False) for record in records)
    return "".join(f"{line}\n" for line in lines)


def append_jsonl(path: Path, record: Mapping[str, Any]) -> None:
    """Append one line atomically, after removing an incomplete last line that a crash left.

    Raises:
        OSError: The line could not be written, e.g. on a full disk; the file is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json_lines([record]).encode("utf-8", errors="backslashreplace")
    _repair_last_line(path)
    with path.open(
        "ab", buffering=0
    ) as file:  # a single write, so that lines of two writers are not mixed
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


def read_json(path: Path, content: Any = dict[str, Any], *, remedy: Text = "") -> Any:
    """Read one JSON document of a type.

    Args:
        path: The file.
        content: What it must contain: a TypedDict or model, of which further entries are kept, a dataclass, or any
            object.
        remedy: What to do about a damaged file; by default, to recreate it with ``--redo``.

    Raises:
        StudyError: The file is damaged, too large or nested too deeply, or an entry is of another type; also later,
            where an entry is used that the file does not have.
    """
    try:
        return parse_json(bounded_bytes(path), content, str(path), remedy)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, _complaint(error), remedy) from error


def read_jsonl(path: Path, content: Any = dict[str, Any], *, remedy: Text = "") -> list[Any]:
    """Read one JSON object per line; an incomplete last line is ignored, and a missing file has no lines.

    The arguments and errors are those of :func:`read_json`.
    """
    return list(_iter_jsonl(path, content, remedy))


def _iter_jsonl(path: Path, content: Any, remedy: Text) -> Iterator[Any]:
    if not path.exists():
        return
    try:
        text = bounded_bytes(path)
    except ValueError as error:
        raise _damaged(path, _complaint(error), remedy) from error
    for line in _LINE.finditer(text):
        try:
            yield parse_json(line[0], content, str(path), remedy)
        except (ValueError, RecursionError) as error:
            if line.end() == len(text) and not isinstance(error, ValidationError):
                return
            number = text.count(b"\n", 0, line.start()) + 1
            raise _damaged(path, t("line {number} is damaged", number=number), remedy) from error


_LINE = re.compile(rb"\S[^\n]*")
"""A line that is not blank; of others there can be millions. splitlines() would also split at U+2028 inside a text."""


class _MissingEntry(StudyError, KeyError):
    """An entry is used that a file does not have."""


class _Object(dict[str, Any]):
    __slots__ = ("remedy", "where")

    def __init__(
        self,
        entries: Mapping[str, Any] | Iterable[tuple[str, Any]],
        where: str = "",
        remedy: Text = "",
    ) -> None:  # dataclasses.asdict() copies without the other arguments
        super().__init__(entries)
        self.where, self.remedy = where, remedy

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        return dict, ({**self},)  # a copy, or one in another process, is a plain dictionary

    def __missing__(self, name: str) -> Any:
        raise _MissingEntry(
            t(
                "the file is damaged or of another version: {entry} is missing or of a wrong type",
                entry=name,
            ),
            where=self.where,
            remedy=self.remedy or _recreate(),
        )


def parse_json(text: bytes, content: Any, where: str, remedy: Text = "") -> Any:
    """Parse one JSON document of a type, see :func:`read_json`; ``where`` names it in errors of missing entries.

    Raises:
        ValueError: It is no JSON, nested too deeply or of another type.
        RecursionError: It is nested far too deeply.
    """
    containers = text.count(b"[") + text.count(b"{")
    if containers > MAX_CONTAINERS or text.count(b",") > MAX_COMMAS:
        raise ValueError("too many entries")
    # Python calls these for each number, which takes as long as all the rest
    numbers: dict[str, Any] = {"parse_float": _finite, "parse_int": _whole}
    found = json.loads(
        text,
        parse_constant=_refuse,
        object_hook=lambda entries: _Object(entries, where, remedy),
        **numbers if _LARGE_NUMBER.search(text) else {},
    )
    if containers > MAX_DEPTH and exceeds_max_depth(found):
        raise ValueError("nested too deeply")
    valid = _adapter(content).validate_python(found, strict=not is_dataclass(content))
    if is_dataclass(content) or isinstance(valid, BaseModel):
        return valid
    return found  # with the entries that the type does not name, in order


@cache
def _adapter(content: Any) -> TypeAdapter[Any]:
    return TypeAdapter(content)


_MOST_DIGITS = 300  # transformers writes 31 of them for a tokenizer without a longest text
_LARGE_NUMBER = re.compile(rb"[eE]\+?\d{3}|\d{%d}" % _MOST_DIGITS)


def _finite(number: str) -> float:
    if abs(value := float(number)) == math.inf:
        raise ValueError("a number is too large")
    return value


def _whole(number: str) -> int:
    if len(number) > _MOST_DIGITS:
        raise ValueError("a number is too large")
    return int(number)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no number of JSON")


_CONTAINERS = (dict, list, tuple)


def exceeds_max_depth(value: Any) -> bool:
    """Whether lists and objects are nested more than :data:`MAX_DEPTH` deep, computed without recursion."""
    level = [value] if isinstance(value, _CONTAINERS) else []
    for _ in range(MAX_DEPTH):
        level = [
            item
            for container in level
            for item in (container.values() if isinstance(container, dict) else container)
            if isinstance(item, _CONTAINERS)
        ]
    return bool(level)


def bounded_bytes(path: Path) -> bytes:
    """The content of a file of at most :data:`MAX_BYTES`; raises ValueError for a larger one."""
    with path.open("rb") as file:
        # read() allocates what it is asked for
        text = file.read(min(os.fstat(file.fileno()).st_size, MAX_BYTES) + 1)
    if len(text) > MAX_BYTES:
        raise ValueError("too large")
    return text


def _complaint(error: Exception) -> Text:
    entry = (
        ".".join(map(str, error.errors()[0]["loc"])) if isinstance(error, ValidationError) else ""
    )
    if entry:
        return m(
            "the file is damaged or of another version: {entry} is missing or of a wrong type",
            entry=entry,
        )
    return m("the file is damaged")


def _damaged(path: Path, what: Text, remedy: Text) -> StudyError:
    return StudyError(what, where=str(path), remedy=remedy or _recreate())


def _recreate() -> Text:
    return m("{Redo} to recreate it")


def require_disk_space(folder: Path, needed: float, name: str, remedy: Text) -> None:
    """Raise ResourceError if the disk of a folder, which need not exist, has fewer than the ``needed`` bytes."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise ResourceError(
            m(
                "{name} needs {format_bytes} of disk space; {format_bytes_2} are free",
                name=name,
                format_bytes=format_bytes(needed),
                format_bytes_2=format_bytes(free),
            ),
            where=str(folder),
            remedy=remedy,
        )


def file_hash(path: Path) -> str:
    """SHA-256 of a file as a hex string."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
