"""CSV and TSV: separator and quoting found from the rows themselves, broken rows told one by one.

The standard ``csv`` reader stops at the first broken row. Here it is started again behind it, so that one unclosed
quote costs one row and is reported with its line.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from assistant_builder.data.bounds import check_cells, check_columns
from assistant_builder.data.table import RawRow, Table, header_names
from assistant_builder.errors import DataError

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
_SAMPLE_LINES = 400
_LONG_RECORD_LINES = 40
csv.field_size_limit(2**31 - 1)  # answers longer than the default 128 KiB are answers all the same


@dataclass(frozen=True)
class Dialect:
    r"""How cells are told apart: ``quoting`` is doubled ("" inside quotes), backslash (\" inside), or none."""

    separator: str
    quoting: str = "doubled"
    quote: str = '"'

    def reader(self, lines: Iterator[str]) -> Iterator[list[str]]:
        """A strict standard reader of this dialect."""
        if self.quoting == "none":
            return csv.reader(lines, delimiter=self.separator, quoting=csv.QUOTE_NONE, strict=True)
        if self.quoting == "backslash":  # csv's escapechar would also eat the backslashes of C:\temp
            lines = (line.replace('\\"', '""') for line in lines)
        return csv.reader(
            lines, delimiter=self.separator, quotechar=self.quote, skipinitialspace=self.separator != "\t", strict=True
        )


@dataclass(frozen=True)
class _Record:
    """One record: its first and last line (1-based) and cells, or the problem that kept it from being read."""

    first: int
    last: int
    cells: list[str]
    problem: str = ""


def read_delimited(text: str, suffix: str, where: str, is_known: Callable[[str], bool]) -> Table:
    """Read CSV, TSV or a kin of them.

    Args:
        text: The decoded file.
        suffix: ``.csv``, ``.tsv`` …: counts only where the content leaves two readings.
        where: What errors call the file.
        is_known: Whether a column name is one that a question-answer file would have.

    Raises:
        DataError: No separator, or more than one, fits the rows.
    """
    check_cells(max(text.count(sign) for sign in (*SEPARATORS, "\n", "\r")), where)
    lines = list(io.StringIO(text, newline=""))  # \n, \r\n and \r end a line; U+2028 and form feed do not
    notes: list[str] = []
    declared = None
    if lines and lines[0].lower().startswith("sep=") and len(lines[0].strip()) == 5:
        declared = lines[0].strip()[4]
        notes.append(f"the first line declares the separator {declared!r}")
        lines[0] = "\n"
    separator = declared or _find_separator(lines, suffix, where, is_known, notes)
    dialect = _find_quoting(lines, separator, notes)
    records = iter(_records(lines, dialect))
    header = next((record for record in records if record.cells or record.problem), None)
    if header is None or header.problem:
        problem = header.problem if header else "there is no header row"
        raise DataError(f"the header row cannot be read: {problem}", where=where, remedy="Mend the first line")
    check_columns(len(header.cells), where)
    names = header_names(header.cells, notes)
    table = Table("tsv" if separator == "\t" else "csv", names, [], notes)
    blank = 0
    for record in records:
        if not record.cells and not record.problem:
            blank += 1
            continue
        table.rows.append(_row(len(table.rows) + 1, record, names, lines, dialect, table))
    if blank:
        notes.append(f"{blank} blank lines were passed over and are not counted as rows")
    return table


def _row(row: int, record: _Record, names: tuple[str, ...], lines: list[str], dialect: Dialect, table: Table) -> RawRow:
    raw = "".join(lines[record.first - 1 : record.last]).rstrip("\r\n")
    place = f"line {record.first}" if record.first == record.last else f"lines {record.first} to {record.last}"
    if record.problem:
        return RawRow(row, None, f"{record.problem} ({place})", raw[:10_000])
    cells = record.cells
    while len(cells) > len(names) and not cells[-1].strip():
        cells = cells[:-1]
    if len(cells) != len(names):
        many = len(cells) > len(names)
        named = SEPARATORS.get(dialect.separator, dialect.separator)
        hint = f"; a cell that contains a {named} must stand in quotes" if many and dialect.quoting != "none" else ""
        kind = "too many" if many else "too few"
        problem = f"{kind} cells: {len(cells)}, the header has {len(names)} ({place}{hint})"
        return RawRow(row, None, problem, raw[:10_000])
    if record.last - record.first >= _LONG_RECORD_LINES:
        table.remarks.setdefault(
            f"one quoted cell spans more than {_LONG_RECORD_LINES} lines: check that no closing quote is missing", []
        ).append(row)
    return RawRow(row, dict(zip(names, cells, strict=True)))


def _records(lines: list[str], dialect: Dialect) -> Iterator[_Record]:
    start = 0
    width = 0
    while start < len(lines):
        reader = dialect.reader(lines[at] for at in range(start, len(lines)))
        done = 0
        try:
            for cells in reader:
                first, last = start + done + 1, start + reader.line_num  # type: ignore[attr-defined]
                done = reader.line_num  # type: ignore[attr-defined]
                width = width or len(cells)
                if last > first and _swallowed(cells, lines, first, last, width, dialect):
                    yield _Record(first, first, [], "a quote is opened and not closed")
                    start = first
                    break
                yield _Record(first, last, cells)
            else:
                return
        except csv.Error as error:
            start += done
            yield _Record(start + 1, start + 1, [], _explain(str(error)))
            start += 1


def _swallowed(cells: list[str], lines: list[str], first: int, last: int, width: int, dialect: Dialect) -> bool:
    """Whether a quote without its partner ran over several rows: the count is off, and the lines alone are right."""
    if len(cells) == width:
        return False
    whole = 0
    for line in lines[first:last]:
        try:
            whole += len(next(dialect.reader(iter([line])), [])) == width
        except csv.Error:
            continue
    return whole * 2 >= last - first


def _explain(message: str) -> str:
    if "end of data" in message:
        return "a quote is opened and never closed"
    if "expected after" in message:
        return 'a quote is opened and not closed, or a quote inside a quoted cell is not doubled ("")'
    return message


def _find_separator(
    lines: list[str], suffix: str, where: str, is_known: Callable[[str], bool], notes: list[str]
) -> str:
    """The separator under which the rows have as many cells as the header, known column names deciding first."""
    sample = lines[:_SAMPLE_LINES]
    found: dict[str, tuple[int, float, int]] = {}
    for separator in SEPARATORS:
        records = [record for record in _records(sample, Dialect(separator)) if record.cells or record.problem]
        if not records or len(records[0].cells) < 2:
            continue
        header, width = records[0].cells, len(records[0].cells)
        check_columns(width, where)
        even = sum(len(record.cells) == width for record in records[1:]) / max(1, len(records) - 1)
        found[separator] = (sum(is_known(name) for name in header), even, width)
    if not found:
        return "\t" if suffix in (".tsv", ".tab") else ","
    best = max(found, key=lambda separator: found[separator])
    tied = [separator for separator in found if found[separator][:2] == found[best][:2]]
    if len(tied) > 1 and suffix in (".tsv", ".tab") and "\t" in tied:
        best = "\t"
    elif len(tied) > 1:
        raise DataError(
            f"the separator cannot be told: {' and '.join(SEPARATORS[separator] for separator in tied)} fit the rows "
            "equally well", where=where,
            remedy="Save the file with the column names question and answer, or as JSONL or XLSX",
        )
    _, even, width = found[best]
    seen = min(len(lines), _SAMPLE_LINES)
    notes.append(f"separator {SEPARATORS[best]}: {width} columns, found in {even:.0%} of the first {seen} lines")
    return best


def _find_quoting(lines: list[str], separator: str, notes: list[str]) -> Dialect:
    """Doubled quotes unless the rows read better with backslashes, single quotes or no quoting at all."""
    plain = Dialect(separator)
    if not any('"' in line for line in lines):
        cells = [cell.strip() for line in lines[:50] for cell in line.strip().split(separator)]
        quoted = sum(len(cell) > 1 and cell[0] == cell[-1] == "'" for cell in cells)
        if cells and quoted * 2 > len(cells):
            notes.append(f"cells are quoted with single quotes ({quoted} of the first {len(cells)})")
            return replace(plain, quote="'")
        return plain
    broken = _broken(lines, plain)
    if broken and any('\\"' in line for line in lines):
        other = replace(plain, quoting="backslash")
        if _broken(lines, other) < broken:
            notes.append('quotes inside cells are written \\"')
            return other
    if broken and separator == "\t":
        other = replace(plain, quoting="none")
        if _broken(lines, other) * 5 <= broken:
            notes.append("quotes are taken as they stand: read as quoting, they would break rows")
            return other
    return plain


def _broken(lines: list[str], dialect: Dialect) -> int:
    width = 0
    bad = 0
    for record in _records(lines, dialect):
        width = width or len(record.cells)
        bad += bool(record.problem) or bool(record.cells and len(record.cells) != width)
    return bad
