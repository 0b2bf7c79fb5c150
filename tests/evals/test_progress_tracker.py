"""How far an evaluation says it is."""

import pytest

from assistant_builder.config import StudyConfig
from assistant_builder.errors import Cancelled
from assistant_builder.study import Study
from evals.work_items import PRIORS, ProgressTracker


@pytest.fixture
def study() -> Study:
    return Study.create(StudyConfig(name="clock"))


def test_what_was_timed_tells_what_is_left(study, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("evals.work_items.time.monotonic", lambda: now[0])
    clock = ProgressTracker(study, {"likelihood": 20, "answers": 20})
    assert clock.left() is None
    now[0] += 5.0
    clock.tick("likelihood", 10)  # half a second each
    assert clock.left() == pytest.approx(10 * 0.5 + 20 * 0.5 * PRIORS["answers"])
    clock.set_message("answering")
    now[0] += 8.0
    clock.tick("answers", 4)  # two seconds each, whatever was thought before
    assert clock.left() == pytest.approx(10 * 0.5 + 16 * 2.0)
    progress = study.progress("evaluate")
    assert progress is not None and progress.message == "answering"
    assert progress.done == int(100 * 13 / (13 + 37))
    assert progress.eta_seconds == pytest.approx(37.0)


def test_the_time_until_the_first_verdict_is_a_part_of_it(study, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("evals.work_items.time.monotonic", lambda: now[0])
    clock = ProgressTracker(study, {"likelihood": 20}, first={"likelihood": 10})
    now[0] += 4.0
    clock.tick("likelihood", 8)
    progress = study.progress("evaluate")
    assert progress is not None
    assert progress.eta_seconds == pytest.approx(6.0)
    assert progress.verdict_seconds == pytest.approx(1.0)
    clock.tick("likelihood", 2)
    clock.verdict_reached()
    clock.set_message("further cells")
    progress = study.progress("evaluate")
    assert progress is not None and progress.verdict_seconds is None


def test_time_between_two_kinds_of_work_belongs_to_neither(study, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("evals.work_items.time.monotonic", lambda: now[0])
    clock = ProgressTracker(study, {"likelihood": 2})
    now[0] += 60.0  # a model is loaded
    clock.set_message("scoring")
    now[0] += 1.0
    clock.tick("likelihood", 1)
    assert clock.left() == pytest.approx(1.0)


def test_it_stops_when_asked(study):
    clock = ProgressTracker(study, {"likelihood": 2})
    study.request_cancel()
    with pytest.raises(Cancelled):
        clock.tick("likelihood", 1)
