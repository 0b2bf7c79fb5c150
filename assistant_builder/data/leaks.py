"""Leaks: held-out questions that also occur in training or validation, in the same, similar or other words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from assistant_builder.data.similarity import NearDuplicateIndex, casefold_normalize
from assistant_builder.data.types import Pair, SplitName

LeakKind = Literal["exact", "near", "embedding"]
_EMBEDDING_BLOCK = 1024


@dataclass(frozen=True)
class Leak:
    """A held-out question that also occurs in training or validation."""

    heldout_row: int
    other_row: int  # the most similar pair of ``split``
    split: SplitName
    kind: LeakKind  # equal after normalization, word pairs or sentence embeddings
    similarity: float  # 1, Jaccard or cosine similarity, by kind
    heldout_question: str
    other_question: str
    removed: bool = False  # whether the held-out pair was removed

    @classmethod
    def between(
        cls, heldout: Pair, other: Pair, split: SplitName, kind: LeakKind, similarity: float
    ) -> Leak:
        """The leak of a held-out pair to a pair of another split."""
        questions = heldout.question, other.question
        return cls(heldout.row, other.row, split, kind, round(similarity, 4), *questions)

    def to_record(self) -> dict[str, Any]:
        """An entry of ``split.json``."""
        return asdict(self)


def find_leaks(
    heldout: Sequence[Pair], train: Sequence[Pair], validation: Sequence[Pair], threshold: float
) -> list[Leak]:
    """Find held-out questions in training and validation, exactly and by MinHash; at most one leak for each."""
    others: list[tuple[Pair, SplitName]] = [(pair, "train") for pair in train]
    others += [(pair, "validation") for pair in validation]
    first: dict[str, int] = {}
    for index, (pair, _) in enumerate(others):
        first.setdefault(casefold_normalize(pair.compared_question), index)
    pairs = [*(pair for pair, _ in others), *heldout]
    near = NearDuplicateIndex([pair.compared_question for pair in pairs], threshold)
    for index in sorted(first.values()):
        near.add(index)
    leaks = []
    for index, pair in enumerate(heldout, start=len(others)):
        exact = first.get(casefold_normalize(pair.compared_question))
        match = (exact, 1.0) if exact is not None else near.nearest(index)
        if match is not None:
            kind: LeakKind = "near" if exact is None else "exact"
            leaks.append(Leak.between(pair, *others[match[0]], kind, match[1]))
    return leaks


def find_embedding_leaks(
    heldout: Sequence[Pair],
    outside: Sequence[tuple[Pair, SplitName]],
    heldout_vectors: NDArray[np.float32],
    outside_vectors: NDArray[np.float32],
    threshold: float,
) -> list[Leak]:
    """Find held-out questions in training and validation by the cosine similarity of sentence embeddings.

    Args:
        heldout: Held-out pairs.
        outside: Training and validation pairs with their split.
        heldout_vectors: L2-normalized embeddings of the held-out ``compared_question``, float32 [len(heldout), d].
        outside_vectors: The same of ``outside``, float32 [len(outside), d].
        threshold: Minimum cosine similarity of a leak.

    Returns:
        The most similar pair for each held-out pair that leaks, in the order of ``heldout``.
    """
    leaks: list[Leak] = []
    if not outside:
        return leaks
    for start in range(0, len(heldout), _EMBEDDING_BLOCK):
        cosines = heldout_vectors[start : start + _EMBEDDING_BLOCK] @ outside_vectors.T
        for offset, nearest in enumerate(cosines.argmax(axis=1).tolist()):
            cosine = float(cosines[offset, nearest])
            if cosine >= threshold:
                other, split = outside[nearest]
                leaks.append(
                    Leak.between(heldout[start + offset], other, split, "embedding", cosine)
                )
    return leaks
