"""Questions of the held-out set that also stand in training or validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from assistant_builder.data.records import Pair, SplitName
from assistant_builder.data.similarity import NearIndex, normalised, sketch

_BLOCK = 1024


@dataclass(frozen=True)
class Leak:
    """One held-out question and its likest counterpart outside.

    Attributes:
        heldout_row: Row of the held-out pair.
        other_row: Row of the pair it repeats.
        split: Where that pair stands.
        kind: ``exact`` (the same after normalisation), ``near`` (word pairs) or ``embedding`` (sentence embeddings).
        similarity: 1 for exact, Jaccard similarity for near, cosine for embedding.
        heldout_question: As it stands.
        other_question: As it stands.
        removed: Whether the held-out pair was taken out.
    """

    heldout_row: int
    other_row: int
    split: SplitName
    kind: Literal["exact", "near", "embedding"]
    similarity: float
    heldout_question: str
    other_question: str
    removed: bool = False

    def to_record(self) -> dict[str, Any]:
        """As split.json holds it."""
        return asdict(self)


def find_leaks(
    heldout: Sequence[Pair], train: Sequence[Pair], validation: Sequence[Pair], threshold: float
) -> list[Leak]:
    """Compare questions across the splits, exactly and by MinHash.

    Args:
        heldout: The pairs to be scored.
        train: What is trained on.
        validation: What chooses the checkpoint.
        threshold: Jaccard similarity from which a question leaks.

    Returns:
        At most one leak for each held-out pair, in the order of ``heldout``.
    """
    outside: list[tuple[Pair, SplitName]] = [(pair, "train") for pair in train]
    outside += [(pair, "validation") for pair in validation]
    same: dict[str, int] = {}
    for place, (pair, _) in enumerate(outside):
        same.setdefault(normalised(pair.compared_question), place)
    pairs = [pair for pair, _ in outside] + list(heldout)
    index = NearIndex(sketch([pair.compared_question for pair in pairs]), threshold)
    for place in sorted(same.values()):
        index.add(place)
    leaks = []
    for place, pair in enumerate(heldout, start=len(outside)):
        exact = same.get(normalised(pair.compared_question))
        match = (exact, 1.0) if exact is not None else index.nearest(place)
        if match is not None:
            other, split = outside[match[0]]
            kind: Literal["exact", "near"] = "exact" if exact is not None else "near"
            leaks.append(
                Leak(pair.row, other.row, split, kind, round(match[1], 4), pair.question, other.question)
            )
    return leaks


def find_embedding_leaks(
    heldout: Sequence[Pair],
    outside: Sequence[tuple[Pair, SplitName]],
    heldout_vectors: NDArray[np.float32],
    outside_vectors: NDArray[np.float32],
    threshold: float,
) -> list[Leak]:
    """Compare questions across the splits by their sentence embeddings.

    Args:
        heldout: The pairs to be scored.
        outside: Training and validation pairs with their split.
        heldout_vectors: Embeddings of the held-out ``compared_question``, unit rows, float32 [len(heldout), d].
        outside_vectors: Those of ``outside``, unit rows, float32 [len(outside), d].
        threshold: Cosine from which a question leaks.

    Returns:
        At most one leak for each held-out pair, the likest, in the order of ``heldout``.
    """
    leaks: list[Leak] = []
    if not outside:
        return leaks
    for start in range(0, len(heldout), _BLOCK):
        cosines = heldout_vectors[start : start + _BLOCK] @ outside_vectors.T
        likest = cosines.argmax(axis=1)
        for offset, place in enumerate(likest.tolist()):
            cosine = float(cosines[offset, place])
            if cosine >= threshold:
                pair, (other, split) = heldout[start + offset], outside[place]
                leaks.append(
                    Leak(pair.row, other.row, split, "embedding", round(cosine, 4), pair.question, other.question)
                )
    return leaks
