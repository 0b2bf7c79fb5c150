"""An embedder without a model: a text's vector is the sum of fixed random vectors of its words."""

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from assistant_builder.data import Message, Pair
from assistant_builder.data.similarity import split_words

DIMENSIONS = 64


class FakeEmbedder:
    name, sha256 = "fake", "0" * 64

    def __init__(self) -> None:
        self.embedded: list[str] = []

    def is_word(self, text: str) -> bool:
        return True

    def encode(self, texts: Sequence[str], *, progress: Any = None) -> np.ndarray:
        vectors = np.zeros((len(texts), DIMENSIONS), dtype=np.float32)
        for row, text in enumerate(texts):
            self.embedded.append(text)
            for word in split_words(text):
                vectors[row] += np.random.default_rng(zlib.crc32(word.encode())).standard_normal(
                    DIMENSIONS
                )
            vectors[row] /= max(float(np.linalg.norm(vectors[row])), 1e-9)
            if progress is not None:
                progress(row + 1, len(texts))
        return vectors


def pair(row: int, *turns: str, **fields: Any) -> Pair:
    """A pair of alternating user and assistant turns."""
    roles = ("user", "assistant") * (len(turns) // 2)
    return Pair(
        row, tuple(Message(role, text) for role, text in zip(roles, turns, strict=True)), **fields
    )
