"""Size limits of data files, checked before memory is allocated.

A few kilobytes can expand to gigabytes (gzip, a workbook, a Parquet dictionary, a line of commas). The limits are far
above the size of a fine-tuning dataset; a file at the limits takes at most about 3 GB of memory.
"""

from __future__ import annotations

from assistant_builder.errors import DataError
from assistant_builder.i18n import m

# decompressed bytes of a file, and characters of all its cells (about 60 million tokens)
MAX_BYTES = 256 * 2**20
MAX_COLUMNS = 16_384  # number of columns of an Excel sheet
MAX_CELLS = 20_000_000
"""Cells of a table or values of a JSON document. Each takes 50 to 100 bytes of memory, even if it is empty."""

TITLE_ROWS = 10
"""Rows, from the first one with content, in which the header of a sheet is searched."""


def check_bytes(count: int) -> None:
    """Raise DataError if a file is larger than :data:`MAX_BYTES` once decompressed."""
    if count > MAX_BYTES:
        raise DataError(
            m(
                "the file contains more than {max_bytes} MiB once decompressed",
                max_bytes=MAX_BYTES >> 20,
            ),
            remedy=m("Use a part of the file"),
        )


def check_columns(count: int) -> None:
    """Raise DataError if a table has more than :data:`MAX_COLUMNS` columns."""
    if count > MAX_COLUMNS:
        raise DataError(
            m(
                "the file has {count:,} columns, more than {max_columns:,}",
                count=count,
                max_columns=MAX_COLUMNS,
            ),
            remedy=m(
                "Check that it holds one pair per row; keep only the question and answer columns"
            ),
        )


def check_cells(count: int) -> None:
    """Raise DataError if a table or document has more than :data:`MAX_CELLS` cells."""
    if count > MAX_CELLS:
        raise DataError(
            m("the file contains more than {max_cells:,} cells", max_cells=MAX_CELLS),
            remedy=m("Use a part of the file, or keep only the question and answer columns"),
        )
