"""How much a data file may hold: more is refused with a sentence before memory is spent on it.

A few kilobytes can unpack to gigabytes (gzip, a workbook, a Parquet dictionary, a line of commas), so each reader asks
here about what it is going to make, not about the file's size alone. The bounds lie far above what a training set of
question-answer pairs has, and such that reading at them stays within about 3 GB of memory.
"""

from __future__ import annotations

from typing import Any

from assistant_builder.errors import DataError

MOST_BYTES = 256 * 2**20
"""Bytes of a file once unpacked, and characters of all its cells: some 60 million tokens."""
MOST_COLUMNS = 16_384
"""As many as a sheet of a workbook can have."""
MOST_CELLS = 20_000_000
"""Cells of a table, or values of a JSON document: each takes 50 to 100 bytes of memory, an empty one too."""
DEEPEST = 64
"""Lists and objects inside each other: a conversation has three levels."""

_REMEDY = "Give a part of it"


def check_bytes(number: int, where: str) -> None:
    """Refuse a file that is too large once unpacked.

    Raises:
        DataError: It is.
    """
    if number > MOST_BYTES:
        raise DataError(f"the file holds more than {MOST_BYTES >> 20} MiB once unpacked", where=where, remedy=_REMEDY)


def check_columns(number: int, where: str) -> None:
    """Refuse a table of too many columns.

    Raises:
        DataError: It has.
    """
    if number > MOST_COLUMNS:
        raise DataError(f"the file has {number:,} columns, more than {MOST_COLUMNS:,}", where=where,
                        remedy="Check that it holds pairs, one a row; give the columns of question and answer alone")


def check_cells(number: int, where: str) -> None:
    """Refuse a table or document of too many cells.

    Raises:
        DataError: It has.
    """
    if number > MOST_CELLS:
        raise DataError(f"the file holds more than {MOST_CELLS:,} cells", where=where,
                        remedy=f"{_REMEDY}, or the columns of question and answer alone")


def is_deep(value: Any) -> bool:
    """Whether lists and objects stand in each other more than :data:`DEEPEST` deep; no recursion."""
    level = [value]
    for _ in range(DEEPEST):
        level = [
            item
            for holder in level
            if isinstance(holder, dict | list | tuple)
            for item in (holder.values() if isinstance(holder, dict) else holder)
        ]
        if not level:
            return False
    return any(isinstance(item, dict | list | tuple) for item in level)
