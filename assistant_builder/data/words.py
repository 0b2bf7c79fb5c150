"""The words of a text, and which of them are function words of English, German, French and Spanish."""

from __future__ import annotations

import functools
import re
import unicodedata

from assistant_builder.data.similarity import casefold_normalize
from assistant_builder.normalization import normalize_form

_ACCENTS = re.compile("[\u0300-\u036f]")  # combining marks of Latin, Greek and Cyrillic
_NO_SPACES = "\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"  # Thai, Lao, Khmer, kana, Han


def bare_words(text: str) -> list[str]:
    """The words of a text without case, accents and signs; in scripts without spaces each character is a word."""
    folded = casefold_normalize(text)
    if not folded.isascii():
        bare = _ACCENTS.sub("", normalize_form("NFKD", folded))
        folded = normalize_form("NFC", bare)
    return [word for word in _word().findall(folded) if any(map(str.isalnum, word))]


def content_words(text: str) -> list[str]:
    """The different words of a text that are no function words of English, German, French or Spanish, in order."""
    return [word for word in dict.fromkeys(bare_words(text)) if word not in _function_words()]


@functools.cache
def _function_words() -> frozenset[str]:
    return frozenset().union(*function_words().values())


@functools.cache
def function_words() -> dict[str, frozenset[str]]:
    """Code of a language → its function words, without accents."""
    from bm25s import stopwords

    names = {"en": "EN_PLUS", "de": "GERMAN", "fr": "FRENCH", "es": "SPANISH"}
    return {
        code: frozenset(
            word for text in getattr(stopwords, f"STOPWORDS_{name}") for word in bare_words(text)
        )
        for code, name in names.items()
    }


@functools.cache
def _word() -> re.Pattern[str]:
    # the pattern of a word; it adds marks to the letters, because vowel signs of Indic scripts are marks
    letters = map(chr, range(0x483, 0x12000))
    marks = "".join(each for each in letters if unicodedata.category(each).startswith("M"))
    return re.compile(rf"[{_NO_SPACES}]|(?:(?![{_NO_SPACES}])[\w{marks}])+")
