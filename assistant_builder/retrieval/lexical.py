"""Terms of a text and BM25 over them, by the package bm25s.

BM25 (Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework") in the variant of Lucene, whose scores are
never negative. Terms need no list of stop words or stemmer of one language: frequent words get a low weight from their
document frequency.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from assistant_builder.data.similarity import casefold_normalize

METHOD, K1, B = "lucene", 1.5, 0.75
"""The variant of BM25, the saturation of term frequency, and the share of length normalization."""
_ACCENTS = re.compile("[\u0300-\u036f]")  # combining marks of Latin, Greek and Cyrillic
_NO_SPACES = "\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"  # Thai, Lao, Khmer, kana, Han


def terms(text: str) -> list[str]:
    """The words of a text without case, accents and signs; in scripts without spaces each character is a word."""
    folded = casefold_normalize(text)
    if not folded.isascii():
        bare = _ACCENTS.sub("", unicodedata.normalize("NFKD", folded))
        folded = unicodedata.normalize("NFC", bare)
    return [word for word in _word().findall(folded) if any(character.isalnum() for character in word)]


@functools.cache
def _word() -> re.Pattern[str]:
    """A word; vowel signs of Indic scripts are marks, which ``\\w`` does not contain."""
    marks = "".join(chr(code) for code in range(0x483, 0x12000)
                    if unicodedata.category(chr(code)).startswith("M"))
    return re.compile(rf"[{_NO_SPACES}]|(?:(?![{_NO_SPACES}])[\w{marks}])+")


class Bm25:
    """BM25 scores of n texts, given by their terms; texts without terms always score 0."""

    def __init__(self, documents: Sequence[Sequence[str]]) -> None:
        import bm25s

        self._size = len(documents)
        self._model = None
        vocabulary: dict[str, int] = {}
        numbered = [[vocabulary.setdefault(term, len(vocabulary)) for term in document] for document in documents]
        if vocabulary:
            self._model = bm25s.BM25(k1=K1, b=B, method=METHOD, backend="numpy", csc_backend="numpy")
            self._model.index((numbered, vocabulary), create_empty_token=False, show_progress=False)
        self._vocabulary = vocabulary

    def scores(self, query: Collection[str]) -> NDArray[np.float32]:
        """Scores of all texts for the terms of a query, float32 [n]; a repeated term counts as often as it occurs."""
        known = [self._vocabulary[term] for term in query if term in self._vocabulary]
        if self._model is None or not known:
            return np.zeros(self._size, dtype=np.float32)
        return np.asarray(self._model.get_scores_from_ids(known), dtype=np.float32)
