"""Write the HTML of a report as GitHub-flavoured Markdown: the text of its sections and tables, without pictures."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from assistant_builder.redaction import escape_control_characters

_SPECIAL = re.compile(r"([\\`*_\[\]|~$#@])")
_LINK = re.compile(r"(?i)(\bwww|\b(?:https?|ftp|mailto))([.:])")
_AT_START = re.compile(r"^(\d*)([-+=.)])")
"""What makes a list or a line of the beginning of a paragraph."""
_VOID = frozenset({"meta", "br"})
_SKIPPED = frozenset({"head", "svg", "nav"})
_BLOCKS = frozenset(
    "p h1 h2 h3 h4 li div section article header main table caption summary details figure figcaption ul ol dl dt dd "
    "thead tbody tr th td".split()
)
_HOLDS_TEXT = frozenset({"li", "td", "th", "entry", "caption", "summary"})
"""Elements whose paragraphs are one line."""
_ENTRIES = frozenset({"answer", "context", "interval-row", "bar-row"})
"""Classes of elements that are entries of a list."""


def to_markdown(page: str) -> str:
    """The body of a page as Markdown; text in it cannot form markup, HTML or links."""
    writer = _Writer()
    writer.feed(page)
    writer.close()
    return re.sub(r"\n{3,}", "\n\n", "".join(writer.blocks)).strip() + "\n"


def escape(text: str) -> str:
    """Text that Markdown shows literally."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return escape_control_characters(_LINK.sub(r"\1\\\2", _SPECIAL.sub(r"\\\1", text)))


class _Writer(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.blocks: list[str] = []
        self._open: list[tuple[str, frozenset[str], int]] = []  # kind, classes, start of its text
        self._text: list[str] = []
        self._skipped = 0
        self._rows: list[list[str]] = []
        self._numeric: list[bool] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _VOID:
            return
        of = dict(attrs)
        classes = frozenset((of.get("class") or "").split())
        hidden = of.get("aria-hidden") == "true" or "print-only" in classes
        if self._skipped or tag in _SKIPPED or hidden:
            self._skipped += 1
            return
        if tag in _BLOCKS and not self._within(_HOLDS_TEXT):
            self._paragraph()
        if tag == "table":
            self._rows, self._numeric = [], []
        elif tag == "tr":
            self._rows.append([])
        entry = classes & _ENTRIES or (tag == "div" and self._within({"dl"}))
        self._open.append(("entry" if entry else tag, classes, len(self._text)))

    def handle_data(self, data: str) -> None:
        if self._skipped:
            return
        if any("text" in classes for _, classes, _ in self._open):
            self._text.append(re.sub(r"\s*\n\s*", "<br>", escape(data)))
        else:
            self._text.append(escape(re.sub(r"\s+", " ", data)))

    def handle_endtag(self, tag: str) -> None:
        if tag in _VOID:
            return
        if self._skipped:
            self._skipped -= 1
            return
        kind, classes, start = self._open.pop()
        text = re.sub(r" +", " ", "".join(self._text[start:])).strip()
        inside = self._within(_HOLDS_TEXT)
        if kind in ("td", "th"):
            self._take(start)
            if self._within({"thead"}):
                self._numeric.append("num" in classes)
            self._rows[-1].append(text)
        elif kind == "table":
            self._table()
        elif kind in ("li", "entry"):
            self._take(start)
            marker = "1." if self._within({"ol"}) else "-"
            if text:
                self.blocks.append(f"{'' if self._in_list() else chr(10)}{marker} {text}\n")
        elif kind in ("small", "b") or classes & {"question", "outcome", "changed"}:
            self._take(start)
            form = " ({})" if kind == "small" else "**{}**"
            self._text.append(form.format(text) if text else "")
        elif kind == "dd" and text and not self._text[start - 1].endswith(": "):
            self._text.insert(start, "· ")
        elif kind == "sub":
            self._take(start)
            self._text.append(f"\\_{text}" if len(text) == 1 else f"\\_{{{text}}}")
        elif (
            kind == "dt" or classes & {"who", "name"} or (kind == "summary" and self._of("context"))
        ):
            self._take(start)
            self._text.append(f"{text}: " if text else "")
        elif re.fullmatch("h[1-4]", kind) or (kind == "summary" and self._of("group")):
            self._take(start)
            level = 4 if kind == "summary" else int(kind[1])
            self.blocks.append(f"\n{'#' * level} {text}\n\n" if text else "")
        elif kind in _BLOCKS and inside:
            self._text.append(" ")
        if kind in _BLOCKS and not inside:
            self._paragraph()

    def _within(self, kinds: frozenset[str] | set[str]) -> bool:
        return any(kind in kinds for kind, _, _ in self._open)

    def _of(self, name: str) -> bool:
        """Whether the innermost open element has a class."""
        return bool(self._open) and name in self._open[-1][1]

    def _in_list(self) -> bool:
        return bool(self.blocks) and bool(re.match(r"\n?(?:-|1\.) ", self.blocks[-1]))

    def _take(self, start: int) -> None:
        """Remove the text from ``start`` on, which is written in another form."""
        del self._text[start:]

    def _paragraph(self) -> None:
        text = re.sub(r" +", " ", "".join(self._text)).strip()
        self._text.clear()
        if text:
            self.blocks.append("\n" + _AT_START.sub(r"\1\\\2", text) + "\n\n")

    def _table(self) -> None:
        rows = self._rows
        if rows and not self._numeric:  # a table of records has no header
            rows, self._numeric = [[""] * len(rows[0]), *rows], [False] * len(rows[0])
        lines = [f"| {' | '.join(row)} |" for row in rows]
        lines.insert(1, f"| {' | '.join('---:' if num else '---' for num in self._numeric)} |")
        self.blocks.append("\n" + "\n".join(lines) + "\n\n")
