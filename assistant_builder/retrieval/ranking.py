"""The order of the answers that were found for a question, and the share of each.

The score of a fact is the cosine of its question and a little of its BM25 score: a convex combination, which needs no
ranks and keeps how far facts are apart (Bruch, Gai and Ingber 2023, arXiv 2210.11934). The score of an answer is the
mean of that of its best wording and that of its best five wordings together: one wording that happens to be near counts
less than an answer whose wordings all are. An answer that was asked once has the score of its one fact, and so has one
of which a wording is the question itself. Where subjects share an answer ("It is inherited."), the wordings of each
subject are averaged apart, because those about the others say nothing of this one; the best subject counts.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WORDINGS = 5  # wordings of an answer that are averaged
SHARPNESS = 12.0
"""Factor of the scores in the shares: an answer whose score is 0.1 higher has 3.3 times the share."""
WITHIN = 0.05
"""Facts whose score is lower than the best by more than this are not written into a prompt: where the search is sure, a
small model chooses worse than the search, and a shorter prompt costs less."""
DEPTH = 1_000  # facts that are ranked; more if they have too few distinct answers


@dataclass(frozen=True)
class Weights:
    """How much counts beside the embedding of a fact's question.

    Attributes:
        answer: Weight of the embedding of its answer relative to that of its question; at most :data:`DECLINING` of an
            answer that declines, which has no subject.
        words: What a term of the question that no other fact has adds to the cosine, at most.
        numbers: What is taken from the cosine of a fact whose question has other numbers than the question.
    """

    answer: float
    words: float
    numbers: float = 0.0


DECLINING = 0.5
TRAINED, PLAIN = Weights(0.3, 0.1), Weights(1.0, 0.05, 0.25)
"""Weights for an embedder that is trained on the questions of the data, and for any other one: on one wording of each
fact of nine datasets, other wordings found 66 % at first with the second, 57 % with the first."""


@dataclass(frozen=True)
class Ranked:
    """Facts in the order of the scores of their answers, the best first."""

    positions: NDArray[np.intp]  # [m], of all n facts
    scores: NDArray[np.float64]  # [m], of the answer


def highest(scores: NDArray[np.float32], depth: int) -> NDArray[np.intp]:
    """Positions of the ``depth`` highest finite scores, the highest first; ties in order of position."""
    chosen = np.arange(len(scores))
    if depth < len(scores):
        limit = np.partition(scores, len(scores) - depth)[len(scores) - depth]
        higher = np.flatnonzero(scores > limit)
        equal = np.flatnonzero(scores == limit)[: depth - len(higher)]
        chosen = np.sort(np.concatenate([higher, equal]))
    chosen = chosen[scores[chosen] > -np.inf]
    return chosen[np.argsort(-scores[chosen], kind="stable")]


def fact_scores(
    cosines: NDArray[np.float32], bm25: NDArray[np.float32], facts: int, words: float
) -> NDArray[np.float32]:
    """Scores of m of ``facts`` facts from their cosines and BM25 scores, float32 [m] each, see :class:`Weights`."""
    rarest = np.log(2 + 2 * facts)  # what BM25 gives for a term that no fact has, at most
    return np.round(cosines + words / rarest * bm25, 6).astype(np.float32)


def numbered(keys: Iterable[Hashable]) -> NDArray[np.intp]:
    """A number for each of n keys, in the order of their first occurrence, [n]."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.intp)


def rank(
    cosines: NDArray[np.float32],
    bm25: NDArray[np.float32],
    answers: NDArray[np.intp],
    depth: int = DEPTH,
    *,
    words: float,
    subjects: NDArray[np.intp] | None = None,
    asked: Collection[int] = (),
) -> Ranked:
    """Rank n facts; facts with the same answer have the same score.

    Args:
        cosines: Cosine similarities, float32 [n]; -inf leaves a fact out.
        bm25: BM25 scores, float32 [n].
        answers: Number of each fact's answer, equal for equal answers, [n].
        depth: Facts that are ranked, by their own scores.
        words: As of :class:`Weights`.
        subjects: Number of what each fact is about, whose wordings are averaged, [n]; None: one for each answer.
        asked: Positions of the facts whose question is the one that is asked.

    Returns:
        The facts; those of equal scores in the order of cosine, then of position.
    """
    scores = fact_scores(cosines, bm25, len(cosines), words)
    positions = np.sort(highest(scores, depth))
    subjects = answers if subjects is None else subjects
    wordings: dict[tuple[int, int], list[float]] = {}
    for place, score in zip(positions.tolist(), scores[positions].tolist(), strict=True):
        wordings.setdefault((int(answers[place]), int(subjects[place])), []).append(score)
    total: dict[int, float] = {}
    for (answer, _), each in wordings.items():
        best = sorted(each, reverse=True)[:WORDINGS]
        total[answer] = max(total.get(answer, -np.inf), best[0] / 2 + sum(best) / len(best) / 2)
    for place in set(asked) & set(positions.tolist()):
        total[int(answers[place])] = max(total[int(answers[place])], float(scores[place]))
    joint = np.array([total[answer] for answer in answers[positions].tolist()], dtype=np.float64)
    order = np.lexsort((-cosines[positions], -joint))
    return Ranked(positions[order], joint[order])


def log_total(ranked: Ranked, answers: NDArray[np.intp], counted: NDArray[np.bool_]) -> float:
    """Logarithm of the sum of ``exp(SHARPNESS × score)`` over answers; -inf without any.

    ``SHARPNESS × score`` less this is the logarithm of the answer's share (a softmax over answers).

    Args:
        ranked: The ranked facts.
        answers: Number of each fact's answer, [n].
        counted: Facts whose answers count, [n].
    """
    kept = counted[ranked.positions]
    _, first = np.unique(answers[ranked.positions[kept]], return_index=True)
    if not len(first):
        return float("-inf")
    powers = SHARPNESS * ranked.scores[kept][first]
    return float(powers.max() + np.log(np.exp(powers - powers.max()).sum()))
