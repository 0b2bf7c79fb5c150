"""Changes to data files: appended pairs, pasted text, edited rows, and rejected rows as CSV for correction.

A changed file is written as JSON Lines, which represents every cell and keeps row numbers as line numbers.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from assistant_builder.atomic_io import write_text
from assistant_builder.data.columns import ColumnMapping, is_known_column, parse_split
from assistant_builder.data.csv_reader import REJECTED_COLUMNS, escape_formula
from assistant_builder.data.json_reader import looks_like_json, parse_json
from assistant_builder.data.load import detect_file_type
from assistant_builder.data.reading_process import load_pairs, load_rows
from assistant_builder.data.types import (
    DECLINE_SENTENCE,
    RawRow,
    RowNumbers,
    SplitName,
    Table,
    is_empty,
    to_json_safe,
)
from assistant_builder.errors import DataError
from assistant_builder.i18n import N_, Text, m, render, t, use_row_numbers

JSONL_SUFFIX = ".jsonl"
ROW_TITLE, PROBLEM_TITLE = N_("Row"), N_("Problem")
"""Titles of the two read-only columns of the edit grid, before the columns of the file."""
_MAX_RAW_CHARACTERS = 500
NO_NUMBERS = RowNumbers()
_PASTE_REMEDY = N_(
    "Copy the question and answer columns of a spreadsheet and paste them here, or paste CSV or JSON Lines"
)


def write_rows(rows: Iterable[RawRow], target: Path, numbers: RowNumbers = NO_NUMBERS) -> None:
    """Write rows as JSON Lines; missing row numbers become blank lines.

    With the ``numbers`` of the source, the lines have the row numbers that its reader saw.

    A row that could not be parsed is written as its raw text: it is rejected again, and its content is preserved.
    """
    assert target.suffix == JSONL_SUFFIX, f"{target} must end in {JSONL_SUFFIX}"
    lines: list[str] = []
    for row in rows:
        lines += [""] * (numbers.shown(row.row) - 1 - len(lines))
        content = row.cells if row.cells is not None else {} if row.raw is None else row.raw
        lines.append(json.dumps(to_json_safe(content), ensure_ascii=False, allow_nan=False))
    write_text(target, "\n".join(lines) + "\n")


# Appending


class AddedPair(NamedTuple):
    """A question with its answer that is appended to a data file."""

    question: str
    answer: str
    cluster: str | None = None  # the same for wordings of one question
    answerable: bool = True  # False where the answer declines


def append_pairs(
    source: Path,
    pairs: Sequence[AddedPair],
    target: Path,
    columns: Mapping[str, str] | None = None,
    *,
    splits: Mapping[int, SplitName] | None = None,
) -> dict[str, str]:
    """Write a copy of a data file with additional pairs; all columns, cells and row numbers of the source are kept.

    A new row has the split ``train`` where the file specifies splits, and the system prompt that most rows share.

    Args:
        source: The data file; it is not changed.
        pairs: The pairs; columns for clusters and declines are added if they are needed and missing.
        target: The new ``.jsonl`` file.
        columns: Role → column of the source, as in ``data.columns``.
        splits: Row → split in a study on the source. The new file then specifies this split, so that both studies have
            the same held-out questions. Without it, a new split is drawn unless the source specifies one.

    Returns:
        The ``columns`` for reading the new file.

    Raises:
        DataError: The source cannot be read, or its columns are not found.
    """
    table, mapping = load_rows(source, columns)
    new_columns = dict(columns or {})
    rows = table.rows
    for role, needed in (
        ("cluster", any(pair.cluster for pair in pairs)),
        ("answerable", not all(pair.answerable for pair in pairs)),
    ):
        if needed and not mapping[role]:
            new_columns[role] = mapping.columns[role] = free_name(role, table.columns)
    split_column = mapping["split"]
    given = (
        row.cells.get(split_column) for row in table.rows if row.cells is not None and split_column
    )
    if not any(not is_empty(cell) and parse_split(str(cell)) for cell in given):
        split_column = None
    if splits is not None:
        split_column = mapping["split"] or free_name("split", table.columns)
        new_columns["split"] = split_column
        rows = [
            RawRow(row.row, {**row.cells, split_column: splits[row.row]})
            if row.cells is not None and row.row in splits
            else row
            for row in rows
        ]
    existing = load_pairs(source, columns=columns).pairs
    (system, count), *_ = Counter(pair.system for pair in existing).most_common(1) or [(None, 0)]
    if count * 2 <= len(existing):
        system = None
    added = [
        RawRow(number, _new_cells(mapping, pair, system, split_column))
        for number, pair in enumerate(pairs, start=rows[-1].row + 1)
    ]
    write_rows([*rows, *added], target)
    return new_columns


def mark_to_decline(
    source: Path, rows: Collection[int], target: Path, columns: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Write a copy of a data file with a column that says which questions are to be declined: those of ``rows``.

    Those without an answer get the most frequent one of the others, or :data:`DECLINE_SENTENCE`.

    Returns the ``columns`` for reading the new file.

    Raises:
        DataError: The source cannot be read, or its columns are not found.
    """
    table, mapping = load_rows(source, columns)
    name, answer = free_name("answerable", table.columns), mapping["answer"]
    chosen = [row.cells for row in table.rows if row.row in rows and row.cells]
    # conversations have no such column
    given = Counter(
        str(cells[answer]) for cells in chosen if answer and not is_empty(cells.get(answer))
    )
    said = given.most_common(1)[0][0] if given else DECLINE_SENTENCE
    for row in table.rows:
        if row.cells is not None:
            row.cells[name] = row.row not in rows
            if answer and row.row in rows and is_empty(row.cells.get(answer)):
                row.cells[answer] = said
    write_rows(table.rows, target, table.numbers)
    return {**(columns or {}), "answerable": name}


def free_name(name: str, taken: Collection[str]) -> str:
    """The name, with a number if it is taken."""
    names = (name, *(f"{name} {number}" for number in range(2, len(taken) + 2)))
    return next(name for name in names if name not in taken)


def conversation(system: str | None, question: str, answer: str) -> list[dict[str, str]]:
    """The turns of a pair for a cell; no system turn if ``system`` is empty."""
    turns = [("system", system)] if system else []
    turns += [("user", question), ("assistant", answer)]
    return [{"role": role, "content": content} for role, content in turns]


def _new_cells(
    mapping: ColumnMapping, pair: AddedPair, system: str | None, split_column: str | None
) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    question, answer = pair.question, pair.answer
    if mapping["messages"]:
        own = None if mapping["system"] else system
        cells[mapping["messages"]] = conversation(own, question, answer)
    else:
        # map_columns requires them without messages
        assert mapping["question"] and mapping["answer"]
        cells |= {mapping["question"]: question, mapping["answer"]: answer}
    if mapping["system"] and system:
        cells[mapping["system"]] = system
    if mapping["cluster"] and pair.cluster:
        cells[mapping["cluster"]] = pair.cluster
    if mapping["answerable"] and not pair.answerable:
        cells[mapping["answerable"]] = False
    if split_column:
        cells[split_column] = "train"
    return cells


# Pasting


def write_pasted(text: str, folder: Path, *, name: str = "pasted") -> tuple[Path, str]:
    """Write pasted text (two columns of a spreadsheet, CSV or JSON Lines) as a data file in ``folder``.

    If its first line contains no known column name, it is read as a pair. Returns the file, and how the text was
    interpreted.

    Raises:
        DataError: The text is empty or has only one column.
    """
    text = text.lstrip("\ufeff").strip("\r\n")
    if not text.strip():
        raise DataError(m("nothing was pasted"), remedy=m(_PASTE_REMEDY))
    try:
        detect_file_type(text.encode(errors="replace"))
    except DataError as error:
        raise DataError(error.what, where=m("pasted text"), remedy=error.remedy) from error
    if looks_like_json(text):
        path = folder / f"{name}{JSONL_SUFFIX}"
        write_text(path, text + "\n")
        return path, t("Read as JSON.")
    separator = "\t" if "\t" in text else _common_separator(text)
    first = next(csv.reader(io.StringIO(text, newline=""), delimiter=separator))
    if len(first) < 2:
        raise DataError(m("the pasted text has only one column"), remedy=m(_PASTE_REMEDY))
    path = folder / f"{name}.{'tsv' if separator == chr(9) else 'csv'}"
    if any(is_known_column(cell) for cell in first):
        write_text(path, text + "\n")
        return path, t(
            "The first line contains the column names: {names}.",
            names=", ".join(cell.strip() for cell in first),
        )
    header = ["question", "answer", *(f"column {number}" for number in range(3, len(first) + 1))]
    write_text(path, separator.join(header) + "\n" + text + "\n")
    return path, (
        t(
            "The first line contains no known column name and is read as a pair: the first column is the question, the "
            "second the answer. A header row is put above it, so row numbers begin with 2."
        )
    )


def _common_separator(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()][:50]
    counts = {sign: sum(sign in line for line in lines) for sign in (";", ",", "|")}
    return max(counts, key=lambda sign: counts[sign]) if any(counts.values()) else ","


# Editing


@dataclass(frozen=True)
class Edits:
    """Number of changed cells, added rows and removed rows."""

    cells: int = 0
    added: int = 0
    removed: int = 0

    def __bool__(self) -> bool:
        return bool(self.cells or self.added or self.removed)


def cell_text(value: Any) -> str:
    """A cell as editable text: lists and objects as JSON, an empty cell as the empty string."""
    if isinstance(value, str):
        return value
    if is_empty(value):
        return ""
    safe = to_json_safe(value)
    return safe if isinstance(safe, str) else json.dumps(safe, ensure_ascii=False)


def edit_grid(
    table: Table, numbers: Iterable[int], problems: Mapping[int, Text]
) -> list[list[str]]:
    """The rows with these numbers as texts: row number, problem, then the columns of the file."""
    wanted = set(numbers)
    lines = []
    for row in table.rows:
        if row.row in wanted:
            with use_row_numbers(table.numbers.shown):
                problem = render(problems.get(row.row, ""))
            if row.cells is None and not is_empty(row.raw):
                problem += ". " + t(
                    "The row contains: {cells}", cells=cell_text(row.raw)[:_MAX_RAW_CHARACTERS]
                )
            shown = str(table.numbers.shown(row.row))
            lines.append([shown, problem, *_row_texts(row, table.columns)])
    return lines


def _row_texts(row: RawRow, columns: Sequence[str]) -> list[str]:
    return [cell_text((row.cells or {}).get(name)) for name in columns]


def apply_edits(
    table: Table, shown: Iterable[int], edited: Sequence[Sequence[Any]]
) -> tuple[list[RawRow], Edits]:
    """Apply an edited grid of the rows ``shown`` to a file; a line without a row number is a new row.

    Cells that were not edited keep their value and type, and rows that are not in the grid are not changed.

    Returns:
        All rows without the removed ones, in ascending order, and the number of edits.

    Raises:
        DataError: Columns were added to or removed from the grid.
    """
    width = 2 + len(table.columns)
    if any(len(line) != width for line in edited):
        raise DataError(
            m("columns were added or removed in the table"),
            remedy=m(
                "Press “Undo all edits” and edit only cells and rows; add columns in a spreadsheet program"
            ),
        )
    texts = [["" if cell is None else str(cell) for cell in line] for line in edited]
    lines = {
        table.numbers.row_of(int(line[0])): line[2:] for line in texts if _is_row_number(line[0])
    }
    removed = set(shown) - lines.keys()
    changed = 0
    rows: list[RawRow] = []
    for row in table.rows:
        if row.row in removed:
            continue
        if row.row in lines:
            row, cells = _edit_row(row, table.columns, lines[row.row])
            changed += cells
        rows.append(row)
    new = [
        line[2:]
        for line in texts
        if not _is_row_number(line[0]) and any(text.strip() for text in line[2:])
    ]
    last = table.rows[-1].row if table.rows else 0
    rows += [
        RawRow(number, dict(zip(table.columns, line, strict=True)))
        for number, line in enumerate(new, start=last + 1)
    ]
    if removed:  # renumber, because missing numbers would become blank lines
        rows = [replace(row, row=number) for number, row in enumerate(rows, start=1)]
    return rows, Edits(changed, len(new), len(removed))


def _is_row_number(text: str) -> bool:
    return text.strip().isdecimal()


def _edit_row(row: RawRow, columns: Sequence[str], texts: Sequence[str]) -> tuple[RawRow, int]:
    edited = [
        (name, text)
        for name, old, text in zip(columns, _row_texts(row, columns), texts, strict=True)
        if _normalize_newlines(old) != _normalize_newlines(text)
    ]
    if not edited:
        return row, 0
    cells = dict(row.cells) if row.cells is not None else dict.fromkeys(columns, "")
    for name, text in edited:
        old, cells[name] = cells.get(name), text
        if isinstance(old, list | dict | tuple):  # parsed again if it is still valid JSON
            with suppress(ValueError):
                cells[name] = parse_json(text)
    return RawRow(row.row, cells), len(edited)


def _normalize_newlines(text: str) -> str:
    """Browsers convert line ends."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


# Rejected rows


def rejected_csv(table: Table, reasons: Mapping[int, Text]) -> bytes:
    """Rejected rows as a CSV file that can be corrected in a spreadsheet program and used as a data file again.

    Its encoding is UTF-8 with a byte order mark, by which spreadsheet programs recognize it, and formulas are escaped.
    """
    rejected = [row for row in table.rows if row.row in reasons]
    has_raw = any(row.cells is None and row.raw is not None for row in rejected)
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(
        map(escape_formula, [*REJECTED_COLUMNS, *table.columns, *(["raw text"] if has_raw else [])])
    )
    for row in rejected:
        raw = [cell_text(row.raw) if row.cells is None else ""] if has_raw else []
        with use_row_numbers(table.numbers.shown):
            reason = render(reasons[row.row])
        cells = [str(table.numbers.shown(row.row)), reason, *_row_texts(row, table.columns), *raw]
        writer.writerow(map(escape_formula, cells))
    return out.getvalue().encode("utf-8-sig", errors="backslashreplace")
