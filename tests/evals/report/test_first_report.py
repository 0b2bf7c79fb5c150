"""The first report, which is written before the further cells and the GGUF files are scored."""

from dataclasses import replace
from typing import Any

import pytest

from assistant_builder.atomic_io import read_json, read_jsonl, write_jsonl
from assistant_builder.study import Study
from evals.report.build import write_report
from evals.report.schema import Report
from evals.report.to_come import to_come_text
from tests.measured_study import with_seeds
from tests.synthetic_study import at_first_verdict, done, finished_study, new_study

KEPT = ("verdict", "primary_metric", "sentence", "objection", "basis", "power", "taught")
"""Entries of the headline."""


def finished(name: str, *, seeds: int = 1, **changes: Any) -> Study:
    """A finished study; of several seeds, too."""
    study = finished_study(name, **changes)
    if seeds > 1:
        study.write_config(study.config.with_changes({"seeds": seeds}))
        with_seeds(study, seeds)
        for step in study.steps:
            done(study, step, 9.0)
        write_report(study)
    return study


def report(study: Study) -> Report:
    return Report.load(study.folder / "report.json")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"seeds": 2},
        {"arms": ["qlora"]},
        {"eval__primary_metric": "auto", "eval__margin": None},
        {"eval__cells": ["L16", "Q4", "B16"]},
    ],
    ids=str,
)
def test_the_headline_of_the_first_report_is_that_of_the_final_one(changes):
    final = read_json(finished("library", **changes).folder / "report.json")
    study = at_first_verdict(finished("early", **changes))
    first = read_json(study.folder / "report.json")
    final["verdict"], first["verdict"] = (
        {**found["verdict"], "frozen": {**found["verdict"]["frozen"], "earlier": None}}
        for found in (final, first)
    )
    for name in KEPT:
        assert repr(first[name]).replace("early", "library") == repr(final[name]), name
    assert final["to_come"] == [] and "cells" in first["to_come"]
    assert len(first["cells"]) <= len(final["cells"])


def test_a_cell_that_is_scored_later_leaves_no_item_out_of_the_verdict():
    study = finished_study(eval__primary_metric="exact_match", eval__margin=0.05)
    first = report(study)
    path = study.cell_folder("QD") / "samples.jsonl"
    samples = read_jsonl(path)
    del samples[0]["metrics"]["exact_match"]
    write_jsonl(path, samples)
    write_report(study)
    final = report(study)
    assert final.verdict == first.verdict and first.verdict.n == len(samples)
    # differences between cells are those of their figures, on the items that all have
    assert {row.n for row in final.contrasts if row.metric == "exact_match"} == {len(samples) - 1}


def test_what_is_still_to_come_is_said():
    study = finished_study()
    study.write_config(study.config.with_changes({"formats.types": ["Q8_0"]}))
    at_first_verdict(study)
    early, page = report(study), (study.folder / "report.html").read_text()
    assert early.to_come == ["cells", "files"]
    assert to_come_text(early).endswith(
        "Still to come: further comparisons and the files for other programs."
    )
    assert to_come_text(early) in page
    assert "This is still being scored" in page and "Set eval.noise_floor" not in page
    assert not early.formats and not early.formats_skipped
    assert "flip_noise" not in {warning.code for warning in early.warnings}
    done(study, "evaluate", 200.0)
    write_report(study)
    assert report(study).to_come == ["files"]
    done(study, "formats", 9.0)
    write_report(study)
    assert report(study).to_come == [] and to_come_text(report(study)) == ""
    assert "Still to come" not in (study.folder / "report.html").read_text()


def test_what_the_settings_leave_out_is_not_to_come():
    study = finished_study(eval__noise_floor=False, eval__fidelity=False)
    page = (at_first_verdict(study).folder / "report.html").read_text()
    assert "Set eval.noise_floor: true" in page and "Set eval.fidelity: true" in page


def test_when_the_first_verdict_was_there_is_kept():
    study = at_first_verdict(finished_study())
    seconds = study.first_verdict_seconds
    assert study.state == "running" and seconds is not None
    # the times of the steps, and that of this process, which no run has started
    assert seconds > sum(study.step(step).seconds for step in study.steps)
    study.record_first_verdict()  # by the run that carries on
    assert study.status()["first_verdict_seconds"] == study.first_verdict_seconds == seconds
    study.delete_step_outputs("evaluate", scores=False)
    assert study.first_verdict_seconds is None


def test_a_run_without_a_break_counts_from_its_start(monkeypatch):
    study = at_first_verdict(finished_study())
    study.delete_step_outputs("evaluate", scores=False)
    study.write_run_record("running")
    begun = study.run_record()["time"]
    study.write_step(replace(study.step("data"), started=begun + 1))
    monkeypatch.setattr("assistant_builder.study.study.time.time", lambda: begun + 61)
    study.record_first_verdict()
    assert study.first_verdict_seconds == 61


def test_a_finished_study_of_an_earlier_release_has_its_verdict():
    study = finished_study()
    assert study.state == "succeeded" and not list(study.evals_folder.glob("*.verdict.json"))
    times = [study.step(step).seconds for step in study.steps]
    assert study.status()["first_verdict_seconds"] == pytest.approx(sum(times))
    before = read_json(study.folder / "report.json")
    del before["to_come"]
    assert Report.model_validate(before).to_come == []
    assert new_study("fresh").status()["first_verdict_seconds"] is None
