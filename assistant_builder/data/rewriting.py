"""Rows written back to a file that reads as they did: JSON Lines, whatever they were read from.

JSON Lines hold every kind of cell (text, lists of turns, nothing) and any text, line ends included. A row keeps its
number, because the line of a row is its number.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from assistant_builder.atomic_io import write_text
from assistant_builder.data.table import RawRow, storable

SUFFIX = ".jsonl"


def write_rows(rows: Iterable[RawRow], target: Path) -> None:
    """Replace ``target`` with these rows.

    A row that could not be taken apart is written as the bare text that stood there: it is rejected again, and
    nothing of it is lost.

    Args:
        rows: In ascending order of their numbers; numbers that are left out become blank lines.
        target: The file; its name must end in ``.jsonl``, by which a file of a single row is told to be such.
    """
    assert target.suffix == SUFFIX, f"{target} must end in {SUFFIX}"
    lines: list[str] = []
    for row in rows:
        lines += [""] * (row.row - 1 - len(lines))
        lines.append(json.dumps(_content(row), ensure_ascii=False, allow_nan=False))
    write_text(target, "\n".join(lines) + "\n")


def _content(row: RawRow) -> Any:
    if row.cells is not None:
        return storable(row.cells)
    return {} if row.raw is None else storable(row.raw)
