"""Blocks of PowerPoint documents (PPTX): a slide is a page, its title a heading, and its paragraphs are list items.

Hidden slides, and notes for the speaker, are left out: the audience does not see them.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any

from assistant_builder.documents.limits import check_pages
from assistant_builder.documents.statements import row_text
from assistant_builder.documents.types import Block

_ENDS = (".", "!", "?", ":")


def pptx_blocks(data: bytes) -> tuple[str, list[Block]]:
    """Title and blocks of a PowerPoint document, whose archive was checked.

    Raises:
        DataError: It has too many slides.
    """
    import pptx

    presentation = pptx.Presentation(io.BytesIO(data))
    check_pages(len(presentation.slides))
    blocks = [
        block
        for number, slide in enumerate(presentation.slides, start=1)
        if slide.element.get("show") != "0"
        for block in _slide(slide, number)
    ]
    return (presentation.core_properties.title or "").strip(), blocks


def _slide(slide: Any, page: int) -> Iterator[Block]:
    title = slide.shapes.title
    if title is not None and (text := _line(title.text_frame.text)):
        yield Block("heading", text, page, 1)
    for shape in _flat(slide.shapes):
        if title is not None and shape.shape_id == title.shape_id:
            continue
        if shape.has_text_frame:
            yield from _paragraphs(shape.text_frame, page)
        elif getattr(shape, "has_table", False):
            yield from _rows(shape.table, page)


def _flat(shapes: Iterable[Any]) -> Iterator[Any]:
    """The shapes of a slide with those of its groups, from top to bottom and from left to right."""
    # a placeholder may take its position from the layout, which has none either
    for shape in sorted(shapes, key=lambda each: (each.top or 0, each.left or 0)):
        if hasattr(shape, "shapes"):
            yield from _flat(shape.shapes)
        else:
            yield shape


def _paragraphs(frame: Any, page: int) -> Iterator[Block]:
    texts = [text for paragraph in frame.paragraphs if (text := _line(paragraph.text))]
    for text in texts:
        # sentences of a text box are joined by what they refer to, points of a list are not
        whole = len(texts) == 1 or text.endswith(_ENDS)
        yield Block("text" if whole else "item", text, page)


def _rows(table: Any, page: int) -> Iterator[Block]:
    first = True
    for row in table.rows:
        cells = tuple("" if cell.is_spanned else _line(cell.text_frame.text) for cell in row.cells)
        if not any(cells):
            continue
        head = first and bool(table.first_row) and len(table.rows) > 1
        yield Block("row", row_text(cells), page, 0, cells, first=first, head=head)
        first = False


def _line(text: str) -> str:
    return " ".join(text.split())
