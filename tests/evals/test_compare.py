import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from assistant_builder.errors import EvaluationError
from evals.compare import CORRELATED, Comparison, paired_comparison
from evals.stats.intervals import flip_interval, item_interval
from evals.stats.units import make_units


def losses(
    n: int, shift: float, *, noise: float = 0.1, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    tokens = np.ceil(rng.lognormal(3, 0.6, n))
    baseline = rng.gamma(4, 0.3, n)
    return baseline, baseline + rng.normal(shift, noise, n), tokens


def flips(n: int, gained: int, lost: int, right: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores with the given number of flips; ``right`` items are right in both arms."""
    baseline = np.array([0] * gained + [1] * lost + [1] * right + [0] * (n - gained - lost - right))
    candidate = np.array(
        [1] * gained + [0] * lost + [1] * right + [0] * (n - gained - lost - right)
    )
    return baseline, candidate


@pytest.mark.parametrize("clustered", [False, True])
def test_delta_is_the_difference_of_the_token_weighted_figures(clustered):
    baseline, candidate, tokens = losses(333, 0.02)
    summed_before, summed_after = baseline * tokens, candidate * tokens
    clusters = [i // 4 for i in range(333)] if clustered else None
    result = paired_comparison(
        summed_before / tokens,
        summed_after / tokens,
        weights=tokens,
        clusters=clusters,
        higher_is_better=False,
    )
    figures = summed_after.sum() / tokens.sum() - summed_before.sum() / tokens.sum()
    assert abs(result.delta - figures) < 1e-12
    assert result.ci_low < result.delta < result.ci_high


def test_same_input_same_result_bit_for_bit():
    baseline, candidate, tokens = losses(150, 0.02)
    again = [paired_comparison(baseline, candidate, weights=tokens, seed=3) for _ in range(2)]
    assert again[0] == again[1]
    assert paired_comparison(baseline, candidate, weights=tokens, seed=4).ci_low != again[0].ci_low


def test_continuous_interval_and_test_agree_with_scipy():
    baseline, candidate, _ = losses(200, 0.01)
    d = candidate - baseline
    result = paired_comparison(baseline, candidate)
    theirs = stats.bootstrap(
        (d,), np.mean, method="BCa", n_resamples=10_000, rng=np.random.default_rng(0)
    )
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert (result.ci_low, result.ci_high) == pytest.approx(
        tuple(theirs.confidence_interval), abs=0.03 * width
    )
    assert result.p_value == pytest.approx(stats.ttest_1samp(d, 0).pvalue, abs=0.02)
    assert "BCa" in result.method and "sign-flip" in result.method


def test_binary_scores_are_recognised():
    baseline, candidate = flips(200, gained=12, lost=25, right=110)
    result = paired_comparison(baseline, candidate)
    assert (
        result.method
        == "Tango's score interval, at least the Bonett–Price interval; exact McNemar test"
    )
    assert result.delta == pytest.approx(-13 / 200)
    assert (result.ci_low, result.ci_high) == flip_interval(12, 25, 200)
    assert result.p_value == pytest.approx(stats.binomtest(12, 37).pvalue)
    assert paired_comparison(baseline.astype(bool), candidate.astype(bool)) == result
    assert paired_comparison(baseline, candidate, weights=np.full(200, 7.0)).method == result.method


def test_binary_scores_of_uneven_weight_are_not_a_table_of_counts():
    baseline, candidate = flips(200, 12, 25, 110)
    assert "McNemar" not in paired_comparison(baseline, candidate, weights=np.arange(1, 201)).method


def test_clusters_use_the_cluster_robust_t_interval():
    rng = np.random.default_rng(5)
    labels = np.repeat(np.arange(40), 5)
    baseline = (rng.random(200) < 0.6).astype(float)
    candidate = np.where(rng.random(200) < 0.3, 1 - baseline, baseline)
    result = paired_comparison(baseline, candidate, clusters=labels.tolist())
    fit = sm.OLS(candidate - baseline, np.ones(200)).fit(
        cov_type="cluster", cov_kwds={"groups": labels}, use_t=True
    )
    assert (result.ci_low, result.ci_high) == pytest.approx(tuple(fit.conf_int()[0]), abs=1e-12)
    assert result.n_clusters == 40 and result.n == 200
    assert "39 degrees of freedom" in result.method and "McNemar" not in result.method


def test_labels_that_nobody_shares_are_no_clusters():
    baseline, candidate = flips(120, 5, 9, 60)
    plain = paired_comparison(baseline, candidate)
    assert paired_comparison(baseline, candidate, clusters=[str(i) for i in range(120)]) == plain
    assert paired_comparison(baseline, candidate, clusters=[None] * 120) == plain


class TestVerdict:
    def test_no_worse_worse_inconclusive(self):
        for shift, noise, expected in (
            (0.0, 0.05, "no worse"),
            (0.2, 0.05, "worse"),
            (0.03, 0.3, "inconclusive"),
        ):
            baseline, candidate, tokens = losses(150, shift, noise=noise)
            result = paired_comparison(
                baseline, candidate, weights=tokens, margin=0.03, higher_is_better=False
            )
            assert result.verdict == expected, result

    def test_direction(self):
        baseline, candidate, _ = losses(150, 0.2, noise=0.05)
        assert (
            paired_comparison(baseline, candidate, margin=0.03, higher_is_better=True).verdict
            == "no worse"
        )
        down = paired_comparison(-baseline, -candidate, margin=0.03, higher_is_better=True)
        assert down.verdict == "worse"
        assert down.harm[0] > 0 and down.harm[1] <= down.harm[0] <= down.harm[2]

    def test_measurably_worse_within_the_margin(self):
        baseline, candidate, tokens = losses(200, 0.02, noise=0.02)
        result = paired_comparison(
            baseline, candidate, weights=tokens, margin=0.03, higher_is_better=False
        )
        assert result.verdict == "no worse" and result.within_margin_but_worse
        assert not paired_comparison(
            baseline, candidate, margin=0.001, higher_is_better=False
        ).within_margin_but_worse

    def test_default_margin_is_zero(self):
        baseline, candidate, _ = losses(150, 0.0, noise=0.05)
        result = paired_comparison(baseline, candidate, higher_is_better=False)
        assert result.margin == 0 and result.verdict == "inconclusive"

    def test_right_answers_above_95_percent_can_be_no_worse(self):
        baseline, candidate = flips(300, 1, 2, 292)
        assert paired_comparison(baseline, candidate, margin=0.05).verdict == "no worse"

    def test_a_metric_that_neither_arm_reaches_is_never_no_worse(self):
        baseline, candidate = flips(200, 1, 1, 2)
        result = paired_comparison(baseline, candidate, margin=0.2)
        assert result.verdict == "inconclusive"
        assert any("nothing was lost" in warning for warning in result.warnings)
        clusters = [i % 40 for i in range(200)]
        assert (
            paired_comparison(baseline, candidate, margin=0.9, clusters=clusters).verdict
            == "inconclusive"
        )

    def test_a_small_share_is_no_obstacle_where_less_is_better(self):
        baseline, candidate = flips(300, 2, 1, 3)
        result = paired_comparison(baseline, candidate, margin=0.05, higher_is_better=False)
        assert result.verdict == "no worse" and not result.warnings

    def test_saturated_in_one_arm_only_is_judged(self):
        baseline, candidate = flips(200, 30, 0, 5)
        assert paired_comparison(baseline, candidate, margin=0.05).verdict == "no worse"

    @given(
        st.integers(0, 2**32), st.floats(-0.1, 0.1), st.floats(0, 0.1), st.booleans(), st.booleans()
    )
    @settings(max_examples=60, deadline=None)
    def test_rule_holds_on_anything(self, seed, shift, margin, better, binary):
        rng = np.random.default_rng(seed)
        baseline = rng.normal(size=40)
        candidate = baseline + rng.normal(shift, 0.2, 40)
        if binary:
            baseline, candidate = (baseline > 0).astype(int), (candidate > 0).astype(int)
        result = paired_comparison(
            baseline, candidate, margin=margin, higher_is_better=better, resamples=200
        )
        low, high = result.harm[1:]
        expected = "no worse" if high <= margin else "worse" if low > 0 else "inconclusive"
        assert result.verdict == expected
        assert result.ci_low <= result.delta <= result.ci_high
        assert 0 < result.p_value <= 1


class TestDegenerate:
    def test_an_arm_against_its_own_copy(self):
        baseline, _, tokens = losses(120, 0)
        result = paired_comparison(
            baseline, baseline.copy(), weights=tokens, margin=0.03, higher_is_better=False
        )
        assert (result.delta, result.ci_low, result.ci_high, result.p_value) == (0.0, 0.0, 0.0, 1.0)
        assert result.verdict == "no worse" and not result.within_margin_but_worse
        assert "no item differs between the two" in result.warnings

    @pytest.mark.parametrize("clusters", [None, [i // 4 for i in range(120)]])
    def test_identical_right_wrong_scores_still_leave_room_for_the_unseen(self, clusters):
        scores, _ = flips(120, 0, 0, 70)
        result = paired_comparison(scores, scores, clusters=clusters, margin=0.0)
        assert result.delta == 0 and result.ci_low < 0 < result.ci_high and result.p_value == 1
        assert result.ci_high == pytest.approx(-result.ci_low)
        assert result.verdict == "inconclusive"

    def test_identical_word_overlap_leaves_room_too(self):
        scores = np.append(np.linspace(0.1, 0.9, 100), [0.0, 1.0])
        assert 0.02 < paired_comparison(scores, scores).ci_high < 0.04

    def test_given_limits_replace_guessed_ones(self):
        scores = np.linspace(0.1, 0.9, 100)
        assert paired_comparison(scores, scores).ci_high == 0
        wide = paired_comparison(scores, scores, bounds=(-1, 1)).ci_high
        assert wide == pytest.approx(2 * paired_comparison(scores, scores, bounds=(0, 1)).ci_high)

    def test_a_cosine_past_one_by_rounding_is_accepted(self):
        assert (
            paired_comparison([0.5, 1.0000002, 0.2], [0.4, 1.0000001, 0.3], bounds=(-1, 1)).n == 3
        )

    def test_equal_differences(self):
        baseline, _, _ = losses(100, 0)
        result = paired_comparison(baseline, baseline + 0.5, higher_is_better=False)
        assert result.ci_low == result.ci_high == result.delta == pytest.approx(0.5)
        assert result.verdict == "worse"
        assert any("all differences are equal" in warning for warning in result.warnings)

    def test_no_limit_given_in_numbers(self):
        scores = np.append(np.linspace(0.1, 0.9, 100), 0.0)
        assert paired_comparison(scores, scores).ci_high > 0
        assert paired_comparison(scores, scores, bounds=(0.0, np.inf)).ci_high == 0

    def test_flips_that_cancel_in_every_cluster_are_not_called_no_difference(self):
        baseline = np.tile([1.0, 0.0, 1.0, 0.0], 30)
        candidate = np.tile([0.0, 1.0, 1.0, 0.0], 30)
        result = paired_comparison(baseline, candidate, clusters=[i // 4 for i in range(120)])
        assert result.delta == 0 and result.ci_low < 0 < result.ci_high and result.warnings == ()

    def test_clusters_that_all_lose_alike_still_leave_room_for_the_unseen(self):
        baseline, candidate = np.ones(120), np.tile([0.0, 1.0, 1.0, 1.0], 30)
        result = paired_comparison(baseline, candidate, clusters=[i // 4 for i in range(120)])
        assert result.delta == -0.25 and result.ci_low < -0.25 < result.ci_high < 0
        assert result.verdict == "worse"
        assert not any("equal" in warning for warning in result.warnings)

    def test_no_interval_reaches_beyond_what_is_possible(self):
        few = paired_comparison([0.1, 0.9, 0.4], [0.2, 0.2, 0.9], bounds=(0, 1))
        assert (few.ci_low, few.ci_high) == (-1, 1)
        assert paired_comparison([0.1, 0.9, 0.4], [0.2, 0.2, 0.9]).ci_high > 1

    def test_two_items(self):
        result = paired_comparison([1.0, 2.0], [1.5, 1.9])
        assert result.p_value == 1.0 and result.ci_low < result.delta < result.ci_high
        assert np.isfinite([result.ci_low, result.ci_high]).all()

    def test_one_difference_among_many(self):
        candidate = np.full(100, 2.5)
        candidate[7] = 3.0
        result = paired_comparison(np.full(100, 2.5), candidate)
        assert result.ci_low <= 0 < result.delta < result.ci_high and result.p_value == 1.0


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"candidate": [1.0, 2.0]}, "equal length"),
            ({"baseline": [1.0], "candidate": [1.0]}, "at least two items"),
            (
                {"candidate": [1.0, float("nan"), 2.0]},
                "1 values of candidate are not finite.*position 1",
            ),
            ({"baseline": [1.0, float("inf"), 2.0]}, "not finite"),
            ({"weights": [1.0, 2.0]}, "weights have shape"),
            ({"weights": [1.0, 0.0, 2.0]}, "must be positive"),
            ({"weights": [1.0, float("nan"), 2.0]}, "1 values of weights are not finite"),
            ({"clusters": ["a", "b"]}, "2 cluster labels for 3 items"),
            ({"clusters": ["a", "a", "a"]}, "one cluster"),
            ({"margin": -0.1}, "margin"),
            ({"margin": float("nan")}, "margin"),
            ({"bounds": (0, 1)}, "outside 0 … 1"),
            ({"baseline": [[1.0, 2.0, 3.0]], "candidate": [[1.0, 2.0, 3.0]]}, "equal length"),
        ],
    )
    def test_bad_input(self, arguments, message):
        call = {"baseline": [1.0, 2.0, 3.0], "candidate": [1.5, 2.0, 2.0]} | arguments
        with pytest.raises(EvaluationError, match=message):
            paired_comparison(call.pop("baseline"), call.pop("candidate"), **call)

    def test_all_problems_at_once(self):
        with pytest.raises(
            EvaluationError, match="not finite.*cluster labels.*|cluster labels.*not finite"
        ):
            paired_comparison([1.0, float("nan")], [1.0, 2.0], clusters=["a"])


class TestWarnings:
    def warned(self, result: Comparison) -> bool:
        return any("too few items" in warning for warning in result.warnings)

    def test_too_few_items(self):
        for n, expected in ((99, True), (100, False)):
            baseline, candidate, _ = losses(n, 0.0)
            assert self.warned(paired_comparison(baseline, candidate)) is expected

    def test_too_few_clusters(self):
        for count, expected in ((19, True), (20, False)):
            baseline, candidate, _ = losses(count * 5, 0.0)
            assert (
                self.warned(
                    paired_comparison(
                        baseline, candidate, clusters=[i % count for i in range(count * 5)]
                    )
                )
                is expected
            )

    def test_uneven_clusters_and_weights(self):
        baseline, candidate, _ = losses(200, 0.0)
        assert self.warned(
            paired_comparison(baseline, candidate, clusters=[max(0, i - 170) for i in range(200)])
        )
        assert self.warned(
            paired_comparison(baseline, candidate, weights=[1000.0] * 10 + [1.0] * 190)
        )

    @pytest.mark.parametrize(
        ("clustered", "far", "expected"),
        [(True, 1.0, False), (True, 20.0, True), (False, 1.0, False), (False, 20.0, True)],
    )
    def test_units_of_which_one_lies_far_out(self, clustered, far, expected):
        shifts = np.linspace(0, 1, 120)
        shifts[0] = far
        labels = [i % 120 for i in range(480)] if clustered else list(range(120))
        baseline, candidate, _ = losses(len(labels), 0.0)
        result = paired_comparison(baseline, candidate + shifts[labels], clusters=labels)
        assert self.warned(result) is expected
        assert any("skewness" in warning for warning in result.warnings) is expected

    def test_few_flips_in_clusters_are_allowed_for_and_need_no_warning(self):
        baseline, candidate = flips(150, gained=0, lost=3, right=80)
        assert not self.warned(
            paired_comparison(baseline, candidate, clusters=[i % 30 for i in range(150)])
        )


class TestSeveralLabels:
    """Clusters by more than one label, and labels that are no clusters."""

    fact = np.repeat(np.arange(40), 4)
    family = np.repeat(np.arange(10), 16)
    wording = np.tile(np.arange(16), 10)

    def scores(
        self, *, by_family: float = 0.0, by_wording: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(8)
        baseline = rng.normal(2, 0.3, 160)
        shift = (
            by_family * rng.normal(size=10)[self.family]
            + by_wording * rng.normal(size=16)[self.wording]
        )
        return baseline, baseline + shift + rng.normal(0, 0.3, 160)

    def test_nested_labels_are_the_coarser_one(self):
        before, after = self.scores(by_family=1.0)
        both = paired_comparison(
            before, after, clusters={"fact": self.fact.tolist(), "family": self.family.tolist()}
        )
        coarse = paired_comparison(before, after, clusters=self.family.tolist())
        assert both.clustered_by == ("family",) and both.n_clusters == 10
        assert both.ci_low == coarse.ci_low
        assert both.ci_high == coarse.ci_high
        assert both.p_value == coarse.p_value

    def test_crossed_labels_hold_the_interval_of_each(self):
        before, after = self.scores(by_family=0.5, by_wording=0.5)
        labels = {"family": self.family.tolist(), "wording": self.wording.tolist()}
        both = paired_comparison(before, after, clusters=labels)
        assert both.clustered_by == ("family", "wording") and both.n_clusters == 10
        unnamed = paired_comparison(before, after, clusters=list(labels.values()))
        assert (unnamed.ci_low, unnamed.ci_high) == (both.ci_low, both.ci_high)
        for each in labels.values():
            alone = paired_comparison(before, after, clusters=each)
            assert both.ci_low < alone.ci_low
            assert alone.ci_high < both.ci_high
            assert both.p_value >= alone.p_value

    def test_crossed_flips_stay_within_the_bounds(self):
        before, after = flips(160, 0, 3, 100)
        both = paired_comparison(
            before,
            after,
            clusters={"family": self.family.tolist(), "wording": self.wording.tolist()},
        )
        assert -1 <= both.ci_low < 0 < both.ci_high <= 1

    def test_a_label_within_which_differences_are_alike_is_named_and_widens_the_interval(self):
        before, after = self.scores(by_family=1.0)
        result = paired_comparison(
            before,
            after,
            clusters=self.fact.tolist(),
            higher_is_better=False,
            related={"family": self.family.tolist(), "wording": self.wording.tolist()},
        )
        assert result.correlation["family"] < 0.001
        assert [text for text in result.warnings if "each family" in text]
        assert not [text for text in result.warnings if "wording" in text]
        unaware = paired_comparison(
            before, after, clusters=self.fact.tolist(), higher_is_better=False
        )
        by_family = paired_comparison(
            before, after, clusters=self.family.tolist(), higher_is_better=False
        )
        assert unaware.ci_high < by_family.ci_high == result.ci_high
        assert result.p_value >= unaware.p_value

    def test_differences_between_strata_are_no_correlation_and_those_within_them_are(self):
        fact, half = (
            self.fact.tolist(),
            [f"{fact} {place % 2}" for place, fact in enumerate(self.fact)],
        )
        for by, label, alike in (
            (self.fact, fact, False),
            (np.unique(half, return_inverse=True)[1], half, True),
        ):
            before, after = self.scores()
            after = after + np.random.default_rng(3).normal(0, 1.0, by.max() + 1)[by]
            result = paired_comparison(before, after, related={"group": label}, strata=fact)
            assert bool([text for text in result.warnings if "each group" in text]) is alike

    def test_a_label_that_crosses_the_clusters_is_named_too(self):
        before, after = self.scores(by_wording=0.5)
        result = paired_comparison(
            before,
            after,
            clusters=self.fact.tolist(),
            higher_is_better=False,
            related={"wording": self.wording.tolist()},
        )
        assert [text for text in result.warnings if "each wording" in text]

    def test_the_level_is_divided_by_the_number_of_labels(self):
        before, after = self.scores(by_family=0.032)
        labels = {"family": self.family.tolist(), "wording": self.wording.tolist()}
        for related, named in (({"family": labels["family"]}, True), (labels, False)):
            result = paired_comparison(before, after, clusters=self.fact.tolist(), related=related)
            assert CORRELATED / 2 < result.correlation["family"] < CORRELATED
            assert bool(result.warnings) is named

    def test_independent_labels_give_no_warning(self):
        before, after = self.scores()
        result = paired_comparison(
            before, after, clusters=self.fact.tolist(), related={"family": self.family.tolist()}
        )
        assert result.correlation["family"] > CORRELATED and not result.warnings

    def test_labels_of_another_length_are_refused(self):
        with pytest.raises(EvaluationError, match="3 family labels for 160 items"):
            paired_comparison(*self.scores(), related={"family": ["a", "b", "c"]})


def test_few_differences_of_a_score_without_limits_are_named():
    before = np.full(120, 2.0)
    after = before.copy()
    after[:6] += [0.1, 0.4, 0.2, 3.0, 0.3, 0.2]
    result = paired_comparison(before, after, higher_is_better=False, margin=0.1)
    assert any("only 6 of 120 independent ones differ" in warning for warning in result.warnings)


@pytest.mark.parametrize("clustered", [False, True])
def test_few_differences_of_a_score_without_limits_leave_room_for_the_unseen(clustered):
    before, after = np.full(240, 2.0), np.full(240, 2.0)
    after[:60:20] += 1.0
    result = paired_comparison(
        before, after, clusters=[i // 2 for i in range(240)] if clustered else None
    )
    assert "unseen differences" in result.method
    assert any("only 3 of" in warning for warning in result.warnings)
    # one and a half more that differ as much: 3 + 1.5 + 1.96 √(3 + 1.25)
    assert result.ci_high * 240 == pytest.approx(8.5, abs=0.1)
    (_, high), _ = item_interval(make_units(after - before, np.ones(240), None))
    assert result.ci_high > high
