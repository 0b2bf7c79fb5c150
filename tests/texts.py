"""Texts of pages, and tables of short texts."""

import re


def parts(text: str) -> list[str]:
    """The texts between ``|`` and line ends, white space around them removed."""
    return [part.strip() for line in text.strip().splitlines() for part in line.split(" | ")]


def plain(markup: str) -> str:
    """What a reader sees of HTML, white space collapsed."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", markup))
