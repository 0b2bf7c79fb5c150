"""The figures of studies in README and docs: read from reports, kept with their origin, a column for each processor."""

import json
from dataclasses import replace

import pytest

import assistant_builder as ab
from assistant_builder.errors import EvaluationError
from benchmarks import doc_tables, study_figures
from benchmarks.study_figures import figures, kept, main, table


def test_figures_are_those_of_the_report_and_say_where_they_come_from(home):
    report = ab.example().report
    found = figures(report, ["good"])
    copy, lora = (found.shares[name] for name in ("copy", "lora+facts"))
    assert (found.answerable, found.to_decline) == (152, 24)
    assert lora.right == round(100 * report.cells["L16"].metrics["exact_match"], 1) > copy.right
    assert lora.rightly == 12 and found.file == "" and found.four_bit.startswith("no worse (−1.3; ")
    shown = table([found])
    assert f"release {found.release}:\ncommit {found.commit}, {found.date}, " in shown
    assert f"| right, %: LoRA, 16-bit | {lora.right} |" in shown and "| not written |" in shown


def test_two_processors_are_two_columns(home):
    one = figures(ab.example().report, [])
    place = "another with AMX, 8 cores, bfloat16"
    other = replace(one, processor=place, instructions="AMX")
    shown = table([one, other])
    assert "| example | " in shown and "| AMX |" in shown and other.processor in shown
    assert "| second, AMX |" in table([one, replace(other, study="second")])
    assert shown.count(one.date) == 2 and shown.count("| 152, 24 | 152, 24 |") == 1


def test_a_study_without_a_commit_is_refused(home):
    report = ab.example().report
    unknown = report.model_copy(update={"provenance": {**report.provenance, "git_revision": None}})
    with pytest.raises(EvaluationError, match="commit"):
        figures(unknown, [])


def test_an_entry_replaces_that_of_the_same_study_and_processor(home, tmp_path, monkeypatch):
    before = json.loads(study_figures.FILE.read_text(encoding="utf-8"))
    path = tmp_path / "study_figures.json"
    path.write_text(json.dumps(before), encoding="utf-8")
    monkeypatch.setattr(study_figures, "FILE", path)
    monkeypatch.setattr(doc_tables, "write_sections", lambda: None)
    ab.example()
    for _ in range(2):
        main(["example"])
    assert [each.study for each in kept()] == [*(each["study"] for each in before), "example"]
    assert kept()[-1].conclusion[0].startswith("Is it good enough?")
