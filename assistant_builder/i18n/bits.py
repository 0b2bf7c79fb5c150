"""The bits of the quantized storage in texts, which are written for 4 bits.

Labels and sentences name the storage of QLoRA's base “4-bit”, as nearly all studies have it. In a context with other
bits (:func:`use_bits`) they name those, in every language. Only texts of the product are changed, before values are
inserted: a name or an answer with “4-bit” in it stays as it is.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TypeVar

WRITTEN = 4
"""The bits for which texts are written."""
_current: ContextVar[int] = ContextVar("bits", default=WRITTEN)
# also 4 Bit, 4 bits; what is about a file or about how the published weights were rounded is 4-bit in any study
_FIXED = r"4-bit (?:file|GGUF)|4-Bit-Datei|(?:archivo de|fichier) 4 bits|those 4-bit weights|rounded to 4 bits before"
_NUMBER = r"(?P<article>\b[Aa]n? )?(?<![\w.,-])(?P<number>%d)(?=(?: (?:or|oder|o|ou) 16)?[- \u00a0][Bb]its?\b)"
_VOWELS = (8, 11, 18)
"""Numbers that follow “an” in English."""
_Text = TypeVar("_Text", bound=str)


@contextlib.contextmanager
def use_bits(bits: int) -> Iterator[None]:
    """Let texts in the block name a storage of so many bits."""
    before = _current.set(bits)
    try:
        yield
    finally:
        _current.reset(before)


def current_bits() -> int:
    """The bits that texts name."""
    return _current.get()


def in_bits(text: _Text) -> _Text:
    """A text of the product with the current bits in place of 4."""
    return text if current_bits() == WRITTEN else _replaced(text, WRITTEN, current_bits())


def as_written(text: _Text) -> _Text:
    """The inverse of :func:`in_bits`, for texts that are looked up."""
    return text if current_bits() == WRITTEN else _replaced(text, current_bits(), WRITTEN)


def _replaced(text: _Text, old: int, new: int) -> _Text:
    def number(match: re.Match[str]) -> str:
        if match["number"] is None:
            return match[0]  # fixed
        article = match["article"] or ""
        return f"{article[:1]}{'n' * (new in _VOWELS)} {new}" if article else str(new)

    return type(text)(re.sub(f"{_FIXED}|{_NUMBER % old}", number, text))
