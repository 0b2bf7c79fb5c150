"""Polling: the version of the page changes exactly when something must be redrawn."""

import json

from starlette.requests import Request

from assistant_builder.ui.refresh import LiveRegion, StudyView, pulse_route, refresh
from tests.synthetic_study import new_study, with_metrics

SECTIONS = [LiveRegion("state", [], lambda look: look.mark, lambda look: [])]


def polled(query: str = "") -> str:
    request = Request({"type": "http", "query_string": query.encode(), "headers": []})
    return bytes(pulse_route(SECTIONS)(request).body).decode()


def drawn(name: str | None) -> str:
    return str(json.loads(refresh(SECTIONS, name, "")[0])["whole"])


def test_the_polled_version_is_the_drawn_one_until_the_study_changes():
    study = new_study("rivers")
    before = polled("study=rivers")
    assert before == drawn("rivers") and len(before) < 20
    with_metrics(study, "lora", 3)
    assert polled("study=rivers") != before
    assert polled("study=rivers") == drawn("rivers")


def test_home_new_missing_and_equal_studies_have_different_versions():
    for name in ("rivers", "lakes"):
        new_study(name)
    pulses = {
        polled(),
        polled("study="),
        polled("study=missing"),
        polled("study=rivers"),
        polled("study=lakes"),
    }
    assert len(pulses) == 5
    assert polled() == drawn(None) and polled("study=missing") == drawn("missing")


def test_an_invalid_name_is_treated_like_a_missing_study():
    assert len(polled("study=..%2F..%2Fetc")) == len(polled("study=%00")) == len(polled())


def test_the_version_of_a_damaged_study_changes_when_it_is_repaired():
    study = new_study("rivers")
    valid = (study.folder / "study.yaml").read_text("utf-8")
    (study.folder / "study.yaml").write_text("{", "utf-8")
    damaged = polled("study=rivers")
    (study.folder / "study.yaml").write_text(valid, "utf-8")
    assert polled("study=rivers") != damaged and StudyView("rivers").snapshot is not None
