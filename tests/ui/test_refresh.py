"""A window asks whether something changed, and draws only then."""

from __future__ import annotations

import json

from starlette.requests import Request

from assistant_builder.ui.refresh import LiveRegion, StudyView, pulse_route, refresh
from tests.synthetic_study import new_study, with_metrics

SECTIONS = [LiveRegion("state", [], lambda look: look.mark, lambda look: [])]


def asked(query: str = "") -> str:
    request = Request({"type": "http", "query_string": query.encode(), "headers": []})
    return bytes(pulse_route(SECTIONS)(request).body).decode()


def drawn(name: str | None) -> str:
    return str(json.loads(refresh(SECTIONS, name, "")[0])["whole"])


def test_the_pulse_is_that_of_what_was_drawn_until_the_study_changes() -> None:
    study = new_study("rivers")
    before = asked("study=rivers")
    assert before == drawn("rivers") and len(before) < 20
    with_metrics(study, "lora", 3)
    assert asked("study=rivers") != before
    assert asked("study=rivers") == drawn("rivers")


def test_home_a_new_study_one_that_is_gone_and_two_that_are_alike_are_told_apart() -> None:
    for name in ("rivers", "lakes"):
        new_study(name)
    pulses = {asked(), asked("study="), asked("study=gone"), asked("study=rivers"), asked("study=lakes")}
    assert len(pulses) == 5
    assert asked() == drawn(None) and asked("study=gone") == drawn("gone")


def test_a_name_that_is_no_name_is_answered_like_one_that_is_gone() -> None:
    assert len(asked("study=..%2F..%2Fetc")) == len(asked("study=%00")) == len(asked())


def test_a_damaged_study_changes_when_it_is_mended() -> None:
    study = new_study("rivers")
    whole = (study.folder / "study.yaml").read_text("utf-8")
    (study.folder / "study.yaml").write_text("{", "utf-8")
    damaged = asked("study=rivers")
    (study.folder / "study.yaml").write_text(whole, "utf-8")
    assert asked("study=rivers") != damaged and StudyView("rivers").snapshot is not None
