"""Looks at a test that grows until it decides: how often harm as large as the margin becomes "no worse".

A test of 150 questions is extended by a third as long as its verdict is inconclusive. 10 % of the questions flip.
Prints a Markdown table of the shares after the k-th look, with every interval at 95 % and at the level of its look:
harm at the margin called "no worse", equal assistants called "worse", and equal assistants called "no worse".

    python -m benchmarks.simulate_looks --repetitions 2000
"""

from __future__ import annotations

import argparse

import numpy as np

from evals.compare import paired_comparison
from evals.stats.intervals import LEVEL, look_level

FIRST, GROWTH, LOOKS, FLIPS, MARGIN = 150, 4 / 3, 10, 0.10, 0.05
SHOWN = (1, 2, 3, 5, 10)


def shares(
    harm: float, outcome: str, *, paid: bool, repetitions: int, seed: int = 0
) -> list[float]:
    """Share of simulated studies that reached an outcome by each look.

    Args:
        harm: Share of the questions that are lost beyond those that are gained.
        outcome: ``no worse`` or ``worse``; the other one ends a study, too.
        paid: Whether each look has its own level, else that of the first.
        repetitions: Number of studies.
        seed: Of the simulation.
    """
    rng, reached = np.random.default_rng(seed), np.zeros(LOOKS)
    sizes = [round(FIRST * GROWTH**look) for look in range(LOOKS)]
    for _ in range(repetitions):
        draw = rng.random(sizes[-1])
        lost = draw < FLIPS / 2 + harm / 2
        before, after = (draw < 1 - (FLIPS / 2 - harm / 2)).astype(float), 1.0 - lost
        for look, size in enumerate(sizes, start=1):
            found = paired_comparison(
                before[:size],
                after[:size],
                margin=MARGIN,
                bounds=(0, 1),
                level=look_level(look) if paid else LEVEL,
            ).verdict
            if found == outcome:
                reached[look - 1 :] += 1
            if found != "inconclusive":
                break
    return [float(share) for share in reached / repetitions]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=2000)
    chosen = parser.parse_args()
    print(f"| share, % | intervals | {' | '.join(f'look {look}' for look in SHOWN)} |")
    print(f"| --- | --- |{' ---: |' * len(SHOWN)}")
    for title, harm, outcome in (
        ("harm at the margin is “no worse”", MARGIN, "no worse"),
        ("equal ones are “worse”", 0.0, "worse"),
        ("equal ones are “no worse”", 0.0, "no worse"),
    ):
        for paid in (False, True):
            found = shares(harm, outcome, paid=paid, repetitions=chosen.repetitions)
            cells = " | ".join(f"{100 * found[look - 1]:.1f}" for look in SHOWN)
            print(f"| {title} | {'by look' if paid else '95 %'} | {cells} |")


if __name__ == "__main__":
    main()
