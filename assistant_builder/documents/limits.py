"""Size limits of documents, checked before memory is allocated."""

from __future__ import annotations

from assistant_builder.errors import DataError
from assistant_builder.i18n import m

MAX_BYTES = 64 * 2**20
"""Bytes of a document, and of the files in a DOCX or PPTX document once decompressed."""
MAX_PAGES = 1_000
MAX_STATEMENTS = 20_000
"""Statements of a document."""
MAX_DOCUMENTS = 2_000
"""Documents of a study."""
MAX_TEXT = 200_000_000
"""Characters of all documents that are read at a time, with headings, titles and links; see :attr:`Document.size`."""
MAX_LINKS, MAX_TITLE = 20_000, 500
"""Links of a web page that are read, and characters of a title or heading."""
MAX_CHANGES = 20_000
"""Statements of a study that may change or be gone at a time."""


def check_size(count: int) -> None:
    """Raise DataError if a document is larger than :data:`MAX_BYTES`."""
    if count > MAX_BYTES:
        raise DataError(
            m(
                "the document has more than {max_bytes} MiB once decompressed",
                max_bytes=MAX_BYTES >> 20,
            ),
            remedy=m("Use a part of it, or remove its pictures"),
        )


def check_pages(count: int) -> None:
    """Raise DataError if a document has more than :data:`MAX_PAGES` pages."""
    if count > MAX_PAGES:
        raise DataError(
            m(
                "the document has {count:,} pages, more than {max_pages:,}",
                count=count,
                max_pages=MAX_PAGES,
            ),
            remedy=m("Use the part that questions are asked about"),
        )


def too_much_text(count: int, name: str) -> DataError | None:
    """The error of documents that have more than :data:`MAX_TEXT` characters together; None if they have not."""
    if count <= MAX_TEXT:
        return None
    return DataError(
        m("the documents have more than {most:,} characters together", most=MAX_TEXT),
        where=name,
        remedy=m("Use the part that questions are asked about"),
    )
