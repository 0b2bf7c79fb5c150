"""Groups of questions with similar sentence embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

SIMILAR = 0.8  # cosine from which two questions are similar


def similar_questions(vectors: Any) -> list[int | None]:
    """Groups of similar questions: connected by a cosine of :data:`SIMILAR` or more, directly or over others.

    Args:
        vectors: Sentence embeddings of unit length, shape ``[n, d]``.

    Returns:
        The number of each question's group; ``None`` for a question without a similar one.
    """
    vectors = np.asarray(vectors, dtype=np.float32)
    rows, columns = [], []
    for start in range(0, len(vectors), 1000):
        near = np.argwhere(vectors[start : start + 1000] @ vectors.T >= SIMILAR)
        rows.append(near[:, 0] + start)
        columns.append(near[:, 1])
    ends = np.concatenate(rows), np.concatenate(columns)
    _, group = connected_components(
        coo_matrix((np.ones(len(ends[0])), ends), shape=(len(vectors), len(vectors)))
    )
    sizes = np.bincount(group)
    return [int(number) if sizes[number] > 1 else None for number in group]
