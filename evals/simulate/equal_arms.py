"""How often arms that are equal are called different: A/A comparisons, and families of metrics under Holm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from evals.compare import holm
from evals.simulate.drawing import (
    Case,
    Draw,
    Generator,
    Labels,
    answer_tokens,
    clusters_alike,
    compare,
    equal_clusters,
    flipped,
    generator,
    losses,
    unequal_clusters,
)
from evals.stats.intervals import RESAMPLES
from evals.stats.units import Floats

ALPHA = 0.05


@dataclass(frozen=True)
class EqualArms:
    """One line of the table of A/A comparisons, with no margin.

    Attributes:
        case: What is compared, a key of ``EQUAL_ARMS``.
        n: Items.
        clusters: Clusters, ``None`` without.
        worse: Share of the comparisons whose verdict is "worse".
        no_worse: Share whose verdict is "no worse".
        significant: Share with a p-value up to 0.05.
    """

    case: str
    n: int
    clusters: int | None
    worse: float
    no_worse: float
    significant: float


@dataclass(frozen=True)
class Family:
    """One line of the table of A/A comparisons on several metrics at once.

    Attributes:
        case: A key of ``FAMILIES``.
        n: Items.
        clusters: Clusters, ``None`` without.
        metrics: Metrics of the family.
        any_significant: Share of the families with some p-value up to 0.05.
        any_adjusted: Share with some p-value up to 0.05 after Holm's adjustment.
    """

    case: str
    n: int
    clusters: int | None
    metrics: int
    any_significant: float
    any_adjusted: float


def _normal(rng: Generator, n: int, labels: Labels | None = None) -> Draw:
    """Two trainings of one arm: each errs by its own noise on an item, and with clusters on a cluster."""
    tokens, shared = answer_tokens(rng, n), losses(rng, n)
    effect = np.zeros((2, n)) if labels is None else rng.normal(0, 0.1, (2, labels[-1] + 1))[:, labels]
    baseline, candidate = shared + effect + rng.normal(0, 1, (2, n)) / np.sqrt(tokens)
    return Draw(baseline, candidate, clusters=labels, weights=tokens)


def _lognormal(rng: Generator, n: int) -> Draw:
    tokens = answer_tokens(rng, n)
    baseline, candidate = rng.lognormal(0, 1, (2, n)) / np.sqrt(tokens)
    return Draw(baseline, candidate, weights=tokens)


def _skewed(rng: Generator, n: int) -> Draw:
    """Equal on average only: the candidate is a little worse on most items and far better on few."""
    tokens, baseline = answer_tokens(rng, n), losses(rng, n) + 1
    differences = (np.exp(0.5) - rng.lognormal(0, 1, n)) / np.sqrt(tokens)
    return Draw(baseline, baseline + differences, weights=tokens)


def _flips(rng: Generator, n: int) -> Draw:
    return flipped(rng, rng.random(n) < 0.2, rng.random(n) < 0.5)


def _flips_in_clusters(rng: Generator, n: int) -> Draw:
    """Where a cluster flips it does so in one direction."""
    labels = equal_clusters(n)
    down = (rng.random(labels[-1] + 1) < 0.5)[labels]
    return flipped(rng, clusters_alike(rng, labels, 0.2), down, clusters=labels)


def _overlap(rng: Generator, n: int) -> Draw:
    """Token F1: four answers in five are the same in both arms, the others are scored anew."""
    scores = np.where(rng.random((2, n)) < 0.4, 1.0, rng.random((2, n)))
    return Draw(scores[0], np.where(rng.random(n) < 0.8, scores[0], scores[1]))


EQUAL_ARMS: dict[str, Case] = {
    "loss": Case("nll_per_token", _normal),
    "loss, lognormal": Case("nll_per_token", _lognormal),
    "loss, equal on average only, very skewed": Case("nll_per_token", _skewed),
    "right/wrong, 20 % flip": Case("exact_match", _flips),
    "word overlap, 20 % differ": Case("token_f1", _overlap),
    "loss, clusters of 5": Case("nll_per_token", lambda rng, n: _normal(rng, n, equal_clusters(n))),
    "loss, clusters of unequal size": Case("nll_per_token", lambda rng, n: _normal(rng, n, unequal_clusters(rng, n))),
    "right/wrong, 20 % flip, clusters of 5": Case("exact_match", _flips_in_clusters),
}
"""Equal arms: losses are weighted by answer tokens."""


def equal_arms(case: str, n: int, *, repetitions: int, resamples: int = RESAMPLES, seed: int = 0) -> EqualArms:
    """Simulate A/A comparisons of one kind; arguments as in :func:`evals.simulate.coverage.coverage`."""
    rng = generator(seed, case, n)
    results = [
        compare(EQUAL_ARMS[case].draw(rng, n), EQUAL_ARMS[case].metric, seed=repetition, resamples=resamples)
        for repetition in range(repetitions)
    ]
    return EqualArms(
        case, n, results[-1].n_clusters,
        worse=float(np.mean([result.verdict == "worse" for result in results])),
        no_worse=float(np.mean([result.verdict == "no worse" for result in results])),
        significant=float(np.mean([result.p_value <= ALPHA for result in results])),
    )


def _answers(rng: Generator, n: int, labels: Labels | None) -> dict[str, Draw]:
    """All metrics of two equal arms, as correlated as those of one answer are.

    An item is easy or hard for both arms; half of the answers are word for word the same. Facts are in four references
    of ten.
    """
    size = n if labels is None else int(labels[-1]) + 1
    unit = np.arange(n) if labels is None else labels
    quality = rng.normal(0, 1, n) + rng.normal(0, 0.5, (2, size))[:, unit] + rng.normal(0, 0.5, (2, n))
    tokens, same = answer_tokens(rng, n), rng.random(n) < 0.5
    loss = np.exp(-0.5 * quality + rng.normal(0, 0.5, (2, n)) / np.sqrt(tokens))
    quality[1] = np.where(same, quality[0], quality[1])
    right = quality > 0.5
    facts = rng.random(n) < 0.4
    facts[[0, -1]] = True  # an interval needs two units

    def scores(noise: float, lowest: float = 0.0) -> Floats:
        raw = np.clip(0.5 + 0.25 * quality + rng.normal(0, noise, (2, n)), lowest, 0.95)
        return np.where(right, 1.0, np.where(same & [[False], [True]], raw[0], raw))

    kept = np.where(right, 1.0, np.clip(np.round(2 * scores(0.2)), 0, 2) / 2)
    found: dict[str, Floats] = {
        "nll_per_token": loss, "exact_match": right.astype(float), "token_f1": scores(0.1), "rouge_l": scores(0.1),
        "chrf": scores(0.05), "facts_kept": kept, "similarity": scores(0.1, -1.0),
    }
    draws = {}
    for metric, (baseline, candidate) in found.items():
        scored = facts if metric == "facts_kept" else np.ones(n, dtype=bool)
        draws[metric] = Draw(
            baseline[scored], candidate[scored], clusters=None if labels is None else labels[scored],
            weights=tokens if metric == "nll_per_token" else None,
        )
    return draws


FAMILIES: dict[str, Callable[[Generator, int], dict[str, Draw]]] = {
    "all metrics": lambda rng, n: _answers(rng, n, None),
    "all metrics, clusters of 5": lambda rng, n: _answers(rng, n, equal_clusters(n)),
}
"""Equal arms scored by every metric at once."""


def family(case: str, n: int, *, repetitions: int, resamples: int = RESAMPLES, seed: int = 0) -> Family:
    """Simulate A/A comparisons on all metrics; arguments as in :func:`evals.simulate.coverage.coverage`."""
    rng = generator(seed, case, n)
    rows = []
    clusters, metrics = None, 0
    for repetition in range(repetitions):
        results = [
            compare(draw, metric, seed=repetition, resamples=resamples)
            for metric, draw in FAMILIES[case](rng, n).items()
        ]
        p_values = [result.p_value for result in results]
        rows.append((min(p_values) <= ALPHA, holm(p_values).min() <= ALPHA))
        clusters, metrics = results[0].n_clusters, len(results)
    any_significant, any_adjusted = (float(share) for share in np.mean(rows, axis=0))
    return Family(case, n, clusters, metrics, any_significant, any_adjusted)
