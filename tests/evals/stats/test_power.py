import numpy as np
import pytest
import statsmodels.api as sm
from statsmodels.stats.power import NormalIndPower

from evals.stats.power import (
    design_effect,
    heldout_power,
    intraclass_correlation,
    items_needed,
    minimum_detectable_difference,
    minimum_detectable_mean,
    power_sentence,
    split_power,
)


def test_a_hundred_items_at_twenty_percent_flips_see_twelve_and_a_half_points():
    assert minimum_detectable_difference(100, 0.2) == pytest.approx(0.125, abs=0.0005)


def test_detecting_and_needing_are_inverse():
    assert items_needed(minimum_detectable_difference(137, 0.3), variance=0.3) == 137
    assert items_needed(-minimum_detectable_mean(80, 0.4), variance=0.4**2) == 80
    assert items_needed(0.02, variance=0.2) == 3925
    assert items_needed(0.02, variance=0.2, design_effect=3.0) == pytest.approx(3 * 3925, abs=3)


@pytest.mark.parametrize("n", [30, 200, 5000])
def test_detectable_mean_has_the_power_that_statsmodels_says(n):
    effect = minimum_detectable_mean(n, 0.4) / 0.4
    # of one sample; the other tail adds a few millionths to theirs
    theirs = NormalIndPower(ddof=0).power(effect, nobs1=n, alpha=0.05, ratio=0)
    assert theirs == pytest.approx(0.8, abs=1e-5)
    needed = NormalIndPower(ddof=0).solve_power(effect, alpha=0.05, power=0.8, ratio=0)
    assert items_needed(effect, variance=1.0) == pytest.approx(needed, abs=0.01 * n)
    flipping = minimum_detectable_difference(n, 0.16)  # flips both ways: standard deviation 0.4
    assert flipping == pytest.approx(minimum_detectable_mean(n, 0.4))


def test_promised_power_is_had():
    rng = np.random.default_rng(0)
    n, flip_rate = 400, 0.2
    shift = minimum_detectable_difference(n, flip_rate)
    gained = rng.random((2000, n)) < flip_rate
    down = rng.random((2000, n)) < 0.5 + shift / flip_rate / 2
    d = np.where(gained, np.where(down, -1, 1), 0)
    seen = np.abs(d.mean(1)) / (d.std(1, ddof=1) / np.sqrt(n)) > 1.96
    assert seen.mean() == pytest.approx(0.8, abs=0.035)


def test_design_effect():
    assert design_effect([1] * 50, 0.5) == 1
    assert design_effect([5] * 20, 0.5) == pytest.approx(3)
    assert design_effect([1, 9], 1.0) == pytest.approx(82 / 10)


def test_intraclass_correlation_finds_what_was_put_in_and_matches_the_mixed_model():
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(80), 5)
    x = rng.normal(0, 1, 80)[labels] + rng.normal(0, 1, 400)
    icc = intraclass_correlation(x, labels.tolist())
    fit = sm.MixedLM(x, np.ones(400), groups=labels).fit(reml=True)
    between = float(fit.cov_re[0][0])
    assert icc == pytest.approx(between / (between + fit.scale), abs=1e-3)
    assert icc == pytest.approx(0.5, abs=0.12)


def test_intraclass_correlation_without_clusters_or_variation():
    assert intraclass_correlation([1.0, 2.0, 3.0], [None, None, None]) == 0
    assert intraclass_correlation([1.0, 1.0, 1.0, 1.0], ["a", "a", "b", "b"]) == 0
    assert intraclass_correlation([1.0, 1.0, 2.0, 2.0], ["a", "a", "b", "b"]) == 1


def test_power_of_a_clustered_heldout_set():
    plain = heldout_power(200)
    assert plain.clusters == 200 and plain.effective_items == 200
    clustered = heldout_power(200, clusters=[i // 5 for i in range(200)])
    assert clustered.clusters == 40
    assert clustered.effective_items == pytest.approx(200 / 3)
    assert clustered.minimum_detectable == pytest.approx(plain.minimum_detectable * 3**0.5)
    assert clustered.to_record()["items_needed"] > plain.items_needed


def split_record(heldout: int, *, turns: int | None = None, clusters: int = 0) -> dict:
    return {
        "counts": {"heldout": heldout},
        "turns": {"heldout": turns or heldout},
        "clusters": {"heldout": clusters},
    }


def test_power_of_a_split_goes_by_its_counts():
    assert split_power(split_record(0)) is None
    assert split_power(split_record(100)) == heldout_power(100)
    assert split_power(split_record(100, clusters=20)) == heldout_power(
        100, clusters=[i % 20 for i in range(100)]
    )
    # of a file of conversations every assistant turn is scored, and each conversation is a cluster
    assert split_power(split_record(50, turns=150)) == heldout_power(
        150, clusters=[i % 50 for i in range(150)]
    )


def test_power_is_told_in_words():
    plain = power_sentence(heldout_power(100).to_record())
    assert plain == (
        "100 held-out answers show a difference of 12.5 points in right answers (80% power), if the two assistants "
        "differ on 20% of them; a claim of 2 points would need 3,925."
    )
    assert "100 held-out answers in 20 clusters show" in power_sentence(
        heldout_power(100, clusters=[i % 20 for i in range(100)]).to_record()
    )
