"""Unicode normalization of texts of others in linear time."""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import Literal

_MAX_MARKS = 30


def normalize_form(form: Literal["NFC", "NFKC", "NFKD"], text: str) -> str:
    """``unicodedata.normalize`` in linear time: of more than 30 combining marks in a row the first 30 are kept.

    Its time is quadratic in the length of a run of marks, and no other thread of Python runs meanwhile. No language
    needs more marks than 30 (Unicode Standard Annex 15, Stream-Safe Text Format).
    """
    if text.isascii():
        return text
    last = max(text)
    if last >= "\u0300":
        text = _excess_marks(0x10000 if last <= "\uffff" else 0x1F000).sub(r"\1", text)
    return unicodedata.normalize(form, text)


@functools.cache
def _excess_marks(end: int) -> re.Pattern[str]:
    """More marks than fit, of the code points below ``end``; a character that is replaced by marks counts as one."""
    characters = map(chr, range(0x300, end))
    marks = "".join(
        each for each in characters if unicodedata.combining(unicodedata.normalize("NFKD", each)[0])
    )
    return re.compile(rf"([{marks}][{marks}]{{{_MAX_MARKS - 1}}})[{marks}]+")
