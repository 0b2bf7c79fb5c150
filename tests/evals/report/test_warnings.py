"""Each warning of the measurements beside the headline: there where it should be, and not otherwise."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from evals.report.build import build_report
from evals.report.measured_warnings import secondary_warnings
from evals.report.render import render_html, render_markdown
from tests.evals.report.synthetic_study import full_recipe, write_study
from tests.measured_study import with_judge, with_noise, with_seeds, with_tasks
from tests.typed_report import as_report

Report = dict[str, Any]


def codes(report: Report) -> dict[str, str]:
    return {code: level for code, level, _ in secondary_warnings(as_report(report))}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Report:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSISTANT_BUILDER_HOME", str(tmp_path_factory.mktemp("home")))
        study = write_study(
            full_recipe(
                harm=0.0,
                harm_noise=0.03,
                flips=0.0,
                seeds=3,
                unanswerable=0,
                judge=False,
                settings={"eval.margin": 0.1, "eval.decline_margin": 0.2},
            )
        )
        with_noise(study, every=100)
        with_seeds(study, 3, move=lambda run, cell: 0.001 * run)
        study.write_config(study.config.with_changes({"eval.retention": False}))
        with_judge(study, failures=0, agree=1.0)
        return build_report(study)


@pytest.fixture
def clean(built: Report) -> Report:
    """A report that gives no cause for any of these warnings."""
    return copy.deepcopy(built)


def test_a_clean_study_has_none_of_them(clean):
    assert codes(clean) == {}


@pytest.mark.parametrize(("cut", "level"), [(1, "note"), (60, "serious")])
def test_answers_that_stop_at_the_limit_are_said_and_counted(clean, cut, level):
    assert "Answers cut at the limit" not in render_html(as_report(clean)) + render_markdown(
        as_report(clean)
    )
    clean["cells"]["Q4"]["cut_answers"], clean["answer_limit"] = cut, 64
    ((code, found, text),) = secondary_warnings(as_report(clean))
    assert (code, found) == ("cut_answers", level)
    text = str(text)
    assert f"{cut} answer{'s' * (cut > 1)} of " in text
    assert "stopped at the limit of 64 tokens" in text
    clean["warnings"] = [{"code": code, "level": level, "text": text}]
    assert "stopped at the limit of 64 tokens" in render_markdown(as_report(clean))
    (row,) = [
        line
        for line in render_markdown(as_report(clean)).splitlines()
        if line.startswith("| Answers cut at the limit")
    ]
    assert f"| {cut} |" in row and "of 64 tokens" in row
    assert render_html(as_report(clean)).count("Answers cut at the limit") == 1


def first(name: str) -> Callable[[Report], Any]:
    return lambda report: next(row for row in report[name] if row.get("keeps") != "measured")


def unbeaten(report: Report) -> None:
    report["beats_untuned"][-1]["not_beaten"] = ["similarity"]


def worse_than_copied(report: Report) -> None:
    report["beats_untuned"][0]["worse"] = ["token_f1"]


def skipped(report: Report) -> None:
    report["fidelity"] |= {
        "skipped": "no room",
        "pairs": [],
        "sentence": "Not compared token by token: no room.",
    }


def as_many_flips(report: Report) -> None:
    between = len(report["flips"]["lost"]) + len(report["flips"]["gained"])
    report["flips"]["noise_floor"]["cells"]["Q4"] |= {"lost": between - 1, "gained": 1}


def decided_by_flips(report: Report) -> None:
    as_many_flips(report)
    report["primary_metric"] = "exact_match"


def moved_by_batches(report: Report) -> None:
    report["flips"]["noise_floor"]["verdict"] = "inconclusive"


def another_seed(report: Report) -> None:
    report["seeds"]["runs"][2]["verdict"] = "worse"


def wide_spread(report: Report) -> None:
    report["seeds"]["trained_again"]["ci"] = [-0.2, 0.11]


def seeds_apart(report: Report) -> None:
    report["seeds"]["runs"][1]["twins"] = False


def export_lost(report: Report) -> None:
    first("exports")(report)["keeps"] = "no"


def inventing(report: Report) -> None:
    report["declining"]["cells"]["Q4"] |= {"unanswerable_items": 10, "declined": 4}


def judge_failing(report: Report) -> None:
    report["judge"]["failures"] = report["judge"]["items"] // 10 + 1


def judge_against(report: Report) -> None:
    report["judge"] |= {"ci": [0.2, 0.45], "p_value": 0.01}


@pytest.mark.parametrize(
    ("spoil", "code", "level"),
    [
        (unbeaten, "not_better_than_retrieval", "serious"),
        (worse_than_copied, "not_better_than_copy", "serious"),
        (skipped, "fidelity_skipped", "note"),
        (as_many_flips, "flips_within_noise", "note"),
        (decided_by_flips, "flips_within_noise", "serious"),
        (moved_by_batches, "verdict_moves_with_batches", "serious"),
        (another_seed, "seeds_disagree", "serious"),
        (wide_spread, "seeds_reach_beyond_margin", "note"),
        (seeds_apart, "seeds_not_twins", "serious"),
        (export_lost, "export_loses", "note"),
        (inventing, "invents", "serious"),
        (judge_failing, "judge_failures", "serious"),
        (judge_against, "judge_prefers_lora", "serious"),
    ],
)
def test_each_defect_gives_its_warning(clean, spoil, code, level):
    spoil(clean)
    assert codes(clean) == {code: level}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda report: report["flips"]["noise_floor"]["cells"]["Q4"].update(lost=0, gained=0),
        lambda report: report["judge"].update(failures=report["judge"]["items"] // 10),
        lambda report: report["declining"]["cells"]["Q4"].update(unanswerable_items=10, declined=5),
        lambda report: report["seeds"]["trained_again"].update(ci=[-0.2, 0.1]),
        lambda report: report["seeds"].update(count=1, spread=None),
        lambda report: report["flips"].update(noise_floor=None),
        lambda report: report.update(flips=None, fidelity=None, judge=None, declining=None),
    ],
)
def test_values_within_the_limits_give_no_warning(clean, spoil):
    spoil(clean)
    assert codes(clean) == {}


@pytest.mark.parametrize(
    ("known", "code", "level"),
    [
        ({"B16": 0.6, "B4": 0.59, "L16": 0.5, "Q4": 0.5}, "forgetting", "note"),
        ({"B16": 0.6, "B4": 0.5, "L16": 0.6, "Q4": 0.5}, "worse_on_task", "serious"),
        ({"B16": 0.6, "B4": 0.59, "L16": 0.6, "Q4": 0.59}, None, None),
    ],
)
def test_forgetting(known, code, level):
    study = with_tasks(write_study(full_recipe(seeds=1)), known=known)
    found = {
        key: value
        for key, value in codes(build_report(study)).items()
        if key in ("forgetting", "worse_on_task")
    }
    assert found == ({} if code is None else {code: level})


def test_more_seeds_and_a_measured_floor_replace_their_warnings(full_report, report):
    for each, expected in ((report, True), (full_report, False)):
        found = {entry["code"] for entry in each["warnings"]}
        assert ({"one_seed", "flip_noise"} <= found) == expected
        assert bool({"one_seed", "flip_noise"} & found) == expected
