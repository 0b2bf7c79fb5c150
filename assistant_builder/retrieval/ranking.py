"""Ranks of scored facts, and their fusion by reciprocal rank.

Reciprocal rank fusion (Cormack, Clarke and Büttcher 2009, SIGIR) adds ``1 / (k + rank)`` over rankings, so that scores
of different scales, such as cosines and BM25, need no calibration. BM25 has a lower weight than the cosine,
because with equal weights the fusion found fewer right answers than the cosine alone (docs/retrieval.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RRF_K, BM25_WEIGHT = 20, 0.1
"""Constant of the fusion (60 in the paper), and the weight of BM25 relative to that of the cosine."""
DEPTH = 1_000
"""Facts of each ranking that are fused, as in the runs of the paper; more if they have too few distinct answers."""


@dataclass(frozen=True)
class Fused:
    """Facts in the order of their fused score, the best first."""

    positions: NDArray[np.intp]  # [m], of all n facts
    scores: NDArray[np.float64]  # [m]


def highest(scores: NDArray[np.float32], depth: int, *, above: float = -np.inf) -> NDArray[np.intp]:
    """Positions of the ``depth`` highest scores that exceed ``above``, the highest first; ties in order of position."""
    if depth < len(scores):
        limit = np.partition(scores, len(scores) - depth)[len(scores) - depth]
        higher = np.flatnonzero(scores > limit)
        equal = np.flatnonzero(scores == limit)[: depth - len(higher)]
        chosen = np.sort(np.concatenate([higher, equal]))
    else:
        chosen = np.arange(len(scores))
    chosen = chosen[scores[chosen] > above]
    return chosen[np.argsort(-scores[chosen], kind="stable")]


def fuse(cosines: NDArray[np.float32], bm25: NDArray[np.float32], answers: NDArray[np.intp],
         depth: int = DEPTH) -> Fused:
    """Fuse the rankings of n facts by cosine and by BM25.

    Facts with the same answer share a score, that of the best rank of any of them in each ranking.

    Args:
        cosines: Cosine similarities, float32 [n]; -inf leaves a fact out.
        bm25: BM25 scores, float32 [n]; facts with 0 or less are not ranked.
        answers: Number of each fact's answer, equal for equal answers, [n].
        depth: Facts of each ranking that are fused.

    Returns:
        The facts of both rankings; equal scores in the order of cosine, then of position.
    """
    by_cosine, by_bm25 = highest(cosines, depth), highest(bm25, depth, above=0.0)
    total: dict[int, float] = {}
    for weight, ranking in ((1.0, by_cosine), (BM25_WEIGHT, by_bm25)):
        best: dict[int, int] = {}
        for rank, answer in enumerate(answers[ranking].tolist(), start=1):
            best.setdefault(answer, rank)
        for answer, rank in best.items():
            total[answer] = total.get(answer, 0.0) + weight / (RRF_K + rank)
    positions = np.union1d(by_cosine, by_bm25)
    scores = np.array([total[answer] for answer in answers[positions].tolist()], dtype=np.float64)
    order = np.lexsort((-cosines[positions], -scores))
    return Fused(positions[order], scores[order])
