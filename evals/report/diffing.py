"""Which words two answers do not share, so that the page can mark them."""

from __future__ import annotations

import difflib
import re

_LONGEST = 4000
"""Words beyond which answers are not aligned: the matcher's time grows with the square of the length."""
Runs = list[tuple[str, bool]]
"""Pieces of a text, each with whether the other text lacks it."""


def changed_words(first: str, second: str) -> tuple[Runs, Runs]:
    """Cut two texts into runs, each with whether it differs from the other text.

    Args:
        first: One answer.
        second: The other.

    Returns:
        The runs of either text; joined they give the text back, character by character.
    """
    left, right = re.findall(r"\s+|\w+|[^\w\s]", first), re.findall(r"\s+|\w+|[^\w\s]", second)
    if first == second or max(len(left), len(right)) > _LONGEST:
        return [(first, first != second)], [(second, first != second)]
    blocks = difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes()
    ours, theirs = [], []
    for tag, a, b, c, d in blocks:
        ours.append(("".join(left[a:b]), tag != "equal"))
        theirs.append(("".join(right[c:d]), tag != "equal"))
    return _joined(ours), _joined(theirs)


def _joined(runs: Runs) -> Runs:
    """Merge neighbours, and take a lone space between two changed words as changed, so that marks do not flicker."""
    merged: Runs = []
    for text, changed in runs:
        if not text:
            continue
        if merged and merged[-1][1] == changed:
            merged[-1] = (merged[-1][0] + text, changed)
        elif len(merged) >= 2 and changed and not merged[-1][0].strip() and merged[-2][1]:
            space, before = merged.pop()[0], merged.pop()[0]
            merged.append((before + space + text, True))
        else:
            merged.append((text, changed))
    return merged
