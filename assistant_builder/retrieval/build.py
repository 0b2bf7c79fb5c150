"""Writing the index of a study with its recall on validation questions, and the final index.

An assistant is served with the final index: the index that was measured, and the answers that it lacked. A split that
is given by the file can have validation and held-out answers that training has not. They are added after the held-out
questions were scored, so that the assistant can answer them; its figures were measured before.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict

from assistant_builder.atomic_io import file_hash, read_json, write_json
from assistant_builder.data import Pair
from assistant_builder.documents.store import Documents
from assistant_builder.retrieval.decline import FILE as RULE
from assistant_builder.retrieval.grounding import write_contexts
from assistant_builder.retrieval.index import (
    FILES,
    MAX_FACTS,
    RECORD,
    Fact,
    Index,
    Progress,
    TextEncoder,
    fact_vectors,
    facts_of,
)
from assistant_builder.retrieval.ranking import TRAINED, Weights
from assistant_builder.retrieval.recall import RECALL, last_facts, recall_at_k
from assistant_builder.study import Study


class _KnownVectors:
    # an encoder that embeds only the texts whose vectors are not known yet
    def __init__(self, encoder: TextEncoder, known: Mapping[str, NDArray[np.float32]]) -> None:
        self._encoder = encoder
        self._known = dict(known)
        self.name, self.sha256, self.is_word = encoder.name, encoder.sha256, encoder.is_word

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
    passages: Sequence[Fact] = (),
    *,
    weights: Weights = TRAINED,
) -> list[Path]:
    """Index the training pairs, or the statements that they are about, and measure the recall of the validation pairs.

    Args:
        folder: Folder of the index, which is replaced.
        training: Pairs that the index contains.
        validation: Pairs whose questions are searched; the recall is that of those which are not respelled.
        embedder: The model of the index.
        known: Vectors of texts that ``embedder`` has embedded, float32 [d] each.
        progress: Called with the number of texts that are embedded and their total.
        passages: Statements of documents, which are indexed in place of the pairs.
        weights: Weights of the index of the pairs.

    Returns:
        The files; none if there are more answers than :data:`MAX_FACTS`, which cannot be looked up.
    """
    shutil.rmtree(folder, ignore_errors=True)
    if len(passages) + sum(pair.turns for pair in training) > MAX_FACTS:
        return []
    encoder = _KnownVectors(embedder, known)
    if passages:
        model = {"name": embedder.name, "sha256": embedder.sha256}
        index = Index(passages, fact_vectors(passages, encoder, progress), model)
    else:
        index = Index.build(training, encoder, progress, weights)
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


ADDED = "added.json"
"""File of a final index: ``{"added": answers, "rows": [rows of the data file]}``."""


def with_missing_answers(
    index: Index, pairs: Sequence[Pair], embedder: TextEncoder, *, wordings: bool = False
) -> tuple[Index, list[Fact]]:
    """An index with the answers of further pairs that it lacks, and the facts that were added.

    With ``wordings`` it also gets the questions of the file that it lacks, whose answers it has, or which the file
    declines.
    """
    answers = {fact.answer_key for fact in index.facts}
    clusters = {fact.cluster for fact in index.facts if fact.cluster is not None}
    asked = {fact.query.key for fact in index.facts}
    new = [
        fact
        for pair in pairs
        if pair.answerable or wordings
        for fact in facts_of(pair)
        if (fact.answer_key not in answers and fact.cluster not in clusters)
        or (wordings and pair.respelled is None and fact.query.key not in asked)
    ]
    if not new:
        return index, new
    added = fact_vectors(new, embedder, weights=index.weights)
    return index.of_facts([*index.facts, *new], np.concatenate([index.vectors, added])), new


def write_final_index(study: Study, pairs: Sequence[Pair], embedder: TextEncoder) -> list[Path]:
    """Write the final index next to the measured one, if it lacks answers.

    Args:
        study: A study with an index, which does not change.
        pairs: Validation and held-out pairs.
        embedder: The model of the index.

    Returns:
        Its files; none if no answer is missing.
    """
    folder = study.retrieval_folder / Study.FINAL_INDEX
    shutil.rmtree(folder, ignore_errors=True)
    if not study.config.retrieval.final_index:
        return []
    measured = Index.load(study.retrieval_folder)
    if measured.facts[0].is_passage:  # the answers are in the documents
        return []
    index, new = with_missing_answers(measured, pairs, embedder)
    if not new:
        return []
    files = index.save(folder)
    rows = sorted({fact.row for fact in new})
    write_json(folder / ADDED, {"added": len({fact.answer_key for fact in new}), "rows": rows})
    return [*files, folder / ADDED]


def served_index_folder(study: Study) -> Path:
    """Folder of the index that a study is served with: the final one, if there is one."""
    final = study.retrieval_folder / Study.FINAL_INDEX
    return final if all((final / name).is_file() for name in FILES) else study.retrieval_folder


def lookup_stamp(study: Study, arms: Iterable[str]) -> str:
    """A text that changes with the index that a study is served with, its documents, or the rule of one of its arms."""
    paths = [served_index_folder(study) / RECORD, *(study.arm_folder(arm) / RULE for arm in arms)]
    hashes = []
    for path in paths:
        try:
            hashes.append(file_hash(path))
        except OSError:  # missing, or deleted by a run just now
            hashes.append("-")
    if documents := Documents(study):
        hashes.append(documents.stamp)
    return " ".join(hashes)


class _Added(TypedDict):
    added: int


def answers_added(study: Study) -> int:
    """Answers that were added to the index after the evaluation."""
    path = study.retrieval_folder / Study.FINAL_INDEX / ADDED
    return int(read_json(path, _Added)["added"]) if path.is_file() else 0
