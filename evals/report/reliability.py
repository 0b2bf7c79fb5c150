"""Whether an assistant that finds its answer likely is right: mean token probability against correctness."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import stats

from evals.compare import SATURATED
from evals.report.reading import BASELINE, CANDIDATE, Cell

PARTIAL = 0.5
"""Token F1 from which an answer counts as right, where exact match is too rare, or too common, to tell."""
_BINS = ((150, 10), (75, 5))
"""Items from which on so many bins are made; below, one a 15 items."""
_FEWEST_IN_BIN = 15
_Z95 = float(stats.norm.ppf(0.975))


def reliability(cells: Mapping[str, Cell]) -> dict[str, Any] | None:
    """The reliability curve of each arm's assistant.

    Args:
        cells: The scored cells.

    Returns:
        ``metric``, ``correct_means``, ``about`` and by cell ``bins`` of equal counts with a Wilson interval, expected
        calibration error ``ece`` over these bins, ``brier`` score and ``n``; ``None`` where probabilities or answers
        are missing, or the items would not fill two bins.
    """
    tuned = [name for name in (BASELINE, CANDIDATE) if name in cells]
    rates = [_rate(cells[name], "exact_match") for name in tuned]
    known = [rate for rate in rates if rate is not None]
    saturated = len(known) < len(tuned) or max(known) < SATURATED or min(known) > 1 - SATURATED
    metric, threshold = ("token_f1", PARTIAL) if saturated else ("exact_match", 1.0)
    points = {name: _points(cells[name], metric, threshold) for name in tuned}
    if min(len(probability) for probability, _ in points.values()) < 2 * _FEWEST_IN_BIN:
        return None
    return {
        "metric": metric,
        "correct_means": "the answer equals the reference (exact match)" if metric == "exact_match" else
        f"token F1 of answer and reference is at least {PARTIAL}; by exact match nearly all answers are right, or "
        "nearly all wrong",
        "cells": {name: _curve(*found) for name, found in points.items()},
        "about": "The mean probability that the assistant gives to the tokens of the reference answer, against the "
        "share of items on which the answer it then writes is right. On the diagonal, probability could be read as "
        "the chance of being right. ECE: mean distance from the diagonal, bins weighted by their items. Brier: mean "
        "squared difference of probability and right (1) or wrong (0). Intervals take items as independent.",
    }


def _rate(cell: Cell, metric: str) -> float | None:
    values = cell.values(list(cell.by_item), metric)
    return math.fsum(values) / len(values) if values else None


def _points(cell: Cell, metric: str, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities in ascending order, and whether each item's answer is right; both shape ``[n]``."""
    found = sorted(
        (float(sample["mean_probability"]), value >= threshold) for item, sample in cell.by_item.items()
        if sample.get("mean_probability") is not None and (value := cell.value(item, metric)) is not None
    )
    return np.array([probability for probability, _ in found]), np.array([right for _, right in found], dtype=float)


def _curve(probability: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    n = len(probability)
    count = next((bins for fewest, bins in _BINS if n >= fewest), n // _FEWEST_IN_BIN)
    bins: list[dict[str, Any]] = []
    for part in np.array_split(np.arange(n), count):
        share = float(right[part].mean())
        bins.append({
            "low": float(probability[part[0]]), "high": float(probability[part[-1]]), "n": len(part),
            "mean_probability": float(probability[part].mean()), "correct": share, "ci": _wilson(share, len(part)),
        })
    ece = math.fsum(each["n"] * abs(each["mean_probability"] - each["correct"]) for each in bins) / n
    return {"bins": bins, "ece": ece, "brier": float(np.square(probability - right).mean()), "n": n}


def _wilson(share: float, n: int) -> list[float]:
    """The 95 % Wilson score interval of a share (Wilson 1927)."""
    spread = _Z95**2 / n
    half = _Z95 * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    center = (share + spread / 2) / (1 + spread)
    return [max(0.0, center - half), min(1.0, center + half)]
