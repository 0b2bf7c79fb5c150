"""The page between the first verdict and the final report."""

import pytest

from assistant_builder.i18n import m, use_language
from assistant_builder.study import Study
from assistant_builder.study.steps import Progress
from assistant_builder.ui.app import ready_steps
from assistant_builder.ui.evaluate.view import evaluation_state
from assistant_builder.ui.refresh import StudyView
from assistant_builder.ui.report.tab import report_state
from assistant_builder.ui.study_snapshot import study_strip, take_snapshot
from tests.synthetic_study import (
    at_first_verdict,
    finished_study,
    new_study,
    running,
    trained,
    with_data,
)
from tests.texts import plain

TO_COME = "This verdict is final. Still to come: further cells."


@pytest.fixture
def study() -> Study:
    return at_first_verdict(finished_study())


def test_the_verdict_can_be_read_and_the_assistant_asked(study):
    snapshot = take_snapshot(study)
    assert snapshot.running and snapshot.report is not None
    strip = study_strip(snapshot)
    assert "First verdict:" in strip
    assert 'data-tab="chat"' in strip and 'data-tab="evaluate"' in strip
    assert "1 min 0 s left" in plain(strip)
    assert {"evaluate", "chat", "report"} <= ready_steps(StudyView(study.name))


def test_what_is_still_to_come_is_named_beside_the_progress(study):
    snapshot = take_snapshot(study)
    said = plain(evaluation_state(snapshot))
    assert TO_COME in said and "QD: scoring" in said
    assert TO_COME in plain(report_state(snapshot))


def test_the_cell_that_is_scored_is_marked_in_every_language(study):
    message = m("{cell}: scoring the reference answers and answering the test questions", cell="QD")
    running(study, "evaluate", Progress.saying(30, 100, "%", message))
    (study.cell_folder("QD") / "scores.json").unlink(missing_ok=True)
    with use_language("de"):
        said = plain(evaluation_state(take_snapshot(study)))
    assert "läuft" in said.partition("QD QLoRA-Export")[2].partition("QR")[0]
    assert "scoring" not in said


def test_the_progress_says_when_the_first_verdict_comes():
    study = trained(with_data(new_study("early")))
    running(study, "evaluate", Progress(30, 100, "%", "L16: scoring", 400.0, None, 75.0))
    snapshot = take_snapshot(study)
    assert "first verdict in 1 min 15 s, 6 min" in plain(evaluation_state(snapshot))
    strip = plain(study_strip(snapshot))
    assert "first verdict in 1 min 15 s" in strip and "First verdict:" not in strip
    assert "Still to come" not in plain(evaluation_state(snapshot))


def test_a_final_report_says_nothing_of_it():
    snapshot = take_snapshot(finished_study())
    assert not report_state(snapshot) and "First verdict" not in study_strip(snapshot)
