"""The Report tab: making the report again, and what is said while it is made."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from assistant_builder.errors import StudyError
from assistant_builder.steps import StepRecord
from assistant_builder.study import Study
from assistant_builder.ui import report_tab, runs
from assistant_builder.ui.report_tab import FORMATS, ReportTab, report_state
from assistant_builder.ui.sections import Look
from assistant_builder.ui.snapshots import take_snapshot
from tests.fabricated import done, evaluated, new_study, running, trained, with_data
from tests.ui.blocks import inside_blocks

STYLES = Path(report_tab.__file__).parent / "styles"


def written(study: Study) -> Study:
    """Add a report that nobody need figure out."""
    for ending in FORMATS:
        text = '{"version": 1}' if ending == "json" else "<h1>What did 4-bit cost?</h1>"
        (study.folder / f"report.{ending}").write_text(text)
    done(study, "report", 1)
    return study


@pytest.fixture
def study() -> Study:
    return written(evaluated(trained(with_data(new_study()))))


def done_but_report(study: Study) -> Study:
    study.status_file("report").unlink()
    return study


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    monkeypatch.setattr(runs, "start_run", names.append)
    monkeypatch.setattr("assistant_builder.jobs.steps.step_inputs", lambda study, step: {})
    return names


def test_making_it_again_keeps_the_old_one_until_then(study: Study, started: list[str]) -> None:
    assert runs.remake_report(study) == "" and started == [study.name]
    assert study.step("report").state == "queued" and study.step("evaluate").state == "succeeded"
    assert all((study.folder / f"report.{ending}").is_file() for ending in FORMATS)


def test_it_is_not_made_of_scores_that_no_longer_fit(
    study: Study, started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("assistant_builder.jobs.steps.step_inputs", lambda study, step: {"train.rank": 8})
    assert "train.rank" in runs.remake_report(study)
    assert not started and study.step("report").state == "succeeded"


def test_it_is_not_made_in_the_midst_of_a_run(study: Study, started: list[str]) -> None:
    running(study, "evaluate")
    with pytest.raises(StudyError, match="running already"):
        runs.remake_report(study)
    study.write_step(StepRecord("evaluate", state="failed"))
    study.write_runner("failed")
    with pytest.raises(StudyError, match="has not been evaluated"):
        runs.remake_report(study)
    assert not started


def test_what_happens_to_the_report_is_said(study: Study) -> None:
    assert report_state(take_snapshot(study)) == ""
    running(study, "report")
    assert "is being made" in report_state(take_snapshot(study))
    about_to = replace(take_snapshot(done_but_report(study)), state="running")
    assert "is being made" in report_state(about_to)
    study.write_step(StepRecord("report", state="failed", error={"what": "the disk is full", "remedy": "Free space"}))
    said = report_state(take_snapshot(study), "OSError <b>")
    assert "the disk is full" in said and "OSError &lt;b&gt;" in said
    study.write_step(StepRecord("evaluate", state="failed"))
    done(study, "report", 1)
    assert "earlier evaluation" in report_state(take_snapshot(study))


def test_every_section_sets_all_its_components(study: Study) -> None:
    tab = inside_blocks(ReportTab)
    fresh = with_data(new_study("fresh"))
    for name in (None, "nowhere", fresh.name, study.name):
        drawn: dict[str, Any] = {}
        for section in tab.sections():
            values = section.draw(Look(name))
            assert len(values) == len(section.outputs)
            drawn[section.key] = values
    assert drawn["report"][0]["visible"] and "What did 4-bit cost?" in drawn["report"][-1]
    assert drawn["report-state"][0]["interactive"]


def test_the_frame_follows_the_theme_and_has_no_ground_of_its_own() -> None:
    style = (STYLES / "report.css").read_text()
    assert re.search(r"\.dark \.ab-report \{ color-scheme: dark", style)
    assert "#fff" not in style
