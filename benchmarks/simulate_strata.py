"""Facts as strata against facts as clusters: how often equal arms, and a harm as large as the margin, are "no worse".

Each of 72 facts has 4 test wordings. A fact has fixed probabilities that a wording of it is lost and gained, and a test
draws wordings: the claim about new wordings of these facts. ``spread`` is how unlike the facts are: none, Beta(0.3, 3),
or facts that are lost and gained whole. Prints a Markdown table.

    python -m benchmarks.simulate_strata --repetitions 2000
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray

from evals.compare import paired_comparison

FACTS, WORDINGS, MARGIN = 72, 4, 0.05
SPREADS = ("none", "beta", "whole")


def probabilities(mean: float, spread: str, rng: np.random.Generator) -> NDArray[np.float64]:
    """A probability for each fact, with this mean, shape ``[FACTS]``."""
    if spread == "none":
        return np.full(FACTS, mean)
    if spread == "whole":
        return (rng.permutation(FACTS) < round(mean * FACTS)).astype(float)
    drawn = rng.beta(0.3, 3, FACTS)
    for _ in range(20):
        drawn = np.minimum(drawn * mean / drawn.mean(), 1.0)
    return drawn


def share_no_worse(
    flips: float, harm: float, spread: str, *, clustered: bool, repetitions: int, seed: int
) -> float:
    """Share of simulated tests with the verdict "no worse".

    Args:
        flips: Share of the wordings that flip in equal arms, half of them each way.
        harm: Share of the wordings that are lost beyond those that are gained.
        spread: One of :data:`SPREADS`.
        clustered: Whether the facts are clusters, else strata.
        repetitions: Number of tests, each with other facts.
        seed: Of the simulation.
    """
    rng = np.random.default_rng(seed)
    passed = 0
    for _ in range(repetitions):
        lost = np.repeat(probabilities(flips / 2 + harm, spread, rng), WORDINGS)
        gained = np.repeat(probabilities(flips / 2, spread, rng), WORDINGS)
        if spread != "whole":  # a whole fact is lost or gained, never both
            gained = np.minimum(gained, 1 - lost)
        draw = rng.random(FACTS * WORDINGS)
        before = 1.0 - ((draw >= lost) & (draw < lost + gained))
        after = 1.0 - (draw < lost)
        clusters = np.repeat(np.arange(FACTS), WORDINGS).tolist() if clustered else None
        passed += (
            paired_comparison(
                before, after, margin=MARGIN, bounds=(0, 1), clusters=clusters, resamples=400
            ).verdict
            == "no worse"
        )
    return passed / repetitions


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.simulate_strata", description=__doc__
    )
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("| flips | facts | equal, clusters | equal, strata | harm at the margin, strata |")
    print("| --- | --- | --- | --- | --- |")
    for flips in (0.04, 0.10, 0.15):
        for spread in SPREADS:
            cells = [
                share_no_worse(
                    flips,
                    harm,
                    spread,
                    clustered=clustered,
                    repetitions=options.repetitions,
                    seed=options.seed,
                )
                for harm, clustered in ((0.0, True), (0.0, False), (MARGIN, False))
            ]
            print(
                f"| {flips:.0%} | {spread} | {' | '.join(f'{cell:.1%}' for cell in cells)} |",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
