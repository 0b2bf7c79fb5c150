"""Rows as they stand in a file, before anything is known about questions and answers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class RawRow:
    """One row of a file.

    Attributes:
        row: 1-based, in file order, header not counted.
        cells: Column → value; None where the row could not be taken apart.
        problem: Why not; empty for a row that could.
        raw: What stood there instead, for the list of rejected rows.
    """

    row: int
    cells: dict[str, Any] | None
    problem: str = ""
    raw: Any = None


@dataclass
class Table:
    """The rows of a file under its column names.

    Attributes:
        format: What the content is: csv, tsv, json, jsonl, xlsx, parquet.
        columns: Column names in the order of the file, each once.
        rows: In file order.
        notes: How the file was read.
        remarks: What is odd about single rows → those rows.
    """

    format: str
    columns: tuple[str, ...]
    rows: list[RawRow]
    notes: list[str] = field(default_factory=list)
    remarks: dict[str, list[int]] = field(default_factory=dict)


def header_names(cells: Iterable[str], notes: list[str]) -> tuple[str, ...]:
    """Column names from a header row: empty ones are numbered, repeated ones told apart, both with a note."""
    names: list[str] = []
    seen: Counter[str] = Counter()
    for place, cell in enumerate(cells, start=1):
        name = " ".join(cell.split()) or f"column {place}"
        seen[name] += 1
        if seen[name] > 1:
            again = f"{name} ({seen[name]})"
            notes.append(f"two columns are called {name!r}; the one at place {place} is taken as {again!r}")
            name = again
        names.append(name)
    return tuple(names)


def is_empty(value: Any) -> bool:
    """Whether a cell holds nothing: absent, NaN, or text without a visible character."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    if isinstance(value, str):
        return not has_text(value)
    return isinstance(value, list | dict | tuple) and not value


def has_text(text: str) -> bool:
    """Whether a text holds a visible character (zero-width characters and blanks are none)."""
    return any(character.isprintable() and not character.isspace() for character in text)


def storable(value: Any) -> Any:
    """A cell as JSON can hold it, for the list of rejected rows."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [storable(item) for item in value]
    return str(value)
