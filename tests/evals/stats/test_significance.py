import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from assistant_builder.errors import EvaluationError
from evals.stats.significance import holm, mcnemar_exact, sign_flip_test
from evals.stats.units import make_units


def flip(x: np.ndarray, clusters: list | None = None, weights: np.ndarray | None = None) -> float:
    return sign_flip_test(make_units(x, np.ones(len(x)) if weights is None else weights, clusters))


def mean(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    return (x - y).mean(axis=axis)


@pytest.mark.parametrize("n", [5, 8, 11])
def test_small_samples_are_exact_as_in_scipy(n):
    rng = np.random.default_rng(n)
    x = rng.normal(0.4, 1, n)
    # "samples" swaps the pair's members, which is the flip of its difference's sign
    theirs = stats.permutation_test(
        (x, np.zeros(n)), mean, permutation_type="samples", vectorized=True, n_resamples=np.inf
    )
    assert flip(x) == pytest.approx(theirs.pvalue, abs=1e-12)


def test_large_samples_agree_with_scipy():
    x = np.random.default_rng(2).normal(0.15, 1, 150)
    theirs = stats.permutation_test(
        (x, np.zeros(150)),
        mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=10_000,
        rng=np.random.default_rng(1),
    )
    assert flip(x) == pytest.approx(theirs.pvalue, abs=0.015)


@pytest.mark.parametrize("clustered", [False, True])
def test_weights_and_clusters_agree_with_scipy_on_the_sums(clustered):
    rng = np.random.default_rng(4)
    x, w = rng.normal(0.4, 1, 40), rng.integers(1, 30, 40).astype(float)
    labels = np.arange(40) // 4 if clustered else np.arange(40)
    sums = np.bincount(labels, w * x)[:12]
    theirs = stats.permutation_test(
        (sums, np.zeros(len(sums))),
        mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    )
    kept = labels < 12
    assert flip(x[kept], labels[kept].tolist(), w[kept]) == pytest.approx(theirs.pvalue, abs=1e-12)


def test_sign_flips_of_right_wrong_scores_are_mcnemar():
    x = np.array([1.0] * 9 + [-1.0] * 3 + [0.0] * 88)
    assert flip(x) == pytest.approx(mcnemar_exact(9, 3), abs=1e-12)


def test_whole_clusters_flip():
    clusters = np.repeat(np.arange(6), 4)
    effect = np.array([1.0, 2.0, 0.5, 1.5, 3.0, 0.7])
    assert flip(effect[clusters], clusters.tolist()) == pytest.approx(2 / 2**6)


def test_weights_and_no_differences():
    x, w = np.array([1.0, -1.0, 1.0]), np.array([10.0, 1.0, 1.0])
    assert flip(x, weights=w) == pytest.approx(6 / 8)  # 12, 10, 10 reach 10; 8 does not
    assert flip(np.zeros(20)) == 1.0


@given(st.integers(0, 60), st.integers(0, 60))
@settings(deadline=None)
def test_mcnemar_equals_statsmodels(gained, lost):
    theirs = mcnemar([[5, gained], [lost, 7]], exact=True).pvalue if gained + lost else 1.0
    assert mcnemar_exact(gained, lost) == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("count", [1, 2, 6, 40])
def test_holm_equals_statsmodels(count):
    # rounded, so that there are ties
    p_values = np.random.default_rng(count).random(count).round(1) ** 3
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1], abs=1e-12)


def test_holm_of_nothing_and_of_nonsense():
    assert len(holm([])) == 0
    with pytest.raises(EvaluationError, match="p-values"):
        holm([0.1, float("nan")])
