"""Misspelt words of a question, as the data spell them: "famly tiket" is looked up as "family ticket".

A word is taken for misspelt if neither the data nor the sentence embedder know it, and for the word of the data that
one change makes of it: a letter more, less, another, or two exchanged. Candidates share the word with one letter left
out (W. Garbe, SymSpell, 2012). What is shown, and what a model reads, stays as it was typed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import islice

SHORTEST, LONGEST = 3, 24
"""Letters of a word that is corrected."""
MOST = 50
"""Words of a question that are corrected."""
WORDS, NEAR = 50_000, 100
"""Words of the data that others are corrected to, the most frequent, and those that share what is left of them."""
MOST_WORDS = 1_000_000
"""Words of the data up to which a word that is none of them counts as misspelt."""
_WORD = re.compile(r"[^\W\d_]+")


class Spelling:
    """The words of texts, which are facts of the data."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._counts: Counter[str] = Counter()
        self._near: dict[str, list[str]] = {}
        for text in texts:
            words = islice(_WORD.finditer(text.casefold()), MOST_WORDS + 1)
            self._counts.update(found.group() for found in words)
            if len(self._counts) > MOST_WORDS:
                return
        frequent = (word for word, _ in self._counts.most_common() if _is_corrected(word))
        for word in islice(frequent, WORDS):
            for shorter in _shortened(word):
                near = self._near.setdefault(shorter, [])
                if len(near) < NEAR:
                    near.append(word)

    def corrected(self, text: str, is_word: Callable[[str], bool]) -> str:
        """A text with the words of the data in place of misspelt ones; ``is_word``: whether the embedder knows one."""
        left = MOST

        def one(found: re.Match[str]) -> str:
            nonlocal left
            typed = found.group()
            word = typed.casefold()
            if left <= 0 or not SHORTEST <= len(word) <= LONGEST or word in self._counts:
                return typed
            left -= 1
            near = self._nearest(word) if _is_corrected(word) and not is_word(word) else None
            return near or typed

        return _WORD.sub(one, text)

    def _nearest(self, word: str) -> str | None:
        """The most frequent word of the data that one change makes of a word; None without one."""
        candidates = {each for shorter in _shortened(word) for each in self._near.get(shorter, ())}
        near = [each for each in candidates if _is_one_change(word, each)]
        return max(near, key=lambda each: (self._counts[each], each), default=None)


def _is_corrected(word: str) -> bool:
    """Whether a word has the length, and a script with upper and lower case, in which words are separated by spaces."""
    return SHORTEST <= len(word) <= LONGEST and all(
        letter.upper() != letter.lower() for letter in word
    )


def _shortened(word: str) -> set[str]:
    """The word, and what is left without one of its letters."""
    return {word, *(word[:place] + word[place + 1 :] for place in range(len(word)))}


def _is_one_change(word: str, other: str) -> bool:
    """Whether one change makes ``other`` of ``word``; of three letters, an exchange alone."""
    same = 0
    while same < min(len(word), len(other)) and word[same] == other[same]:
        same += 1
    left, right = word[same:], other[same:]
    if left[:2] == right[:2][::-1] and left[2:] == right[2:]:
        return True
    if len(word) == SHORTEST:
        return False
    return left[1:] == right[1:] or left[1:] == right or left == right[1:]
