"""``python -m benchmarks.promise [--splits N]``: how often a promise is made and broken, and what it costs.

Answers are copied from four datasets with the bundled sentence embedder, so that nothing is trained. The held-out facts
are divided at random into halves, again and again: one makes the promise as a report does, and the other one says how
many of the answers are wrong. Then visitors ask the held-out questions with the score of the best answer as it is, or
lower by 0.05 or 0.1: how often the smallest share that the whole test promises is withdrawn within 300 questions
because they are unlike those of the test, and within 60 judgements because of wrong answers; and how often in a year of
30 questions and ten judgements a week, looked at weekly. Visitors may also ask about one half of the facts while the
other half was tested. Printed is a JSON document.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from assistant_builder.chat.drift import LEAST, Row, compared
from assistant_builder.chat.watch import FALSE_ALARMS, evidence_against
from assistant_builder.config import load_config
from assistant_builder.data import Pair, prepare_dataset
from assistant_builder.models.embedding import Embedder
from assistant_builder.retrieval.answering import Look
from assistant_builder.retrieval.copying import copy_rule
from assistant_builder.retrieval.decline import Evidence, found_alone
from assistant_builder.retrieval.index import Index
from assistant_builder.retrieval.ranking import SHARPNESS
from assistant_builder.retrieval.retriever import Chooser, Found, Retriever
from assistant_builder.retrieval.validation import ValidationQuestions
from assistant_builder.study import Study
from benchmarks.paths import ROOT, temporary_home
from evals.declaration import HeldOut
from evals.metrics.text import exact_match
from evals.report.promise import SHARES as PRICES
from evals.report.promise import SURE, Asked, threshold_of

DATASETS = (
    ROOT / "datasets_cards" / "ostrel-sound-ferries",
    ROOT / "datasets_cards" / "larkmoor-campsite",
    ROOT / "benchmarks" / "datasets" / "quernby-evening-college",
    ROOT / "benchmarks" / "datasets" / "wexholme-community-pool",
)
SHARES = (0.05, 0.1, 0.2, 0.3)
SHIFTS = (0.0, -0.05, -0.1)
"""Change of the score of the best answer to visitors' questions."""
_JUDGED, _YEAR, _RUNS = 60, 520, 500
_QUESTIONS, _A_WEEK = 300, 30


def copied(folder: Path) -> tuple[dict[float, Asked], tuple[float, ...], Any]:
    """The held-out questions of a dataset as copying answers them, by shift of the score of the best answer.

    With them the thresholds of its rule, and the similarity of each question, shape ``[N]``.
    """
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
    looks = [Look.of(pair.messages[:-1]) for pair in split.heldout]
    found = retriever.find(looks)
    wrong = [
        not pair.answerable or each.best is None or exact_match(each.best.answer, pair.answer) != 1
        for pair, each in zip(split.heldout, found, strict=True)
    ]
    labels = [_fact(pair, facts) if pair.answerable else None for pair in split.heldout]

    def sure(each: Found, shift: float) -> float:
        confidence = rule.confidence(with_best_score(found_alone(each.evidence), shift))
        confidence = confidence if each.best else -1.0
        return confidence if confidence >= rule.threshold else -1.0

    asked_at = {
        shift: Asked.of([sure(each, shift) for each in found], wrong, labels) for shift in SHIFTS
    }
    return asked_at, rule.thresholds, np.array([each.evidence.similarity for each in found])


def with_best_score(evidence: Evidence, shift: float) -> Evidence:
    """The evidence with ``shift`` added to the score of the best answer, and the same scores of all others."""
    odds = np.exp(SHARPNESS * shift + evidence.certainty) / -np.expm1(
        min(evidence.certainty, -1e-9)
    )
    return replace(
        evidence,
        similarity=evidence.similarity + shift,
        certainty=float(np.log(odds / (1 + odds))),
        nearby=evidence.nearby + shift,
    )


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


def watched(
    asked: Mapping[float, Asked], thresholds: Sequence[float], alike: Any
) -> dict[str, Any] | None:
    """How often the smallest promise of the whole test is withdrawn; None if nothing can be promised.

    A visitor asks a question of a random fact, or one to decline, as often as they are in the test.
    """
    made = (
        (most, threshold)
        for most in PRICES
        if (threshold := threshold_of(asked[0.0], thresholds, most, 1 - SURE)) is not None
    )
    if (first := next(made, None)) is None:
        return None
    most, threshold = first
    rng, found = np.random.default_rng(1), {}
    for shift, each in asked.items():
        chance = each.weight[each.unit] / np.bincount(each.unit)[each.unit]
        given = each.confidence >= threshold
        chance = np.where(given, chance, 0.0)
        answers = rng.choice(len(given), (_RUNS, _YEAR), p=chance / chance.sum())
        wrong = each.wrong[answers]
        answered, share = each.shares(threshold)

        counts = np.cumsum(wrong, axis=1)

        def withdrawn(count: int, counts: Any = counts) -> float:
            alarms = [
                any(
                    evidence_against(judged, int(wrong), most) >= 1 / FALSE_ALARMS
                    for judged, wrong in enumerate(run[:count], start=1)
                )
                for run in counts
            ]
            return float(np.mean(alarms))

        found[f"{shift:g}"] = {
            "unlike_300": unlike(each, alike, shift, rng),
            "answered": answered,
            "wrong": share,
            "withdrawn_60": withdrawn(_JUDGED),
            "withdrawn_year": withdrawn(_YEAR),
        }
    year, rng = 52 * _A_WEEK, np.random.default_rng(2)
    return {
        "most_wrong": most,
        "similarity": found,
        "unlike_year": unlike(asked[0.0], alike, 0.0, rng, year),
        "unlike_300_other_facts": unlike(asked[0.0], alike, 0.0, rng, halved=True),
    }


def unlike(
    asked: Asked,
    alike: Any,
    shift: float,
    rng: np.random.Generator,
    questions: int = _QUESTIONS,
    *,
    halved: bool = False,
) -> float:
    """How often visitors' questions are said to be unlike those of the test, at any weekly look.

    ``halved``: visitors ask about one half of the units, and the other half was tested.
    """
    weight = asked.weight[asked.unit] / np.bincount(asked.unit)[asked.unit]
    looks, said = range(LEAST, questions + 1, _A_WEEK), 0
    for _ in range(_RUNS):
        seen = np.ones(len(weight), bool)
        if halved:
            seen = (rng.permutation(len(asked.weight)) % 2 == 0)[asked.unit]
        known: list[Row] = [(False, float(each)) for each in alike[~seen if halved else seen]]
        chance = np.where(seen, weight, 0.0)
        places = rng.choice(len(weight), questions, p=chance / chance.sum())
        rows: list[Row] = [(False, float(each) + shift) for each in alike[places]]
        said += any(compared(rows[:count], known).unlike for count in looks)
    return said / _RUNS


def main(words: Sequence[str] | None = None) -> int:
    """Measure, and print one JSON document."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.promise", description=__doc__)
    parser.add_argument("--splits", type=int, default=1000, help="halves of each dataset")
    args = parser.parse_args(words)
    found = {}
    for folder in DATASETS:
        with temporary_home():
            shifted, thresholds, alike = copied(folder)
        asked = shifted[0.0]
        answered, wrong = asked.shares(thresholds[-1])
        found[folder.name] = {
            "facts": int((asked.weight == asked.weight.max()).sum()),
            "questions": len(asked.unit),
            "answered": answered,
            "wrong": wrong,
            "watched": watched(shifted, thresholds, alike),
            "promises": [promises(asked, thresholds, args.splits, most) for most in SHARES],
        }
        print(f"{folder.name}: done", file=sys.stderr, flush=True)
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
