"""The intersection–union decision, the items that would decide, and what to do."""

from typing import Any

import numpy as np
import pytest

from evals.compare import Comparison, paired_comparison
from evals.decision import MOST_ITEMS, action, decide, harmful, rounded


def advice(*args: Any, **more: Any) -> str:
    """What to do, in English."""
    return str(action(*args, **more))


def compared(
    harm: float, half: float, margin: float, *, higher: bool = False, n: int = 200
) -> Comparison:
    """A comparison with an interval of a given half width around a harm."""
    low, high = harm - half, harm + half
    verdict = "no worse" if high <= margin else "worse" if low > 0 else "inconclusive"
    if higher:
        harm, low, high = -harm, -high, -low
    return Comparison(harm, low, high, 0.5, n, verdict, "", None, (), False, margin, higher)


GOOD, OPEN, HARMFUL = compared(0, 0.01, 0.05), compared(0.02, 0.06, 0.05), compared(0.1, 0.02, 0.05)


def test_every_bound_is_needed_for_no_worse():
    assert decide({"loss": GOOD, "match": GOOD, "false": GOOD}).outcome == "no worse"
    for place in range(3):
        bounds = [GOOD, GOOD, GOOD]
        bounds[place] = OPEN
        decision = decide(dict(zip(("loss", "match", "false"), bounds, strict=True)))
        assert decision.outcome == "inconclusive"
        assert decision.failed == (("loss", "match", "false")[place],)


def test_harm_beyond_the_margin_of_any_bound_is_worse():
    for place in range(3):
        bounds = [GOOD, GOOD, GOOD]
        bounds[place] = HARMFUL
        assert decide(dict(zip(("loss", "match", "false"), bounds, strict=True))).outcome == "worse"


def test_harm_that_may_be_within_the_margin_is_worse_for_the_primary_metric_only():
    clear = compared(0.04, 0.03, 0.05)
    assert decide({"loss": clear, "match": GOOD}).outcome == "worse"
    assert decide({"loss": GOOD, "match": clear}).outcome == "inconclusive"


def test_harm_within_the_margin_is_no_worse_and_shown():
    within = compared(0.03, 0.01, 0.05, higher=True)
    assert decide({"match": within}).outcome == "no worse"
    assert harmful({"match": within, "loss": GOOD}) == ["match"]


def test_the_items_that_would_decide():
    # half width 0.06 must shrink to 0.03: four times the items; or to 0.02, nine times
    assert decide({"loss": OPEN}).needed == 800
    assert decide({"loss": OPEN, "match": compared(0.0, 0.1, 0.05)}).needed == 800
    # beyond zero: (0.06 / 0.05)² · 200
    assert decide({"loss": compared(0.05, 0.06, 0.05)}).needed == 288
    assert decide({"loss": compared(0.0, 1.0, 0.05)}).needed is None  # 400 times as many
    assert decide({"loss": OPEN, "match": compared(0.0, 1.0, 0.05)}).needed is None
    assert decide({"loss": compared(0.0, 0.0499 * MOST_ITEMS**0.5, 0.05)}).needed == 3985


def test_a_bound_that_was_not_compared_is_not_shown():
    decision = decide({"match": GOOD}, ("match", "loss"))
    assert (decision.outcome, decision.failed) == ("inconclusive", ("loss",))
    assert decide({"match": HARMFUL}, ("match", "loss")).outcome == "worse"


@pytest.mark.parametrize("flips", [0, 2, 30])
def test_as_many_facts_as_are_asked_for_decide(flips):
    def match(facts: int) -> Comparison:
        before, after = np.ones(5 * facts), np.ones(5 * facts)
        for place in range(flips * facts // 40):
            (before, after)[place % 2][5 * place : 5 * place + 2] = 0
        return paired_comparison(
            before,
            after,
            margin=0.05,
            bounds=(0, 1),
            resamples=400,
            clusters=np.repeat(np.arange(facts), 5).tolist(),
        )

    decision = decide({"match": match(40)})
    assert decision.outcome == "inconclusive"
    assert decision.needed is None
    assert decision.clusters is not None
    text = advice(decision, n=200, n_clusters=40, seeds=1)
    more = rounded(decision.clusters - 40)
    assert f"questions about {more:,} more facts" in text
    assert decide({"match": match(40 + more)}).outcome == "no worse"


def test_more_items_like_these_do_decide():
    rng = np.random.default_rng(0)
    differences = rng.normal(0.01, 0.4, 200)
    first = paired_comparison(
        np.zeros(200), differences, margin=0.05, higher_is_better=False, bounds=(-9, 9)
    )
    needed = decide({"loss": first}).needed
    assert first.verdict == "inconclusive" and needed is not None
    repeated = np.tile(differences, -(-needed // 200) + 1)
    again = paired_comparison(
        np.zeros(len(repeated)), repeated, margin=0.05, higher_is_better=False, bounds=(-9, 9)
    )
    assert again.verdict != "inconclusive"


def test_what_to_do():
    assert advice(decide({"loss": GOOD}), n=200, seeds=1) == (
        "The 4-bit assistant can be used in place of the 16-bit one."
    )
    assert advice(decide({"loss": HARMFUL}), n=200, seeds=1).startswith(
        "Use the 16-bit assistant, or train"
    )
    assert "Add about 600 held-out questions: with 800" in advice(
        decide({"loss": OPEN}), n=200, seeds=1
    )
    assert "no affordable number" in advice(
        decide({"loss": compared(0.0, 1.0, 0.05)}), n=200, seeds=1
    )
    assert "--set seeds=6" in advice(decide({"loss": OPEN}), n=200, seeds=3, seeds_decide=True)


@pytest.mark.parametrize(
    ("count", "shown"), [(1, 10), (10, 10), (11, 20), (99, 100), (101, 110), (1234, 1300)]
)
def test_counts_are_rounded_up(count, shown):
    assert rounded(count) == shown


def test_without_the_primary_metric_only_harm_beyond_a_margin_is_worse():
    clear = compared(0.04, 0.03, 0.05)
    assert decide({"match": clear}, ["loss", "match"]).outcome == "inconclusive"
    assert decide({"match": HARMFUL}, ["loss", "match"]).outcome == "worse"


def test_questions_to_decline_are_counted_apart():
    declines = compared(0.0, 0.12, 0.1, higher=True, n=66)
    decision = decide({"loss": GOOD, "right_decline": declines})
    assert (decision.needed, decision.to_decline) == (None, 30)  # 66 · 1.2² − 66
    assert advice(decision, n=200, seeds=1).startswith(
        "Add about 30 questions that should be declined"
    )
    both = advice(decide({"loss": OPEN, "right_decline": declines}), n=200, seeds=1)
    assert "Add about 600 held-out questions" in both
    assert "30 questions that should be declined" in both
