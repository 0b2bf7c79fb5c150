"""Rows that were left out, as a CSV file that opens in a spreadsheet: mend them there and bring them back."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping

from assistant_builder.data.editing import cell_text
from assistant_builder.data.formulas import MARKS, guarded
from assistant_builder.data.table import Table


def left_out_csv(table: Table, reasons: Mapping[int, str]) -> bytes:
    """The rows with a reason, in the columns of the file, with the row's number and the reason before them.

    The file is UTF-8 with a byte order mark, by which spreadsheet programs know it. A cell that such a program would
    take for a formula gets an apostrophe in front, which comes off when the file is read again.

    Args:
        table: All rows of the data file.
        reasons: Row → why it is left out.
    """
    unread = any(row.cells is None and row.raw is not None for row in table.rows if row.row in reasons)
    head = [*MARKS, *table.columns, *(["text as found"] if unread else [])]
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(map(guarded, head))
    for row in table.rows:
        if row.row not in reasons:
            continue
        cells = [cell_text((row.cells or {}).get(name)) for name in table.columns]
        raw = [cell_text(row.raw) if row.cells is None else ""] if unread else []
        writer.writerow(map(guarded, [str(row.row), reasons[row.row], *cells, *raw]))
    return out.getvalue().encode("utf-8-sig", errors="backslashreplace")
