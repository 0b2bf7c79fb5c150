import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from evals.stats import intervals
from evals.stats.draws import in_pieces
from evals.stats.intervals import (
    bca_interval,
    bonett_price_interval,
    bootstrap_t_interval,
    cluster_interval,
    flip_interval,
    item_interval,
    rare_interval,
    resample,
    t_interval,
    tango_interval,
)
from evals.stats.units import Units, make_units


def units_of(
    differences: np.ndarray, weights: np.ndarray | None = None, clusters: list | None = None
) -> Units:
    ones = np.ones(len(differences))
    return make_units(differences, ones if weights is None else weights, clusters)


@pytest.mark.parametrize("draw", ["normal", "lognormal"])
def test_bca_agrees_with_scipy(draw):
    rng = np.random.default_rng(3)
    x = rng.normal(0.2, 1, 120) if draw == "normal" else rng.lognormal(0, 1, 120)
    units = units_of(x)
    ours = bca_interval(units, resample(units, resamples=20_000, seed=1))
    theirs = stats.bootstrap(
        (x,), np.mean, method="BCa", n_resamples=20_000, rng=np.random.default_rng(2)
    )
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert ours == pytest.approx(tuple(theirs.confidence_interval), abs=0.03 * width)


def test_weighted_bca_agrees_with_scipy_on_the_ratio():
    rng = np.random.default_rng(4)
    w = np.ceil(rng.lognormal(3, 0.6, 150))
    d = rng.normal(0.1, 1, 150)

    def ratio(d: np.ndarray, w: np.ndarray, axis: int = -1) -> np.ndarray:
        return (d * w).sum(axis) / w.sum(axis)

    units = units_of(d, w)
    ours = bca_interval(units, resample(units, resamples=20_000, seed=1))
    theirs = stats.bootstrap(
        (d, w),
        ratio,
        paired=True,
        vectorized=True,
        method="BCa",
        n_resamples=20_000,
        rng=np.random.default_rng(2),
    )
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert ours == pytest.approx(tuple(theirs.confidence_interval), abs=0.03 * width)


def test_bootstrap_in_pieces_is_the_same_sample(monkeypatch):
    units = units_of(np.random.default_rng(0).normal(size=50))
    whole = resample(units, resamples=3000, seed=5)
    small = in_pieces(50 * 700)(intervals._times_drawn.__wrapped__)
    monkeypatch.setattr(intervals, "_times_drawn", small)
    pieces = resample(units, resamples=3000, seed=5)
    assert (pieces.shifts == whole.shifts).all() and (pieces.errors == whole.errors).all()


@pytest.mark.parametrize("weighted", [False, True])
def test_standard_errors_of_resamples_are_those_of_statsmodels(weighted):
    rng = np.random.default_rng(8)
    d, w = (
        rng.lognormal(0, 1, 12),
        rng.integers(1, 9, 12).astype(float) if weighted else np.ones(12),
    )
    units = units_of(d, w)
    found = resample(units, resamples=5, seed=3)
    for shift, error, drawn in zip(
        found.shifts, found.errors, np.random.default_rng(3).integers(12, size=(5, 12)), strict=True
    ):
        fit = sm.WLS(d[drawn], np.ones(12), weights=w[drawn]).fit(
            cov_type="cluster", cov_kwds={"groups": np.arange(12)}, use_t=True
        )
        assert shift + units.delta == pytest.approx(fit.params[0], abs=1e-12)
        assert error == pytest.approx(fit.bse[0], rel=1e-9)


def test_t_interval_is_the_paired_t_interval():
    x = np.random.default_rng(0).normal(0.3, 1, 40)
    expected = stats.ttest_1samp(x, 0).confidence_interval(0.95)
    assert t_interval(units_of(x)) == pytest.approx(tuple(expected), abs=1e-12)


def test_weighted_t_interval_is_that_of_weighted_least_squares():
    rng = np.random.default_rng(9)
    d, w = rng.normal(0.3, 1, 60), rng.integers(3, 40, 60).astype(float)
    fit = sm.WLS(d, np.ones(60), weights=w).fit(cov_type="HC2", use_t=True)
    low, high = t_interval(units_of(d, w))
    share = w / w.sum()
    leverage = share**2 / (1 - share)
    degrees = 1 / (np.sum(share**2) + leverage.sum() ** 2 - np.sum(leverage**2))
    assert (low + high) / 2 == pytest.approx(fit.params[0], abs=1e-12)
    assert (high - low) / 2 == pytest.approx(stats.t.ppf(0.975, degrees) * fit.bse[0], abs=1e-12)


def test_item_interval_holds_all_of_its_parts():
    units = units_of(np.random.default_rng(1).lognormal(size=100))
    (low, high), skewed = item_interval(units, resamples=2000)
    assert skewed
    drawn = resample(units, resamples=2000)
    parts = (t_interval(units), bca_interval(units, drawn), bootstrap_t_interval(units, drawn))
    assert (low, high) == (min(part[0] for part in parts), max(part[1] for part in parts))


def test_bootstrap_t_reaches_to_the_long_side_and_is_the_t_interval_where_there_is_none():
    rng = np.random.default_rng(2)
    even, skewed = units_of(rng.normal(size=200)), units_of(rng.lognormal(size=200))
    width = t_interval(even)[1] - t_interval(even)[0]
    found = bootstrap_t_interval(even, resample(even, resamples=20_000))
    assert found == pytest.approx(t_interval(even), abs=0.03 * width)
    low, high = bootstrap_t_interval(skewed, resample(skewed))
    assert high - skewed.delta > 1.2 * (skewed.delta - low)


def test_a_lone_outlier_leaves_the_interval_finite():
    d = np.zeros(40)
    d[7] = 3.0
    units = units_of(d, clusters=[i // 2 for i in range(40)])
    (low, high), skewed = cluster_interval(units, resamples=2000)
    assert skewed and np.isfinite([low, high]).all()


@pytest.mark.parametrize(("clusters", "widened"), [(9, False), (10, True)])
def test_few_clusters_are_not_resampled(clusters, widened):
    d = np.repeat(np.append(np.linspace(0, 1, clusters - 1), 30.0), 3)
    units = units_of(d, clusters=np.repeat(np.arange(clusters), 3).tolist())
    interval, skewed = cluster_interval(units, resamples=500)
    assert skewed is widened and (interval != t_interval(units)) is widened


def test_where_single_items_of_few_clusters_flip_half_a_cluster_is_added():
    d = np.zeros(300)
    d[[0, 50, 100]] = -1
    units = units_of(d, clusters=[i // 5 for i in range(300)])
    # 60 clusters of 5 with three sums of -1; a cluster of 3 items and half of one that flip down, or one each way
    none = rare_interval(units_of(np.zeros(300), clusters=[i // 5 for i in range(300)]), 1.0)
    expected = []
    for added, side in (((-3.0, -1.5), -1), ((-3.0, 3.0), 1)):
        sums, sizes = (
            np.array([-1.0] * 3 + [0.0] * 57 + [*added]),
            np.array([5.0] * 60 + [abs(x) for x in added]),
        )
        delta = sums.sum() / sizes.sum()
        error = (
            np.sqrt((np.square(sums - delta * sizes) / (1 - sizes / sizes.sum())).sum())
            / sizes.sum()
        )
        expected.append(delta + side * stats.t.ppf(0.975, 59) * error)
    assert expected[0] > none[0]  # whole clusters may still flip
    assert rare_interval(units, 1.0) == pytest.approx((none[0], expected[1]), abs=1e-12)


@pytest.mark.parametrize("count", [0, 1, 2, 5, 10])
def test_rare_differences_have_nearly_the_exact_limit_of_a_poisson_count(count):
    d = np.zeros(5000)
    d[:count] = -1
    low, high = rare_interval(units_of(d), 1.0)
    exact = stats.chi2.ppf(0.975, 2 * count + 2) / 2
    assert -low * 5000 == pytest.approx(exact, rel=0.035)
    assert low < -count / 5000 < high


def test_flips_that_cancel_in_their_cluster_still_count_as_differences():
    units = units_of(np.array([1.0, -1.0, 0.0, 0.0]), clusters=["a", "a", "b", "b"])
    assert (units.differing, units.items_differing) == (0, 2)


@pytest.mark.parametrize("sizes", ["equal", "unequal", "weighted"])
def test_clustered_t_interval_equals_statsmodels_or_is_longer_for_unequal_clusters(sizes):
    rng = np.random.default_rng(6)
    labels = np.repeat(np.arange(25), 6 if sizes == "equal" else rng.integers(2, 9, 25))
    d = 0.2 + rng.normal(size=25)[labels] + rng.normal(size=len(labels))
    w = (
        rng.integers(3, 40, len(labels)).astype(float)
        if sizes == "weighted"
        else np.ones(len(labels))
    )
    fit = sm.WLS(d, np.ones(len(d)), weights=w).fit(
        cov_type="cluster", cov_kwds={"groups": labels, "df_correction": True}, use_t=True
    )
    units = units_of(d, w, labels.tolist())
    interval = t_interval(units)
    assert units.delta == pytest.approx(fit.params[0], abs=1e-12)
    low, high = fit.conf_int()[0]
    if sizes == "equal":
        assert interval == pytest.approx((low, high), abs=1e-12)
    else:
        assert (
            low - 0.1 * (high - low)
            < interval[0]
            < low
            < high
            < interval[1]
            < high + 0.1 * (high - low)
        )


def test_bonett_price_by_hand():
    # 20 items, 5 gained, 2 lost: p = 6/22 and 3/22, difference 3/22
    half = 1.959963984540054 * np.sqrt((9 / 22 - (3 / 22) ** 2) / 22)
    assert bonett_price_interval(5, 2, 20) == pytest.approx(
        (3 / 22 - half, 3 / 22 + half), abs=1e-12
    )


@pytest.mark.parametrize("n", [2, 10, 500])
def test_bonett_price_stays_in_range_and_holds_the_difference(n):
    for gained in range(0, n + 1, max(1, n // 10)):
        for lost in range(0, n + 1 - gained, max(1, n // 10)):
            low, high = bonett_price_interval(gained, lost, n)
            assert -1 <= low <= (gained - lost) / n <= high <= 1


def test_tango_is_the_interval_of_the_literature():
    # Fagerland, Lydersen and Laake, Statistics in Medicine 33 (2014): airway reactivity, 1 and 7 flips of 21
    assert tango_interval(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)


@pytest.mark.parametrize(
    ("gained", "lost", "n"), [(0, 0, 40), (0, 3, 100), (6, 2, 50), (50, 0, 50), (20, 25, 60)]
)
def test_the_ends_of_tangos_interval_are_where_the_score_test_rejects(gained, lost, n):
    for end in tango_interval(gained, lost, n):
        if abs(end) == 1:
            continue
        # likeliest rate of losses if the difference is `end`, found on a grid
        q = np.linspace(max(0.0, -end), (1 - end) / 2, 2_000_001)[1:-1]
        likelihood = (gained * np.log(q + end) if gained else 0) + (lost * np.log(q) if lost else 0)
        rest = n - gained - lost
        best = q[np.argmax(likelihood + (rest * np.log(1 - 2 * q - end) if rest else 0))]
        squared = (gained - lost - n * end) ** 2 / (n * (2 * best + end - end**2))
        assert squared == pytest.approx(1.959964**2, rel=2e-4)
    low, high = tango_interval(lost, gained, n)
    assert tango_interval(gained, lost, n) == pytest.approx((-high, -low), abs=1e-12)


@pytest.mark.parametrize("n", [40, 100, 300])
@pytest.mark.parametrize(
    ("rate", "lost"), [(0.02, 1.0), (0.03, 0.75), (0.06, 0.9), (0.1, 1.0), (0.2, 0.5)]
)
def test_intervals_of_flips_seldom_end_short_of_the_truth_on_either_side(n, rate, lost):
    truth = rate * (1 - 2 * lost)
    above, below = 0.0, 0.0  # exact probabilities
    for flips in range(int(stats.binom.ppf(1 - 1e-6, n, rate)) + 1):
        chances = stats.binom.pmf(flips, n, rate) * stats.binom.pmf(
            np.arange(flips + 1), flips, lost
        )
        for down in np.flatnonzero(chances > 1e-7).tolist():
            low, high = flip_interval(flips - down, down, n)
            above, below = (
                above + chances[down] * (low > truth),
                below + chances[down] * (high < truth),
            )
    assert above <= 0.031 and below <= 0.031


def test_blank_labels_stand_alone_and_never_merge():
    d = np.arange(6, dtype=float)
    units = units_of(d, clusters=["a", None, "", float("nan"), "a", None])
    assert units.clustered and units.count == 5 and units.items == 6
    assert not units_of(d, clusters=list("abcdef")).clustered
    assert not units_of(d, clusters=[None] * 6).clustered


def test_effective_number_of_units():
    assert units_of(np.ones(7)).effective == pytest.approx(7)
    assert units_of(np.ones(2), np.array([1.0, 3.0])).effective == pytest.approx(16 / 10)
