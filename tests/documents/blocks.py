"""The shell blocks of the documents, and the marks before them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
TRAINS = "trains"
REASONS = tuple(
    f"needs a {what}"
    for what in (
        "GPU",
        "hub",
        "cluster",
        "running endpoint",
        "server",
        "package index",
        "Docker daemon",
    )
)
"""Marks of blocks that no test executes."""
SHELL = ("bash", "sh", "shell", "console")
_FENCE = re.compile(
    r"(?:^<!-- shell: (?P<mark>[^\n]*) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.M | re.S,
)


@dataclass(frozen=True)
class Block:
    """A fenced block: where it begins, its language, its mark (empty without one) and its text."""

    page: Path
    line: int
    language: str
    mark: str
    text: str

    @property
    def id(self) -> str:
        """Page and line."""
        return f"{self.page.name}:{self.line}"


def fenced(page: Path) -> Iterator[Block]:
    """Every fenced block of a page."""
    text = page.read_text(encoding="utf-8")
    for found in _FENCE.finditer(text):
        line = text.count("\n", 0, found.start("text"))
        yield Block(page, line, found["language"], found["mark"] or "", found["text"])


def shell_blocks(mark: str | None = None) -> list[Block]:
    """The shell blocks of all pages; those with a mark, or all."""
    return [
        block
        for page in PAGES
        for block in fenced(page)
        if block.language in SHELL and mark in (None, block.mark)
    ]
