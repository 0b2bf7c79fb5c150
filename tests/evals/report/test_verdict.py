"""The sentence of the verdict."""

from typing import Any

from evals.report.verdict import verdict_sentence


def test_the_digits_that_are_printed_decide():
    """An interval that ends 0.004 points beyond the margin is not printed as one that ends at it."""

    def verdict(end: float, outcome: str) -> dict[str, Any]:
        bound = {
            "metric": "exact_match",
            "margin": 0.05,
            "delta": -0.01,
            "ci": [end, 0.03],
            "higher_is_better": True,
            "passed": outcome == "no worse",
            "outcome": outcome,
        }
        return {**bound, "contrast": "Q4-L16", "bounds": [bound], "within_margin_but_worse": False}

    inside, outside = (
        str(verdict_sentence(verdict(end, outcome), "9 questions"))
        for end, outcome in ((-0.04996, "no worse"), (-0.05004, "inconclusive"))
    )
    assert "95% interval −4.996 to 3.000" in inside and "95% interval −5.004 to 3.000" in outside


def test_what_was_not_tested_is_said_with_the_verdict():
    bound = {
        "metric": "exact_match",
        "margin": 0.05,
        "delta": 0.0,
        "ci": [-0.02, 0.02],
        "higher_is_better": True,
        "passed": True,
        "outcome": "no worse",
    }
    verdict = {
        **bound,
        "contrast": "Q4-L16",
        "bounds": [bound],
        "within_margin_but_worse": False,
        "to_decline": {"questions": 24, "judged": False},
    }
    assert str(verdict_sentence(verdict, "9 questions")).endswith(
        "was not tested: the test has only 24 questions to decline, and 40 are needed."
    )
    verdict["to_decline"]["judged"] = True
    assert "not tested" not in str(verdict_sentence(verdict, "9 questions"))
    open_one = {**verdict, "outcome": "inconclusive", "not_shown": ["nll_per_token"]}
    assert "not ruled out for the loss (not measured)" in str(
        verdict_sentence(open_one, "9 questions")
    )
    floor = {**bound, "metric": "facts_kept", "passed": False}
    text = str(verdict_sentence({**open_one, "bounds": [bound, floor]}, "9 questions"))
    assert "(nearly all answers of both are wrong by it, so that it can show nothing)" in text
