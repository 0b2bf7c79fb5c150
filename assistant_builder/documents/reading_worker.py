"""The process of :mod:`assistant_builder.documents.reading`: reads documents and sends their statements as JSON."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from assistant_builder.data.encoding import decode
from assistant_builder.documents.html_reader import html_blocks, markdown_blocks
from assistant_builder.documents.limits import MAX_BYTES, MAX_LINKS, MAX_TITLE, check_size
from assistant_builder.documents.office import office_blocks
from assistant_builder.documents.pdf_reader import pdf_blocks
from assistant_builder.documents.statements import statements_of
from assistant_builder.documents.types import Block, DocumentKind
from assistant_builder.errors import DataError
from assistant_builder.i18n import m
from assistant_builder.limited_process import serve_requests

_LONGEST_TITLE = 80
_ITEM = re.compile(r"[•*–-]\s+(?=\S)|\d{1,2}[.)]\s+(?=\S)")
_ENDS = (".", "!", "?", ":", ",", ";")


def _answer(request: Mapping[str, Any]) -> Iterator[str]:
    if request["folder"]:
        os.chdir(request["folder"])  # the path may be relative
    name, kind = request["name"], request["kind"]
    try:
        data = _bytes(Path(request["path"]))
        title, blocks, links = _blocks(data, kind)
        pages, statements = statements_of(name, blocks)
        if not statements:
            raise DataError(
                m("the document has no text"), remedy=m("Check that it is the right one")
            )
    except DataError as error:
        raise DataError(error.what, where=name, remedy=error.remedy) from error
    title = title or next((block.text for block in blocks if block.kind == "heading"), "")
    links = tuple(dict.fromkeys(links))[:MAX_LINKS]
    yield json.dumps({"head": {"title": title[:MAX_TITLE], "links": links}}, ensure_ascii=False)
    for page in pages:
        yield json.dumps({"page": page}, ensure_ascii=False)
    for statement in statements:
        yield json.dumps({"statement": asdict(statement)}, ensure_ascii=False)


def _bytes(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise DataError(m("no such file"), remedy=m("Check the path"))
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DataError(
            m("the file cannot be read: {strerror}", strerror=error.strerror),
            remedy=m("Copy it again"),
        ) from error
    check_size(len(data))
    if not data.strip(b"\0 \t\r\n\xef\xbb\xbf\xff\xfe"):
        raise DataError(m("the document is empty"), remedy=m("Check that it is the right one"))
    return data


def _blocks(data: bytes, kind: DocumentKind) -> tuple[str, list[Block], tuple[str, ...]]:
    """Title, blocks and links; the content decides where it contradicts the name."""
    if b"%PDF-" in data[:1024]:
        return (*pdf_blocks(data), ())
    if kind == "pdf":
        raise DataError(
            m("the name ends in .pdf, but this is no PDF document"),
            remedy=m("Save or download it again"),
        )
    if kind in ("docx", "pptx") or data.startswith(b"PK\x03\x04"):
        return (*office_blocks(data), ())
    text = _text(data, kind)
    if kind == "html":
        return html_blocks(text)
    if kind == "markdown":
        return (*markdown_blocks(text), ())
    return "", list(_plain_blocks(text)), ()


def _text(data: bytes, kind: DocumentKind) -> str:
    declared = re.search(
        rb"<meta[^>]{0,200}charset=[\"']?([\w-]{1,40})", data[:4096], re.IGNORECASE
    )
    if kind == "html" and declared:
        try:
            return data.decode(declared[1].decode("ascii"), errors="replace")
        except LookupError:
            pass
    text, _ = decode(data)
    return text.encode("utf-8", errors="replace").decode()


def _plain_blocks(text: str) -> Iterator[Block]:
    """Blocks of a text file: paragraphs between empty lines, and short lines alone as headings."""
    for part in re.split(r"\n[ \t\r]*\n", text.replace("\r\n", "\n")):
        lines = [" ".join(line.split()) for line in part.split("\n") if line.strip()]
        if len(lines) == 2 and re.fullmatch(r"([=~-])\1{2,}", lines[1]):
            lines.pop()
        title = len(lines) == 1 and len(lines[0]) <= _LONGEST_TITLE
        if title and not lines[0].endswith(_ENDS) and not _ITEM.match(lines[0]):
            yield Block("heading", lines[0], level=1)
            continue
        paragraph: list[str] = []
        for line in lines:
            if bullet := _ITEM.match(line):
                if paragraph:
                    yield Block("text", " ".join(paragraph))
                    paragraph = []
                yield Block("item", line[bullet.end() :])
            else:
                paragraph.append(line)
        if paragraph:
            yield Block("text", " ".join(paragraph))


def _failed(request: Mapping[str, Any], reason: str) -> DataError:
    return DataError(
        m("the document cannot be read: {reason}", reason=reason),
        where=request["name"],
        remedy=m("Save it again, or as another format"),
    )


if __name__ == "__main__":
    serve_requests(lambda: _answer, _failed)
