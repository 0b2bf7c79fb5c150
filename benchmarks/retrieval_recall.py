"""``python -m benchmarks.retrieval_recall``: recall of the index on validation questions, by kind of search.

The right fact of a question is one with its answer. Datasets without a validation split leave out the row itself. With
``--write`` the table of ``docs/retrieval.md`` is replaced. Held-out questions are not read.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from unittest import mock

import numpy as np

from assistant_builder.data import Pair, load_pairs
from assistant_builder.models.embedding import Embedder
from assistant_builder.retrieval import index as index_module
from assistant_builder.retrieval import ranking
from assistant_builder.retrieval.index import ANSWER_WEIGHT, Index, facts_of
from assistant_builder.retrieval.train_embedder import HYPERPARAMETERS, batches
from benchmarks.doc_tables import markdown_table, write_section
from benchmarks.paths import FERRIES, ROOT

RETRIEVAL_PAGE = ROOT / "docs" / "retrieval.md"
SECTION = "recall"
_OWN, _CARDS = ROOT / "benchmarks" / "datasets", ROOT / "datasets_cards"
DATASETS = {
    "Ostrel Sound Ferries": FERRIES,
    "Quernby Evening College": _OWN / "quernby-evening-college" / "data.jsonl",
    "Wexholme Community Pool": _OWN / "wexholme-community-pool" / "data.jsonl",
    "Thimble Row Library": _CARDS / "thimble-row-library" / "data.csv",
}
SEARCHES = {
    "embeddings of questions, nearest wording": (1, 0.0, 0.0),
    "BM25, best wording": (1, 1e6, 0.0),
    "embeddings of questions, all wordings": (ranking.WORDINGS, 0.0, 0.0),
    "embeddings of questions, all wordings, BM25": (ranking.WORDINGS, ranking.WORD_WEIGHT, 0.0),
    "as used: with answers": (ranking.WORDINGS, ranking.WORD_WEIGHT, ANSWER_WEIGHT),
}
"""Kind of search → wordings that are averaged, weight of BM25, and weight of the answers' embeddings."""
KS = (1, 3, 5)


def recall(
    train: Sequence[Pair], asked: Sequence[Pair], embedder: Embedder
) -> dict[str, tuple[float, ...]]:
    """Kind of search → share of the answerable questions with the right answer among the first 1, 3 and 5."""
    indexes = {}
    for weight in {weight for *_, weight in SEARCHES.values()}:
        with mock.patch.object(index_module, "ANSWER_WEIGHT", weight):
            indexes[weight] = Index.build(train, embedder)
    index = indexes[0.0]
    targets = [facts_of(pair)[-1] for pair in asked if pair.answerable]
    known = {(fact.answer_key, fact.row) for fact in index.facts}
    targets = [
        fact
        for fact in targets
        if any(key == fact.answer_key and row != fact.row for key, row in known)
    ]
    queries = [fact.query for fact in targets]
    vectors = embedder.encode([query.text for query in queries])
    found = {}
    for name, (wordings, words, answers) in SEARCHES.items():
        with mock.patch.multiple(ranking, WORDINGS=wordings, WORD_WEIGHT=words):
            hits = indexes[answers].search(
                queries, vectors, max(KS), exclude=[{fact.row} for fact in targets]
            )
        ranks = np.array(
            [
                next(
                    (
                        rank
                        for rank, hit in enumerate(each)
                        if hit.fact.answer_key == fact.answer_key
                    ),
                    max(KS),
                )
                for fact, each in zip(targets, hits, strict=True)
            ]
        )
        found[name] = tuple(float(np.mean(ranks < k)) for k in KS)
    return found


def trained(train: Sequence[Pair]) -> Embedder:
    """A new embedder that is trained on the questions, as with ``retrieval.train_embedder``."""
    embedder = Embedder.load()
    facts = [fact for pair in train for fact in facts_of(pair)]
    embedder.train(list(batches(facts, 0)), lambda done, total: None, **HYPERPARAMETERS)
    return embedder


def main(words: Sequence[str] | None = None) -> int:
    """Print or write the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.retrieval_recall", description=__doc__
    )
    parser.add_argument(
        "--write", action="store_true", help="replace the table of docs/retrieval.md"
    )
    options = parser.parse_args(words)
    embedder = Embedder.load()
    rows = []
    for title, path in DATASETS.items():
        pairs = load_pairs(path).pairs
        train = [pair for pair in pairs if pair.split in ("train", None)]
        asked = [pair for pair in pairs if pair.split == "validation"] or train
        rows += [
            (title, name, *(f"{share:.1%}" for share in shares))
            for name, shares in recall(train, asked, embedder).items()
        ]
        if asked is not train:  # an embedder knows the questions that it was trained on
            *_, (name, shares) = recall(train, asked, trained(train)).items()
            rows.append((title, f"{name}, trained embedder", *(f"{share:.1%}" for share in shares)))
    table = markdown_table(("dataset", "search", *(f"recall at {k}" for k in KS)), rows)
    print(table)
    if options.write:
        write_section(
            SECTION, f"`python -m benchmarks.retrieval_recall --write`\n\n{table}", RETRIEVAL_PAGE
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
