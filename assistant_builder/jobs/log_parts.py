"""Files that are appended to, as numbered objects of a store, which cannot append.

Each part says from which byte of the file on it holds, so that a file that was cut back (a training that carries on
drops the events of lost work) needs no part to be changed. Every so often a part holds the whole file, and those before
it go.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

WHOLE_EVERY = 64
"""After how many parts one holds everything: who reads the file fetches no more than that."""
_NAME = re.compile(r"(.+)/(\d{6,})-(\d+)\.jsonl")


@dataclass(frozen=True, order=True)
class Part:
    """A part of a file.

    Attributes:
        number: Counts up from 1; of two parts that overlap the later one is right.
        start: First byte of the file that it holds; what came after it before is no longer so.
        log: Name of the file.
    """

    number: int
    start: int
    log: str

    @property
    def name(self) -> str:
        """Name of the object: ``arms/lora/metrics/000017-20480.jsonl``."""
        return f"{self.log.removesuffix('.jsonl')}/{self.number:06d}-{self.start}.jsonl"


def is_log(name: str) -> bool:
    """Whether a file of a study is appended to, line by line."""
    return name == "votes.jsonl" or (name.startswith("arms/") and name.endswith("/metrics.jsonl"))


def parts_of(names: Iterable[str]) -> dict[str, list[Part]]:
    """File → its parts among the names of objects, in order, from the last one on that holds everything."""
    found: dict[str, list[Part]] = {}
    for name in names:
        told = _NAME.fullmatch(name)
        if told and is_log(f"{told[1]}.jsonl"):
            log = f"{told[1]}.jsonl"
            found.setdefault(log, []).append(Part(int(told[2]), int(told[3]), log))
    for log, parts in found.items():
        parts.sort()
        first = max((place for place, part in enumerate(parts) if part.start == 0), default=0)
        found[log] = parts[first:]
    return found


def joined(before: bytes, parts: Iterable[tuple[Part, bytes]]) -> bytes:
    """A file's content after further parts.

    Args:
        before: Its content so far.
        parts: The parts in order, each with what its object holds.
    """
    for part, content in parts:
        before = before[:part.start] + content
    return before


def next_part(log: str, number: int, before: bytes, content: bytes) -> tuple[Part, bytes] | None:
    """The part that makes a store's file what the file is now; None where it is that already.

    Args:
        log: Name of the file.
        number: Number of the part.
        before: The file as the store has it.
        content: The file as it is; half a last line is left out.
    """
    content = content[:content.rfind(b"\n") + 1]
    if content == before:
        return None
    if number % WHOLE_EVERY == 0:
        start = 0
    elif content.startswith(before):
        start = len(before)
    else:
        start = content.rfind(b"\n", 0, len(os.path.commonprefix([before, content]))) + 1
    return Part(number, start, log), content[start:]
