"""Simulated held-out sets: scores of two assistants with a known true difference."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from evals.stats.units import Floats

Generator = np.random.Generator
Labels = NDArray[np.int64]
SIZES = (30, 100, 300)
CLUSTER_SIZE = 5
"""Items of a cluster, on average: 30, 100 and 300 items are 6, 20 and 60 clusters."""
_LIKENESS = 2.0
"""Sum of the two parameters of the beta distribution of clusters' flip rates: flips within a cluster have an intraclass
correlation of 1 / (1 + 2)."""
_LOGNORMAL_MEAN = float(np.exp(0.5))


@dataclass(frozen=True)
class SimulatedScores:
    """One simulated held-out set."""

    baseline: Floats  # scores of the baseline, shape ``[n]``
    candidate: Floats  # scores of the candidate, shape ``[n]``
    truth: float = 0.0  # the true difference, candidate − baseline
    clusters: Labels | None = None  # a label for each item
    weights: Floats | None = None  # answer tokens of each item
    crossed: Labels | None = None  # a second cluster label for each item
    related: Labels | None = None  # a label for each item that is no cluster


@dataclass(frozen=True)
class Case:
    """A kind of held-out set."""

    metric: str  # the metric with the bounds and direction of its scores
    draw: Callable[[Generator, int], SimulatedScores]  # draws one of ``n`` items
    sizes: tuple[int, ...] = SIZES  # items of its rows
    skewed: bool = False  # whether its differences, of a score without limits, have one long tail


HARM = 0.1
"""True harm of cases without a difference, in nats per token."""


def harmful(
    draw: SimulatedScores, *, lower_is_better: bool, mirrored: bool = False
) -> SimulatedScores:
    """The same held-out set with a candidate that is truly worse.

    Args:
        draw: Of a score without limits where its true difference is zero or an improvement.
        lower_is_better: Direction of the score.
        mirrored: Whether to change the sign of all differences first, so that a long tail is on the other side.
    """
    sign = -1.0 if mirrored else 1.0
    candidate, truth = draw.baseline + sign * (draw.candidate - draw.baseline), sign * draw.truth
    worse = 1.0 if lower_is_better else -1.0
    shift = 0.0 if worse * truth > 0 else worse * HARM - truth
    return replace(draw, candidate=candidate + shift, truth=truth + shift)


def generator(seed: int, name: str, n: int) -> Generator:
    """Random generator of one row of a table, independent of the other rows."""
    return np.random.default_rng([seed, n, zlib.crc32(name.encode())])


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
    """Items that flip: a share ``rate`` of them, more in some clusters than in others."""
    rates = rng.beta(_LIKENESS * rate, _LIKENESS * (1 - rate), labels[-1] + 1)
    return rng.random(len(labels)) < rates[labels]


def flipped(
    rng: Generator,
    flips: NDArray[np.bool_],
    down: NDArray[np.bool_],
    *,
    truth: float = 0.0,
    clusters: Labels | None = None,
    right: float = 0.7,
) -> SimulatedScores:
    """Right/wrong scores of which ``flips`` flip, ``down`` from right to wrong and the others from wrong to right.

    A share ``right`` of the answers that do not flip is right.
    """
    baseline = np.where(flips, down, rng.random(len(flips)) < right).astype(float)
    return SimulatedScores(baseline, np.where(flips, 1 - baseline, baseline), truth, clusters)


def _normal(rng: Generator, n: int) -> SimulatedScores:
    baseline = losses(rng, n)
    return SimulatedScores(baseline, baseline + rng.normal(0, 1, n))


def _lognormal(rng: Generator, n: int) -> SimulatedScores:
    baseline = losses(rng, n)
    return SimulatedScores(baseline, baseline + rng.lognormal(0, 1, n), _LOGNORMAL_MEAN)


def _weighted(rng: Generator, n: int) -> SimulatedScores:
    """Loss per token: short answers are noisier, and weigh less."""
    tokens, baseline = answer_tokens(rng, n), losses(rng, n)
    differences = (rng.lognormal(0, 1, n) - _LOGNORMAL_MEAN) / np.sqrt(tokens)
    return SimulatedScores(baseline, baseline + differences, weights=tokens)


def _zeros(rng: Generator, n: int) -> SimulatedScores:
    """The loss changes for 5 % of the items only."""
    baseline = losses(rng, n)
    differences = np.where(rng.random(n) < 0.05, rng.lognormal(0, 1, n), 0.0)
    return SimulatedScores(baseline, baseline + differences, 0.05 * _LOGNORMAL_MEAN)


def _longer_is_worse(rng: Generator, n: int) -> SimulatedScores:
    """Loss per token that changes more for longer answers: the weighted mean is 0.8² above the mean, which is 0."""
    length = rng.normal(0, 0.8, n)
    baseline = losses(rng, n)
    return SimulatedScores(
        baseline, baseline + length + rng.normal(0, 0.3, n), 0.8**2, weights=20 * np.exp(length)
    )


def _flips(rng: Generator, n: int, rate: float, lost: float, right: float = 0.7) -> SimulatedScores:
    """A share ``rate`` of the items flips, ``lost`` of those from right to wrong."""
    return flipped(
        rng, rng.random(n) < rate, rng.random(n) < lost, truth=rate * (1 - 2 * lost), right=right
    )


def _partial_flips(rng: Generator, n: int, rate: float) -> SimulatedScores:
    """Token F1 of greedy answers: most items score alike, a share ``rate`` loses a random part."""
    baseline = np.where(rng.random(n) < 0.5, 1.0, rng.random(n))
    loss = np.where(rng.random(n) < rate, rng.random(n), 0.0)
    return SimulatedScores(
        baseline, baseline * (1 - loss), -rate * 0.5 * 0.75
    )  # mean loss times mean baseline


def _lost_overlap(rng: Generator, n: int) -> SimulatedScores:
    """Token F1 of answers of which 2 % fall from 1 to 0."""
    lost = rng.random(n) < 0.02
    baseline = np.where(lost, 1.0, rng.random(n))
    return SimulatedScores(baseline, np.where(lost, 0.0, baseline), -0.02)


def _clustered(rng: Generator, labels: Labels) -> SimulatedScores:
    """Half of the variance is between clusters."""
    baseline = losses(rng, len(labels))
    differences = rng.normal(0, 1, labels[-1] + 1)[labels] + rng.normal(0, 1, len(labels))
    return SimulatedScores(baseline, baseline + differences, clusters=labels)


def _lognormal_in_clusters(rng: Generator, n: int) -> SimulatedScores:
    draw = _lognormal(rng, n)
    return SimulatedScores(draw.baseline, draw.candidate, draw.truth, equal_clusters(n))


def _lognormal_clusters(rng: Generator, n: int) -> SimulatedScores:
    """Clusters differ as a whole, a few of them strongly."""
    labels, baseline = equal_clusters(n), losses(rng, n)
    differences = rng.lognormal(0, 1, labels[-1] + 1)[labels] + rng.normal(0, 1, n)
    return SimulatedScores(baseline, baseline + differences, _LOGNORMAL_MEAN, labels)


def _weighted_clusters(rng: Generator, n: int) -> SimulatedScores:
    labels, draw = equal_clusters(n), _weighted(rng, n)
    shared = rng.normal(0, 0.3, labels[-1] + 1)[labels]
    return SimulatedScores(
        draw.baseline, draw.candidate + shared, clusters=labels, weights=draw.weights
    )


def _whole_cluster_flips(rng: Generator, n: int, rate: float) -> SimulatedScores:
    """A share ``rate`` of the clusters flips from right to wrong as a whole."""
    labels = equal_clusters(n)
    flips = (rng.random(labels[-1] + 1) < rate)[labels]
    return flipped(rng, flips, np.ones(n, dtype=bool), truth=-rate, clusters=labels)


def _flips_in_clusters(
    rng: Generator, labels: Labels, rate: float, lost: float, right: float = 0.7
) -> SimulatedScores:
    flips, down = clusters_alike(rng, labels, rate), rng.random(len(labels)) < lost
    return flipped(rng, flips, down, truth=rate * (1 - 2 * lost), clusters=labels, right=right)


def giant_cluster(n: int) -> Labels:
    """As many clusters as in the equal case, one of which holds 30 % of the items."""
    large = round(0.3 * n)
    return np.append(
        np.zeros(large, dtype=np.int64), 1 + np.sort(np.arange(n - large) % (n // CLUSTER_SIZE - 1))
    )


def _shared(rng: Generator, n: int, second: Labels, *, given: bool) -> SimulatedScores:
    """Clusters of 5, and a second label of the items whose effect is as large as that of the clusters.

    The second label is a cluster label if ``given``, and otherwise one that the comparison only checks.
    """
    draw = _clustered(rng, equal_clusters(n))
    draw = replace(draw, candidate=draw.candidate + rng.normal(0, 1, second.max() + 1)[second])
    return replace(draw, crossed=second) if given else replace(draw, related=second)


def crossed_labels(n: int) -> Labels:
    """As many labels as clusters; the items of a cluster have different ones."""
    return np.arange(n) % (n // CLUSTER_SIZE)


def families(n: int) -> Labels:
    """Labels of families of three clusters."""
    return equal_clusters(n) // 3


CASES: dict[str, Case] = {
    "normal": Case("nll_per_token", _normal),
    "lognormal": Case("nll_per_token", _lognormal, skewed=True),
    "lognormal, weighted by tokens": Case("nll_per_token", _weighted, skewed=True),
    "larger for longer answers, weighted by tokens": Case(
        "nll_per_token", _longer_is_worse, skewed=True
    ),
    "95 % zeros, else lognormal": Case("nll_per_token", _zeros, skewed=True),
    "flips 2 %, both ways": Case("exact_match", lambda rng, n: _flips(rng, n, 0.02, 0.75)),
    "flips 2 %, one way": Case("exact_match", lambda rng, n: _flips(rng, n, 0.02, 1.0)),
    "flips 4 %, both ways, 97 % right": Case(
        "exact_match", lambda rng, n: _flips(rng, n, 0.04, 0.75, 0.979)
    ),
    "flips 20 %, both ways": Case("exact_match", lambda rng, n: _flips(rng, n, 0.2, 0.75)),
    "partial flips 2 %, one way": Case("token_f1", lambda rng, n: _partial_flips(rng, n, 0.02)),
    "overlap lost whole by flips of 2 %, one way": Case("token_f1", _lost_overlap),
    "partial flips 10 %, one way": Case("token_f1", lambda rng, n: _partial_flips(rng, n, 0.1)),
    "clusters of 5, normal": Case(
        "nll_per_token", lambda rng, n: _clustered(rng, equal_clusters(n))
    ),
    "clusters of 5, lognormal items": Case("nll_per_token", _lognormal_in_clusters, skewed=True),
    "clusters of 5, lognormal clusters": Case(
        "nll_per_token", _lognormal_clusters, sizes=(30, 100, 150, 200, 300), skewed=True
    ),
    "clusters of 5, weighted by tokens": Case("nll_per_token", _weighted_clusters),
    "clusters of 5, 2 % of them flip whole, one way": Case(
        "exact_match", lambda rng, n: _whole_cluster_flips(rng, n, 0.02)
    ),
    "clusters of 5, 5 % of them flip whole, one way": Case(
        "exact_match", lambda rng, n: _whole_cluster_flips(rng, n, 0.05)
    ),
    "clusters of 5, flips 2 %, one way": Case(
        "exact_match", lambda rng, n: _flips_in_clusters(rng, equal_clusters(n), 0.02, 1.0)
    ),
    "clusters of 5, flips 2 %, both ways": Case(
        "exact_match", lambda rng, n: _flips_in_clusters(rng, equal_clusters(n), 0.02, 0.75)
    ),
    "clusters of 5, flips 4 %, both ways, 97 % right": Case(
        "exact_match", lambda rng, n: _flips_in_clusters(rng, equal_clusters(n), 0.04, 0.75, 0.979)
    ),
    "clusters of 5, flips 20 %, both ways": Case(
        "exact_match", lambda rng, n: _flips_in_clusters(rng, equal_clusters(n), 0.2, 0.75)
    ),
    "clusters of unequal size, normal": Case(
        "nll_per_token", lambda rng, n: _clustered(rng, unequal_clusters(rng, n))
    ),
    "clusters of unequal size, flips 2 %, one way": Case(
        "exact_match", lambda rng, n: _flips_in_clusters(rng, unequal_clusters(rng, n), 0.02, 1.0)
    ),
    "clusters of unequal size, flips 20 %, both ways": Case(
        "exact_match", lambda rng, n: _flips_in_clusters(rng, unequal_clusters(rng, n), 0.2, 0.75)
    ),
    "clusters of equal size and a giant one, normal": Case(
        "nll_per_token", lambda rng, n: _clustered(rng, giant_cluster(n))
    ),
    "clusters of 5, a second label, both given": Case(
        "nll_per_token", lambda rng, n: _shared(rng, n, crossed_labels(n), given=True)
    ),
    "clusters of 5, a second label, not given": Case(
        "nll_per_token", lambda rng, n: _shared(rng, n, crossed_labels(n), given=False)
    ),
    "clusters of 5, families of 3 clusters, not given": Case(
        "nll_per_token", lambda rng, n: _shared(rng, n, families(n), given=False)
    ),
}
"""Cases of the tables of coverage and of harm at the margin."""


def _equal_losses(rng: Generator, n: int, labels: Labels | None = None) -> SimulatedScores:
    """Two trainings of one arm with independent noise per item and, with clusters, per cluster."""
    tokens, shared = answer_tokens(rng, n), losses(rng, n)
    effect = (
        np.zeros((2, n)) if labels is None else rng.normal(0, 0.1, (2, labels[-1] + 1))[:, labels]
    )
    baseline, candidate = shared + effect + rng.normal(0, 1, (2, n)) / np.sqrt(tokens)
    return SimulatedScores(baseline, candidate, clusters=labels, weights=tokens)


def _equal_lognormal(rng: Generator, n: int) -> SimulatedScores:
    tokens = answer_tokens(rng, n)
    baseline, candidate = rng.lognormal(0, 1, (2, n)) / np.sqrt(tokens)
    return SimulatedScores(baseline, candidate, weights=tokens)


def _equal_on_average(rng: Generator, n: int) -> SimulatedScores:
    """Equal means: the candidate is slightly worse on most items and much better on a few."""
    tokens, baseline = answer_tokens(rng, n), losses(rng, n) + 1
    differences = (np.exp(0.5) - rng.lognormal(0, 1, n)) / np.sqrt(tokens)
    return SimulatedScores(baseline, baseline + differences, weights=tokens)


def _equal_flips(rng: Generator, n: int) -> SimulatedScores:
    return flipped(rng, rng.random(n) < 0.2, rng.random(n) < 0.5)


def _equal_flips_in_clusters(rng: Generator, n: int) -> SimulatedScores:
    """All flips of a cluster have one direction."""
    labels = equal_clusters(n)
    down = (rng.random(labels[-1] + 1) < 0.5)[labels]
    return flipped(rng, clusters_alike(rng, labels, 0.2), down, clusters=labels)


def _equal_overlap(rng: Generator, n: int) -> SimulatedScores:
    """Token F1: four answers in five are the same in both arms, the others are scored independently."""
    scores = np.where(rng.random((2, n)) < 0.4, 1.0, rng.random((2, n)))
    return SimulatedScores(scores[0], np.where(rng.random(n) < 0.8, scores[0], scores[1]))


EQUAL_ARMS: dict[str, Case] = {
    "loss": Case("nll_per_token", _equal_losses),
    "loss, lognormal": Case("nll_per_token", _equal_lognormal),
    "loss, equal on average only, very skewed": Case("nll_per_token", _equal_on_average),
    "right/wrong, 20 % flip": Case("exact_match", _equal_flips),
    "word overlap, 20 % differ": Case("token_f1", _equal_overlap),
    "loss, clusters of 5": Case(
        "nll_per_token", lambda rng, n: _equal_losses(rng, n, equal_clusters(n))
    ),
    "loss, clusters of unequal size": Case(
        "nll_per_token", lambda rng, n: _equal_losses(rng, n, unequal_clusters(rng, n))
    ),
    "right/wrong, 20 % flip, clusters of 5": Case("exact_match", _equal_flips_in_clusters),
}
"""Equal arms: losses are weighted by answer tokens."""


def _answers(rng: Generator, n: int, labels: Labels | None) -> dict[str, SimulatedScores]:
    """All metrics of two equal arms, correlated like those of real answers.

    An item is easy or hard for both arms, half of the answers are identical, and 40 % of the references contain facts.
    """
    size = n if labels is None else int(labels[-1]) + 1
    unit = np.arange(n) if labels is None else labels
    quality = (
        rng.normal(0, 1, n) + rng.normal(0, 0.5, (2, size))[:, unit] + rng.normal(0, 0.5, (2, n))
    )
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
        "nll_per_token": loss,
        "exact_match": right.astype(float),
        "token_f1": scores(0.1),
        "rouge_l": scores(0.1),
        "chrf": scores(0.05),
        "facts_kept": kept,
        "similarity": scores(0.1, -1.0),
    }
    draws = {}
    for metric, (baseline, candidate) in found.items():
        scored = facts if metric == "facts_kept" else np.ones(n, dtype=bool)
        draws[metric] = SimulatedScores(
            baseline[scored],
            candidate[scored],
            clusters=None if labels is None else labels[scored],
            weights=tokens if metric == "nll_per_token" else None,
        )
    return draws


FAMILIES: dict[str, Callable[[Generator, int], dict[str, SimulatedScores]]] = {
    "all metrics": lambda rng, n: _answers(rng, n, None),
    "all metrics, clusters of 5": lambda rng, n: _answers(rng, n, equal_clusters(n)),
}
"""Equal arms with all metrics."""
