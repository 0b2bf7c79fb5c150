"""Reliability of the assistants: whether an answer is right as often as its probability says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from assistant_builder.i18n import m
from evals.compare import SATURATED
from evals.report.load import BASELINE, CANDIDATE, Cell

PARTIAL = 0.5  # token F1 from which an answer counts as right if exact match is almost always or almost never reached
_BINS = ((150, 10), (75, 5))
"""Minimum number of items for a number of bins; with fewer items, one bin per ``_FEWEST_IN_BIN``."""
_FEWEST_IN_BIN = 15


def reliability(
    cells: Mapping[str, Cell], served: Sequence[str] = (BASELINE, CANDIDATE)
) -> dict[str, Any] | None:
    """The reliability curve of each arm's assistant, its calibration error ``ece`` and its ``brier`` score.

    The bins have equal counts and a Wilson interval. ``None`` if probabilities or answers are missing, or the items do
    not fill two bins.
    """
    tuned = [name for name in served if name in cells]
    scores = [
        cells[name].values(
            [item for item, sample in cells[name].by_item.items() if sample["answerable"]],
            "exact_match",
        )
        for name in tuned
    ]
    known = [math.fsum(values) / len(values) for values in scores if values]
    saturated = len(known) < len(tuned) or max(known) < SATURATED or min(known) > 1 - SATURATED
    metric, threshold = ("token_f1", PARTIAL) if saturated else ("exact_match", 1.0)
    points = {name: _points(cells[name], metric, threshold) for name in tuned}
    if min(len(probability) for probability, _ in points.values()) < 2 * _FEWEST_IN_BIN:
        return None
    return {
        "metric": metric,
        "correct_means": m("the answer equals the reference (exact match)")
        if metric == "exact_match"
        else m(
            "token F1 of answer and reference is at least {least}, because by exact match nearly all answers are "
            "right, or nearly all are wrong",
            least=PARTIAL,
        ),
        "cells": {name: _curve(*found) for name, found in points.items()},
        "about": m(
            "The mean probability that the assistant gives to the tokens of the reference answer, compared with the "
            "share of questions to answer that its own answer gets right. On the diagonal, the probability equals the "
            "share of right answers. ECE is the mean distance from the diagonal, with bins weighted by their items. "
            "The Brier score is the mean squared difference between the probability and right (1) or wrong (0). The "
            "intervals treat items as independent."
        ),
    }


def _points(cell: Cell, metric: str, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities in ascending order, and whether each answer is right; both of shape ``[n]``."""
    found = sorted(
        (float(sample["mean_probability"]), value >= threshold)
        for item, sample in cell.by_item.items()
        if sample["answerable"]
        and sample.get("mean_probability") is not None
        and (value := cell.value(item, metric)) is not None
    )
    return np.array([probability for probability, _ in found]), np.array(
        [right for _, right in found], dtype=float
    )


def _curve(probability: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    n = len(probability)
    count = next((bins for fewest, bins in _BINS if n >= fewest), n // _FEWEST_IN_BIN)
    bins: list[dict[str, Any]] = []
    for part in np.array_split(np.arange(n), count):
        share = float(right[part].mean())
        bins.append(
            {
                "low": float(probability[part[0]]),
                "high": float(probability[part[-1]]),
                "n": len(part),
                "mean_probability": float(probability[part].mean()),
                "correct": share,
                "ci": _wilson(right[part]),
            }
        )
    ece = (
        math.fsum(each["n"] * abs(each["mean_probability"] - each["correct"]) for each in bins) / n
    )
    return {"bins": bins, "ece": ece, "brier": float(np.square(probability - right).mean()), "n": n}


def _wilson(right: np.ndarray) -> list[float]:
    """The 95 % Wilson score interval of the share of right answers (Wilson 1927)."""
    interval = stats.binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    return [float(interval.low), float(interval.high)]
