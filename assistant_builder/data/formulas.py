"""Texts that a spreadsheet program would take for formulas, guarded by an apostrophe that comes off again.

A guarded cell shows its apostrophe in the program and keeps it when the program saves the file, so what is brought
back is told by the columns that the list of left-out rows begins with. Guarding loses nothing: a text that has
apostrophes before such a sign already gets one more.
"""

from __future__ import annotations

from assistant_builder.data.table import RawRow, Table

SIGNS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # some programs take the wide ones
"""Beginnings that spreadsheet programs take for a formula (OWASP, CSV injection)."""
MARKS = ("row", "reason")
"""Columns that a list of left-out rows begins with."""
RESTORED = "apostrophes that the list of left-out rows puts before = + - @ were taken off"


def guarded(text: str) -> str:
    """A text that no spreadsheet program computes."""
    return f"'{text}" if text.lstrip("'").startswith(SIGNS) else text


def unguarded(text: str) -> str:
    """The text that :func:`guarded` was given."""
    return text[1:] if text.startswith("'") and text.lstrip("'").startswith(SIGNS) else text


def restore(table: Table) -> None:
    """Take the guards off a list of left-out rows that was mended and brought back; other tables stay as they are."""
    if table.columns[:2] != MARKS or table.format not in ("csv", "tsv", "xlsx"):
        return
    for place, row in enumerate(table.rows):
        cells = {
            name: unguarded(cell) if isinstance(cell, str) else cell for name, cell in (row.cells or {}).items()
        }
        if row.cells is not None and cells != row.cells:
            table.rows[place] = RawRow(row.row, cells)
            table.remarks.setdefault(RESTORED, []).append(row.row)
