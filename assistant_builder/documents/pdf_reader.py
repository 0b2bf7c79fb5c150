"""Blocks of PDF documents: lines by position, headings by font size, tables by columns, without running heads."""

from __future__ import annotations

import ctypes
import math
import re
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from assistant_builder.documents.limits import check_pages
from assistant_builder.documents.statements import row_text
from assistant_builder.documents.types import Block
from assistant_builder.errors import DataError
from assistant_builder.i18n import m

HEADING_SIZE = 1.12
"""Size of a heading relative to that of the text, at least."""
BOLD = 600
_WIDE, _NARROW = 1.5, 0.4
"""Gap between two cells of a table where no other line shows the columns, and where another line does, in sizes."""
_ALIGNED = 4.0  # points between two left edges that are the same column, at most
_PARAGRAPH = 1.25
"""Distance of two lines from which a paragraph ends, relative to the usual one of the page."""
_EDGE_LINES = 2  # lines at the top and at the bottom of a page that may be running heads
_RUNNING = 0.6  # share of the pages that have a running head
_BULLET = re.compile(r"(?:[•▪‣◦●○■□∙·–*-]|\(?\d{1,2}[.)]|[a-z]\))\s+(?=\S)")
_SOFT_HYPHENS = "\x02\xad\ufffe"
_LETTERS_PER_PAGE = 20  # characters of a page on average, of which a scanned document has fewer
_LONGEST_HEADING = 120


@dataclass
class Word:
    """A word: its text, the left and right edge, in points."""

    text: str
    left: float
    right: float


@dataclass
class Line:
    """A line of a page: its words, baseline and font size in points, and whether it is bold."""

    words: list[Word]
    bottom: float
    size: float
    bold: bool

    @property
    def text(self) -> str:
        """Its words."""
        return " ".join(word.text for word in self.words)


def pdf_blocks(data: bytes) -> tuple[str, list[Block]]:
    """Title and blocks of a PDF document.

    Raises:
        DataError: It is damaged, has a password, too many pages, or no text.
    """
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower():
            raise DataError(
                m("the document has a password"),
                remedy=m("Save a copy without a password, for example by printing it to a PDF"),
            ) from error
        raise DataError(
            m("the PDF document is damaged"), remedy=m("Save or download it again")
        ) from error
    check_pages(len(document))
    pages: list[list[Line]] = []
    for number in range(len(document)):
        try:
            pages.append(_lines(document[number]))
        except pypdfium2.PdfiumError:  # one damaged page
            pages.append([])
    letters = sum(len(line.text) for page in pages for line in page)
    if letters < _LETTERS_PER_PAGE * len(pages):
        raise DataError(
            m("the document has pictures of pages and no text; it was scanned"),
            remedy=m("Let a program recognise its text (OCR), and save it as a PDF with text"),
        )
    title = document.get_metadata_value("Title").strip()
    return title, list(_blocks(_without_running_heads(pages)))


def _lines(page: Any) -> list[Line]:
    """The lines of a page, in the order of its content."""
    from pypdfium2 import raw

    text_page = page.get_textpage()
    count = text_page.count_chars()
    left, right, bottom, top = (ctypes.c_double() for _ in range(4))
    matrix = raw.FS_MATRIX()
    lines: list[Line] = []
    words: list[Word] = []
    word: Word | None = None
    size, weight, low = 0.0, 0, 0.0

    def end_line() -> None:
        nonlocal words, word
        if words:
            lines.append(Line(words, low, size or 1.0, weight >= BOLD))
        words, word = [], None

    for place in range(count):
        code = raw.FPDFText_GetUnicode(text_page, place)
        character = chr(code) if 0 < code < 0x110000 and not 0xD800 <= code < 0xE000 else ""
        if character in "\r\n":
            end_line()
            continue
        if not character or character.isspace():
            word = None
            continue
        raw.FPDFText_GetCharBox(text_page, place, left, right, bottom, top)
        if not words:
            raw.FPDFText_GetMatrix(text_page, place, matrix)
            scale = math.hypot(matrix.c, matrix.d) or 1.0
            size = raw.FPDFText_GetFontSize(text_page, place) * scale
            weight, low = raw.FPDFText_GetFontWeight(text_page, place), bottom.value
        elif word is not None and left.value - word.right > _WIDE * size:
            word = None  # two cells without a space between them
        if word is None:
            word = Word("", left.value, right.value)
            words.append(word)
        word.text += character
        word.right = right.value
    end_line()
    return lines


def _without_running_heads(pages: list[list[Line]]) -> list[list[Line]]:
    """The pages without lines at the edge of most of them, as page numbers do."""

    def edges(page: list[Line]) -> list[tuple[int, str]]:
        places = {*range(_EDGE_LINES), *range(len(page) - _EDGE_LINES, len(page))}
        known = [place for place in sorted(places) if 0 <= place < len(page)]
        return [(place, re.sub(r"\d+", "#", page[place].text)) for place in known]

    counts = Counter(text for page in pages for text in {text for _, text in edges(page)})
    least = max(3.0, _RUNNING * len(pages))
    running = {text for text, count in counts.items() if count >= least}
    kept = []
    for page in pages:
        out = {place for place, text in edges(page) if text in running}
        kept.append([line for place, line in enumerate(page) if place not in out])
    return kept


def _blocks(pages: list[list[Line]]) -> Iterator[Block]:
    sizes: Counter[float] = Counter()
    for page in pages:
        for line in page:
            sizes[round(line.size, 1)] += len(line.text)
    body = sizes.most_common(1)[0][0]
    larger = sorted((size for size in sizes if size >= HEADING_SIZE * body), reverse=True)
    levels = {size: level for level, size in enumerate(larger, 1)}
    for number, page in enumerate(pages, 1):
        yield from _page_blocks(page, number, levels)


def _page_blocks(page: list[Line], number: int, levels: dict[float, int]) -> Iterator[Block]:
    gaps = [
        first.bottom - second.bottom
        for first, second in zip(page, page[1:], strict=False)
        if first.bottom > second.bottom and round(first.size, 1) == round(second.size, 1)
    ]
    usual = statistics.median_low(gaps) if gaps else 0.0
    table = _table_rows(page)
    kind, parts, level, last = "text", list[str](), 0, None

    def block() -> Iterator[Block]:
        if text := _unhyphenated(parts):
            yield Block(kind, text, number, level)  # type: ignore[arg-type]
        parts.clear()

    for place, line in enumerate(page):
        if place in table:
            yield from block()
            cells = table[place]
            yield Block("row", row_text(cells), number, 0, cells, first=place - 1 not in table)
            last = None
            continue
        found = levels.get(round(line.size, 1), 0)
        if not found and line.bold and len(line.text) < _LONGEST_HEADING:
            found = 0 if line.text.endswith((".", ":", ",")) else len(levels) + 1
        bullet = _BULLET.match(line.text)
        ends = (
            last is None
            or bool(bullet)
            or found != level
            or last.bottom - line.bottom > _PARAGRAPH * max(usual, line.size)
            or last.bottom < line.bottom  # the next column
        )
        if ends:
            yield from block()
            kind = "heading" if found else "item" if bullet else "text"
            level = found
        parts.append(line.text[bullet.end() :] if bullet and ends and not found else line.text)
        last = line
    yield from block()


def _unhyphenated(parts: Sequence[str]) -> str:
    """The lines of a paragraph as one, with the words that a line end divides made whole."""
    text = ""
    for part in parts:
        divided = text.endswith("-") and text[-2:-1].isalpha() and part[:1].islower()
        if text and (text[-1] in _SOFT_HYPHENS or divided):
            text = text[:-1] + part
        else:
            text = f"{text} {part}" if text else part
    return text.translate(dict.fromkeys(map(ord, _SOFT_HYPHENS)))


def _table_rows(page: list[Line]) -> dict[int, tuple[str, ...]]:
    """Number of the line → its cells, for the lines of tables: at least two lines one after the other."""
    wide = {place for place, line in enumerate(page) if len(_columns(line)) > 1}
    rows: dict[int, tuple[str, ...]] = {}
    place = 0
    while place < len(page):
        end = place
        while end in wide:
            end += 1
        if end - place >= 2:
            lines = page[place:end]
            columns = _shared(sorted(left for line in lines for left in _columns(line)))
            for offset, line in enumerate(lines):
                rows[place + offset] = _cells(line, columns)
        place = max(end, place + 1)
    widths = {place: len(cells) for place, cells in rows.items()}
    return {place: cells for place, cells in rows.items() if widths[place] > 1}


def _shared(lefts: Sequence[float]) -> list[float]:
    """The left edges, in ascending order, that at least two lines have."""
    groups: list[list[float]] = []
    for left in lefts:
        if groups and left - groups[-1][-1] <= _ALIGNED:
            groups[-1].append(left)
        else:
            groups.append([left])
    return [group[0] for group in groups if len(group) > 1]


def _columns(line: Line) -> list[float]:
    """Left edges of the parts of a line with wide gaps between them."""
    lefts = [line.words[0].left]
    for before, word in zip(line.words, line.words[1:], strict=False):
        if word.left - before.right > _WIDE * line.size:
            lefts.append(word.left)
    return lefts


def _cells(line: Line, columns: Sequence[float]) -> tuple[str, ...]:
    """The cells of a line of a table, empty ones included."""
    cells: list[list[str]] = [[] for _ in columns] or [[]]
    column = 0
    for number, word in enumerate(line.words):
        gap = word.left - line.words[number - 1].right if number else math.inf
        near = [place for place, left in enumerate(columns) if abs(left - word.left) <= _ALIGNED]
        if near and near[0] >= column and gap > _NARROW * line.size:
            column = near[0]
        elif gap > _WIDE * line.size and number:
            # a cell that is not aligned at the left, as figures are
            column = min(
                max(column + 1, sum(left <= word.left for left in columns) - 1), len(cells) - 1
            )
        cells[column].append(word.text)
    return tuple(" ".join(words) for words in cells)
