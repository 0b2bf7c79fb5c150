"""Words and character 4-grams of a text, and BM25 over them, by the package bm25s.

BM25 (Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework") in the variant of Lucene, whose scores are
never negative. Character 4-grams (McNamee and Mayfield 2004, "Character N-Gram Tokenization for European Language Text
Retrieval") take the place of stemmers, and document frequency that of stop words, so that no language needs its own.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from assistant_builder.data.similarity import casefold_normalize
from assistant_builder.normalization import normalize_form

METHOD, K1, B = "lucene", 1.5, 0.75
"""The variant of BM25, the saturation of term frequency, and the share of length normalization."""
GRAM = 4  # characters of a term
_ACCENTS = re.compile("[\u0300-\u036f]")  # combining marks of Latin, Greek and Cyrillic
_NO_SPACES = "\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"  # Thai, Lao, Khmer, kana, Han


def terms(text: str) -> list[str]:
    """What BM25 counts: words of up to four characters, and the character 4-grams of longer ones."""
    return [
        word[start : start + GRAM]
        for word in bare_words(text)
        for start in range(max(1, len(word) - GRAM + 1))
    ]


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
    from bm25s import stopwords

    languages = ("EN_PLUS", "GERMAN", "FRENCH", "SPANISH")
    texts = (text for name in languages for text in getattr(stopwords, f"STOPWORDS_{name}"))
    return frozenset(word for text in texts for word in bare_words(text))


@functools.cache
def _word() -> re.Pattern[str]:
    # the pattern of a word; it adds marks to the letters, because vowel signs of Indic scripts are marks
    letters = map(chr, range(0x483, 0x12000))
    marks = "".join(each for each in letters if unicodedata.category(each).startswith("M"))
    return re.compile(rf"[{_NO_SPACES}]|(?:(?![{_NO_SPACES}])[\w{marks}])+")


class Bm25:
    """BM25 scores of n texts, given by their terms; texts without terms always score 0."""

    def __init__(self, documents: Sequence[Sequence[str]]) -> None:
        import bm25s

        self._size = len(documents)
        self._model = None
        vocabulary: dict[str, int] = {}
        numbered = [
            [vocabulary.setdefault(term, len(vocabulary)) for term in document]
            for document in documents
        ]
        if vocabulary:
            backends = {"backend": "numpy", "csc_backend": "numpy"}
            self._model = bm25s.BM25(k1=K1, b=B, method=METHOD, **backends)
            self._model.index((numbered, vocabulary), create_empty_token=False, show_progress=False)
        self._vocabulary = vocabulary

    def scores(self, query: Collection[str]) -> NDArray[np.float32]:
        """Scores of all texts for the terms of a query, float32 [n]; a repeated term counts as often as it occurs."""
        known = [self._vocabulary[term] for term in query if term in self._vocabulary]
        if self._model is None or not known:
            return np.zeros(self._size, dtype=np.float32)
        return np.asarray(self._model.get_scores_from_ids(known), dtype=np.float32)
