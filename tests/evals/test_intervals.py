from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from evals.intervals import bca_interval, bonett_price_interval, cluster_interval, item_interval, t_interval
from evals.units import Units, make_units


def units_of(differences: np.ndarray, weights: np.ndarray | None = None, clusters: list | None = None) -> Units:
    ones = np.ones(len(differences))
    return make_units(differences, ones if weights is None else weights, clusters)


@pytest.mark.parametrize("draw", ["normal", "lognormal"])
def test_bca_agrees_with_scipy(draw: str) -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(0.2, 1, 120) if draw == "normal" else rng.lognormal(0, 1, 120)
    ours = bca_interval(units_of(x), resamples=20_000, seed=1)
    theirs = stats.bootstrap((x,), np.mean, method="BCa", n_resamples=20_000, rng=np.random.default_rng(2))
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert ours == pytest.approx(tuple(theirs.confidence_interval), abs=0.03 * width)


def test_weighted_bca_agrees_with_scipy_on_the_ratio() -> None:
    rng = np.random.default_rng(4)
    w = np.ceil(rng.lognormal(3, 0.6, 150))
    d = rng.normal(0.1, 1, 150)

    def ratio(d: np.ndarray, w: np.ndarray, axis: int = -1) -> np.ndarray:
        return (d * w).sum(axis) / w.sum(axis)

    ours = bca_interval(units_of(d, w), resamples=20_000, seed=1)
    theirs = stats.bootstrap(
        (d, w), ratio, paired=True, vectorized=True, method="BCa", n_resamples=20_000, rng=np.random.default_rng(2)
    )
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert ours == pytest.approx(tuple(theirs.confidence_interval), abs=0.03 * width)


def test_bootstrap_in_pieces_is_the_same_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).normal(size=50)
    whole = bca_interval(units_of(x), resamples=3000, seed=5)
    monkeypatch.setattr("evals.intervals._DRAWS_AT_ONCE", 50 * 700)
    assert bca_interval(units_of(x), resamples=3000, seed=5) == whole


def test_t_interval_is_the_paired_t_interval() -> None:
    x = np.random.default_rng(0).normal(0.3, 1, 40)
    expected = stats.ttest_1samp(x, 0).confidence_interval(0.95)
    assert t_interval(units_of(x)) == pytest.approx(tuple(expected), abs=1e-12)


def test_item_interval_holds_both_of_its_parts() -> None:
    units = units_of(np.random.default_rng(1).lognormal(size=100))
    low, high = item_interval(units, resamples=2000)
    for part in (t_interval(units), bca_interval(units, resamples=2000)):
        assert low <= part[0] and part[1] <= high


@pytest.mark.parametrize("weighted", [False, True])
def test_cluster_interval_equals_statsmodels(weighted: bool) -> None:
    rng = np.random.default_rng(6)
    labels = np.repeat(np.arange(25), rng.integers(2, 9, 25))
    d = 0.2 + rng.normal(size=25)[labels] + rng.normal(size=len(labels))
    w = rng.integers(3, 40, len(labels)).astype(float) if weighted else np.ones(len(labels))
    fit = sm.WLS(d, np.ones(len(d)), weights=w).fit(
        cov_type="cluster", cov_kwds={"groups": labels, "df_correction": True}, use_t=True
    )
    units = units_of(d, w, labels.tolist())
    interval, skewed = cluster_interval(units)
    assert not skewed
    assert units.delta == pytest.approx(fit.params[0], abs=1e-12)
    assert interval == pytest.approx(tuple(fit.conf_int()[0]), abs=1e-12)


def test_bonett_price_by_hand() -> None:
    # 20 items, 5 gained, 2 lost: p = 6/22 and 3/22, difference 3/22
    half = 1.959963984540054 * np.sqrt((9 / 22 - (3 / 22) ** 2) / 22)
    assert bonett_price_interval(5, 2, 20) == pytest.approx((3 / 22 - half, 3 / 22 + half), abs=1e-12)


@pytest.mark.parametrize("n", [2, 10, 500])
def test_bonett_price_stays_in_range_and_holds_the_difference(n: int) -> None:
    for gained in range(0, n + 1, max(1, n // 10)):
        for lost in range(0, n + 1 - gained, max(1, n // 10)):
            low, high = bonett_price_interval(gained, lost, n)
            assert -1 <= low <= (gained - lost) / n <= high <= 1


def test_blank_labels_stand_alone_and_never_merge() -> None:
    d = np.arange(6, dtype=float)
    units = units_of(d, clusters=["a", None, "", float("nan"), "a", None])
    assert units.clustered and units.count == 5 and units.items == 6
    assert not units_of(d, clusters=list("abcdef")).clustered
    assert not units_of(d, clusters=[None] * 6).clustered


def test_effective_number_of_units() -> None:
    assert units_of(np.ones(7)).effective == pytest.approx(7)
    assert units_of(np.ones(2), np.array([1.0, 3.0])).effective == pytest.approx(16 / 10)
