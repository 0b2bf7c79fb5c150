import dataclasses
import re

import numpy as np
import pytest

from assistant_builder.config import EvalConfig
from benchmarks.doc_tables import METHOD_PAGE, read_section
from benchmarks.simulate_statistics import (
    HARMFUL,
    MIRRORED,
    PARTS,
    TABLE_RESAMPLES,
    compare,
    coverage,
    equal_arms,
    family,
    harm_at_margin,
    note,
)
from benchmarks.simulated_scores import CASES, EQUAL_ARMS, FAMILIES, SimulatedScores, harmful
from evals.compare import Comparison
from evals.declaration import Declaration, HeldOut
from evals.metrics import METRICS
from evals.report.load import Cell
from evals.report.rules import Rules

# binomial noise of 400 repetitions around 95 % is about ±2.2 points at two standard errors
REPETITIONS = 400
PRIMARY = [name for name, metric in METRICS.items() if metric.can_be_primary]
SLACK = 0.025
ENOUGH = {case: 100 if "flip" in case or case in ("normal", "lognormal") else 300 for case in CASES}
DEPENDENT = "not given"  # cases with structure that the interval cannot know of
HARSH = "loss, equal on average only, very skewed"


@pytest.mark.parametrize("case", [case for case in CASES if DEPENDENT not in case])
def test_intervals_have_their_nominal_coverage(case):
    row = coverage(case, ENOUGH[case], repetitions=REPETITIONS, resamples=500, seed=1)
    assert row.covered >= 0.92 - SLACK
    if "flip" not in case:  # rare flips may be covered more often
        assert row.covered <= 0.98 + SLACK / 2


@pytest.mark.parametrize("case", HARMFUL)
def test_a_harm_as_large_as_the_margin_is_seldom_called_no_worse_without_a_warning(case):
    row = harm_at_margin(case, 300, repetitions=REPETITIONS, resamples=500, seed=1)
    assert row.effective < 30 or row.unwarned <= 0.04 + SLACK / 2
    assert 0 <= row.warned <= 1 and row.unwarned <= row.no_worse


@pytest.mark.parametrize("case", [case for case in CASES if DEPENDENT in case])
def test_dependence_that_is_not_given_is_found_and_counts(case):
    row = harm_at_margin(case, 300, repetitions=REPETITIONS, resamples=500, seed=1)
    assert row.no_worse <= 0.04 and row.warned > 0.7


def test_a_harmful_draw_is_worse_by_its_truth():
    rng = np.random.default_rng(0)
    for name in HARMFUL:
        case = CASES[name.removesuffix(MIRRORED)]
        lower = not METRICS[case.metric].higher_is_better
        draw = harmful(
            case.draw(rng, 50_000), lower_is_better=lower, mirrored=name.endswith(MIRRORED)
        )
        d = draw.candidate - draw.baseline
        assert (draw.truth > 0) is lower and draw.truth != 0, name
        if "giant" not in name:
            assert np.average(d, weights=draw.weights) == pytest.approx(
                draw.truth, abs=0.05 * d.std()
            ), name


@pytest.mark.parametrize("case", EQUAL_ARMS)
def test_equal_arms_are_seldom_called_worse(case):
    row = equal_arms(case, 100, repetitions=REPETITIONS, resamples=500, seed=1)
    assert row.worse <= (0.05 + SLACK if case == HARSH else 0.05)
    assert row.worse + row.no_worse > 0.005, "an interval that excludes nothing is no use either"
    if case != HARSH:
        assert row.significant <= 0.05 + SLACK


@pytest.mark.parametrize("case", FAMILIES)
def test_holm_controls_the_family_wise_error(case):
    row = family(case, 60, repetitions=300, resamples=300, seed=1)
    assert row.metrics == len(PRIMARY)
    assert row.any_adjusted <= 0.05 + SLACK < row.any_significant


def test_arms_that_differ_are_called_worse():
    rng = np.random.default_rng(0)
    draw = EQUAL_ARMS["loss"].draw(rng, 100)
    worse = dataclasses.replace(draw, candidate=draw.candidate + 0.3)
    assert compare(worse, "nll_per_token", seed=0, resamples=500).verdict == "worse"


@pytest.mark.parametrize("metric", PRIMARY)
@pytest.mark.parametrize("clustered", [False, True])
def test_comparison_equals_that_of_the_report(metric, clustered):
    rng = np.random.default_rng(3)
    tokens = rng.integers(3, 40, 60).astype(float)
    scores = (
        rng.integers(0, 2, (2, 60)).astype(float)
        if metric == "exact_match"
        else rng.random((2, 60))
    )
    labels = np.arange(60) // 3 if clustered else None
    weights = tokens if METRICS[metric].token_weighted else None
    ours = compare(
        SimulatedScores(*scores, clusters=labels, weights=weights), metric, seed=0, resamples=500
    )
    cells = [
        Cell(name, samples_of(arm, tokens, labels), {})
        for name, arm in zip(("L16", "Q4"), scores, strict=True)
    ]
    items = list(cells[0].by_item)
    other, another = [name for name in PRIMARY if name != metric][:2]  # the metrics with a margin
    declared = Declaration(
        other, 0.1, another, 0.1, 0.1, "wordings", ("cluster",), (), "all", ("lora", "qlora"), ()
    )
    rules = Rules(declared, HeldOut({}, frozenset()), EvalConfig(bootstrap_resamples=500))
    assert like(ours, rules.compare(*cells, metric, items))


def samples_of(
    scores: np.ndarray, tokens: np.ndarray, labels: np.ndarray | None
) -> tuple[dict, ...]:
    return tuple(
        {
            "item": str(i),
            "row": i,
            "nll": score * tokens[i],
            "tokens": tokens[i],
            "metrics": dict.fromkeys(METRICS, score),
            "cluster": None if labels is None else labels[i],
        }
        for i, score in enumerate(scores.tolist())
    )


def like(one: Comparison, other: Comparison) -> bool:
    numbers = (
        np.array([each.delta, each.ci_low, each.ci_high, each.p_value]) for each in (one, other)
    )
    return (
        np.allclose(*numbers, atol=1e-12)
        and one.method == other.method
        and one.verdict == other.verdict
    )


def test_draws_have_the_named_properties():
    rng = np.random.default_rng(0)
    for name, case in CASES.items():
        draw = case.draw(rng, 100_000)
        weights = np.ones(100_000) if draw.weights is None else draw.weights
        d = draw.candidate - draw.baseline
        if (
            "giant" not in name
        ):  # 100,000 items are at least 20,000 clusters, but a giant one has much of the mean
            assert np.average(d, weights=weights) == pytest.approx(
                draw.truth, abs=0.05 * d.std()
            ), name
        assert name.startswith("clusters") == (draw.clusters is not None)
        if "flip" in name:
            rate = float(re.search(r"(\d+) %", name)[1]) / 100
            assert np.mean(d != 0) == pytest.approx(rate, abs=0.003), name
            assert ("both ways" in name) == bool((d > 0).any()), name


class TestReadme:
    """The tables of ``docs/method.md``."""

    @pytest.fixture(scope="class")
    @staticmethod
    def settings() -> dict[str, int]:
        text = read_section("coverage", METHOD_PAGE)
        found = re.search(r"--repetitions (\d+) --resamples (\d+) --seed (\d+) --write", text)
        return dict(
            zip(("repetitions", "resamples", "seed"), map(int, found.groups()), strict=True)
        )

    @pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
    def test_has_every_case_at_every_size(self, part, settings):
        text = read_section(part.name, METHOD_PAGE)
        rows = [
            [cell.strip() for cell in line.strip("| ").split("|")]
            for line in text.splitlines()
            if line[:1] == "|"
        ]
        wanted = [(case, n) for case, sizes in part.cases.items() for n in sizes]
        assert [(row[0], int(row[1])) for row in rows[2:]] == wanted
        assert text.startswith(note(**settings))
        assert settings["repetitions"] >= 4000 and settings["resamples"] == TABLE_RESAMPLES

    def test_tables_are_reproduced_by_the_noted_seed(self, settings):
        lines = {
            "coverage": PARTS[0].table(
                [
                    coverage(case, n, **settings)
                    for case, n in (("flips 2 %, one way", 100), ("clusters of 5, normal", 30))
                ]
            ),
            "harm-at-margin": PARTS[1].table(
                [harm_at_margin("flips 2 %, one way", 100, **settings)]
            ),
            "equal-arms": PARTS[3].table([equal_arms("right/wrong, 20 % flip", 30, **settings)]),
        }
        for part, table in lines.items():
            for line in table.splitlines():
                assert line in read_section(part, METHOD_PAGE).splitlines()

    def test_tables_meet_the_required_coverage_and_error_rates(self):
        for line in read_section("coverage", METHOD_PAGE).splitlines():
            cells = [cell.strip() for cell in line.strip("| ").split("|")]
            if (
                len(cells) == 8
                and cells[1].isdigit()
                and int(cells[1]) >= 100
                and DEPENDENT not in line
            ):
                covered, warned = float(cells[3].rstrip("%")), float(cells[7].rstrip("%"))
                assert (92 <= covered or warned >= 50) and ("flip" in line or covered <= 98), line
        for line in read_section("harm-at-margin", METHOD_PAGE).splitlines():
            cells = [cell.strip() for cell in line.strip("| ").split("|")]
            if len(cells) == 7 and cells[1].isdigit() and float(cells[3]) >= 30:
                assert float(cells[6].rstrip("%")) <= 4, line
        for line in read_section("equal-arms", METHOD_PAGE).splitlines():
            cells = [cell.strip() for cell in line.strip("| ").split("|")]
            if len(cells) == 6 and cells[1] in ("100", "300"):
                # arms that are equal on average only could not be swapped: that is no A/A comparison
                assert float(cells[3].rstrip("%")) <= (6 if "on average only" in line else 5), line
