"""The Results tab: states, pictures, tables, and how quickly they are drawn."""

import html
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from assistant_builder.atomic_io import read_json, write_json
from assistant_builder.chat.client import WorkerPool
from assistant_builder.i18n import m, use_language
from assistant_builder.study import Study
from assistant_builder.study.steps import Progress, StepRecord
from assistant_builder.ui.evaluate.tab import EvaluateTab
from assistant_builder.ui.evaluate.view import (
    evaluation_state,
    four_bit_card,
    good_enough_card,
    misses_card,
    results_frame,
    specialists_title,
    verdict_picture,
)
from assistant_builder.ui.refresh import LiveRegion, StudyView
from assistant_builder.ui.study_snapshot import Snapshot, report_conclusion, take_snapshot
from evals.report.charts import interval_panel
from evals.report.conclusion import conclude
from tests.synthetic_study import done, evaluated, new_study, reported, running, trained, with_data
from tests.texts import plain
from tests.typed_report import as_report
from tests.ui.blocks import inside_blocks


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a finished study of three seeds, made once."""
    home = tmp_path_factory.mktemp("shelf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSISTANT_BUILDER_HOME", str(home))
        reported(
            evaluated(
                trained(
                    with_data(
                        new_study(
                            "finished",
                            seeds=3,
                            eval__bootstrap_resamples=400,
                            eval__primary_metric="nll_per_token",
                            eval__margin=0.03,
                        )
                    )
                )
            )
        )
    return home


@pytest.fixture
def study(shelf: Path, home: Path) -> Study:
    """A copy of it."""
    shutil.copytree(shelf, home, dirs_exist_ok=True)
    return Study.open("finished")


@pytest.fixture
def finished(study: Study) -> Snapshot:
    return take_snapshot(study)


@pytest.fixture
def report(finished: Snapshot) -> dict[str, Any]:
    assert finished.report is not None
    return finished.report


def half_scored() -> Study:
    study = trained(with_data(new_study()))
    evaluated(study)
    for cell in ("Q4", "L4", "QR"):
        (study.cell_folder(cell) / "scores.json").unlink()
    study.status_file("evaluate").unlink()
    return study


# states


def test_parts_that_score_at_once_are_shown_side_by_side_and_one_that_failed_is_told():
    study = half_scored()
    study.status_file("evaluate").unlink(missing_ok=True)
    study.write_config(study.config.with_changes({"executor": "ray"}))
    searching = m("{cell}: searching for the pairs", cell="Q16")
    running(study, "score-1", Progress.saying(25, 100, "%", searching, 40.0))
    comparing = m("{cell}: similarity of answer and reference", cell="Q4")
    running(study, "score-2", Progress.saying(50, 100, "%", comparing, 20.0))
    shown = evaluation_state(take_snapshot(study))
    said = plain(shown)
    assert "Q16: searching for the pairs: 25 %, 40 s left" in said
    assert "Q4: similarity of answer and reference: 50 %, 20 s left" in said
    assert "Q4 Compact (QLoRA, 4-bit) running" in said
    assert "Score cells · part 1" in shown and "Score cells · part 2" in shown
    done(study, "score-2", 30)
    study.write_step(StepRecord("score-1", state="failed", error={"what": "memory ran out"}))
    assert "memory ran out" in plain(evaluation_state(take_snapshot(study)))


@pytest.mark.parametrize(
    ("state", "words"),
    [("failed", "memory ran out"), ("cancelled", "was cancelled"), ("lost", "was interrupted")],
)
def test_an_evaluation_that_stopped_keeps_its_scores(state, words):
    study = half_scored()
    error = {"what": "memory ran out", "where": "cell Q4", "remedy": "Lower eval.batch_size"}
    study.write_step(StepRecord("evaluate", state=state, error=error))
    said = plain(evaluation_state(take_snapshot(study), "RuntimeError: <b>"))
    assert words in said
    assert ("RuntimeError: &lt;b&gt;" in said) == (state == "failed")
    assert ("Resume" in said) == (state != "failed")


def test_the_sections_of_the_report_are_shown_without_its_first_page_and_the_answers(
    finished, report
):
    assert evaluation_state(finished) == ""
    page = results_frame(as_report(report))
    whole = html.unescape(page)
    assert page.count('<iframe class="ab-report"') == 1 and "<table" not in page
    said = plain(whole).replace("&#39;", "'")
    for words in (report["sentence"], *report["basis"], "All cells", "Loss"):
        assert words in said
    assert all(warning["text"][:60] in said for warning in report["warnings"])
    for words in ("Is the assistant good enough?", 'id="answers"', 'id="glossary"', "#training"):
        assert words not in whole
    ids = set(re.findall(r' id="([^"]+)"', whole))
    assert set(re.findall(r'href="about:srcdoc#([^"]+)"', whole)) <= ids
    with use_language("de"):
        german = plain(html.unescape(results_frame(as_report(report))))
    assert "Alle Zellen" in german and report["basis"][0] not in german


def test_the_conclusion_comes_with_figures_answers_and_a_button(report):
    found = conclude(as_report(report))
    shown = good_enough_card(as_report(report), found)
    said = plain(shown)
    for words in (
        "Is it good enough?",
        "9 of 12 exactly right",
        found.good_enough,
        "Right answer",
        found.action,
    ):
        assert words in said
    assert 'data-action="chat"' in shown and "ab-bars" not in shown
    assert found.four_bit in plain(four_bit_card(as_report(report), found))
    assert not misses_card(as_report(report), found)
    by_right = {**report, "primary_metric": "exact_match"}
    assert "3 questions not answered right" in plain(
        misses_card(as_report(by_right), conclude(as_report(by_right)))
    )
    picture = verdict_picture(as_report(report))
    assert "0.03 nats per token, it counts as no worse." in picture
    assert picture.count('class="margin"') == 1 and picture.count('class="point"') == 1
    # figures grow to the right, as on every axis
    row = next(each for each in report["contrasts"] if each["metric"] == "exact_match")
    marks = interval_panel([{**row, "label": "", "margin": 0.05}], "", "", "", ascending=True)
    worse, better = marks["ticks"][0]["text"], marks["ticks"][-1]["text"]
    assert worse.startswith("−") and not better.startswith("−")
    start, width = marks["rows"][0]["allowed"]
    assert start == marks["rows"][0]["margin"] < marks["zero"] and start + width == 100
    assert verdict_picture(as_report({**report, "contrasts": []})) == ""
    assert specialists_title(as_report(report)).startswith("For specialists (")
    assert specialists_title(as_report(None)) == "For specialists"


@pytest.mark.parametrize("outcome", ["no worse", "worse", "inconclusive"])
def test_four_bit_is_called_as_good_only_if_the_verdict_is_no_worse(report, outcome):
    changed = {**report, "objection": "", "verdict": {**report["verdict"], "outcome": outcome}}
    shown = four_bit_card(as_report(changed), conclude(as_report(changed)))
    assert ("The compact one is as good:" in shown) == (outcome == "no worse")


def test_a_change_after_scoring_is_not_folded(report):
    declared = {"primary_metric": "nll_per_token", "margin": 0.03, "second_metric": "token_f1"}
    frozen = {
        "declared": declared,
        "sha256": "ab" * 32,
        "written": "2026-01-01T10:00:00+00:00",
        "changes": [{"name": "margin", "was": 0.03, "now": 0.05}],
    }
    changed = {**report, "verdict": {**report["verdict"], "frozen": frozen}}
    assert "Changed after scoring and not applied: margin" in four_bit_card(
        as_report(changed), conclude(as_report(changed))
    )
    page = html.unescape(results_frame(as_report(changed)))
    place = page.index(
        "Changed after scoring and not applied: margin, was 0.03 nats per token, now 0.05 nats per "
        "token."
    )
    assert place < page.index("<details")


def test_a_report_of_an_earlier_version_is_shown(report):
    added = tuple(
        """
        bounds action estimand clustered_by uncovered frozen possible_harm
        trained_again seeds
    """.split()
    )
    old = report.model_dump(exclude_unset=True)
    for key in ("basis", "objection", "other_claim"):
        old.pop(key, None)
    for key in added:
        old["verdict"].pop(key, None)
    said = plain(html.unescape(results_frame(as_report(old)))).replace("&#39;", "'")
    assert report.sentence in said and "All cells" in said
    assert verdict_picture(as_report(old)) and report_conclusion(as_report(old)) is not None
    assert report_conclusion(as_report({"primary_metric": "chrf", "verdict": {}})) is None


def test_the_rules_of_the_verdict_are_told_before_scoring(tab):
    study = trained(with_data(new_study("unscored")))
    said = plain(section(tab, "evaluate").draw(StudyView(study.name))[0]["value"])
    assert "How the verdict is reached" in said
    assert "the verdict is by loss (margin 0.03 nats per token)" in said
    (study.split_file("train")).write_text("")
    assert "How the verdict" not in plain(
        section(tab, "evaluate").draw(StudyView(study.name))[0]["value"]
    )


# the tab


def drawn(section: LiveRegion, name: str | None) -> dict[str, Any]:
    values = section.values(StudyView(name))
    assert len(values) == len(section.outputs)
    return {str(place): value for place, value in enumerate(values)}


@pytest.fixture
def tab() -> EvaluateTab:
    return inside_blocks(lambda: EvaluateTab(WorkerPool(["false"])))


def section(tab: EvaluateTab, key: str) -> LiveRegion:
    return next(section for section in tab.sections() if section.key == key)


def test_every_section_sets_all_its_components(tab, study):
    trained(with_data(new_study("trained")))
    half = half_scored()
    for name in (None, "nowhere", "finished", "trained", half.name):
        for part in tab.sections():
            drawn(part, name)


def test_training_that_goes_on_draws_nothing_here_anew(tab, study):
    before = {part.key: part.mark(StudyView(study.name)) for part in tab.sections()}
    (study.arm_folder("lora") / "metrics.jsonl").write_text("")
    assert {part.key: part.mark(StudyView(study.name)) for part in tab.sections()} == before
    (study.folder / "report.json").touch()
    changed = {
        part.key for part in tab.sections() if part.mark(StudyView(study.name)) != before[part.key]
    }
    assert changed == {"evaluate", "evaluate-conclusion", "evaluate-result", "evaluate-items"}


def test_a_thousand_items_are_drawn_quickly(tab, study):
    report = read_json(study.folder / "report.json")
    report["items"] = [{**report["items"][n % 12], "item": str(n), "row": n} for n in range(1000)]
    section(tab, "evaluate-result").draw(StudyView(study.name))  # imports what draws
    write_json(study.folder / "report.json", report)
    began = time.process_time()
    look = StudyView(study.name)
    for part in tab.sections():
        part.mark(look)
        part.values(look)
    took = time.process_time() - began
    assert (
        look.snapshot is not None and look.snapshot.report.model_dump(exclude_unset=True) == report
    )
    assert took < 2.5, "it takes 0.15 s of a processor that has nothing else to do"
