"""The file of a bundle: lines of canonical JSON, the last of which seals the others.

A line is ``{"name": …, "value": …}``. The seal has name, bytes and SHA-256 of each line, the SHA-256 of all bytes
before it, and a signature if there is one. A bundle is read as hostile input: it is one regular file without links,
its size, the number and nesting of its values are bounded, numbers are finite, keys occur once, and each line must be
exactly what this module would write. Nothing in it is executed. This module needs the standard library alone.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MAX_BYTES = 256 * 2**20
MAX_LINES = 64
MAX_DEPTH = 12
MAX_CONTAINERS = 4_000_000  # lists and objects, which need a hundred times the memory of their text
MAX_COMMAS = 8_000_000  # values; those of 256 MiB would take minutes and gigabytes
MAX_DIGITS = 40
SEAL = "seal"


class Refused(Exception):
    """Why a bundle does not hold.

    Attributes:
        place: Where.
        reason: What is wrong.
    """

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(f"{place}: {reason}")
        self.place, self.reason = place, reason


def canonical(value: Any) -> str:
    """The one JSON text of a value; raises ValueError for a number that is not finite."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )


def line_of(name: str, value: Any) -> bytes:
    """A line of the file."""
    return canonical({"name": name, "value": value}).encode() + b"\n"


def seal_of(lines: Sequence[tuple[str, bytes]], signature: Mapping[str, str] | None = None) -> Any:
    """The value of the seal of lines, by name."""
    return {
        "lines": [
            {"name": name, "bytes": len(line), "sha256": hashlib.sha256(line).hexdigest()}
            for name, line in lines
        ],
        "sha256": digest_of(lines),
        "signature": None if signature is None else dict(signature),
    }


_BEGINNING = b'{"name":"'


def digest_of(lines: Sequence[tuple[str, bytes]]) -> str:
    """The SHA-256 of all lines before the seal, which a signature signs."""
    return hashlib.sha256(b"".join(line for _, line in lines)).hexdigest()


def read_bundle(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values of a bundle by name, and its seal.

    Raises:
        Refused: It is no intact bundle; the place is a line.
    """
    data = _bytes_of(path)
    if not data.startswith(_BEGINNING):
        raise Refused("file", "it is no bundle: it does not begin as one")
    if not data.endswith(b"\n"):
        raise Refused("end of the file", "it is cut: the last line is not complete")
    lines = data[:-1].split(b"\n")
    if len(lines) > MAX_LINES:
        raise Refused("file", f"it has {len(lines):,} lines, and {MAX_LINES} are allowed")
    if data.count(b"[") + data.count(b"{") > MAX_CONTAINERS:
        raise Refused("file", f"it has more than {MAX_CONTAINERS:,} lists and objects")
    if data.count(b",") > MAX_COMMAS:
        raise Refused("file", f"it has more than {MAX_COMMAS:,} values")
    named: list[tuple[str, bytes]] = []
    values: dict[str, Any] = {}
    broken: Refused | None = None
    for number, line in enumerate(lines, start=1):
        try:
            name, value = _parsed(line, number)
        except Refused as refused:
            broken = broken or refused
            continue
        if name in values:
            broken = broken or Refused(f"line {number} ({name})", "it occurs twice")
        values[name] = value
        named.append((name, line + b"\n"))
    if broken is not None:
        raise broken
    if not named or named[-1][0] != SEAL:
        raise Refused("end of the file", "it is cut: there is no seal")
    seal = values.pop(SEAL)
    _check_seal(named[:-1], seal)
    return values, seal


def _bytes_of(path: Path) -> bytes:
    # a pipe would wait, and a link could lead anywhere
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
    try:
        opened = os.open(path, flags)
    except OSError as error:
        raise Refused("file", f"it cannot be read ({error.strerror})") from error
    try:
        found = os.fstat(opened)
        if not stat.S_ISREG(found.st_mode):
            raise Refused("file", "it is not a regular file")
        if found.st_size > MAX_BYTES:
            raise Refused("file", f"it has {found.st_size:,} bytes, and {MAX_BYTES:,} are allowed")
    except Refused:
        os.close(opened)
        raise
    with os.fdopen(opened, "rb") as file:
        return file.read(MAX_BYTES + 1)


def _parsed(line: bytes, number: int) -> tuple[str, Any]:
    place = f"line {number}"
    try:
        record = json.loads(
            line,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_whole,
            object_pairs_hook=_once,
        )
        if canonical(record).encode() != line:
            raise ValueError("its bytes are not those of its values")
        if _depth(record) > MAX_DEPTH:
            raise ValueError("its values are nested too deeply")
    except (ValueError, RecursionError) as error:
        raise Refused(place, f"it was changed ({str(error)[:100]})") from error
    if not isinstance(record, dict) or record.keys() != {"name", "value"}:
        raise Refused(place, "it has not the keys name and value")
    if not isinstance(record["name"], str):
        raise Refused(place, "its name is no text")
    return record["name"], record["value"]


def _check_seal(lines: Sequence[tuple[str, bytes]], seal: Any) -> None:
    listed = seal.get("lines") if isinstance(seal, dict) else None
    if not isinstance(listed, list) or seal.keys() != {"lines", "sha256", "signature"}:
        raise Refused("seal", "it has not the keys lines, sha256 and signature")
    wanted = seal_of(lines)["lines"]
    for number, (have, want) in enumerate(zip(listed, wanted, strict=False), start=1):
        if have != want:
            raise Refused(f"line {number} ({want['name']})", "its hash is not that of the seal")
    if len(listed) != len(wanted):
        raise Refused("seal", f"it lists {len(listed)} lines, and there are {len(wanted)}")
    if seal["sha256"] != digest_of(lines):
        raise Refused("seal", "its SHA-256 is not that of the file")


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    value = float(text) if len(text) <= MAX_DIGITS else math.inf
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError("a number is too large")
    return int(text)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _depth(value: Any) -> int:
    deepest, level = 0, [value]
    while level and deepest <= MAX_DEPTH:
        deepest += 1
        level = [
            item
            for container in level
            if isinstance(container, dict | list)
            for item in (container.values() if isinstance(container, dict) else container)
        ]
    return deepest - 1
