"""Mapping of a study's files to objects of a store: selection, upload order, and append-only logs in chunks.

A store cannot append, so a log is stored as numbered chunks. The name of a chunk contains the byte at which it starts;
if the log was truncated (a resumed training drops the events of lost work), the next chunk starts earlier. Every
:data:`FULL_CHUNK_EVERY` chunks, one contains the complete log and the earlier ones are removed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from typing_extensions import TypedDict

from assistant_builder.atomic_io import parse_json
from assistant_builder.study import CHECKPOINT_MARKER
from assistant_builder.study.containment import path_inside
from assistant_builder.study.steps import SUFFIXES

STEP_LEASE = ".lease.json"
"""Suffix of the lease of a step, which is never synced: its holder writes directly to the store or shared folder."""
FULL_CHUNK_EVERY = 64
"""Chunks whose number is a multiple of this contain the complete log."""
Stamp = tuple[int, int]
"""Size of a file in bytes and modification time in nanoseconds."""
_LOCAL = ("cancel", "run.json", "run.log.txt")
_LOCAL_FOLDERS = ("exports", *(f"formats{suffix}" for suffix in ("", *SUFFIXES.values())))
"""Folders of files that are large and can be made again."""


class _Status(TypedDict, total=False):
    state: str
    outputs: dict[str, str]


_CHUNK_NAME = re.compile(r"(.+)/(\d{6,})-(\d+)\.jsonl")


def is_local_only(name: str) -> bool:
    """Whether a file is not synced; ``name`` is its path below the study folder, as in all functions here."""
    parts = name.split("/")
    return (
        name in _LOCAL or parts[0] in _LOCAL_FOLDERS or any(part.startswith(".") for part in parts)
    )


def is_status(name: str) -> bool:
    """Whether a file is the status file of a step; ``succeeded`` in it is the done-marker."""
    return name.endswith("status.json")


def is_user_input(name: str) -> bool:
    """Whether a file comes from the user (settings and data file) and not from a step."""
    return name == "study.yaml" or name.startswith("data/source.")


def is_checkpoint(name: str) -> bool:
    """Whether a file belongs to a checkpoint."""
    return name.startswith("arms/") and "/checkpoints/" in name


def is_append_only(name: str) -> bool:
    """Whether a file is a log to which lines are appended."""
    return name == "votes.jsonl" or (name.startswith("arms/") and name.endswith("/metrics.jsonl"))


def upload_order(name: str) -> int:
    """Sort key of uploads; files that mark others as complete come last."""
    if is_status(name):
        return 3
    if name.endswith(f"/{CHECKPOINT_MARKER}"):
        return 2
    return 1 if name.endswith((".json", ".yaml")) else 0


def is_record(content: bytes) -> bool:
    """Whether a status file is complete."""
    return _status(content) is not None


def succeeded(content: bytes) -> bool:
    """Whether a status file is a done-marker."""
    return (_status(content) or {}).get("state") == "succeeded"


def outputs(content: bytes) -> dict[str, str]:
    """File → SHA-256 of the files that a done-marker lists; empty for other status files."""
    status = _status(content) or {}
    return status.get("outputs", {}) if status.get("state") == "succeeded" else {}


def _status(content: bytes) -> _Status | None:
    """The content of a status file; None if it is incomplete or damaged."""
    try:
        return cast("_Status", parse_json(content, _Status, "status.json"))
    except (ValueError, RecursionError):
        return None


def files_of(folder: Path) -> dict[str, Stamp]:
    """Name → stamp of every file of a study folder that is synced; raises StudyError for a link."""
    stamps = {}
    for inside, folders, names in os.walk(folder, onerror=_unless_removed):
        below = Path(inside).relative_to(folder)
        folders[:] = [name for name in folders if not is_local_only((below / name).as_posix())]
        for name in names:
            file = (below / name).as_posix()
            if not is_local_only(file):
                try:
                    stamps[file] = stamp_of(path_inside(folder, file))
                except FileNotFoundError:  # removed since it was listed
                    continue
    return stamps


def stamp_of(path: Path) -> Stamp:
    """Size and modification time of a file."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _unless_removed(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


@dataclass(frozen=True, order=True)
class LogChunk:
    """A chunk of an append-only log."""

    number: int  # 1-based number; a later chunk replaces the overlapping bytes of earlier ones
    start: int  # offset of its first byte in the log
    log: str

    @property
    def name(self) -> str:
        """Name of the object: ``arms/lora/metrics/000017-20480.jsonl``."""
        return f"{self.log.removesuffix('.jsonl')}/{self.number:06d}-{self.start}.jsonl"


def chunks_of(names: Iterable[str]) -> dict[str, list[LogChunk]]:
    """Log → its chunks among object names, in order, beginning with the last chunk that contains the complete log."""
    logs: dict[str, list[LogChunk]] = {}
    for name in names:
        match = _CHUNK_NAME.fullmatch(name)
        if match and is_append_only(f"{match[1]}.jsonl"):
            log = f"{match[1]}.jsonl"
            logs.setdefault(log, []).append(LogChunk(int(match[2]), int(match[3]), log))
    for log, chunks in logs.items():
        chunks.sort()
        first = max((place for place, chunk in enumerate(chunks) if chunk.start == 0), default=0)
        logs[log] = chunks[first:]
    return logs


def apply_chunks(before: bytes, chunks: Iterable[tuple[LogChunk, bytes]]) -> bytes:
    """Content of a log with content ``before`` after further chunks, given with their contents."""
    for chunk, content in chunks:
        before = before[: chunk.start] + content
    return before


def next_chunk(
    log: str, number: int, before: bytes, content: bytes
) -> tuple[LogChunk, bytes] | None:
    """The chunk that updates a log from ``before`` in the store to ``content`` in the file, with its bytes.

    None if the log is up to date; an incomplete last line of ``content`` is ignored.
    """
    content = content[: content.rfind(b"\n") + 1]
    if content == before:
        return None
    if number % FULL_CHUNK_EVERY == 0:
        start = 0
    elif content.startswith(before):
        start = len(before)
    else:
        start = content.rfind(b"\n", 0, len(os.path.commonprefix([before, content]))) + 1
    return LogChunk(number, start, log), content[start:]
