"""Simulated held-out sets, what they are built from, and how one is compared: with the very call of the report."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evals.compare import Comparison, paired_comparison
from evals.metrics import METRICS
from evals.stats.units import Floats

Generator = np.random.Generator
Labels = NDArray[np.int64]
SIZES = (30, 100, 300)
CLUSTER_SIZE = 5
"""Items of a cluster, on average: 30, 100 and 300 items are 6, 20 and 60 clusters."""
_LIKENESS = 2.0
"""Sum of the two parameters of the beta distribution of clusters' flip rates: flips within a cluster have an intraclass
correlation of 1 / (1 + 2)."""


@dataclass(frozen=True)
class Draw:
    """One simulated held-out set.

    Attributes:
        baseline: Scores of the baseline, shape ``[n]``.
        candidate: Scores of the candidate, shape ``[n]``.
        truth: The true difference, candidate − baseline.
        clusters: A label for each item.
        weights: Answer tokens of each item.
    """

    baseline: Floats
    candidate: Floats
    truth: float = 0.0
    clusters: Labels | None = None
    weights: Floats | None = None


@dataclass(frozen=True)
class Case:
    """A kind of held-out set.

    Attributes:
        metric: The metric whose limits and direction its scores have.
        draw: Makes one of ``n`` items.
    """

    metric: str
    draw: Callable[[Generator, int], Draw]


def generator(seed: int, name: str, n: int) -> Generator:
    """Random numbers of one line of a table, whatever other lines there are."""
    return np.random.default_rng([seed, n, zlib.crc32(name.encode())])


def compare(draw: Draw, metric: str, *, seed: int, resamples: int) -> Comparison:
    """Compare both arms as ``evals.report.contrasts`` does, with no margin."""
    info = METRICS[metric]
    return paired_comparison(
        draw.baseline, draw.candidate, clusters=None if draw.clusters is None else draw.clusters.tolist(),
        weights=draw.weights, margin=None, higher_is_better=info.higher_is_better, seed=seed, bounds=info.bounds,
        resamples=resamples,
    )


def losses(rng: Generator, n: int) -> Floats:
    """Losses of the baseline, in nats per token."""
    return np.abs(rng.normal(2.0, 0.5, n))


def answer_tokens(rng: Generator, n: int) -> Floats:
    """Answer lengths: median 20, one in six above 45 or below 9."""
    return np.ceil(rng.lognormal(3, 0.8, n))


def equal_clusters(n: int) -> Labels:
    """Labels of clusters of ``CLUSTER_SIZE`` items."""
    return np.arange(n) // CLUSTER_SIZE


def unequal_clusters(rng: Generator, n: int) -> Labels:
    """As many clusters as in the equal case, most of them small and some several times the average."""
    count = n // CLUSTER_SIZE
    sizes = 1 + rng.multinomial(n - count, rng.dirichlet(np.ones(count)))
    return np.repeat(np.arange(count), sizes)


def clusters_alike(rng: Generator, labels: Labels, rate: float) -> NDArray[np.bool_]:
    """Which items flip: a share ``rate`` of them, more in some clusters than in others."""
    rates = rng.beta(_LIKENESS * rate, _LIKENESS * (1 - rate), labels[-1] + 1)
    return rng.random(len(labels)) < rates[labels]


def flipped(
    rng: Generator, flips: NDArray[np.bool_], down: NDArray[np.bool_], *, truth: float = 0.0,
    clusters: Labels | None = None,
) -> Draw:
    """Right or wrong scores of which some flip.

    Args:
        rng: Random numbers.
        flips: Which items flip.
        down: Which of them from right to wrong; the others from wrong to right.
        truth: The true difference.
        clusters: Labels.
    """
    baseline = np.where(flips, down, rng.random(len(flips)) < 0.7).astype(float)
    return Draw(baseline, np.where(flips, 1 - baseline, baseline), truth, clusters)
