"""Writing the index of a study and its recall on validation questions."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from assistant_builder.atomic_io import write_json
from assistant_builder.data import Pair
from assistant_builder.retrieval.grounding import write_contexts
from assistant_builder.retrieval.index import MAX_FACTS, Index, Progress, TextEncoder, facts_of
from assistant_builder.retrieval.recall import last_facts, recall_at_k

RECALL = "recall.json"


class _KnownVectors:
    # an encoder that embeds only the texts whose vectors are not known yet
    def __init__(self, encoder: TextEncoder, known: Mapping[str, NDArray[np.float32]]) -> None:
        self._encoder = encoder
        self._known = dict(known)
        self.name, self.sha256 = encoder.name, encoder.sha256

    def encode(
        self, texts: Sequence[str], *, progress: Progress | None = None
    ) -> NDArray[np.float32]:
        new = list(dict.fromkeys(text for text in texts if text not in self._known))
        if new or not texts:
            vectors = self._encoder.encode(new, progress=progress)
            if not texts:
                return vectors
            self._known.update(zip(new, vectors, strict=True))
        return np.stack([self._known[text] for text in texts])


def write_index(
    folder: Path,
    training: Sequence[Pair],
    validation: Sequence[Pair],
    embedder: TextEncoder,
    known: Mapping[str, NDArray[np.float32]],
    progress: Progress | None = None,
) -> list[Path]:
    """Index the training pairs, and measure the recall of the validation pairs.

    Args:
        folder: Folder of the index, which is replaced.
        training: Pairs that the index contains.
        validation: Pairs whose questions are searched; the recall is that of those which are not respelled.
        embedder: The model of the index.
        known: Vectors of texts that ``embedder`` has embedded, float32 [d] each.
        progress: Called with the number of texts that are embedded and their total.

    Returns:
        The files; none if there are more answers than :data:`MAX_FACTS`, which cannot be looked up.
    """
    shutil.rmtree(folder, ignore_errors=True)
    if sum(pair.turns for pair in training) > MAX_FACTS:
        return []
    encoder = _KnownVectors(embedder, known)
    index = Index.build(training, encoder, progress)
    questions = [fact.query.text for fact in last_facts(validation)]
    vectors = encoder.encode(questions, progress=progress)
    # respelled questions are found easily
    other = [number for number, pair in enumerate(validation) if pair.respelled is None]
    recall = recall_at_k(index, [validation[number] for number in other], vectors[other])
    files = index.save(folder)
    write_json(folder / RECALL, recall.to_record())
    splits = []
    for split, pairs in (("train", training), ("validation", validation)):
        asked = [fact.query.text for pair in pairs for fact in facts_of(pair)]
        splits.append((split, pairs, encoder.encode(asked)))
    return [*files, folder / RECALL, write_contexts(folder, index, splits)]
