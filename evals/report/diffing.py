"""Which words two texts do not share, so that report and page can mark them.

Words are compared whole, and character by character in scripts that put no spaces between them. A character that
attaches to the one before it (a vowel sign, an accent, part of an emoji) is never parted from it.
"""

from __future__ import annotations

import difflib
import unicodedata
from typing import Literal

_LONGEST = 4000
"""Words beyond which answers are not aligned: the matcher's time grows with the square of the length."""
Runs = list[tuple[str, bool]]
"""Pieces of a text, each with whether the other text lacks it."""
Side = Literal["both", "first", "second"]
Diff = list[tuple[str, Side]]
"""Pieces of two texts in reading order, each with where it stands."""

_UNSPACED = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF),  # Thai and Lao; Burmese; Khmer
    (0x3040, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF),
)
"""Code points of scripts written without spaces between words: Kana and Han in the second line."""
_OWN: tuple[Side, Side] = ("first", "second")
_JOINERS = "\u200c\u200d"
_SKIN_TONES = range(0x1F3FB, 0x1F400)


def word_diff(first: str, second: str) -> Diff:
    """Align two texts word by word.

    Args:
        first: One text.
        second: The other.

    Returns:
        Pieces; those of ``both`` and ``first`` give the first text back, character by character, those of ``both`` and
        ``second`` the second. What was replaced comes before what replaces it.
    """
    left, right = pieces(first), pieces(second)
    if first == second:
        return [(first, "both")] if first else []
    if max(len(left), len(right)) > _LONGEST:
        return [(first, "first"), (second, "second")]
    found: Diff = []
    for tag, a, b, c, d in difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if tag == "equal":
            found.append(("".join(left[a:b]), "both"))
        else:
            found += [("".join(left[a:b]), "first"), ("".join(right[c:d]), "second")]
    return _spaces_marked([piece for piece in found if piece[0]])


def changed_words(first: str, second: str) -> tuple[Runs, Runs]:
    """Cut two texts into runs, each with whether it differs from the other text.

    Args:
        first: One answer.
        second: The other.

    Returns:
        The runs of either text; joined they give the text back, character by character.
    """
    found = word_diff(first, second)
    return _one_side(found, "first"), _one_side(found, "second")


def pieces(text: str) -> list[str]:
    """Cut a text into words, runs of white space, and single other characters, which joined give it back."""
    found: list[str] = []
    last = ""
    for char in text:
        kind = _kind(char)
        if found and (kind == "mark" or found[-1][-1] == "\u200d" or (kind == last and kind in ("space", "word"))):
            found[-1] += char
        else:
            found.append(char)
            last = "other" if kind == "mark" else kind
    return found


def _kind(char: str) -> str:
    if char.isspace():
        return "space"
    code = ord(char)
    if char in _JOINERS or code in _SKIN_TONES or unicodedata.category(char).startswith("M"):
        return "mark"
    if any(low <= code <= high for low, high in _UNSPACED):
        return "sign"
    return "word" if char.isalnum() or char == "_" else "other"


def _spaces_marked(found: Diff) -> Diff:
    """Take a lone space between two changed words as changed on both sides, so that marks do not flicker."""
    merged: Diff = []
    for place, (text, side) in enumerate(found):
        between = 0 < place < len(found) - 1 and found[place - 1][1] != "both" != found[place + 1][1]
        merged += [(text, "first"), (text, "second")] if side == "both" and between and not text.strip() else [
            (text, side)]
    joined: Diff = []
    waiting: dict[Side, str] = dict.fromkeys(_OWN, "")
    for text, side in [*merged, ("", "both")]:
        if side != "both":
            waiting[side] += text
            continue
        joined += [(own, name) for name, own in waiting.items() if own]
        waiting = dict.fromkeys(_OWN, "")
        if text:
            joined.append((text, "both"))
    return joined


def _one_side(found: Diff, side: Side) -> Runs:
    runs: Runs = []
    for text, where in found:
        if where not in ("both", side):
            continue
        changed = where == side
        if runs and runs[-1][1] == changed:
            runs[-1] = (runs[-1][0] + text, changed)
        else:
            runs.append((text, changed))
    return runs
