"""Text normalization and near-duplicate search.

Two questions are the same if they are equal after Unicode NFC, case folding and removal of sentence punctuation. They
are near-duplicates if the Jaccard similarity of their word pairs (2-shingles) reaches a threshold. Candidates come from
MinHash with locality-sensitive hashing (Broder 1997; Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", section
3.4) and are verified exactly. Questions that differ in a number or an identifier ("type 1" and "type 2", "hepatitis B"
and "hepatitis C") are never near-duplicates.
"""

from __future__ import annotations

import functools
import re
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assistant_builder.normalization import normalize_form

PERMUTATIONS = 128
RECALL = 0.995
"""Share of the pairs exactly at the threshold that the LSH bands must find; above it nearly all are found."""
# four standard deviations of a MinHash estimate of 0.8 with 128 permutations
_ESTIMATE_SLACK = 0.16
_MAX_CANDIDATES = 2_000
_MAX_VERIFIED_SHINGLES = 200_000
_PUNCTUATION = r"[.,;:!?…'\"“”‘„«»‹›¿¡()\[\]。、，！？：；「」（）]"
_OUTER_PUNCTUATION = re.compile(rf"(?<![^\W_]){_PUNCTUATION}+|{_PUNCTUATION}+(?![^\W_])")
_HYPHEN = re.compile(r"(?<=[^\W\d_])[-‐‑–—/](?=[^\W\d_])")
_WORD = re.compile(r"[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]|\w+|[^\w\s]")
_LETTER_OR_ROMAN = re.compile(r"\b(?:[B-HJ-Z]|[IVX]{2,})\b")


def normalize_unicode(text: str) -> str:
    """Apply Unicode NFC and collapse whitespace: texts that are then equal are exact duplicates."""
    return " ".join(normalize_form("NFC", text).split())


@functools.lru_cache(maxsize=2**15)  # checking and splitting normalize the same texts several times
def casefold_normalize(text: str) -> str:
    """Normalize Unicode, case and sentence punctuation: texts that are then equal are the same question."""
    folded = normalize_unicode(text).replace("’", "'").casefold()
    return " ".join(_OUTER_PUNCTUATION.sub(" ", folded).split()) or folded


def split_words(text: str) -> list[str]:
    """Words and signs of a text; in scripts without spaces each character is a word."""
    return _WORD.findall(_HYPHEN.sub(" ", casefold_normalize(text)))


def identifier_tokens(text: str) -> tuple[str, ...]:
    """Tokens that distinguish things of one name: words with a digit, single capitals (not A, I), Roman numerals."""
    numbers = [word for word in split_words(text) if any(character.isdigit() for character in word)]
    return tuple(sorted(numbers + _LETTER_OR_ROMAN.findall(text)))


def lsh_bands(threshold: float) -> tuple[int, int]:
    """Number of LSH bands and rows per band: the fewest bands that find a pair at ``threshold`` with :data:`RECALL`."""
    for rows in range(PERMUTATIONS, 0, -1):
        bands = PERMUTATIONS // rows
        if 1 - (1 - threshold**rows) ** bands >= RECALL:
            return bands, rows
    return PERMUTATIONS, 1


def _shingles(words: list[str]) -> NDArray[np.uint32]:
    pairs = [f"{a} {b}" for a, b in zip(words, words[1:], strict=False)] or words or [""]
    return np.unique(
        np.array(
            [zlib.crc32(pair.encode(errors="surrogatepass")) for pair in pairs], dtype=np.uint32
        )
    )


class NearDuplicateIndex:
    """An LSH index of ``questions``, in which the most similar of those added so far is found.

    A query examines at most 2,000 candidates, those of the smallest buckets first, where questions made from a template
    ("What are the symptoms of …?") differ. The time therefore grows linearly with the number of questions.
    """

    def __init__(self, questions: Sequence[str], threshold: float) -> None:
        from datasketch import MinHash  # imported here because it imports scipy

        hashed = [_shingles(split_words(question)) for question in questions]
        self._signatures = np.zeros((len(questions), PERMUTATIONS), dtype=np.uint32)
        minhashes = MinHash.generator(
            (row.tolist() for row in hashed), num_perm=PERMUTATIONS, hashfunc=int
        )
        for index, minhash in enumerate(minhashes):
            self._signatures[index] = minhash.hashvalues
        # the distinct shingles of all questions, concatenated, and where those of each question begin
        self._shingles = np.concatenate(hashed) if hashed else np.zeros(0, dtype=np.uint32)
        self._starts = np.zeros(len(questions) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in hashed], out=self._starts[1:])
        self._identifiers = [identifier_tokens(question) for question in questions]
        self._threshold = threshold
        bands, self._rows = lsh_bands(threshold)
        self._buckets: list[dict[Any, list[int]]] = [{} for _ in range(bands)]

    def _keys(self, index: int) -> list[tuple[bytes, tuple[str, ...]]]:
        signature = self._signatures[index]
        starts = range(0, len(self._buckets) * self._rows, self._rows)
        return [
            (signature[start : start + self._rows].tobytes(), self._identifiers[index])
            for start in starts
        ]

    def add(self, index: int) -> None:
        """Add the question at ``index``."""
        for bucket, key in zip(self._buckets, self._keys(index), strict=True):
            bucket.setdefault(key, []).append(index)

    def nearest(self, index: int) -> tuple[int, float] | None:
        """The added question most similar to that at ``index`` and the similarity, or None below the threshold."""
        buckets = [
            bucket.get(key) for bucket, key in zip(self._buckets, self._keys(index), strict=True)
        ]
        candidates: set[int] = set()
        for members in sorted((members for members in buckets if members), key=len):
            candidates.update(members[: _MAX_CANDIDATES - len(candidates)])
            if len(candidates) >= _MAX_CANDIDATES:
                break
        candidates.discard(index)
        if not candidates:
            return None
        others = np.sort(np.fromiter(candidates, dtype=np.int64))
        estimates = (self._signatures[others] == self._signatures[index]).mean(axis=1)
        order = np.argsort(-estimates, kind="stable")
        likely = others[order[estimates[order] >= self._threshold - _ESTIMATE_SLACK]]
        if not len(likely):
            return None
        similarities = self._jaccard(index, likely)
        best = int(np.lexsort((likely[: len(similarities)], -similarities))[0])
        similarity = float(similarities[best])
        return (int(likely[best]), similarity) if similarity >= self._threshold - 1e-9 else None

    def _jaccard(self, index: int, others: NDArray[np.int64]) -> NDArray[np.float64]:
        """Exact Jaccard similarity of one question to others (to the first of them, if they are very long)."""
        starts, shingles = self._starts, self._shingles
        own = shingles[starts[index] : starts[index + 1]]
        sizes = starts[others + 1] - starts[others]
        fitting = max(
            1, int(np.searchsorted(np.cumsum(sizes), _MAX_VERIFIED_SHINGLES, side="right"))
        )
        others, sizes = others[:fitting], sizes[:fitting]
        ends = np.cumsum(sizes)
        positions = np.repeat(starts[others] - (ends - sizes), sizes) + np.arange(ends[-1])
        shared = np.add.reduceat(np.isin(shingles[positions], own), ends - sizes, dtype=np.int64)
        return shared / (sizes + len(own) - shared)
