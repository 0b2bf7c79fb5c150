"""The interval of one share, with and without clusters."""

import numpy as np
import pytest
from scipy import stats

from evals.stats.share import share_interval


@pytest.mark.parametrize(("found", "n"), [(0, 40), (3, 40), (40, 40), (17, 100)])
def test_without_clusters_it_is_that_of_clopper_and_pearson(found, n):
    expected = stats.binomtest(found, n).proportion_ci(method="exact")
    assert share_interval([place < found for place in range(n)], [None] * n) == pytest.approx(
        tuple(expected)
    )


def test_clusters_that_agree_count_as_one_item_each_with_their_degrees_of_freedom():
    n = 20 * (stats.t.ppf(0.975, 99) / stats.t.ppf(0.975, 19)) ** 2
    found = 0.1 * n
    alone = stats.beta.ppf(0.025, found, n - found + 1), stats.beta.ppf(0.975, found + 1, n - found)
    values = [cluster < 2 for cluster in range(20) for _ in range(5)]
    labels = [f"fact {cluster}" for cluster in range(20) for _ in range(5)]
    assert share_interval(values, labels) == pytest.approx(alone, abs=1e-6)
    assert share_interval([False] * 100, labels)[1] == pytest.approx(1 - 0.025 ** (1 / 20))


def test_no_items_say_nothing():
    assert share_interval([], []) == (0.0, 1.0)


@pytest.mark.parametrize("spread", [0.0, 0.15])
def test_it_covers_the_true_share_of_clustered_answers(spread):
    random, covered, truth = np.random.default_rng(7), 0, 0.12
    for _ in range(400):
        shares = (
            np.clip(truth + spread * random.standard_normal(60), 0, 1)
            if spread
            else np.full(60, truth)
        )
        actual = (
            float(np.clip(truth + spread * random.standard_normal(4000), 0, 1).mean())
            if spread
            else truth
        )
        values = random.random((60, 4)) < shares[:, None]
        low, high = share_interval(values.ravel().tolist(), np.repeat(np.arange(60), 4).tolist())
        covered += low <= actual <= high
    assert covered >= 0.93 * 400


def test_one_success_makes_no_interval_shorter_than_that_of_none():
    labels = [f"fact {place // 4}" for place in range(120)]
    ends = [
        share_interval([place < found for place in range(120)], labels)[1] for found in range(8)
    ]
    assert ends[0] == pytest.approx(1 - 0.025 ** (1 / 30)) == min(ends)
