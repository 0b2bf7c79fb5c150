"""``python -m benchmarks.small_sheets``: declining on sheets with few facts, and the prior of their rules.

Nine sheets, three from each of three datasets: 22 facts in three wordings each and four rows to decline, or none.
Their answers are copied, with the embedder trained on the sheet. Asked are the held-out questions of the 22 facts,
those of 40 other facts, and those that the dataset declines. Each sheet is judged by its own rule, and by that rule
with a prior (:mod:`assistant_builder.retrieval.prior`) from the sheets of the other two datasets. Printed last are the
priors of all nine sheets, which the product has.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assistant_builder.config import StudyConfig
from assistant_builder.data import Pair, load_pairs, prepare_dataset
from assistant_builder.models.embedding import Embedder
from assistant_builder.retrieval.answering import Look
from assistant_builder.retrieval.copying import copy_rule
from assistant_builder.retrieval.decline import DeclineRule, found_alone
from assistant_builder.retrieval.index import Index, facts_of
from assistant_builder.retrieval.prior import SHARES, Prior
from assistant_builder.retrieval.retriever import Chooser, Found, Retriever
from assistant_builder.retrieval.train_embedder import HYPERPARAMETERS, batches
from assistant_builder.retrieval.validation import ValidationQuestions
from assistant_builder.study import Study
from benchmarks.paths import temporary_home
from benchmarks.promise import DATASETS

SHEETS, FACTS, WORDINGS, DECLINED, OTHERS = 3, 22, 3, 4, 40
ASKED = {"own": None, "other facts": 80, "declined": 60}
"""Kinds of questions, and how many of a kind are asked of a sheet at most."""
TARGET = 0.04
_SENTENCE = "Please call us about that."


@dataclass(frozen=True)
class Sheet:
    """A sheet with what was found for the questions of :data:`ASKED`, and for those of its validation.

    ``right`` is whether each of its own questions finds its answer first.
    """

    dataset: str
    asked: ValidationQuestions
    found: Mapping[str, Sequence[Found]]
    right: NDArray[np.bool_]

    @property
    def evidence(self) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Certainty and lead ``[n, 2]`` of all questions, and which of them find their own answer, ``[n]``."""
        own = [each for each, right in zip(self.found["own"], self.right, strict=True) if right]
        others = [each for kind in list(ASKED)[1:] for each in self.found[kind]]
        table = [(each.evidence.certainty, each.evidence.nearby) for each in (*own, *others)]
        return np.array(table), np.arange(len(table)) < len(own)


def draw(pairs: Sequence[Pair], seed: str) -> tuple[list[dict[str, Any]], dict[str, list[Pair]]]:
    """Rows of a sheet, and the held-out pairs whose questions are asked of it, by kind."""
    rng = random.Random(seed)
    facts: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        if pair.answerable and pair.cluster:
            facts[pair.cluster].append(pair)
    taught = {name: [p for p in each if p.split != "heldout"] for name, each in facts.items()}
    tested = {name: [p for p in each if p.split == "heldout"] for name, each in facts.items()}
    usable = [name for name in facts if len(taught[name]) >= WORDINGS and tested[name]]
    rng.shuffle(usable)
    own, others = usable[:FACTS], usable[FACTS : FACTS + OTHERS]
    rows: list[dict[str, Any]] = []
    for name in own:
        rng.shuffle(taught[name])
        rows += [
            {"question": question(pair), "answer": pair.answer, "cluster": name}
            for pair in taught[name][:WORDINGS]
        ]
    declined = [pair for pair in pairs if not pair.answerable]
    known = [pair for pair in declined if pair.split != "heldout"]
    rng.shuffle(known)
    rows += [
        {"question": question(pair), "answer": _SENTENCE, "answerable": False}
        for pair in known[:DECLINED]
    ]
    asked = {
        "own": [pair for name in own for pair in tested[name]],
        "other facts": [pair for name in others for pair in tested[name]],
        "declined": [pair for pair in declined if pair.split == "heldout"],
    }
    return rows, {kind: asked[kind][:most] for kind, most in ASKED.items()}


def question(pair: Pair) -> str:
    """The last question of a pair."""
    return pair.messages[-2].content


def sheets(*, declining: bool) -> Iterable[Sheet]:
    """The nine sheets, with rows to decline or without."""
    for folder in DATASETS:
        if folder.name == "larkmoor-campsite":  # long answers
            continue
        for number in range(SHEETS):
            rows, asked = draw(load_pairs(folder / "data.jsonl").pairs, f"{folder.name}{number}")
            if not declining:
                rows = [row for row in rows if row.get("answerable", True)]
            yield look_up(folder.name, rows, asked)


def look_up(dataset: str, rows: Sequence[dict[str, Any]], asked: dict[str, list[Pair]]) -> Sheet:
    """Split a sheet, train its embedder, and look up every question."""
    with temporary_home() as home:
        source = Path(home) / "sheet.jsonl"
        source.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        study = Study.create(StudyConfig(name="sheet"), source)
        split = prepare_dataset(source, study.config.data).split
        embedder = Embedder.of("")
        trained = [fact for pair in split.train for fact in facts_of(pair)]
        embedder.train(list(batches(trained, 0)), lambda done, total: None, **HYPERPARAMETERS)
        index = Index.build(split.train, embedder, lambda done, total: None)
        retriever = Retriever(study, index, embedder, Chooser(study.config.retrieval.facts))
        questions = ValidationQuestions(split.train, split.validation, retriever)
        served = retriever.with_wordings([*split.validation, *split.heldout])
        found = {
            kind: served.find([Look.of(pair.messages[:-1]) for pair in pairs])
            for kind, pairs in asked.items()
        }
    answers = [each.best.answer if each.best else "" for each in found["own"]]
    right = np.array([a == pair.answer for a, pair in zip(answers, asked["own"], strict=True)])
    return Sheet(dataset, questions, found, right)


def prior(found: Sequence[Sheet], *, declining: bool) -> Prior:
    """The prior from sheets: a logistic regression in which both kinds of questions count equally."""
    tables, labels = zip(*(sheet.evidence for sheet in found), strict=True)
    table, good = np.concatenate(tables), np.concatenate(labels)
    if not declining:
        table = table[:, :1]
    design = np.column_stack([table, np.ones(len(table))])
    shares = np.where(good, 0.5 / good.sum(), 0.5 / (~good).sum()) * len(good)
    weights = np.zeros(design.shape[1])
    for _ in range(50):
        chance = 1 / (1 + np.exp(-design @ weights))
        hessian = (design * (shares * chance * (1 - chance))[:, None]).T @ design
        weights += np.linalg.solve(hessian, design.T @ (shares * (good - chance)))
    below = np.quantile((design @ weights)[good], SHARES)
    certainty, *nearby, bias = weights.round(3).tolist()
    return Prior(certainty, nearby[0] if nearby else 0.0, bias, tuple(below.round(3).tolist()))


def judged(sheet: Sheet, rule: DeclineRule) -> Counter[str]:
    """How many questions of a sheet are answered right and wrong, and declined, by kind."""
    counts: Counter[str] = Counter()
    for kind, found in sheet.found.items():
        declined = np.array([rule.declines(found_alone(each.evidence)) for each in found])
        counts[f"{kind}: declined"] += int(declined.sum())
        counts[f"{kind}: asked"] += len(found)
        if kind == "own":
            counts["right"] += int((~declined & sheet.right).sum())
            counts["wrong"] += int((~declined & ~sheet.right).sum())
    return counts


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what each way decides, and the priors."""
    argparse.ArgumentParser(description=__doc__).parse_args(arguments)
    result: dict[str, Any] = {}
    for declining in (True, False):
        found = list(sheets(declining=declining))
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for sheet in found:
            others = [other for other in found if other.dataset != sheet.dataset]
            ways = {"own rule": None, "with the prior": prior(others, declining=declining)}
            for way, each in ways.items():
                priors = {} if each is None else {declining: each}
                counts[way] += judged(sheet, copy_rule(sheet.asked, TARGET, priors))
        result["with rows to decline" if declining else "without rows to decline"] = {
            **{way: dict(each) for way, each in counts.items()},
            "prior": asdict(prior(found, declining=declining)),
        }
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
