"""The Report tab: making the report again, and what is said while it is made."""

from dataclasses import replace
from typing import Any

import pytest

from assistant_builder.study import Study
from assistant_builder.study.steps import StepRecord
from assistant_builder.ui.refresh import StudyView
from assistant_builder.ui.report.tab import FORMATS, ReportTab, report_state
from assistant_builder.ui.study_snapshot import take_snapshot
from tests.synthetic_study import done, evaluated, new_study, running, trained, with_data
from tests.ui.blocks import inside_blocks


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


def test_what_happens_to_the_report_is_said(study):
    assert report_state(take_snapshot(study)) == ""
    running(study, "report")
    assert "is being written" in report_state(take_snapshot(study))
    about_to = replace(take_snapshot(done_but_report(study)), state="running")
    assert "is being written" in report_state(about_to)
    study.write_step(
        StepRecord(
            "report", state="failed", error={"what": "the disk is full", "remedy": "Free space"}
        )
    )
    said = report_state(take_snapshot(study), "OSError <b>")
    assert "the disk is full" in said and "OSError &lt;b&gt;" in said
    study.write_step(StepRecord("evaluate", state="failed"))
    done(study, "report", 1)
    assert "earlier evaluation" in report_state(take_snapshot(study))


def test_every_section_sets_all_its_components(study):
    tab = inside_blocks(ReportTab)
    fresh = with_data(new_study("fresh"))
    for name in (None, "nowhere", fresh.name, study.name):
        drawn: dict[str, Any] = {}
        for section in tab.sections():
            values = section.values(StudyView(name))
            assert len(values) == len(section.outputs)
            drawn[section.key] = values
    assert drawn["report"][0]["visible"] and "What did 4-bit cost?" in drawn["report"][-1]
    assert drawn["report-state"][0]["interactive"]
