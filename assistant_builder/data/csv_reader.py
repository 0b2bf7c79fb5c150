"""CSV and TSV files: detection of separator and quoting, recovery from broken rows, and protection against formulas.

The ``csv`` reader stops at a broken row and is restarted after it, so that an unclosed quote costs one row.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from assistant_builder.data.limits import TITLE_ROWS, check_cells, check_columns
from assistant_builder.data.types import RawRow, RowNumbers, Table, header_names
from assistant_builder.errors import DataError
from assistant_builder.i18n import N_, Message, Text, all_of, m, mn

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
REJECTED_COLUMNS = ("row", "reason")  # the first two columns of a CSV file of rejected rows
FORMULA_PREFIXES = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""First characters that spreadsheet programs interpret as a formula (OWASP, CSV injection)."""
_SIGNS = f"[{re.escape(''.join(FORMULA_PREFIXES).strip())}]"
_BEGIN = rf"(?:\A(?='*(?:{_SIGNS}|[\t\r\n]))|(?<=[;\t\r\n])(?=['\"]*{_SIGNS}))"
_FORMULA, _ESCAPED_FORMULA = re.compile(_BEGIN), re.compile(f"{_BEGIN}'")
FORMULAS_UNESCAPED = N_(
    "the apostrophe that the CSV file of rejected rows puts before = + - @ was removed"
)
_SAMPLE_LINES = 400
_LONG_RECORD_LINES = 40
_LONG_RECORD = N_(
    "one quoted cell spans more than 40 lines: check that no closing quote is missing"
)
_MAX_RAW_CHARACTERS = 10_000
_MAX_REREAD = 2_000_000
"""Characters, or four times the file, that are read again after unclosed quotes, of which each line may open one more.

From then on each line is read as a row."""
csv.field_size_limit(2**31 - 1)  # the default of 128 KiB is too small for long answers


@dataclass(frozen=True)
class Dialect:
    r"""CSV dialect. ``quoting`` is ``doubled`` ("" inside quotes), ``backslash`` (\" inside quotes) or ``none``."""

    separator: str
    quoting: str = "doubled"
    quote: str = '"'

    def reader(self, lines: Iterator[str]) -> Iterator[list[str]]:
        """A strict ``csv.reader`` of this dialect."""
        if self.quoting == "none":
            return csv.reader(lines, delimiter=self.separator, quoting=csv.QUOTE_NONE, strict=True)
        # the escapechar of csv would also remove the backslashes of C:\temp
        if self.quoting == "backslash":
            lines = (line.replace('\\"', '""') for line in lines)
        return csv.reader(
            lines,
            delimiter=self.separator,
            quotechar=self.quote,
            skipinitialspace=self.separator != "\t",
            strict=True,
        )


@dataclass(frozen=True)
class _Record:
    """One record: its first and last line (1-based), and its cells or the reason why it could not be parsed."""

    first: int
    last: int
    cells: list[str]
    problem: Text = ""


def read_csv(text: str, suffix: str, is_known: Callable[[str], bool]) -> Table:
    """Read CSV, TSV or a similar format; known column names, then the suffix, resolve an ambiguous separator.

    Raises:
        DataError: The header is broken, or several separators fit the rows equally well.
    """
    check_cells(max(text.count(sign) for sign in (*SEPARATORS, "\n", "\r")))
    # \n, \r\n and \r end a line; U+2028 and form feed do not
    lines = list(io.StringIO(text, newline=""))
    notes: list[Text] = []
    declared = None
    if lines and lines[0].lower().startswith("sep=") and len(lines[0].strip()) == 5:
        declared = lines[0].strip()[4]
        notes.append(m("the first line declares the separator {declared!r}", declared=declared))
        lines[0] = "\n"
    if titles := _title_lines(lines, is_known):
        notes.append(
            m(
                "the column names are in row {header}; the rows above are read as a title",
                header=titles + 1,
            )
        )
        lines[:titles] = ["\n"] * titles
    separator = declared or _detect_separator(lines, suffix, is_known, notes)
    dialect = _detect_quoting(lines, separator, notes)
    records = iter(_records(lines, dialect))
    header_row, header = next(
        (
            (place, record)
            for place, record in enumerate(records, start=1)
            if record.cells or record.problem
        ),
        (0, None),
    )
    if header is None or header.problem:
        problem = header.problem if header else m("there is no header row")
        raise DataError(
            m("the header row cannot be read: {problem}", problem=problem),
            remedy=m("Correct the first line"),
        )
    check_columns(len(header.cells))
    names = header_names(header.cells, notes)
    table = Table("tsv" if separator == "\t" else "csv", names, [], notes)
    blank, starts = 0, [(1, header_row)]
    for record in records:
        if record.cells or record.problem:
            table.rows.append(_raw_row(len(table.rows) + 1, record, lines, dialect, table))
            if starts[-1][1] != header_row + blank:
                starts.append((len(table.rows), header_row + blank))
        else:
            blank += 1
    note = m(
        "Row numbers are those that a spreadsheet program shows: the header is row {header_row}.",
        header_row=header_row,
    )
    table.numbers = RowNumbers(note, tuple(starts))
    if blank:
        note = mn(
            "skipped {count} blank line; blank lines are not counted as rows",
            "skipped {count} blank lines; blank lines are not counted as rows",
            blank,
        )
        notes.append(note)
    return table


def _title_lines(lines: list[str], is_known: Callable[[str], bool]) -> int:
    """Number of lines before the header: blank ones, and titles, which have one cell of content.

    The line below has a known column name, or as many cells as each title.
    """
    titles: list[str] = []
    for index, line in enumerate(lines[:TITLE_ROWS]):
        for separator in SEPARATORS:
            cells = [cell.strip().strip('"') for cell in line.split(separator)]
            filled = list(filter(None, cells))
            if len(filled) > 1:
                width = {title.count(separator) for title in titles} == {len(cells) - 1}
                return index if titles and (width or any(map(is_known, filled))) else 0
        if is_known(line):
            return 0
        titles += [line] if line.strip(f' "\r\n{"".join(SEPARATORS)}') else []
    return 0


def _raw_row(row: int, record: _Record, lines: list[str], dialect: Dialect, table: Table) -> RawRow:
    cells, columns = record.cells, table.columns
    if not any(cell.strip() for cell in cells[len(columns) :]):
        cells = cells[: len(columns)]
    if record.problem or len(cells) != len(columns):
        raw = "".join(lines[record.first - 1 : record.last]).rstrip("\r\n")[:_MAX_RAW_CHARACTERS]
        position = (
            m("line {first}", first=record.first)
            if record.first == record.last
            else m("lines {first} to {last}", first=record.first, last=record.last)
        )
        values = {"cells": len(cells), "columns": len(columns), "position": position}
        if record.problem:
            problem = Message(
                "{problem} ({position})", {"problem": record.problem, "position": position}
            )
        elif len(cells) < len(columns):
            problem = m("too few cells: {cells}, the header has {columns} ({position})", **values)
        else:
            separator = SEPARATORS.get(dialect.separator, dialect.separator)
            hint = m("quote a cell that contains a {separator}", separator=separator)
            problem = m(
                "too many cells: {cells}, the header has {columns} ({position}{hint})",
                hint="" if dialect.quoting == "none" else Message("; {hint}", {"hint": hint}),
                **values,
            )
        return RawRow(row, None, problem, raw)
    if record.last - record.first >= _LONG_RECORD_LINES:
        table.remarks.setdefault(_LONG_RECORD, []).append(row)
    return RawRow(row, dict(zip(columns, cells, strict=True)))


def _records(lines: list[str], dialect: Dialect) -> Iterator[_Record]:
    start = width = 0
    budget = max(_MAX_REREAD, 4 * sum(map(len, lines)))
    while start < len(lines):
        end = len(lines) if budget > 0 else start + 1
        reader = dialect.reader(lines[index] for index in range(start, end))
        done = 0
        try:
            for cells in reader:
                first, last = start + done + 1, start + reader.line_num  # type: ignore[attr-defined]
                done = reader.line_num  # type: ignore[attr-defined]
                width = width or len(cells)
                if last > first and _spans_several_rows(cells, lines[first:last], width, dialect):
                    yield _Record(first, first, [], m("a quote is opened and not closed"))
                    start = first
                    budget -= sum(map(len, lines[first:last]))
                    break
                yield _Record(first, last, cells)
            else:
                start = end
        except csv.Error as error:
            reached = start + reader.line_num  # type: ignore[attr-defined]
            budget -= sum(map(len, lines[start + done : reached]))
            start += done + 1
            yield _Record(start, start, [], _explain(str(error)))


def _spans_several_rows(cells: list[str], lines: list[str], width: int, dialect: Dialect) -> bool:
    """Whether an unclosed quote merged several rows: the number of cells is wrong, and ``lines`` parse alone."""
    if len(cells) == width:
        return False
    correct = 0
    for line in lines:
        try:
            correct += len(next(dialect.reader(iter([line])), [])) == width
        except csv.Error:
            continue
    return correct * 2 >= len(lines)


def _explain(message: str) -> Text:
    if "end of data" in message:
        return m("a quote is opened and never closed")
    if "expected after" in message:
        return m(
            'a quote is opened and not closed, or a quote inside a quoted cell is not doubled ("")'
        )
    return message


def _detect_separator(
    lines: list[str], suffix: str, is_known: Callable[[str], bool], notes: list[Text]
) -> str:
    """The separator with the most known column names, then the one whose rows most often match the header's width."""
    fits: dict[str, tuple[int, float, int]] = {}
    for separator in SEPARATORS:
        sample = _records(lines[:_SAMPLE_LINES], Dialect(separator))
        records = [record for record in sample if record.cells or record.problem]
        if not records or len(records[0].cells) < 2:
            continue
        header, width = records[0].cells, len(records[0].cells)
        check_columns(width)
        matching = sum(len(record.cells) == width for record in records[1:])
        consistent = matching / max(1, len(records) - 1)
        fits[separator] = (sum(is_known(name) for name in header), consistent, width)
    prefers_tab = suffix in (".tsv", ".tab")
    if not fits:
        return "\t" if prefers_tab else ","
    best = max(fits, key=lambda separator: fits[separator])
    tied = [separator for separator in fits if fits[separator][:2] == fits[best][:2]]
    if len(tied) > 1:
        if not (prefers_tab and "\t" in tied):
            raise DataError(
                m(
                    "the separator is ambiguous: {separators} fit the rows equally well",
                    separators=all_of(SEPARATORS[separator] for separator in tied),
                ),
                remedy=m("Name the columns question and answer, or save the file as JSONL or XLSX"),
            )
        best = "\t"
    _, consistent, width = fits[best]
    sampled = min(len(lines), _SAMPLE_LINES)
    notes.append(
        m(
            "separator {separators}: {width} columns in {consistent:.0%} of the first {sampled} lines",
            separators=SEPARATORS[best],
            width=width,
            consistent=consistent,
            sampled=sampled,
        )
    )
    return best


def _detect_quoting(lines: list[str], separator: str, notes: list[Text]) -> Dialect:
    """Doubled quotes, unless fewer rows break with backslashes, single quotes or no quoting."""
    default = Dialect(separator)
    if not any('"' in line for line in lines):
        cells = [cell.strip() for line in lines[:50] for cell in line.strip().split(separator)]
        quoted = sum(len(cell) > 1 and cell[0] == cell[-1] == "'" for cell in cells)
        if cells and quoted * 2 > len(cells):
            notes.append(
                m(
                    "cells are in single quotes ({quoted} of the first {cells})",
                    quoted=quoted,
                    cells=len(cells),
                )
            )
            return replace(default, quote="'")
        return default
    broken = _count_broken(lines, default)
    if broken and any('\\"' in line for line in lines):
        backslash = replace(default, quoting="backslash")
        if _count_broken(lines, backslash) < broken:
            notes.append(m('quotes inside cells are escaped as \\"'))
            return backslash
    if broken and separator == "\t":
        unquoted = replace(default, quoting="none")
        if _count_broken(lines, unquoted) * 5 <= broken:
            notes.append(
                m(
                    "quotes are read as ordinary characters, because as quoting they would break rows"
                )
            )
            return unquoted
    return default


def _count_broken(lines: list[str], dialect: Dialect) -> int:
    width = broken = 0
    for record in _records(lines, dialect):
        width = width or len(record.cells)
        broken += bool(record.problem) or bool(record.cells and len(record.cells) != width)
    return broken


def escape_formula(text: str) -> str:
    """Prefix an apostrophe to what a spreadsheet program would evaluate as a formula.

    That is the text, and what follows a separator in it: where lists are separated by semicolons, spreadsheet programs
    divide the lines of a CSV file there. An apostrophe before a formula also gets one, so that :func:`unescape_formula`
    is lossless.
    """
    return _FORMULA.sub("'", text)


def unescape_formula(text: str) -> str:
    """The inverse of :func:`escape_formula`."""
    return _ESCAPED_FORMULA.sub("", text)


def unescape_rejected_rows(table: Table) -> None:
    """Unescape formulas in a file of rejected rows that was corrected; other tables are not changed."""
    if table.columns[:2] != REJECTED_COLUMNS or table.format not in ("csv", "tsv", "xlsx"):
        return
    for index, row in enumerate(table.rows):
        cells = {
            name: unescape_formula(cell) if isinstance(cell, str) else cell
            for name, cell in (row.cells or {}).items()
        }
        if row.cells is not None and cells != row.cells:
            table.rows[index] = RawRow(row.row, cells)
            table.remarks.setdefault(FORMULAS_UNESCAPED, []).append(row.row)
