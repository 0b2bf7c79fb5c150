"""Permutation test of residual correlation, and the influence of single clusters."""

import numpy as np
import pytest

from evals.stats.cluster_checks import (
    correlation_p_value,
    crossed_correlation_p_value,
)


def test_families_whose_facts_are_alike_are_found():
    rng = np.random.default_rng(0)
    family = np.repeat(np.arange(10), 5)
    residuals = rng.normal(0, 1, 10)[family] + rng.normal(0, 1, 50)
    assert correlation_p_value(residuals, family.tolist()) < 0.01


def test_the_false_positive_rate_is_nominal():
    rng = np.random.default_rng(1)
    family = np.repeat(np.arange(10), [1, 2, 3, 4, 5, 5, 6, 7, 8, 9]).tolist()
    found = [
        correlation_p_value(rng.lognormal(0, 1, 50), family, permutations=199, seed=i)
        for i in range(400)
    ]
    assert 0.02 <= np.mean(np.array(found) <= 0.05) <= 0.085


def test_opposite_residuals_are_no_correlation():
    residuals = np.array([1.0, -1.0] * 10)
    assert correlation_p_value(residuals, np.repeat(np.arange(10), 2).tolist()) == pytest.approx(
        1.0
    )


@pytest.mark.parametrize("labels", [list(range(6)), [None] * 6, ["a"] * 6])
def test_labels_that_group_nothing_or_everything_show_nothing(labels):
    assert correlation_p_value(np.arange(6.0), labels) == 1.0


class TestLabelsThatCrossTheClusters:
    unit = np.arange(200) // 5
    wording = (np.arange(200) % 40).tolist()

    def residuals(self, rng: np.random.Generator, *, by_wording: float) -> np.ndarray:
        shared = rng.normal(0, 1, 40)[self.unit] + by_wording * rng.normal(0, 1, 40)[self.wording]
        values = shared + rng.normal(0, 1, 200)
        return values - values.mean()

    def test_differences_alike_by_wording_are_found(self):
        rng = np.random.default_rng(0)
        found = [
            crossed_correlation_p_value(
                self.residuals(rng, by_wording=1.0), self.unit, self.wording, draws=499
            )
            for _ in range(20)
        ]
        assert max(found) < 0.05

    def test_the_false_positive_rate_is_nominal(self):
        rng = np.random.default_rng(1)
        found = [
            crossed_correlation_p_value(
                self.residuals(rng, by_wording=0.0), self.unit, self.wording, draws=199, seed=i
            )
            for i in range(400)
        ]
        assert 0.02 <= np.mean(np.array(found) <= 0.05) <= 0.085

    @pytest.mark.parametrize("labels", [[None] * 200, list(range(200)), unit.tolist()])
    def test_labels_that_join_no_clusters_show_nothing(self, labels):
        residuals = self.residuals(np.random.default_rng(2), by_wording=1.0)
        assert crossed_correlation_p_value(residuals, self.unit, labels) == 1.0
