"""When two questions are the same, and when they are nearly so.

The same: equal after Unicode NFC, case folding and removal of sentence punctuation (signs that carry meaning, as in
``C++`` or ``2-2``, stay). Nearly: Jaccard similarity of their word pairs (2-shingles) at or above a threshold.
Candidates come from MinHash banding (Broder 1997; Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", 3.4);
each is verified with the true Jaccard similarity, so nothing is reported that is not so. Two questions that differ in
a number or in a designator ("type 1" and "type 2", "hepatitis B" and "hepatitis C") ask for different things, however
alike they look, and never count as near.
"""

from __future__ import annotations

import functools
import re
import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PERMUTATIONS = 128
RECALL = 0.995
"""Share of the pairs exactly at the threshold that banding must find; above it nearly all are found."""
_ESTIMATE_SLACK = 0.16  # four standard deviations of a MinHash estimate of 0.8 over 128 permutations
_MOST_CANDIDATES = 2_000
_MOST_VERIFIED_SHINGLES = 200_000
_SENTENCE_SIGNS = r"[.,;:!?…'\"“”‘„«»‹›¿¡()\[\]。、，！？：；「」（）]"
_OUTER_SIGNS = re.compile(rf"(?<![^\W_]){_SENTENCE_SIGNS}+|{_SENTENCE_SIGNS}+(?![^\W_])")
_JOINED = re.compile(r"(?<=[^\W\d_])[-‐‑–—/](?=[^\W\d_])")
_TOKEN = re.compile(r"[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]|\w+|[^\w\s]")
_DESIGNATOR = re.compile(r"\b(?:[B-HJ-Z]|[IVX]{2,})\b")


def folded(text: str) -> str:
    """A text after Unicode NFC and folding of blanks: what counts as an exact duplicate."""
    return " ".join(unicodedata.normalize("NFC", text).split())


@functools.lru_cache(maxsize=2**15)  # checking and splitting ask for the same texts several times over
def normalised(text: str) -> str:
    """A text after :func:`folded`, without case and sentence punctuation: what counts as the same question."""
    bare = folded(text).replace("’", "'").casefold()
    return " ".join(_OUTER_SIGNS.sub(" ", bare).split()) or bare


def tokens(text: str) -> list[str]:
    """Words and signs of a text; in scripts without blanks each character is one."""
    return _TOKEN.findall(_JOINED.sub(" ", normalised(text)))


def designators(text: str) -> tuple[str, ...]:
    """What tells apart things of one name: words with a digit, single capitals (but A and I), Roman numerals."""
    numbers = [token for token in tokens(text) if any(character.isdigit() for character in token)]
    return tuple(sorted(numbers + _DESIGNATOR.findall(text)))


@dataclass(frozen=True)
class Sketches:
    """What is kept of ``n`` questions: bounded memory for each, apart from 4 bytes a shingle.

    Attributes:
        signatures: MinHash values, uint32 [n, 128].
        shingles: Hashes of the distinct shingles of all questions, end to end, uint32.
        starts: Where each question's shingles begin, int64 [n + 1].
        marks: Each question's :func:`designators`.
    """

    signatures: NDArray[np.uint32]
    shingles: NDArray[np.uint32]
    starts: NDArray[np.int64]
    marks: list[tuple[str, ...]]


def sketch(questions: Sequence[str]) -> Sketches:
    """Compute the sketches of some questions."""
    from datasketch import MinHash  # here, for it imports scipy

    hashed = [_shingles(tokens(question)) for question in questions]
    signatures = np.zeros((len(questions), PERMUTATIONS), dtype=np.uint32)
    minhashes = MinHash.generator((row.tolist() for row in hashed), num_perm=PERMUTATIONS, hashfunc=int)
    for place, minhash in enumerate(minhashes):
        signatures[place] = minhash.hashvalues
    starts = np.zeros(len(questions) + 1, dtype=np.int64)
    np.cumsum([len(row) for row in hashed], out=starts[1:])
    flat = np.concatenate(hashed) if hashed else np.zeros(0, dtype=np.uint32)
    return Sketches(signatures, flat, starts, [designators(question) for question in questions])


def _shingles(words: list[str]) -> NDArray[np.uint32]:
    pairs = [f"{a} {b}" for a, b in zip(words, words[1:], strict=False)] or words or [""]
    return np.unique(np.array([zlib.crc32(pair.encode(errors="surrogatepass")) for pair in pairs], dtype=np.uint32))


def bands_for(threshold: float) -> tuple[int, int]:
    """Number of bands and rows a band: the fewest bands that find a pair at ``threshold`` with :data:`RECALL`."""
    for rows in range(PERMUTATIONS, 0, -1):
        bands = PERMUTATIONS // rows
        if 1 - (1 - threshold**rows) ** bands >= RECALL:
            return bands, rows
    return PERMUTATIONS, 1


class NearIndex:
    """Finds, among questions added so far, the one nearest to another.

    At most 2,000 candidates are looked at for one question, those from the emptiest bands first, so that data made
    from a template (thousands of "What are the symptoms of …?") costs time in proportion to its length. What
    distinguishes a template's questions lies in their emptiest bands.

    Args:
        sketches: Of all questions that will be added or asked for.
        threshold: Least Jaccard similarity that counts.
    """

    def __init__(self, sketches: Sketches, threshold: float) -> None:
        """Start without any question."""
        self._sketches = sketches
        self._threshold = threshold
        self._bands, self._rows = bands_for(threshold)
        self._buckets: list[dict[Any, list[int]]] = [{} for _ in range(self._bands)]

    def _keys(self, index: int) -> list[tuple[bytes, tuple[str, ...]]]:
        signature, marks = self._sketches.signatures[index], self._sketches.marks[index]
        return [
            (signature[band * self._rows : (band + 1) * self._rows].tobytes(), marks) for band in range(self._bands)
        ]

    def add(self, index: int) -> None:
        """Add the question at ``index`` of the sketches."""
        for bucket, key in zip(self._buckets, self._keys(index), strict=True):
            bucket.setdefault(key, []).append(index)

    def nearest(self, index: int) -> tuple[int, float] | None:
        """The added question most similar to that at ``index``, with the similarity; None if none is near enough."""
        found = [bucket.get(key) for bucket, key in zip(self._buckets, self._keys(index), strict=True)]
        candidates: set[int] = set()
        for members in sorted((members for members in found if members), key=len):
            candidates.update(members[: _MOST_CANDIDATES - len(candidates)])
            if len(candidates) >= _MOST_CANDIDATES:
                break
        candidates.discard(index)
        if not candidates:
            return None
        others = np.sort(np.fromiter(candidates, dtype=np.int64))
        signatures = self._sketches.signatures
        estimates = (signatures[others] == signatures[index]).mean(axis=1)
        order = np.argsort(-estimates, kind="stable")
        likely = others[order[estimates[order] >= self._threshold - _ESTIMATE_SLACK]]
        if not len(likely):
            return None
        similarities = self._jaccard(index, likely)
        best = int(np.lexsort((likely[: len(similarities)], -similarities))[0])
        similarity = float(similarities[best])
        return (int(likely[best]), similarity) if similarity >= self._threshold - 1e-9 else None

    def _jaccard(self, index: int, others: NDArray[np.int64]) -> NDArray[np.float64]:
        """True Jaccard similarity of one question with others (with the first of them, if they are very long)."""
        starts, flat = self._sketches.starts, self._sketches.shingles
        own = flat[starts[index] : starts[index + 1]]
        sizes = starts[others + 1] - starts[others]
        fitting = max(1, int(np.searchsorted(np.cumsum(sizes), _MOST_VERIFIED_SHINGLES, side="right")))
        others, sizes = others[:fitting], sizes[:fitting]
        ends = np.cumsum(sizes)
        places = np.repeat(starts[others] - (ends - sizes), sizes) + np.arange(ends[-1])
        shared = np.add.reduceat(np.isin(flat[places], own), ends - sizes, dtype=np.int64)
        return shared / (sizes + len(own) - shared)
