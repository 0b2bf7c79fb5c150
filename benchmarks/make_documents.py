"""``python -m benchmarks.make_documents``: write the documents of ``examples/toolworks`` from their texts.

The texts are of an invented business and free to use. ``handbook.md`` becomes a PDF, ``prices.md`` a DOCX document with
page breaks, and each part of ``pages.md`` a web page with what surrounds one: navigation, a notice on cookies, a script
and a footer. Equal texts give equal documents. It needs ``fpdf2`` and the extra ``documents``.
"""

from __future__ import annotations

import argparse
import datetime
import io
import itertools
import re
import zipfile
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from benchmarks.paths import ROOT

EXAMPLE = ROOT / "examples" / "toolworks"
_DATE = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)
_NAVIGATION = "Home · Tools · Workshop · Courses · Shop · My account"
_FOOTER = "Tallow Street Toolworks cooperative, 14 Tallow Street, Brannock · Imprint · Terms"
_STYLES = (("#", 20, "h1"), ("##", 14, "h2"))


def main(arguments: list[str] | None = None) -> int:
    """Write the documents."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.make_documents", description=__doc__
    )
    parser.add_argument("--to", type=Path, default=EXAMPLE / "documents", metavar="FOLDER")
    options = parser.parse_args(arguments)
    texts = {path.name: path.read_text(encoding="utf-8") for path in (EXAMPLE / "text").iterdir()}
    write_documents(texts, options.to)
    return 0


def write_documents(texts: dict[str, str], folder: Path) -> None:
    """Write the documents of three texts, by their names, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "handbook.pdf").write_bytes(_pdf(texts["handbook.md"].split("\n---\n")))
    (folder / "prices.docx").write_bytes(_docx(texts["prices.md"].split("\n---\n")))
    for page in texts["pages.md"].split("\n---\n"):
        name, _, text = page.strip().partition("\n")
        (folder / name).write_text(_html(text), encoding="utf-8", newline="\n")


def _blocks(text: str) -> Iterator[tuple[str, list[str]]]:
    """Kind and lines of each block: ``#``, ``##``, ``-``, ``|`` or a paragraph."""
    lines = (line for line in text.split("\n") if line)
    for mark, group in itertools.groupby(lines, lambda line: re.match(r"#+|[-|]|", line)[0]):  # type: ignore[index]
        if mark in ("-", "|"):
            yield mark, [*group]
        else:
            yield from ((mark, [line.lstrip("# ")]) for line in group)


def _cells(lines: list[str]) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def _pdf(pages: list[str]) -> bytes:
    from fpdf import FPDF

    below: Any = {"new_x": "LMARGIN", "new_y": "NEXT"}

    class Handbook(FPDF):
        def header(self) -> None:
            self.set_font("helvetica", size=8)
            self.cell(0, 6, "Tallow Street Toolworks - Workshop handbook", **below)

        def footer(self) -> None:
            self.set_y(-15)
            self.set_font("helvetica", size=8)
            self.cell(0, 6, f"Page {self.page_no()}", align="C")

    pdf = Handbook(format=(148, 210))
    pdf.set_creation_date(_DATE)
    pdf.set_title("Workshop handbook")
    for page in pages:
        pdf.add_page()
        for kind, lines in _blocks(page):
            size = dict((mark, size) for mark, size, _ in _STYLES).get(kind, 10)
            pdf.set_font("helvetica", style="B" if kind.startswith("#") else "", size=size)
            if kind == "|":
                rows = _cells(lines)
                width = pdf.epw / len(rows[0])
                for row in rows:
                    for cell in row:
                        pdf.cell(width, 6, cell)
                    pdf.ln(6)
            elif kind == "-":
                for line in lines:
                    pdf.multi_cell(0, 5, line, **below)
            else:
                pdf.multi_cell(0, size / 2, " ".join(lines), align="L", **below)
            pdf.ln(2)
    return bytes(pdf.output())


def _docx(pages: list[str]) -> bytes:
    import docx
    from docx.enum.text import WD_BREAK

    document = docx.Document()
    properties = document.core_properties
    properties.title, properties.created, properties.modified = "Price list", _DATE, _DATE
    for number, page in enumerate(pages):
        if number:
            document.add_paragraph().add_run().add_break(WD_BREAK.PAGE)
        for kind, lines in _blocks(page):
            if kind == "|":
                rows = _cells(lines)
                table = document.add_table(len(rows), len(rows[0]))
                for row, cells in zip(table.rows, rows, strict=True):
                    for cell, text in zip(row.cells, cells, strict=True):
                        cell.text = text
            elif kind.startswith("#"):
                document.add_heading(lines[0], len(kind))
            else:
                document.add_paragraph(" ".join(lines))
    stream = io.BytesIO()
    document.save(stream)
    return _undated(stream)


def _undated(stream: io.BytesIO) -> bytes:
    """The same archive with one date for all of its files."""
    result = io.BytesIO()
    with zipfile.ZipFile(stream) as old, zipfile.ZipFile(result, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.infolist():
            new.writestr(
                zipfile.ZipInfo(member.filename, (1980, 1, 1, 0, 0, 0)),
                old.read(member),
                zipfile.ZIP_DEFLATED,
            )
    return result.getvalue()


def _html(text: str) -> str:
    parts, title = [], ""
    for kind, lines in _blocks(text):
        if kind == "|":
            head, *rows = _cells(lines)
            marked = ["".join(f"<th>{escape(cell)}</th>" for cell in head)]
            marked += ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
            parts.append("<table>" + "".join(f"<tr>{row}</tr>\n" for row in marked) + "</table>")
        elif kind == "-":
            items = "".join(f"<li>{escape(line[2:])}</li>\n" for line in lines)
            parts.append(f"<ul>\n{items}</ul>")
        else:
            tag = dict((mark, tag) for mark, _, tag in _STYLES).get(kind, "p")
            title = title or " ".join(lines)
            parts.append(f"<{tag}>{escape(' '.join(lines))}</{tag}>")
    body = "\n".join(parts)
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{escape(title)} | Tallow Street Toolworks</title>
<style>nav {{ color: #555 }}</style>
<script>window.visits = (window.visits || 0) + 1;</script></head>
<body>
<header><a href="index.html">Tallow Street Toolworks</a></header>
<nav>{_NAVIGATION}</nav>
<div class="cookie-banner" hidden>We use one cookie to keep you logged in.</div>
<main>
{body}
</main>
<footer>{_FOOTER}</footer>
</body>
</html>
"""


if __name__ == "__main__":
    raise SystemExit(main())
