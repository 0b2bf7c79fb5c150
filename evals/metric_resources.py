"""Models that metrics use, loaded when a metric first needs them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any


class MetricResources:
    """The sentence embedder (all-MiniLM-L6-v2) for one scoring, see :class:`evals.metrics.Resources`."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, ...], Any] = {}

    @cached_property
    def embedder(self) -> Any:
        """The embedder; loading it imports torch."""
        from assistant_builder.models.embedding import Embedder

        return Embedder.load()

    def embed(self, texts: Sequence[str], *, keep: bool = False) -> Any:
        """Sentence embeddings of n texts, unit length, shape ``[n, 384]``; ``keep`` stores them for the next call."""
        key = tuple(texts)
        vectors = self._kept[key] if key in self._kept else self.embedder.encode(texts)
        if keep:
            self._kept[key] = vectors
        return vectors
