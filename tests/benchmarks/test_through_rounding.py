"""The summary of benchmarks.through_rounding: what is won back, and intervals over facts."""

import pytest

from benchmarks.through_rounding import COLUMNS, report, summary

CLUSTERS = [f"fact-{place // 4}" for place in range(80)]


def right(count: int) -> list[float]:
    return [float(place % 80 < count) for place in range(80)]


def test_what_is_won_back_is_a_share_of_what_rounding_loses():
    seeds = [
        {
            "wide": right(60),
            "afterwards": right(20),
            "weighted": right(24),
            "control": right(70),
            "control rounded": right(30),
            "through": right(50),
        }
        for _ in range(2)
    ]
    found = summary(seeds, CLUSTERS, {"through": 1.2, "control": 1.0})
    assert found["won_back"] == pytest.approx({"LoRA": 0.75, "control": 0.5})
    assert found["score"]["through"] == [50, 50] and found["items"] == 80
    gained = found["differences"]["through - afterwards"]
    assert gained["delta"] == pytest.approx(30 / 80)
    assert gained["ci"][0] < gained["delta"] < gained["ci"][1]
    text = report(found, "Q4_0")
    assert all(name in text for name in COLUMNS.values())
    assert "against LoRA: 75 %" in text
    assert "1.20 times" in text
    assert text.startswith("right answers of 80, Q4_0") and "50, 50" in text
    lossless = summary(
        [{**seeds[0], "afterwards": right(61)}], CLUSTERS, {"through": 1.2, "control": 1.0}
    )
    assert lossless["won_back"]["LoRA"] is None
    assert "against LoRA: it loses nothing" in report(lossless, "Q4_0")
    assert report(found, "Q4_0", "token_f1").startswith("sum of token_f1 of 80")


def test_the_interval_resamples_facts():
    """Four questions of a fact that change together make the interval four times as wide as one of them."""
    one = [
        {
            **dict.fromkeys(COLUMNS, right(40)),
            "through": [float(place % 4 == 0 and place < 40) for place in range(80)],
            "wide": right(80),
            "control": right(80),
            "afterwards": [0.0] * 80,
        }
    ]
    four = [{**one[0], "through": [float(place < 40) for place in range(80)]}]

    def width(seeds: list[dict[str, list[float]]]) -> float:
        found = summary(seeds, CLUSTERS, {"through": 1.0, "control": 1.0})
        low, high = found["differences"]["through - afterwards"]["ci"]
        return float(high - low)

    assert width(four) == pytest.approx(4 * width(one), rel=0.05)
