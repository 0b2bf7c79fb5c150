"""The typed report: what opens, what does not, and its shipped JSON schema."""

import json
from pathlib import Path
from typing import Any

import pytest

from assistant_builder.atomic_io import read_json, write_json
from assistant_builder.errors import StudyError
from evals.report.build import write_report
from evals.report.schema import SCHEMA, VERSION, Report, schema_text

LEAST: dict[str, Any] = {
    "primary_metric": "exact_match",
    "verdict": {"outcome": "worse", "metric": "exact_match"},
    "cells": {"Q4": {"items": 3, "metrics": {"exact_match": 0.5}}},
}


def written(path: Path, record: Any) -> Path:
    write_json(path / "report.json", record)
    return path / "report.json"


def test_a_report_is_read_as_it_was_written(full):
    write_report(full)
    path = full.folder / "report.json"
    report = Report.load(path)
    assert report.version == VERSION and report.study == full.name
    assert report.verdict.outcome == "inconclusive" and report.verdict.bounds[0].margin > 0
    assert report.contrasts[0].name == "Q4-L16" and report.compares
    assert report.model_dump(mode="json", exclude_unset=True) == read_json(path)


def test_every_entry_of_a_report_is_declared(full):
    write_report(full)
    report = Report.load(full.folder / "report.json")
    assert not report.model_extra and not report.verdict.model_extra
    assert not report.seeds.model_extra and not report.data.model_extra
    for listed in (report.contrasts, report.verdict.bounds, report.power, report.exports):
        assert listed and not any(row.model_extra for row in listed)


def test_missing_entries_have_defaults_and_unknown_ones_are_kept(tmp_path):
    report = Report.load(written(tmp_path, {**LEAST, "of_the_future": [1]}))
    assert report.version == 1 and report.verdict.bounds == [] and report.flips is None
    assert set(report.trained_arms) == {"qlora", "lora"}
    assert report.model_extra == {"of_the_future": [1]}


@pytest.mark.parametrize(
    ("change", "entry"),
    [
        ({"verdict": None}, "verdict"),
        ({"verdict": {"outcome": "fine"}}, "verdict.outcome"),
        ({"items": [{"item": 7}]}, "items.0.item"),
        ({"cells": {"Q4": {"items": "3"}}}, "cells.Q4.items"),
    ],
)
def test_a_broken_file_names_the_entry_and_what_to_do(tmp_path, change, entry):
    with pytest.raises(StudyError, match=f"{entry} is missing or of a wrong type.*Delete the file"):
        Report.load(written(tmp_path, {**LEAST, **change}))


def test_rows_of_items_are_not_copied():
    rows = [{"item": "a", "of_the_future": 1}]
    report = Report.model_validate({**LEAST, "items": rows})
    assert report.items[0] is rows[0]


def test_the_shipped_schema_is_that_of_the_types():
    assert SCHEMA.read_text(encoding="utf-8") == schema_text(), (
        "write it again: python -m evals.report.schema"
    )
    assert json.loads(SCHEMA.read_text(encoding="utf-8"))["properties"]["verdict"]
