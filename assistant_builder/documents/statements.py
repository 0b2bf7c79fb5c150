"""Statements from the blocks of a document: sentences that can be read alone, list items and table rows.

Nothing is reworded: a statement consists of sentences of the document, of what introduces its list, or of the
names of its table's columns, and its headings are kept beside it. A sentence that refers to the one before ("They may
not use it.") is kept together with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from assistant_builder.documents.limits import MAX_STATEMENTS, MAX_TITLE
from assistant_builder.documents.types import HEADINGS, Block, BlockKind, Statement
from assistant_builder.errors import DataError
from assistant_builder.i18n import m

MOST_CHARACTERS = 450
"""Characters from which a sentence that refers to the one before begins a statement of its own nevertheless."""
LONGEST_STATEMENT = 5_000
"""Characters from which a sentence is divided: every answer compares and shows statements whole."""
_REFERENCE_WORDS = (
    6  # words of a sentence among which a reference to the sentence before is looked for
)
_REFERENCES = frozenset(
    """
    it its they them their he him his she her this these those that there then both neither otherwise also however
    therefore afterwards instead such
    er sie es ihn ihm ihr ihre ihrer ihrem ihren dies diese dieser dieses diesem diesen dort dann danach dabei dafür
    außerdem jedoch deshalb sonst
    él ella ello ellos ellas esto esta este estos estas eso esa ese esos esas allí luego además
    il elle ils elles ce cet cette ces cela ceci leur leurs y ensuite puis aussi
    """.split()
)
"""Words that refer to the sentence before at the beginning of a sentence."""
# the articles of other languages are spelled like pronouns of one: "es" and "ese" are harmless, for they only join
_ABBREVIATIONS = frozenset(
    """
    e.g i.e etc approx no nos vs dr mr mrs ms prof st fig p pp vol ed max min tel incl excl ca cf
    z.b d.h u.a bzw ggf inkl exkl zzgl nr str evtl vgl abs usw
    p.ej ej sr sra núm pág av m mme p.ex env
    """.split()
)
_SENTENCE_END = re.compile(r"(?<![.!?…])[.!?…]++[\"'”’»)\]]*+(?=\s++[\"'“‘«(\[¿¡]*[^\sa-zà-ÿ])")
_SPACE = re.compile(r"\s*")
_LONGEST_WORD = (
    64  # characters before the end of a sentence among which an abbreviation is looked for
)
_WORD = re.compile(r"[^\W\d_]+")


def sentences(text: str) -> list[tuple[int, int]]:
    """Spans of the sentences of a text, without the whitespace between them."""
    spans, start = [], 0
    for match in _SENTENCE_END.finditer(text):
        before = text[max(start, match.start() - _LONGEST_WORD) : match.start()].rsplit(None, 1)
        last = before[-1].lower().lstrip("(\"'“‘«[") if before else ""
        one_letter = len(last) == 1 and last.isalpha()
        number = (
            last.isdecimal()
            and match[0] == "."
            and len(last) < 3
            and len(text[start : match.start()].split(None, 1)) == 1
        )
        if match[0].startswith(".") and (last in _ABBREVIATIONS or one_letter or number):
            continue
        spans.append((start, match.end()))
        start = _SPACE.match(text, match.end()).end()  # type: ignore[union-attr]
    if text[start:].strip():
        spans.append((start, len(text.rstrip())))
    return spans


def refers_back(sentence: str) -> bool:
    """Whether a sentence refers to the one before it, as far as its first words show."""
    words = _WORD.findall(sentence.lower())[:_REFERENCE_WORDS]
    return not _REFERENCES.isdisjoint(words)


def statements_of(document: str, blocks: Iterable[Block]) -> tuple[list[str], list[Statement]]:
    """The text of each page, and the statements in reading order.

    Args:
        document: Name of the document.
        blocks: Its blocks, in reading order and with ascending pages.

    Raises:
        DataError: There are more than :data:`~.limits.MAX_STATEMENTS`.
    """
    builder = _Builder(document)
    for block in blocks:
        builder.add(block)
        if len(builder.statements) > MAX_STATEMENTS:
            raise DataError(
                m("the document makes more than {most:,} statements", most=MAX_STATEMENTS),
                remedy=m("Use the part that questions are asked about"),
            )
    builder.close()
    return builder.pages, builder.statements


class _Builder:
    """Collects pages and statements of one document.

    Attributes:
        pages: Texts of the pages so far.
        statements: Statements so far.
    """

    def __init__(self, document: str) -> None:
        self.statements: list[Statement] = []
        self._texts: list[list[str]] = []
        self._length = 0  # of the last page
        self._document = document
        self._page: int | None = None
        self._headings: list[tuple[int, str]] = []
        self._lead = ""  # what introduces a list or table
        self._columns: tuple[str, ...] = ()
        self._row: Block | None = (
            None  # the first row of a table, until it is known whether it names the columns
        )
        self._row_start = 0

    @property
    def pages(self) -> list[str]:
        return ["\n".join(texts) for texts in self._texts]

    def add(self, block: Block) -> None:
        start = self._write(block)
        if block.kind != "row" or block.first:
            self._end_table()
        if block.kind == "heading":
            self._headings = [each for each in self._headings if each[0] < block.level]
            self._headings.append((block.level, block.text[:MAX_TITLE]))
            self._lead = ""
        elif block.kind == "row":
            self._add_row(block, start)
        elif block.kind == "item":
            self._add_item(block, start)
        else:
            self._add_text(block, start)

    def close(self) -> None:
        self._end_table()

    def _write(self, block: Block) -> int:
        """Append the text of a block to its page; returns its first character there."""
        number = max(block.page or 1, len(self._texts), 1)
        if number > len(self._texts):
            self._texts += ([] for _ in range(number - len(self._texts)))
            self._length = 0
        self._page = None if block.page is None else number
        start = self._length + 1 if self._length else 0
        if block.text:
            self._texts[-1].append(block.text)
            self._length = start + len(block.text)
        return start

    def _state(self, text: str, start: int, end: int, kind: BlockKind = "text") -> None:
        text = " ".join(text.split())
        while len(text) > LONGEST_STATEMENT:
            part = text[:LONGEST_STATEMENT].rpartition(" ")[0] or text[:LONGEST_STATEMENT]
            self._state(part, start, min(end, start + len(part)), kind)
            rest = text[len(part) :].lstrip()
            text, start = rest, min(end, start + len(text) - len(rest))
        if len(text.split()) < 2 or not _WORD.search(text):
            return
        heading = HEADINGS.join(title for _, title in self._headings)
        place = (self._document, self._page, heading)
        self.statements.append(Statement(*place, text, start, end, kind))

    def _add_text(self, block: Block, start: int) -> None:
        spans = sentences(block.text)
        self._lead = ""
        if spans and block.text.endswith(":"):  # said with each item
            first, last = spans.pop()
            self._lead = block.text[first : last - 1].strip()
        asks = bool(self._headings) and self._headings[-1][1].endswith("?")
        for first, last in _joined(block.text, spans, together=asks):
            self._state(block.text[first:last], start + first, start + last)

    def _add_item(self, block: Block, start: int) -> None:
        end = start + len(block.text)
        if self._lead:
            self._state(f"{self._lead}: {block.text}", start, end)
            return
        for first, last in _joined(block.text, sentences(block.text), together=True):
            self._state(block.text[first:last], start + first, start + last, "item")

    def _add_row(self, block: Block, start: int) -> None:
        if block.first:
            if block.head:
                self._columns = block.cells
            else:
                self._row, self._row_start = block, start
            return
        if self._row is not None:  # the second row shows whether the first names the columns
            if _names_columns(self._row.cells, block.cells):
                self._columns = self._row.cells
            else:
                self._state_row(self._row.cells, self._row_start)
            self._row = None
        self._state_row(block.cells, start)

    def _end_table(self) -> None:
        if self._row is not None:
            page, self._page = self._page, self._row.page
            self._state_row(self._row.cells, self._row_start)
            self._row, self._page = None, page
        self._columns = ()

    def _state_row(self, cells: Sequence[str], start: int) -> None:
        end = start + len(row_text(cells))
        subject, *others = cells
        columns = (*self._columns[1:], *([""] * len(others)))
        named = [
            f"{column}: {cell}" if column else cell
            for column, cell in zip(columns, others, strict=False)
            if cell
        ]
        text = " – ".join(filter(None, [subject, "; ".join(named)]))
        self._state(text, start, end, "row")


def row_text(cells: Sequence[str]) -> str:
    """The text of a row."""
    return " | ".join(cells)


def _names_columns(first: Sequence[str], second: Sequence[str]) -> bool:
    """Whether the first row of a table names its columns: it has no figures, and the second has some or is wide."""
    plain = not any(character.isdigit() for cell in first for character in cell)
    figures = any(character.isdigit() for cell in second for character in cell)
    return plain and all(first[1:]) and (figures or len(first) > 2)


def _joined(
    text: str, spans: Sequence[tuple[int, int]], *, together: bool
) -> Iterator[tuple[int, int]]:
    """Spans of sentences with those that refer back to them, or as many ``together`` as a statement may have."""
    current: tuple[int, int] | None = None
    for start, end in spans:
        joins = together or refers_back(text[start:end])
        if current is not None and joins and end - current[0] <= MOST_CHARACTERS:
            current = (current[0], end)
            continue
        if current is not None:
            yield current
        current = (start, end)
    if current is not None:
        yield current
