from __future__ import annotations

import json

import pytest

from evals.simulate import CASES, coverage, main

# binomial noise of 400 repetitions around 95 % is about ±2.2 points at two standard errors
REPETITIONS = 400
SLACK = 0.025
ENOUGH = {case: 100 for case in CASES if case != "clusters of unequal size, normal"} | {
    "clusters of unequal size, normal": 300
}


@pytest.mark.parametrize("case", CASES)
def test_intervals_hold_the_truth_as_often_as_they_must(case: str) -> None:
    row = coverage(case, ENOUGH[case], repetitions=REPETITIONS, resamples=1000, seed=1)
    assert row.covered >= 0.92 - SLACK
    if "flips" not in case:  # rare flips may be covered more often
        assert row.covered <= 0.98 + SLACK / 2
    # equal arms are called worse no more than one time in twenty, whichever way the metric points
    assert max(row.above, row.below) <= 0.05 + SLACK


def test_flips_that_whole_clusters_share_fool_no_test() -> None:
    row = coverage("clusters of 5, normal", 200, repetitions=REPETITIONS, resamples=1000)
    assert row.clusters == 40
    assert row.rejected is not None and row.rejected <= 0.05 + SLACK


def test_command_prints_a_table_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--case", "normal", "--sizes", "10", "--repetitions", "3", "--resamples", "50"]
    main(arguments)
    assert "| normal | 10 | – |" in capsys.readouterr().out
    main([*arguments, "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["case"] == "normal" and 0 <= rows[0]["covered"] <= 1
    with pytest.raises(SystemExit):
        main(["--repetitions", "0"])
