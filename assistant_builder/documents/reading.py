"""Reading of documents in a separate process with limits on memory and time; see :mod:`assistant_builder.data`."""

from __future__ import annotations

import atexit
import importlib.util
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from assistant_builder.documents.limits import MAX_BYTES, MAX_DOCUMENTS
from assistant_builder.documents.types import Document, DocumentKind, Statement
from assistant_builder.errors import ConfigError, install_command
from assistant_builder.i18n import m
from assistant_builder.limited_process import ReadingProcess

KINDS: dict[str, DocumentKind] = {
    **dict.fromkeys((".pdf",), "pdf"),
    **dict.fromkeys((".docx",), "docx"),
    **dict.fromkeys((".pptx",), "pptx"),
    **dict.fromkeys((".html", ".htm", ".xhtml"), "html"),
    **dict.fromkeys((".md", ".markdown"), "markdown"),
    **dict.fromkeys((".txt", ".text"), "text"),
}
"""Ending of a name → format."""
PACKAGES = ("pypdfium2", "docx", "pptx", "selectolax", "markdown_it")
"""Modules of the extra ``documents``."""


_process = ReadingProcess(
    "assistant_builder.documents.reading_worker",
    memory=2 * 2**30,
    seconds=30.0,
    most=MAX_BYTES,
    reply_bytes=2 * MAX_BYTES,
    remedy=m("Use a part of it, or save it as another format"),
)
atexit.register(_process.close)


def is_document(path: Path) -> bool:
    """Whether the name is that of a document; that of a text file can be one of a data file, too."""
    return path.suffix.lower() in KINDS


def document_files(folder: Path) -> list[Path]:
    """The documents below a folder by name, without hidden files and links.

    Raises:
        ConfigError: There is none, or there are more than :data:`MAX_DOCUMENTS`.
    """
    found: list[Path] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = (Path(parent, name) for name in sorted(names) if not name.startswith((".", "~$")))
        found += [path for path in paths if is_document(path) and not path.is_symlink()]
        if len(found) > MAX_DOCUMENTS:
            raise ConfigError(
                m("{folder} has more than {most:,} documents", folder=folder, most=MAX_DOCUMENTS),
                remedy=m("Use a folder with the documents that questions are asked about"),
            )
    if not found:
        raise ConfigError(
            m("{folder} has no documents", folder=folder),
            remedy=m("Use a folder with {kinds} files", kinds=", ".join(sorted(KINDS))),
        )
    return found


def require_packages() -> None:
    """Raise ConfigError unless the extra ``documents`` is installed."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            m(
                "reading documents needs packages that are not installed ({missing})",
                missing=", ".join(missing),
            ),
            remedy=m(
                "Install it with {install_command}", install_command=install_command("documents")
            ),
        )


def read_document(path: Path, name: str, kind: DocumentKind | None = None) -> Document:
    """Read a document.

    Args:
        path: Its file.
        name: What it is called in statements and errors.
        kind: Its format; by default that of the name of its file.

    Raises:
        ConfigError: The extra ``documents`` is not installed.
        DataError: The document cannot be read, has no text, or needs more memory or time than the limits.
    """
    require_packages()
    kind = kind or KINDS[path.suffix.lower()]
    head: dict[str, Any] = {}
    pages: list[str] = []
    statements: list[Statement] = []

    def receive(part: dict[str, Any]) -> None:
        if "page" in part:
            pages.append(part["page"])
        elif "statement" in part:
            statements.append(Statement(**part["statement"]))
        else:
            head.update(part["head"])

    _process.read("read", path, receive, name=name, kind=kind)
    return Document(
        name, kind, head["title"], tuple(pages), tuple(statements), tuple(head["links"])
    )


def named(paths: Iterable[Path], folder: Path | None = None) -> dict[str, Path]:
    """Documents by what they are called: their path below a folder, or the name of their file, as text in one line.

    Raises:
        ConfigError: Two documents have one name.
    """
    result: dict[str, Path] = {}
    for path in paths:
        name = path.relative_to(folder).as_posix() if folder else path.name
        name = " ".join(name.encode(errors="backslashreplace").decode().splitlines())  # one line
        if name in result:
            raise ConfigError(
                m("two documents are named {name}", name=name),
                remedy=m("Rename one of them, or put them into one folder"),
            )
        result[name] = path
    return result
