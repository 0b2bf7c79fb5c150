"""How often the 95 % intervals hold the truth: ``python -m evals.simulate``.

Each case draws paired differences whose true mean is known, runs ``paired_comparison`` on them as a report would, and
counts. The table says what "95 %" is really worth at a size, and how often equal arms would be called different.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from evals.compare import paired_comparison
from evals.units import Floats

SIZES = (30, 100, 300)
CLUSTER_SIZE = 5


@dataclass(frozen=True)
class Draw:
    """One simulated held-out set: scores of both arms, and what else goes into the comparison."""

    baseline: Floats
    candidate: Floats
    truth: float
    clusters: list[int] | None = None
    weights: Floats | None = None


@dataclass(frozen=True)
class Coverage:
    """One line of the table.

    Attributes:
        case: What the differences look like.
        n: Items.
        clusters: Clusters, ``None`` without.
        covered: Share of the intervals that hold the true difference.
        above: Share that lie wholly above it (equal arms would be called worse, were lower better).
        below: Share that lie wholly below it.
        width: Mean width of the intervals.
        rejected: Share of p-values up to 0.05; ``None`` where the true difference is not zero.
    """

    case: str
    n: int
    clusters: int | None
    covered: float
    above: float
    below: float
    width: float
    rejected: float | None


Generator = np.random.Generator


def _differences(rng: Generator, differences: Floats, truth: float) -> Draw:
    baseline = rng.normal(2.0, 0.5, len(differences))
    return Draw(baseline, baseline + differences, truth)


def _normal(rng: Generator, n: int) -> Draw:
    return _differences(rng, rng.normal(0, 1, n), 0.0)


def _lognormal(rng: Generator, n: int) -> Draw:
    return _differences(rng, rng.lognormal(0, 1, n), float(np.exp(0.5)))


def _weighted(rng: Generator, n: int) -> Draw:
    """Loss per token: short answers are noisier, and weigh less."""
    tokens = np.ceil(rng.lognormal(3, 0.8, n))
    draw = _differences(rng, (rng.lognormal(0, 1, n) - np.exp(0.5)) / np.sqrt(tokens), 0.0)
    return Draw(draw.baseline, draw.candidate, 0.0, weights=tokens)


def _flips(rng: Generator, n: int, rate: float, lost: float) -> Draw:
    """Right or wrong: a share ``rate`` of the items flips, ``lost`` of those from right to wrong."""
    flipped = rng.random(n) < rate
    down = rng.random(n) < lost
    baseline = np.where(flipped, down, rng.random(n) < 0.7).astype(float)
    candidate = np.where(flipped, 1 - baseline, baseline)
    return Draw(baseline, candidate, rate * (1 - 2 * lost))


def _partial_flips(rng: Generator, n: int) -> Draw:
    """Token F1 of greedy answers: most items score alike, 2 % lose a random part."""
    baseline = np.where(rng.random(n) < 0.5, 1.0, rng.random(n))
    loss = np.where(rng.random(n) < 0.02, rng.random(n), 0.0)
    return Draw(baseline, baseline * (1 - loss), -0.02 * 0.5 * 0.75)


def _clustered(rng: Generator, sizes: list[int]) -> Draw:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    draw = _differences(rng, rng.normal(0, 1, len(sizes))[labels] + rng.normal(0, 1, len(labels)), 0.0)
    return Draw(draw.baseline, draw.candidate, 0.0, clusters=labels.tolist())


def _equal_clusters(rng: Generator, n: int) -> Draw:
    return _clustered(rng, [CLUSTER_SIZE] * (n // CLUSTER_SIZE))


def _unequal_clusters(rng: Generator, n: int) -> Draw:
    """As many clusters as in the equal case, most of them small and some several times the average."""
    count = n // CLUSTER_SIZE
    share = rng.dirichlet(np.ones(count))
    return _clustered(rng, (1 + rng.multinomial(n - count, share)).tolist())


def _lognormal_clusters(rng: Generator, n: int) -> Draw:
    draw = _lognormal(rng, n)
    return Draw(draw.baseline, draw.candidate, draw.truth, clusters=(np.arange(n) // CLUSTER_SIZE).tolist())


def _flips_in_clusters(rng: Generator, n: int) -> Draw:
    """2 % of the clusters flip from right to wrong as a whole."""
    labels = np.arange(n) // CLUSTER_SIZE
    flipped = (rng.random(n // CLUSTER_SIZE) < 0.02)[labels]
    baseline = np.where(flipped, 1.0, (rng.random(n) < 0.7).astype(float))
    return Draw(baseline, np.where(flipped, 0.0, baseline), -0.02, clusters=labels.tolist())


CASES: dict[str, Callable[[Generator, int], Draw]] = {
    "normal": _normal,
    "lognormal": _lognormal,
    "lognormal, weighted by tokens": _weighted,
    "flips 2 %, both ways": lambda rng, n: _flips(rng, n, 0.02, 0.5),
    "flips 2 %, one way": lambda rng, n: _flips(rng, n, 0.02, 1.0),
    "flips 20 %, both ways": lambda rng, n: _flips(rng, n, 0.2, 0.5),
    "partial flips 2 %, one way": _partial_flips,
    "clusters of 5, normal": _equal_clusters,
    "clusters of unequal size, normal": _unequal_clusters,
    "clusters of 5, lognormal": _lognormal_clusters,
    "clusters of 5, flips 2 %, one way": _flips_in_clusters,
}
"""What is simulated; 30, 100 and 300 items are 6, 20 and 60 clusters."""


def coverage(case: str, n: int, *, repetitions: int, resamples: int = 2000, seed: int = 0) -> Coverage:
    """Simulate one case.

    Args:
        case: A key of ``CASES``.
        n: Items, at least 10.
        repetitions: Simulated held-out sets.
        resamples: Bootstrap samples and sign patterns of each.
        seed: Seed of everything drawn.
    """
    rng = np.random.default_rng([seed, n, list(CASES).index(case)])
    rows = []
    for repetition in range(repetitions):
        draw = CASES[case](rng, n)
        result = paired_comparison(
            draw.baseline, draw.candidate, clusters=draw.clusters, weights=draw.weights, seed=repetition,
            resamples=resamples,
        )
        above, below = result.ci_low > draw.truth, result.ci_high < draw.truth
        rows.append((above, below, result.ci_high - result.ci_low, result.p_value <= 0.05))
    above, below, width, rejected = np.mean(rows, axis=0)
    return Coverage(
        case=case, n=n, clusters=n // CLUSTER_SIZE if draw.clusters else None,
        covered=float(1 - above - below), above=float(above), below=float(below), width=float(width),
        rejected=None if draw.truth else float(rejected),
    )


def table(rows: list[Coverage]) -> str:
    """The lines as a Markdown table."""
    lines = [
        "| differences | items | clusters | covered | above | below | mean width | p ≤ 0.05 |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row.case} | {row.n} | {row.clusters or '–'} | {row.covered:.1%} | {row.above:.1%} | {row.below:.1%} "
        f"| {row.width:.3f} | {'–' if row.rejected is None else f'{row.rejected:.1%}'} |"
        for row in rows
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Print the table, or with ``--json`` one JSON document."""
    parser = argparse.ArgumentParser(prog="python -m evals.simulate", description=__doc__.split("\n")[0])
    parser.add_argument("--repetitions", type=int, default=500, help="simulated held-out sets a line (default 500)")
    parser.add_argument("--resamples", type=int, default=2000, help="bootstrap samples of each (default 2000)")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="N", help="items (default 30 100 300)")
    parser.add_argument("--case", choices=list(CASES), action="append", help="only this case; may be repeated")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything drawn (default 0)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(argv)
    if options.repetitions < 1 or options.resamples < 1 or min(options.sizes) < 2 * CLUSTER_SIZE:
        parser.error(f"repetitions and resamples must be 1 or more, sizes {2 * CLUSTER_SIZE} or more")
    rows = []
    for case in options.case or CASES:
        for n in options.sizes:
            print(f"{case}, n = {n}", file=sys.stderr)
            rows.append(coverage(
                case, n, repetitions=options.repetitions, resamples=options.resamples, seed=options.seed
            ))
    print(json.dumps([asdict(row) for row in rows], indent=2) if options.json else table(rows))


if __name__ == "__main__":
    main()
