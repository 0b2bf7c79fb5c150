from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm

from assistant_builder.errors import EvaluationError
from evals.power import (
    design_effect,
    heldout_power,
    intraclass_correlation,
    items_needed,
    minimum_detectable_difference,
    minimum_detectable_mean,
)


def test_a_hundred_items_at_twenty_percent_flips_see_twelve_and_a_half_points() -> None:
    assert minimum_detectable_difference(100, 0.2) == pytest.approx(0.125, abs=0.0005)


def test_detecting_and_needing_are_inverse() -> None:
    assert items_needed(minimum_detectable_difference(137, 0.3), flip_rate=0.3) == 137
    assert items_needed(-minimum_detectable_mean(80, 0.4), sd=0.4) == 80
    assert items_needed(0.02, flip_rate=0.2) == 3925
    assert items_needed(0.02, flip_rate=0.2, design_effect=3.0) == pytest.approx(3 * 3925, abs=3)


def test_promised_power_is_had() -> None:
    rng = np.random.default_rng(0)
    n, flip_rate = 400, 0.2
    shift = minimum_detectable_difference(n, flip_rate)
    gained = rng.random((2000, n)) < flip_rate
    down = rng.random((2000, n)) < 0.5 + shift / flip_rate / 2
    d = np.where(gained, np.where(down, -1, 1), 0)
    seen = np.abs(d.mean(1)) / (d.std(1, ddof=1) / np.sqrt(n)) > 1.96
    assert seen.mean() == pytest.approx(0.8, abs=0.035)


def test_design_effect() -> None:
    assert design_effect([1] * 50, 0.5) == 1
    assert design_effect([5] * 20, 0.5) == pytest.approx(3)
    assert design_effect([1, 9], 1.0) == pytest.approx(82 / 10)


def test_intraclass_correlation_finds_what_was_put_in_and_matches_the_mixed_model() -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(80), 5)
    x = rng.normal(0, 1, 80)[labels] + rng.normal(0, 1, 400)
    icc = intraclass_correlation(x, labels.tolist())
    fit = sm.MixedLM(x, np.ones(400), groups=labels).fit(reml=True)
    between = float(fit.cov_re[0][0])
    assert icc == pytest.approx(between / (between + fit.scale), abs=1e-3)
    assert icc == pytest.approx(0.5, abs=0.12)


def test_intraclass_correlation_without_clusters_or_variation() -> None:
    assert intraclass_correlation([1.0, 2.0, 3.0], [None, None, None]) == 0
    assert intraclass_correlation([1.0, 1.0, 1.0, 1.0], ["a", "a", "b", "b"]) == 0
    assert intraclass_correlation([1.0, 1.0, 2.0, 2.0], ["a", "a", "b", "b"]) == 1


def test_power_of_a_clustered_heldout_set() -> None:
    plain = heldout_power(200)
    assert plain.clusters == 200 and plain.effective_items == 200
    clustered = heldout_power(200, clusters=[i // 5 for i in range(200)], icc=0.5)
    assert clustered.clusters == 40
    assert clustered.effective_items == pytest.approx(200 / 3)
    assert clustered.minimum_detectable == pytest.approx(plain.minimum_detectable * 3**0.5)
    assert clustered.to_record()["items_needed"] > plain.items_needed


@pytest.mark.parametrize(
    "call",
    [
        lambda: minimum_detectable_difference(0, 0.2),
        lambda: minimum_detectable_difference(10, 1.2),
        lambda: minimum_detectable_mean(10, -1),
        lambda: items_needed(0, flip_rate=0.2),
        lambda: items_needed(0.1),
        lambda: items_needed(0.1, flip_rate=0.1, sd=1),
        lambda: design_effect([], 0.5),
        lambda: design_effect([2, 0], 0.5),
        lambda: heldout_power(3, clusters=["a"]),
        lambda: heldout_power(0),
    ],
)
def test_nonsense_is_refused(call) -> None:
    with pytest.raises(EvaluationError):
        call()
