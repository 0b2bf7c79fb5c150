"""How well questions are grouped by meaning, as the inbox does it, on the shipped data files.

The wordings of one fact in a file should be one group. Of all pairs of questions in one group, the precision is the
share whose fact is the same; the recall is the share of the pairs of one fact that are in one group.

    python -m benchmarks.question_groups
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from assistant_builder.chat.inbox import SIMILAR, meanings
from assistant_builder.data.reading_process import load_pairs
from assistant_builder.models.embedding import Embedder

FILES = (
    "larkmoor-campsite/data.csv",
    "ostrel-sound-ferries/data.jsonl",
    "thimble-row-library/data.csv",
)
THRESHOLDS = (0.55, 0.6, 0.65, 0.7, 0.75, 0.8)


def main() -> None:
    """Print the table."""
    embedder, folder = Embedder.load(), Path(__file__).parents[1] / "datasets_cards"
    print(
        f"{'file':32} {'cosine':>6} {'precision':>9} {'recall':>6} {'groups':>6}   (the inbox uses {SIMILAR})"
    )
    for file in FILES:
        pairs = [
            pair for pair in load_pairs(folder / file).pairs if pair.turns == 1 and pair.answerable
        ]
        facts = [pair.cluster or pair.answer for pair in pairs]
        vectors = embedder.encode([pair.question for pair in pairs])
        same = _alike(np.unique(facts, return_inverse=True)[1])
        for threshold in THRESHOLDS:
            numbers = meanings(vectors, threshold)
            together = _alike(numbers)
            right = (same & together).sum()
            print(
                f"{file:32} {threshold:6} {right / together.sum():9.2f} {right / same.sum():6.2f} "
                f"{len(set(numbers.tolist())):6}"
            )


def _alike(labels: np.ndarray) -> np.ndarray:
    """Which pairs of different items have the same label, shape ``[n, n]``."""
    alike = labels[:, None] == labels[None, :]
    np.fill_diagonal(alike, False)
    return alike


if __name__ == "__main__":
    main()
