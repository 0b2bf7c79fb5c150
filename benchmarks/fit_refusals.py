"""Fit the classifier of refusals to ``refusal_training.jsonl`` and write its weights.

The threshold comes from cross-validation: it is the log-odds which 98 % of the answers left out that decline nothing
stay below. Most of those were written to be mistaken for refusals. The labelled answers of ``refusal_labels.jsonl`` are
not read. The same data give the same weights.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_matrix

from evals.metrics.refusal import BUCKETS, WEIGHTS_FILE, Classifier, features, sentences

SPECIFICITY = 0.98
_PENALTY = 0.1  # of the squared weights, against the log-loss summed over the sentences
_RARE = 3  # answers that must have a feature for it to get a weight
_DRAWS = 12  # rows made of each pattern
_FOLDS, _NEIGHBOURS = 5, 8  # neighbouring rows have similar wordings and stay together
_LEVELS = 127  # of a weight, on either side of 0


def training_rows() -> list[dict[str, Any]]:
    """The answers written for training: ``answer``, ``declined`` and ``language``."""
    lines = (
        Path(__file__).with_name("refusal_training.jsonl").read_text(encoding="utf-8").splitlines()
    )
    return [json.loads(line) for line in lines]


def phrased_rows() -> list[dict[str, Any]]:
    """Rows made of the patterns in ``refusal_phrases.json``: the same wordings about many things.

    ``{a|b}`` stands for one of its parts, and ``{NAME}`` for a part of that slot of the language.
    """
    draw = random.Random(0)
    rows: list[dict[str, Any]] = []
    text = Path(__file__).with_name("refusal_phrases.json").read_text(encoding="utf-8")
    for language, of in json.loads(text).items():
        slots = of["slots"]

        def part(found: re.Match[str], slots: Mapping[str, str] = slots) -> str:
            chosen = draw.choice(slots.get(found[1], found[1]).split("|"))
            return draw.choice(slots[chosen].split("|")) if chosen in slots else chosen

        for declined, patterns in ((True, of["declined"]), (False, of["answered"])):
            for made in (
                re.sub(r"{([^{}]*)}", part, pattern) for pattern in patterns for _ in range(_DRAWS)
            ):
                rows.append(
                    {
                        "answer": made[0].upper() + made[1:],
                        "declined": declined,
                        "language": language,
                    }
                )
    return rows


def _minimum(matrix: csr_matrix, labels: Sequence[bool]) -> tuple[Any, float]:
    sign = np.where(labels, 1.0, -1.0)

    def loss(point: Any) -> tuple[float, Any]:
        margin = sign * (matrix @ point[:-1] + point[-1])
        slope = -sign * np.exp(-np.logaddexp(0, margin))
        value = np.logaddexp(0, -margin).sum() + _PENALTY / 2 * (point[:-1] ** 2).sum()
        return value, np.append(matrix.T @ slope + _PENALTY * point[:-1], slope.sum())

    point = minimize(
        loss, np.zeros(matrix.shape[1] + 1), jac=True, method="L-BFGS-B", options={"maxiter": 300}
    ).x
    return point[:-1], float(point[-1])


def fit(rows: Sequence[Mapping[str, Any]], threshold: float = 0.0) -> Classifier:
    """Logistic regression on sentences; which sentence of an answer declines is decided by the fit before."""
    by_answer = [[features(sentence) for sentence in sentences(row["answer"])] for row in rows]
    common = Counter(
        bucket for found in by_answer for bucket in {each for one in found for each in one}
    )
    column = {
        bucket: i
        for i, bucket in enumerate(sorted(b for b, count in common.items() if count >= _RARE))
    }
    owners = [i for i, found in enumerate(by_answer) for _ in found]
    indices, values, starts = [], [], [0]
    for one in (one for found in by_answer for one in found):
        known = [column[bucket] for bucket in one if bucket in column]
        indices += known
        values += [len(one) ** -0.25] * len(known)
        starts.append(len(indices))
    matrix = csr_matrix((values, indices, starts), shape=(len(owners), len(column)))
    chosen = [
        i
        for i, owner in enumerate(owners)
        if not rows[owner]["declined"] or len(by_answer[owner]) == 1
    ]
    for _ in range(3):
        weights, intercept = _minimum(matrix[chosen], [rows[owners[i]]["declined"] for i in chosen])
        scores = matrix @ weights
        best: dict[int, int] = {}
        for i, owner in enumerate(owners):
            if rows[owner]["declined"] and (owner not in best or scores[i] > scores[best[owner]]):
                best[owner] = i
        chosen = [
            i for i, owner in enumerate(owners) if not rows[owner]["declined"] or best[owner] == i
        ]
    unit = float(np.float32(np.abs(weights).max() / _LEVELS))
    packed = array("b", bytes(BUCKETS))
    for bucket, i in column.items():
        packed[bucket] = round(float(weights[i]) / unit)
    return Classifier(packed, unit, round(intercept, 3), threshold)


def left_out(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """The log-odds of each answer by a classifier that was fitted without it and its neighbours."""
    phrased = phrased_rows()
    seen: Counter[tuple[str, bool]] = Counter()
    folds = []
    for row in rows:
        kind = (row["language"], row["declined"])
        folds.append(seen[kind] // _NEIGHBOURS % _FOLDS)
        seen[kind] += 1
    fitted = [
        fit([*phrased, *(row for row, fold in zip(rows, folds, strict=True) if fold != out)])
        for out in range(_FOLDS)
    ]
    return [fitted[fold].log_odds(row["answer"]) for row, fold in zip(rows, folds, strict=True)]


def threshold_of(rows: Sequence[Mapping[str, Any]], scores: Sequence[float]) -> float:
    """The threshold with the specificity wanted."""
    others = [score for row, score in zip(rows, scores, strict=True) if not row["declined"]]
    return round(float(np.quantile(others, SPECIFICITY)), 3)


def main(argv: list[str] | None = None) -> None:
    """Write the weights, and print how many of the answers left out were recognised in each language."""
    argparse.ArgumentParser(
        prog="python -m benchmarks.fit_refusals", description=__doc__
    ).parse_args(argv)
    rows = training_rows()
    scores = left_out(rows)
    threshold = threshold_of(rows, scores)
    for language in dict.fromkeys(row["language"] for row in rows):
        said = [
            (row["declined"], score > threshold)
            for row, score in zip(rows, scores, strict=True)
            if row["language"] == language
        ]
        for declined, name in ((True, "refusals recognised"), (False, "false positives")):
            of = [found for label, found in said if label is declined]
            print(f"{language}: {sum(of)} of {len(of)} {name}, left out")
    WEIGHTS_FILE.write_text(fit([*rows, *phrased_rows()], threshold).to_json(), encoding="utf-8")
    print(f"wrote {WEIGHTS_FILE.name}: {WEIGHTS_FILE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
