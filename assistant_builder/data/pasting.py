"""Text that was pasted (two columns of a spreadsheet, CSV, or JSON Lines) as a file that the readers read."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from assistant_builder.atomic_io import write_text
from assistant_builder.data.columns import is_known_name
from assistant_builder.data.content import kind_of
from assistant_builder.data.objects import looks_like_json
from assistant_builder.errors import DataError

_REMEDY = (
    "Copy two columns of a spreadsheet, question and answer, and paste them here; or paste CSV or JSON Lines"
)


def write_pasted(text: str, folder: Path, *, name: str = "pasted") -> tuple[Path, str]:
    """Write pasted text as a data file.

    Args:
        text: As pasted. Where its first line names no column that is known, it counts as a pair and the columns are
            called question, answer, column 3 and so on.
        folder: Where the file goes.
        name: Its name without ending.

    Returns:
        The file, and how the text was understood.

    Raises:
        DataError: There is nothing, or only one column.
    """
    bare = text.lstrip("\ufeff").strip("\r\n")
    if not bare.strip():
        raise DataError("nothing was pasted", remedy=_REMEDY)
    kind_of(bare.encode(errors="replace"), "pasted text")
    if looks_like_json(bare):
        path = folder / f"{name}.jsonl"
        write_text(path, bare + "\n")
        return path, "Read as JSON."
    separator = "\t" if "\t" in bare else _separator(bare)
    first = next(csv.reader(io.StringIO(bare, newline=""), delimiter=separator))
    if len(first) < 2:
        raise DataError("the pasted text has only one column", remedy=_REMEDY)
    path = folder / f"{name}.{'tsv' if separator == chr(9) else 'csv'}"
    if any(is_known_name(cell) for cell in first):
        write_text(path, bare + "\n")
        return path, f"The first line names the columns: {', '.join(cell.strip() for cell in first)}."
    header = ["question", "answer", *(f"column {place}" for place in range(3, len(first) + 1))]
    write_text(path, separator.join(header) + "\n" + bare + "\n")
    return path, (
        "The first line names no known column, so it counts as a pair: the first column is the question, the second "
        "the answer."
    )


def _separator(text: str) -> str:
    """The separator that the lines have in common; comma where none has it."""
    lines = [line for line in text.splitlines() if line.strip()][:50]
    found = {sign: sum(sign in line for line in lines) for sign in (";", ",", "|")}
    most = max(found.values())
    return next(sign for sign, number in found.items() if number == most) if most else ","
