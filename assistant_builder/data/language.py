"""The language of texts, by their function words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from assistant_builder.data.types import Pair
from assistant_builder.data.words import bare_words, function_words

_OTHER = 1 / 3
"""Share of the function words of English: 0.13 in English data, more than 1 in data of one other language."""
_PAIRS, _CHARACTERS = 1000, 1000
_FEW, _SIGNS = 0.15, 0.05
"""Shares of words: English data have 0.33 to 0.48 function words, and hardly a letter beyond ASCII."""


def language_of(text: str) -> str:
    """Code of the language with most of its function words in a text; English if none has."""
    words = bare_words(text)
    counts = {
        code: sum(word in known for word in words) for code, known in function_words().items()
    }
    return max(counts, key=lambda code: (counts[code], code == "en"))


@dataclass(frozen=True)
class Language:
    """Whether texts are in English.

    Attributes:
        english: Whether they are.
        share: Share of their words that are function words of English.
        words: Number of their words.
    """

    english: bool
    share: float
    words: int

    @classmethod
    def of(cls, texts: Iterable[str]) -> Language:
        """English, unless function words of German, French or Spanish are a third as frequent as those of English.

        Texts in other languages have few function words of English, and letters beyond ASCII; terse English texts such
        as lists of names have no such letters.
        """
        words, beyond = 0, 0
        known = function_words()
        counts = dict.fromkeys(known, 0)
        for text in texts:
            beyond += sum(
                any(map(str.isalpha, part)) and not part.isascii() for part in text.split()
            )
            for word in bare_words(text):
                words += 1
                for code, functions in known.items():
                    counts[code] += word in functions
        share = counts.pop("en") / max(words, 1)
        other = max(counts.values()) / max(words, 1)
        foreign = share < _FEW and beyond > _SIGNS * max(words, 1)
        return cls(not foreign and other <= _OTHER * share or not words, share, words)


def language_of_pairs(pairs: Sequence[Pair]) -> Language:
    """Language of the questions and answers of some pairs, evenly spaced, by their beginnings."""
    some = pairs[:: max(1, len(pairs) // _PAIRS)]
    turns = (each for pair in some for each in pair.messages if each.role != "system")
    return Language.of(turn.content[:_CHARACTERS] for turn in islice(turns, 4 * _PAIRS))
