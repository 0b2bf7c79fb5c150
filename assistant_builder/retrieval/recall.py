"""Recall at k of the index on validation questions, measured before any training, and the approach that suits it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assistant_builder.atomic_io import read_json
from assistant_builder.config import Approach
from assistant_builder.data import Pair
from assistant_builder.data.similarity import split_words
from assistant_builder.i18n import t
from assistant_builder.retrieval.index import Fact, Hit, Index, facts_of
from assistant_builder.study import Study
from assistant_builder.study.contents import RecallFile

RECALL = "recall.json"
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


FOUND = 0.5
"""Share of the covered validation questions whose fact must be found for the grounded approach."""


@dataclass(frozen=True)
class Recommendation:
    """The approach that suits the data, and why, in one sentence."""

    approach: Approach
    why: str


def recommend(recall: Mapping[str, Any] | None, facts: int) -> Recommendation:
    """Recommend an approach.

    Args:
        recall: ``recall.json`` of the index; None if the study has no index.
        facts: Facts in a prompt.
    """
    if recall is None:
        return Recommendation("memory", t("The training pairs are too many to look up."))
    covered = recall["covered"]
    if not covered:
        return Recommendation(
            "grounded",
            t(
                "Validation asks for no training answer in other words, so finding answers cannot be "
                "measured. Looking up serves questions about answers that occur once."
            ),
        )
    known = sorted(map(int, recall["hits"]))
    at = max((k for k in known if k <= facts), default=known[0])
    found, first = recall["hits"][str(at)], recall["hits"]["1"]
    most = t("the first {at} facts", at=at) if at > 1 else t("the first fact")
    counts = t(
        "{most} that are found contain the right answer for {found:,} of {covered:,} validation questions, "
        "and copying the first one answers {first:,} of them",
        most=most,
        found=found,
        covered=covered,
        first=first,
    )
    if found >= FOUND * covered:
        return Recommendation("grounded", f"{counts[0].upper()}{counts[1:]}.")
    return Recommendation(
        "memory",
        t("{counts}, which is too few for looking up.", counts=counts[:1].upper() + counts[1:]),
    )


def recommended_approach(study: Study) -> str:
    """The approach that suits a study whose data steps are done, why, and whether the study has it."""
    path, config = study.retrieval_folder / RECALL, study.config
    recall = read_json(path, RecallFile) if path.is_file() else None
    suitable = recommend(recall, config.retrieval.facts)
    names = {"grounded": t("looking facts up"), "memory": t("answering from memory")}
    suits = t(
        "Approach: {name} ({approach}) suits these data.",
        name=names[suitable.approach],
        approach=suitable.approach,
    )
    chosen = (
        ""
        if suitable.approach in config.approaches
        else t(
            "This study has the {own} approach; 'assistant-builder run {name} --set approaches={own},{other}' compares "
            "both.",
            own=config.approaches[0],
            other=suitable.approach,
            name=study.name,
        )
    )
    return " ".join(filter(None, (suits, suitable.why, chosen)))
