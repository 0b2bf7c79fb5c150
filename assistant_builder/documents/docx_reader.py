"""Blocks of Word documents (DOCX): headings by style, lists, tables, and pages by the page breaks in the file."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from assistant_builder.documents.limits import check_pages
from assistant_builder.documents.statements import row_text
from assistant_builder.documents.types import Block

if TYPE_CHECKING:
    from docx.text.paragraph import Paragraph

_HEADING = re.compile(r"heading (\d)", re.IGNORECASE)


def docx_blocks(data: bytes) -> tuple[str, list[Block]]:
    """Title and blocks of a Word document, whose archive was checked.

    Word writes where its pages ended when the document was saved last; without that, page breaks that somebody
    inserted are counted.

    Raises:
        DataError: It has too many pages.
    """
    import docx

    document = docx.Document(io.BytesIO(data))
    return (document.core_properties.title or "").strip(), list(_blocks(document))


def _blocks(document: Any) -> Iterator[Block]:
    from docx.table import Table

    page, rendered = 1, bool(document.element.body.xpath(".//w:lastRenderedPageBreak[1]"))
    breaks = ".//w:lastRenderedPageBreak" if rendered else ".//w:br[@w:type='page']"
    for content in document.iter_inner_content():
        within = len(content._element.xpath(breaks))
        if isinstance(content, Table):
            yield from _rows(content, page)
            page += within
        else:
            # a break is nearly always at the beginning of a paragraph, or alone in it
            page += within
            yield from _paragraph(content, page)
        check_pages(page)


def _paragraph(paragraph: Paragraph, page: int) -> Iterator[Block]:
    text = " ".join(paragraph.text.split())
    if not text:
        return
    style = paragraph.style.name or "" if paragraph.style is not None else ""
    heading = _HEADING.match(style)
    if heading or style == "Title":
        yield Block("heading", text, page, int(heading[1]) if heading else 1)
    elif style.startswith("List") or paragraph._p.xpath("./w:pPr/w:numPr"):
        yield Block("item", text, page)
    else:
        yield Block("text", text, page)


def _rows(table: Any, page: int) -> Iterator[Block]:
    first = True
    for row in table.rows:
        cells: list[str] = []
        last = None
        for cell in row.cells:  # a merged cell is there once for each of its columns
            repeated = cell._tc is last
            last = cell._tc
            cells.append("" if repeated else " ".join(cell.text.split()))
        if not any(cells):
            continue
        yield Block("row", row_text(cells), page, 0, tuple(cells), first=first)
        first = False
