"""Blocks of web pages and Markdown: headings, paragraphs, list items and table rows of the main part."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from assistant_builder.documents.statements import row_text
from assistant_builder.documents.types import Block
from assistant_builder.errors import DataError
from assistant_builder.i18n import m

if TYPE_CHECKING:
    from selectolax.lexbor import LexborNode

_NOT_READ = (
    "script,style,noscript,template,svg,iframe,form,button,select,textarea,nav,aside,dialog,header,footer,[hidden],"
    '[aria-hidden="true"],[role="navigation"],[role="banner"],[role="contentinfo"],[role="search"],[role="dialog"]'
)
"""What surrounds the text of a page; headers and footers only outside the main part."""
_MAIN = 'main,article,[role="main"]'
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_CONTAINERS = frozenset(
    "html body main article section div header footer ul ol dl table thead tbody tfoot tr figure details center "
    "blockquote fieldset hgroup address -document".split()
)
"""Elements that contain blocks; text directly in them is a block of its own."""
_BLOCKS = frozenset(
    {*_CONTAINERS, *_HEADINGS, *"p li dt dd td th pre figcaption summary caption hr".split()}
)
_SCRIPT_WORDS = 15  # words of a page with scripts from which it is no page that a script writes
_MAX_DEPTH = 200


def html_blocks(text: str) -> tuple[str, list[Block], tuple[str, ...]]:
    """Title, blocks and targets of the links of a web page.

    Raises:
        DataError: The page has no text, because a script writes it in the browser or for another reason.
    """
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(text)
    title = tree.css_first("title")
    name = " ".join(title.text().split()) if title is not None else ""
    links = tuple(
        href
        for node in tree.css("a[href]")
        if (href := (node.attributes.get("href") or "").strip())
    )
    scripts = bool(tree.css("script"))
    mains = tree.css(_MAIN)
    outermost = [node for node in mains if not _inside(node)]
    roots = outermost or ([tree.body] if tree.body is not None else [])
    for root in roots:
        for node in root.css(_NOT_READ):
            # a header of the article has its title
            if not (outermost and node.tag in ("header", "footer")):
                node.decompose()
    blocks = [block for root in roots for block in _blocks(root, 0)]
    words = sum(len(block.text.split()) for block in blocks)
    if scripts and words < _SCRIPT_WORDS:
        raise DataError(
            m("the page has no text of its own: a script writes it in the browser"),
            remedy=m("Open it in a browser, and save it as PDF or copy its text into a document"),
        )
    return name, blocks, links


def markdown_blocks(text: str) -> tuple[str, list[Block]]:
    """Title (the first heading) and blocks of a Markdown document."""
    from markdown_it import MarkdownIt

    page = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    _, blocks, _ = html_blocks(f"<main>{page}</main>")
    return next((block.text for block in blocks if block.kind == "heading"), ""), blocks


def _inside(node: LexborNode) -> bool:
    """Whether an element is inside a main part."""
    parent = node.parent
    while parent is not None:
        if parent.tag in ("main", "article") or (parent.attributes or {}).get("role") == "main":
            return True
        parent = parent.parent
    return False


def _blocks(node: LexborNode, depth: int) -> Iterator[Block]:
    """The blocks of an element; inline text between blocks is a paragraph."""
    inline: list[str] = []
    if depth > _MAX_DEPTH:
        yield from _paragraph([node.text(separator=" ")])
        return
    child = node.child
    while child is not None:
        if child.tag not in _BLOCKS:
            if child.tag == "br":
                inline.append(" ")
            elif child.tag != "_comment":
                inline.append(child.text())
            child = child.next
            continue
        yield from _paragraph(inline)
        inline = []
        yield from _block(child, depth + 1)
        child = child.next
    yield from _paragraph(inline)


def _block(node: LexborNode, depth: int) -> Iterator[Block]:
    tag = node.tag or ""
    if tag in _HEADINGS:
        if text := _line(node.text(separator=" ")):
            yield Block("heading", text, level=_HEADINGS[tag])
    elif tag == "table":
        yield from _rows(node)
    elif tag == "dl":
        yield from _terms(node)
    elif tag == "li":
        yield from _item(node, depth)
    elif tag in ("dt", "summary", "caption", "figcaption"):
        yield from _paragraph([node.text(separator=" ")])
    else:
        yield from _blocks(node, depth)


def _item(node: LexborNode, depth: int) -> Iterator[Block]:
    """A list item; the lists in it follow as items of their own."""
    for block in _blocks(node, depth):
        yield Block("item", block.text) if block.kind == "text" else block


def _terms(node: LexborNode) -> Iterator[Block]:
    """A list of terms, each a row with what is said of it."""
    term, first = "", True
    for each in node.css("dt,dd"):
        text = _line(each.text(separator=" "))
        if each.tag == "dt":
            term = text
        elif text:
            cells = (term, text)
            yield Block("row", row_text(cells), cells=cells, first=first)
            first = False


def _rows(table: LexborNode) -> Iterator[Block]:
    first = True
    for row in table.css("tr"):
        nodes = row.css("td,th")
        cells = tuple(_line(node.text(separator=" ")) for node in nodes)
        if not any(cells):
            continue
        head = first and all(node.tag == "th" for node in nodes)
        yield Block("row", row_text(cells), cells=cells, first=first, head=head)
        first = False


def _paragraph(parts: list[str]) -> Iterator[Block]:
    if text := _line("".join(parts)):
        yield Block("text", text)


def _line(text: str) -> str:
    return re.sub(r"\s+([,.;:!?])(?=\s|$)", r"\1", " ".join(text.split()))
