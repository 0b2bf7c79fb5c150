"""Embeddings for metrics: computed once where they are kept."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from assistant_builder.models.embedding import Embedder
from evals.metric_resources import MetricResources
from evals.metrics import score_answers


def test_references_are_embedded_once_and_answers_each_time(monkeypatch):
    encoded: list[list[str]] = []
    loaded: list[int] = []

    class Fake:
        def encode(self, texts: Sequence[str]) -> Any:
            encoded.append(list(texts))
            return np.eye(2)[[len(text) % 2 for text in texts]]

    monkeypatch.setattr(Embedder, "load", lambda: loaded.append(1) or Fake())
    resources = MetricResources()
    assert not loaded
    found = [
        score_answers(answers, ["ab", "abc"], resources, embedder=True)
        for answers in (["a", "b"], ["ab", "b"])
    ]
    assert [[scores["similarity"] for scores in each] for each in found] == [[0.0, 1.0], [1.0, 1.0]]
    assert encoded.count(["ab", "abc"]) == 1
    assert ["a", "b"] in encoded
    assert ["ab", "b"] in encoded
    assert len(loaded) == 1
