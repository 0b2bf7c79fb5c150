"""Words and character 4-grams of a text, and BM25 over them, by the package bm25s.

BM25 (Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework") in the variant of Lucene, whose scores are
never negative. Character 4-grams (McNamee and Mayfield 2004, "Character N-Gram Tokenization for European Language Text
Retrieval") take the place of stemmers, and document frequency that of stop words, so that no language needs its own.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from assistant_builder.data.words import bare_words

METHOD, K1, B = "lucene", 1.5, 0.75
"""The variant of BM25, the saturation of term frequency, and the share of length normalization."""
GRAM = 4  # characters of a term
COUNTED = {
    word: str(number)
    for words in (
        "one two three four five six seven eight nine ten eleven twelve",
        "ein zwei drei vier funf sechs sieben acht neun zehn elf zwolf",
        "un deux trois quatre cinq six sept huit neuf dix onze douze",
        "un dos tres cuatro cinco seis siete ocho nueve diez once doce",
    )
    for number, word in enumerate(words.split(), start=1)
}
"""Number words up to twelve, without accents → the number."""
_ARTICLES = frozenset("one ein un".split())


def terms(text: str) -> list[str]:
    """What BM25 counts: words of up to four characters, and the character 4-grams of longer ones."""
    return [
        word[start : start + GRAM]
        for word in bare_words(text)
        for start in range(max(1, len(word) - GRAM + 1))
    ]


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


def number_of(word: str) -> str | None:
    """The number that a word without accents is; ``None`` for other words and for articles."""
    return word if word.isdigit() else None if word in _ARTICLES else COUNTED.get(word)


class Numbers:
    """The numbers in n texts, in digits or words."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._found = list(map(_numbers, texts))

    def differ(self, text: str) -> NDArray[np.bool_]:
        """Whether each text has numbers and none of those of ``text``, bool [n]; nowhere if ``text`` has none."""
        asked = _numbers(text)
        return np.array([bool(asked and each) and asked.isdisjoint(each) for each in self._found])


def _numbers(text: str) -> frozenset[str]:
    return frozenset(filter(None, map(number_of, bare_words(text))))
