"""The interval for assistants that are trained again."""

import numpy as np
import pytest

from evals.stats.cluster_robust import StandardError, cr2_standard_error
from evals.stats.seed_variance import MOST_SEEDS, seeds_needed, trained_again
from evals.stats.units import make_units


def test_without_seed_variance_it_is_the_interval_over_items():
    error = StandardError(0.1, 40)
    found = trained_again(0.5, error, [0.5, 0.5, 0.5])
    half = error.half_width(0.95)
    assert found.interval == pytest.approx((0.5 - half, 0.5 + half)) and found.seed_share == 0


def test_without_item_variance_it_is_the_t_interval_over_seeds():
    found = trained_again(0.2, StandardError(0.0, 40), [0.1, 0.2, 0.3])
    assert found.degrees_of_freedom == pytest.approx(2) and found.seed_share == 1
    assert found.interval == pytest.approx(
        (0.2 - 4.302653 * 0.1 / 3**0.5, 0.2 + 4.302653 * 0.1 / 3**0.5)
    )


def test_nothing_varies():
    assert trained_again(0.0, StandardError(0.0, 9), [0.0, 0.0]).interval == (0.0, 0.0)


@pytest.mark.parametrize("seeds", [3, 5])
def test_coverage_of_the_expected_difference_over_seeds(seeds):
    rng = np.random.default_rng(seeds)
    covered, items_only = 0, 0
    for _ in range(600):
        shifts = rng.normal(0, 0.15, seeds)
        by_seed = shifts[:, None] + rng.normal(0, 1, 100) + rng.normal(0, 0.5, (seeds, 100))
        units = make_units(by_seed.mean(axis=0), np.ones(100), None)
        error = cr2_standard_error(units)
        low, high = trained_again(units.delta, error, by_seed.mean(axis=1).tolist()).interval
        covered += low <= 0 <= high
        items_only += abs(units.delta) <= error.half_width(0.95)
    assert 0.93 <= covered / 600 <= 0.99 and items_only < covered


def test_as_many_seeds_as_are_needed_decide_and_one_fewer_does_not():
    items, deltas = StandardError(0.01, 200), [0.0, 0.04, -0.04]
    needed = seeds_needed(0.0, items, deltas, margin=0.05, higher_is_better=True)
    assert needed is not None and needed > 3
    for count, decides in ((needed, True), (needed - 1, False)):  # the same spread with more seeds
        same = np.random.default_rng(0).normal(size=count)
        same = (same - same.mean()) / same.std(ddof=1) * np.std(deltas, ddof=1)
        low, _ = trained_again(0.0, items, list(same)).interval
        assert (-low <= 0.05) is decides
    assert (
        seeds_needed(0.0, StandardError(0.05, 200), deltas, margin=0.05, higher_is_better=True)
        is None
    )
    assert seeds_needed(-0.2, items, deltas, margin=0.05, higher_is_better=True) in range(
        3, MOST_SEEDS
    ), "worse"
    assert seeds_needed(0.2, items, deltas, margin=0.05, higher_is_better=True) == 3
