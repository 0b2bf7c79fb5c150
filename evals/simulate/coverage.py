"""How often the 95 % intervals hold the true difference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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

_LOGNORMAL_MEAN = float(np.exp(0.5))


@dataclass(frozen=True)
class Coverage:
    """One line of the table.

    Attributes:
        case: What the differences look like, a key of ``CASES``.
        n: Items.
        clusters: Clusters, ``None`` without.
        covered: Share of the intervals that hold the true difference.
        above: Share that lie wholly above it.
        below: Share that lie wholly below it.
        width: Mean width of the intervals, in the metric's units.
        warned: Share of the comparisons that say "too few items".
    """

    case: str
    n: int
    clusters: int | None
    covered: float
    above: float
    below: float
    width: float
    warned: float


def _normal(rng: Generator, n: int) -> Draw:
    baseline = losses(rng, n)
    return Draw(baseline, baseline + rng.normal(0, 1, n))


def _lognormal(rng: Generator, n: int) -> Draw:
    baseline = losses(rng, n)
    return Draw(baseline, baseline + rng.lognormal(0, 1, n), _LOGNORMAL_MEAN)


def _weighted(rng: Generator, n: int) -> Draw:
    """Loss per token: short answers are noisier, and weigh less."""
    tokens, baseline = answer_tokens(rng, n), losses(rng, n)
    differences = (rng.lognormal(0, 1, n) - _LOGNORMAL_MEAN) / np.sqrt(tokens)
    return Draw(baseline, baseline + differences, weights=tokens)


def _flips(rng: Generator, n: int, rate: float, lost: float) -> Draw:
    """A share ``rate`` of the items flips, ``lost`` of those from right to wrong."""
    return flipped(rng, rng.random(n) < rate, rng.random(n) < lost, truth=rate * (1 - 2 * lost))


def _partial_flips(rng: Generator, n: int, rate: float) -> Draw:
    """Token F1 of greedy answers: most items score alike, a share ``rate`` loses a random part."""
    baseline = np.where(rng.random(n) < 0.5, 1.0, rng.random(n))
    loss = np.where(rng.random(n) < rate, rng.random(n), 0.0)
    return Draw(baseline, baseline * (1 - loss), -rate * 0.5 * 0.75)  # mean loss times mean baseline


def _clustered(rng: Generator, labels: Labels) -> Draw:
    """Half the variance lies between clusters."""
    baseline = losses(rng, len(labels))
    differences = rng.normal(0, 1, labels[-1] + 1)[labels] + rng.normal(0, 1, len(labels))
    return Draw(baseline, baseline + differences, clusters=labels)


def _lognormal_in_clusters(rng: Generator, n: int) -> Draw:
    draw = _lognormal(rng, n)
    return Draw(draw.baseline, draw.candidate, draw.truth, equal_clusters(n))


def _lognormal_clusters(rng: Generator, n: int) -> Draw:
    """The cluster as a whole is hit, few of them hard."""
    labels, baseline = equal_clusters(n), losses(rng, n)
    differences = rng.lognormal(0, 1, labels[-1] + 1)[labels] + rng.normal(0, 1, n)
    return Draw(baseline, baseline + differences, _LOGNORMAL_MEAN, labels)


def _weighted_clusters(rng: Generator, n: int) -> Draw:
    labels, draw = equal_clusters(n), _weighted(rng, n)
    shared = rng.normal(0, 0.3, labels[-1] + 1)[labels]
    return Draw(draw.baseline, draw.candidate + shared, clusters=labels, weights=draw.weights)


def _whole_cluster_flips(rng: Generator, n: int) -> Draw:
    """2 % of the clusters flip from right to wrong as a whole."""
    labels = equal_clusters(n)
    flips = (rng.random(labels[-1] + 1) < 0.02)[labels]
    return flipped(rng, flips, np.ones(n, dtype=bool), truth=-0.02, clusters=labels)


def _flips_in_clusters(rng: Generator, labels: Labels, rate: float, lost: float) -> Draw:
    flips, down = clusters_alike(rng, labels, rate), rng.random(len(labels)) < lost
    return flipped(rng, flips, down, truth=rate * (1 - 2 * lost), clusters=labels)


CASES: dict[str, Case] = {
    "normal": Case("nll_per_token", _normal),
    "lognormal": Case("nll_per_token", _lognormal),
    "lognormal, weighted by tokens": Case("nll_per_token", _weighted),
    "flips 2 %, both ways": Case("exact_match", lambda rng, n: _flips(rng, n, 0.02, 0.5)),
    "flips 2 %, one way": Case("exact_match", lambda rng, n: _flips(rng, n, 0.02, 1.0)),
    "flips 20 %, both ways": Case("exact_match", lambda rng, n: _flips(rng, n, 0.2, 0.5)),
    "partial flips 2 %, one way": Case("token_f1", lambda rng, n: _partial_flips(rng, n, 0.02)),
    "partial flips 10 %, one way": Case("token_f1", lambda rng, n: _partial_flips(rng, n, 0.1)),
    "clusters of 5, normal": Case("nll_per_token", lambda rng, n: _clustered(rng, equal_clusters(n))),
    "clusters of 5, lognormal items": Case("nll_per_token", _lognormal_in_clusters),
    "clusters of 5, lognormal clusters": Case("nll_per_token", _lognormal_clusters),
    "clusters of 5, weighted by tokens": Case("nll_per_token", _weighted_clusters),
    "clusters of 5, 2 % of them flip whole, one way": Case("exact_match", _whole_cluster_flips),
    "clusters of 5, flips 2 %, one way": Case(
        "exact_match", lambda rng, n: _flips_in_clusters(rng, equal_clusters(n), 0.02, 1.0)
    ),
    "clusters of 5, flips 2 %, both ways": Case(
        "exact_match", lambda rng, n: _flips_in_clusters(rng, equal_clusters(n), 0.02, 0.5)
    ),
    "clusters of 5, flips 20 %, both ways": Case(
        "exact_match", lambda rng, n: _flips_in_clusters(rng, equal_clusters(n), 0.2, 0.5)
    ),
    "clusters of unequal size, normal": Case(
        "nll_per_token", lambda rng, n: _clustered(rng, unequal_clusters(rng, n))
    ),
    "clusters of unequal size, flips 2 %, one way": Case(
        "exact_match", lambda rng, n: _flips_in_clusters(rng, unequal_clusters(rng, n), 0.02, 1.0)
    ),
}
"""What is simulated."""


def coverage(case: str, n: int, *, repetitions: int, resamples: int = RESAMPLES, seed: int = 0) -> Coverage:
    """Simulate one case.

    Args:
        case: A key of ``CASES``.
        n: Items, at least 10.
        repetitions: Simulated held-out sets.
        resamples: Bootstrap samples and sign patterns of each.
        seed: Seed of everything drawn.
    """
    rng = generator(seed, case, n)
    rows = []
    clusters = None
    for repetition in range(repetitions):
        draw = CASES[case].draw(rng, n)
        result = compare(draw, CASES[case].metric, seed=repetition, resamples=resamples)
        clusters = result.n_clusters
        rows.append((
            result.ci_low > draw.truth, result.ci_high < draw.truth, result.ci_high - result.ci_low,
            any(text.startswith("too few items") for text in result.warnings),
        ))
    above, below, width, warned = (float(share) for share in np.mean(rows, axis=0))
    return Coverage(case, n, clusters, 1 - above - below, above, below, width, warned)
