"""The page between the first verdict and the final report."""

import pytest

from assistant_builder.arms import CELLS
from assistant_builder.i18n import m, use_language
from assistant_builder.study import Study
from assistant_builder.study.steps import Progress
from assistant_builder.ui.app import ready_steps
from assistant_builder.ui.evaluate.view import evaluation_state
from assistant_builder.ui.refresh import StudyView
from assistant_builder.ui.study_snapshot import study_strip, take_snapshot
from tests.synthetic_study import (
    at_first_verdict,
    finished_study,
    running,
)
from tests.texts import plain


@pytest.fixture
def study() -> Study:
    return at_first_verdict(finished_study())


def test_the_verdict_can_be_read_and_the_assistant_asked(study):
    snapshot = take_snapshot(study)
    assert snapshot.running and snapshot.report is not None
    strip = study_strip(snapshot)
    assert "First verdict:" in strip
    assert 'data-tab="chat"' in strip and 'data-tab="evaluate"' in strip
    assert "60 s left" in plain(strip)
    assert {"evaluate", "chat", "report"} <= ready_steps(StudyView(study.name))


def test_the_cell_that_is_scored_is_marked_in_every_language(study):
    cell = m(CELLS["QD"].label)  # as the scoring says it
    message = m("{cell}: scoring the reference answers and answering the test questions", cell=cell)
    running(study, "evaluate", Progress.saying(30, 100, "%", message))
    (study.cell_folder("QD") / "scores.json").unlink(missing_ok=True)
    with use_language("de"):
        said = plain(evaluation_state(take_snapshot(study)))
    assert "läuft" in said.partition("QD QLoRA-Export")[2].partition("QR")[0]
    assert "scoring" not in said
