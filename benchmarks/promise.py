"""``python -m benchmarks.promise [--splits N]``: how often a promise is made and broken, and what it costs.

Answers are copied from four datasets with the bundled sentence embedder, so that nothing is trained. The held-out facts
are divided at random into halves, again and again: one makes the promise as a report does, and the other one says how
many of the answers are wrong. Printed is a JSON document.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from assistant_builder.config import load_config
from assistant_builder.data import Pair
from assistant_builder.models.embedding import Embedder
from assistant_builder.retrieval.answering import Look
from assistant_builder.retrieval.copying import copy_rule
from assistant_builder.retrieval.decline import found_alone
from assistant_builder.retrieval.index import Index
from assistant_builder.retrieval.retriever import Chooser, Retriever
from assistant_builder.retrieval.validation import ValidationQuestions
from assistant_builder.study import Study
from benchmarks.paths import ROOT, temporary_home
from evals.declaration import HeldOut
from evals.metrics.text import exact_match
from evals.report.promise import SURE, Asked, threshold_of

DATASETS = (
    ROOT / "datasets_cards" / "ostrel-sound-ferries",
    ROOT / "datasets_cards" / "larkmoor-campsite",
    ROOT / "benchmarks" / "datasets" / "quernby-evening-college",
    ROOT / "benchmarks" / "datasets" / "wexholme-community-pool",
)
SHARES = (0.05, 0.1, 0.2, 0.3)


def copied(folder: Path) -> tuple[Asked, tuple[float, ...]]:
    """The held-out questions of a dataset as copying answers them, and the thresholds of its rule."""
    from assistant_builder.data import prepare_dataset

    path = folder / "study.yaml"
    config = load_config(path)
    study = Study.create(config, path.parent / str(config.data.source))
    assert study.source is not None
    split = prepare_dataset(study.source, config.data).split
    embedder = Embedder.of("")
    index = Index.build(split.train, embedder, lambda done, total: None)
    retriever = Retriever(study, index, embedder, Chooser(config.retrieval.facts))
    asked = ValidationQuestions(split.train, split.validation, retriever)
    rule = copy_rule(asked, config.retrieval.false_declines)
    facts = HeldOut.of(split.heldout, split.train)
    confidence, wrong, labels = [], [], []
    looks = [Look.of(pair.messages[:-1]) for pair in split.heldout]
    for pair, found in zip(split.heldout, retriever.find(looks), strict=True):
        best = found.best.answer if found.best else ""
        sure = rule.confidence(found_alone(found.evidence)) if found.best else -1.0
        confidence.append(sure if sure >= rule.threshold else -1.0)
        wrong.append(not pair.answerable or exact_match(best, pair.answer) != 1)
        labels.append(_fact(pair, facts) if pair.answerable else None)
    return Asked.of(confidence, wrong, labels), rule.thresholds


def _fact(pair: Pair, facts: HeldOut) -> str:
    return facts.label(pair.row, "cluster") or facts.label(pair.row, "answer") or str(pair.row)


def halves(asked: Asked, splits: int, seed: int = 0) -> Iterator[tuple[Asked, Asked]]:
    """Random halves of the facts, and of the questions to decline."""
    rng = np.random.default_rng(seed)
    fact = asked.weight == asked.weight.max()
    for _ in range(splits):
        chosen = np.zeros(len(fact), bool)
        for kind in (fact, ~fact):
            places = np.flatnonzero(kind)
            chosen[rng.permutation(places)[: len(places) // 2]] = True
        yield _part(asked, chosen), _part(asked, ~chosen)


def _part(asked: Asked, chosen: Any) -> Asked:
    inside = chosen[asked.unit]
    numbers = np.cumsum(chosen) - 1
    return Asked(
        numbers[asked.unit[inside]],
        asked.weight[chosen],
        asked.confidence[inside],
        asked.wrong[inside],
    )


def promises(asked: Asked, thresholds: Sequence[float], splits: int, most: float) -> dict[str, Any]:
    """Over the splits: how often something is promised, how much is answered then, and how often it is broken."""
    made, answered, broken = 0, [], 0
    for one, other in halves(asked, splits):
        threshold = threshold_of(one, thresholds, most, 1 - SURE)
        if threshold is not None:
            share, wrong = other.shares(threshold)
            made, broken = made + 1, broken + (wrong > most)
            answered.append(share)
    return {
        "most_wrong": most,
        "promised": made / splits,
        "answered": float(np.mean(answered)) if answered else None,
        "broken": broken / splits,
    }


def main(words: Sequence[str] | None = None) -> int:
    """Measure, and print one JSON document."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.promise", description=__doc__)
    parser.add_argument("--splits", type=int, default=1000, help="halves of each dataset")
    args = parser.parse_args(words)
    found = {}
    for folder in DATASETS:
        with temporary_home():
            asked, thresholds = copied(folder)
        answered, wrong = asked.shares(thresholds[-1])
        found[folder.name] = {
            "facts": int((asked.weight == asked.weight.max()).sum()),
            "questions": len(asked.unit),
            "answered": answered,
            "wrong": wrong,
            "promises": [promises(asked, thresholds, args.splits, most) for most in SHARES],
        }
        print(f"{folder.name}: done", file=sys.stderr, flush=True)
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
