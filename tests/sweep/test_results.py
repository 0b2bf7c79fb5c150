"""That a winner by luck is not taken for better: studies that are all equally good, over and over."""

from typing import Any

import numpy as np
import pytest

from assistant_builder.sweep.results import judged
from evals.compare import paired_comparison

STUDIES, ITEMS, TRIALS = 8, 60, 120


def comparisons(scores: np.ndarray, chosen: int) -> list[dict[str, Any]]:
    rows = []
    for other in range(STUDIES):
        if other != chosen:
            found = paired_comparison(
                scores[chosen], scores[other], higher_is_better=False, resamples=400
            )
            rows.append(
                {
                    "p_value": found.p_value,
                    "delta": found.delta,
                    "ci_low": found.ci_low,
                    "ci_high": found.ci_high,
                    "higher_is_better": False,
                }
            )
    return rows


def test_equal_studies_rarely_differ_and_choosing_by_the_held_out_questions_would_be_chance():
    luck = np.random.default_rng(8)
    wrong, unadjusted, by_heldout = 0, 0, 0
    for _ in range(TRIALS):
        item = luck.normal(1.0, 0.5, ITEMS)
        scores = item + luck.normal(0.0, 0.2, (STUDIES, ITEMS))
        # validation knows nothing: all are equal
        rows = comparisons(scores, chosen=int(luck.integers(STUDIES)))
        wrong += any(row["outcome"] != "not told apart" for row in judged(rows))
        unadjusted += any(row["p_value"] <= 0.05 for row in rows)
        by_heldout += any(
            row["p_value"] <= 0.05 for row in comparisons(scores, int(scores.mean(axis=1).argmin()))
        )
    assert wrong / TRIALS <= 0.09, (
        "5% of families are expected at most; 0.09 is two standard errors above"
    )
    assert unadjusted / TRIALS > 0.12 and by_heldout / TRIALS > 0.3


@pytest.mark.parametrize(
    ("delta", "higher", "p_value", "says"),
    [
        (0.2, False, 0.001, "worse"),
        (-0.2, False, 0.001, "better"),
        (0.2, True, 0.001, "better"),
        (-0.2, True, 0.001, "worse"),
        (0.2, False, 0.06, "not told apart"),
    ],
)
def test_outcome_of_a_comparison(delta, higher, p_value, says):
    row = {
        "p_value": p_value,
        "delta": delta,
        "ci_low": delta - 0.1,
        "ci_high": delta + 0.1,
        "higher_is_better": higher,
    }
    assert judged([row])[0]["outcome"] == says
    assert judged([{**row, "ci_low": -0.5, "ci_high": 0.5}])[0]["outcome"] == "not told apart"
    assert judged([row] * 60)[0]["outcome"] == "not told apart"
