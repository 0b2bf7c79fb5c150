"""Recall at k of the index on validation questions, measured before any training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assistant_builder.data import Pair
from assistant_builder.data.similarity import split_words
from assistant_builder.retrieval.index import Fact, Hit, Index, facts_of

MIN_WORDS = 3  # words from which equal answers are the same fact; "Yes." answers many questions
MAX_MISSES = 200  # missed questions that are kept
_MAX_FOUND = 3


@dataclass(frozen=True)
class Miss:
    """A question whose fact is not among the first ``max(ks)``, or not among the first three."""

    row: int
    question: str
    history: str
    expected: str  # the reference answer
    rank: int | None  # rank of the right fact; None beyond the largest k
    found: tuple[dict[str, str], ...]  # question and answer of the first three hits, the best first


@dataclass(frozen=True)
class Recall:
    """Recall at k over the covered questions: those with the right fact somewhere in the index."""

    questions: int  # answerable
    covered: int
    hits: dict[int, int]  # k → covered questions whose fact is among the first k distinct answers
    missed: int  # covered questions without it among the first three
    misses: tuple[Miss, ...]  # at most MAX_MISSES of them, in file order

    @property
    def recall(self) -> dict[int, float | None]:
        """The share of the covered questions by k; None without any."""
        return {k: hits / self.covered if self.covered else None for k, hits in self.hits.items()}

    def to_record(self) -> dict[str, Any]:
        """The content of ``recall.json``."""
        return {
            "questions": self.questions,
            "covered": self.covered,
            "hits": {str(k): hits for k, hits in self.hits.items()},
            "recall": {str(k): share for k, share in self.recall.items()},
            "missed": self.missed,
            "misses": [asdict(miss) for miss in self.misses],
        }


def last_facts(pairs: Sequence[Pair]) -> list[Fact]:
    """The last question of each pair, with its history and reference answer."""
    return [facts_of(pair)[-1] for pair in pairs]


def _wanted_key(fact: Fact) -> str | None:
    # what the right fact has: the cluster, else the normalized answer of at least three words
    return f"cluster {fact.cluster}" if fact.cluster is not None else _answer_key(fact)


def _fact_keys(fact: Fact) -> set[str]:
    keys = (None if fact.cluster is None else f"cluster {fact.cluster}", _answer_key(fact))
    return {key for key in keys if key is not None}


def _answer_key(fact: Fact) -> str | None:
    return f"answer {fact.answer_key}" if len(split_words(fact.answer)) >= MIN_WORDS else None


def recall_at_k(
    index: Index, pairs: Sequence[Pair], vectors: NDArray[np.float32], ks: Sequence[int] = (1, 3, 5)
) -> Recall:
    """Search the last question of each answerable pair, without facts of its own row.

    Args:
        index: The index of the training pairs.
        pairs: n validation pairs.
        vectors: Unit embeddings of the text of their :func:`last_facts`, [n, d].
        ks: Numbers of hits, with distinct answers, among which the fact is looked for.
    """
    facts = last_facts(pairs)
    asked = [number for number, fact in enumerate(facts) if fact.answerable]
    rows: dict[str | None, set[int]] = {}
    for fact in index.facts:
        for key in _fact_keys(fact):
            rows.setdefault(key, set()).add(fact.row)
    covered = [
        number
        for number in asked
        if rows.get(_wanted_key(facts[number]), set()) - {facts[number].row}
    ]
    targets = [facts[number] for number in covered]
    queries, own = [fact.query for fact in targets], [{fact.row} for fact in targets]
    results = index.search(queries, vectors[covered], max(*ks, _MAX_FOUND), exclude=own)
    ranks, misses = [], []
    for fact, hits in zip(targets, results, strict=True):
        rank = _rank(hits, _wanted_key(fact), fact.answer_key)
        ranks.append(rank)
        if rank is None or rank > _MAX_FOUND:
            best = (hit.fact for hit in hits[:_MAX_FOUND])
            shown = tuple({"question": each.question, "answer": each.answer} for each in best)
            miss = Miss(fact.row, fact.question, fact.history, fact.answer, rank, shown)
            misses.append(miss)
    return Recall(
        questions=len(asked),
        covered=len(covered),
        hits={k: sum(rank is not None and rank <= k for rank in ranks) for k in ks},
        missed=len(misses),
        misses=tuple(misses[:MAX_MISSES]),
    )


def _rank(hits: Sequence[Hit], key: str | None, answer: str) -> int | None:
    # the rank of the first hit with the key, or with the same answer, which stands for all facts that have it
    for rank, hit in enumerate(hits, start=1):
        if key in _fact_keys(hit.fact) or hit.fact.answer_key == answer:
            return rank
    return None
