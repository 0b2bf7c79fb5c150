"""GGUF files in the report: levels, the smallest file that is no worse, table and picture."""

import re
from typing import Any

import pytest

from assistant_builder.atomic_io import read_json, write_json, write_jsonl
from assistant_builder.errors import EvaluationError
from assistant_builder.export_formats import file_to_train_for
from assistant_builder.serving.llamacpp import served_type
from assistant_builder.study import Study
from evals.declaration import freeze
from evals.report.build import build_report, write_report
from evals.report.render import render_html, render_markdown
from tests.measured_study import samples_of, with_formats
from tests.synthetic_study import LARGE, evaluated, new_study, trained, with_data
from tests.typed_report import as_report

FINE, CLOSE, BAD = 0, 13, 60
"""Right answers that a file loses; ``CLOSE`` is within the margin by the interval of 95 %, not by that of 97.5 %."""
RULES: dict[str, Any] = {
    "eval__primary_metric": "exact_match",
    "eval__margin": 0.08,
    "eval__decline_margin": 0.08,
}


def files(lost: dict[tuple[str, str], int], **changes: Any) -> Study:
    """A study with scored files of the types that are named."""
    types = list(dict.fromkeys(type for _, type in lost))
    study = new_study("ferries", LARGE, **{"formats__types": types, **RULES, **changes})
    return with_formats(evaluated(trained(with_data(study))), lost)


def verdicts(report: dict[str, Any]) -> dict[tuple[str, str], str]:
    return {(row["arm"], row["name"]): row["verdict"] for row in report["formats"]}


def levels(report: dict[str, Any]) -> dict[tuple[str, str], float]:
    return {(row["arm"], row["name"]): row["level"] for row in report["formats"]}


def test_the_smallest_file_that_is_no_worse_is_named():
    study = files(
        {
            ("lora", "Q8_0"): FINE,
            ("lora", "Q4_0"): BAD,
            ("qlora", "Q8_0"): FINE,
            ("qlora", "Q4_0"): FINE,
        }
    )
    write_report(study)
    report = read_json(study.folder / "report.json")
    assert verdicts(report) == {
        ("lora", "Q8_0"): "no worse",
        ("lora", "Q4_0"): "worse",
        ("qlora", "Q8_0"): "no worse",
        ("qlora", "Q4_0"): "no worse",
    }
    assert levels(report) == {
        ("lora", "Q8_0"): 0.95,
        ("lora", "Q4_0"): 0.95,
        ("qlora", "Q8_0"): 0.975,
        ("qlora", "Q4_0"): 0.975,
    }
    assert report["smallest_no_worse"] == {"name": "Q4_0", "arm": "qlora"}
    assert served_type(study, "qlora") == "Q4_0" and served_type(study, "lora") == "Q8_0"
    row = report["formats"][1]
    assert row["delta"] == pytest.approx(
        row["metrics"]["exact_match"] - report["formats"][0]["metrics"]["exact_match"]
    )
    assert row["flips"] == {"lost": BAD, "gained": 0} and row["ci"][0] < row["delta"] < row["ci"][1]
    assert report["formats"][0]["same_answers"] == {
        "same": row["same_answers"]["of"],
        "of": row["same_answers"]["of"],
    }
    assert row["same_answers"]["same"] == row["same_answers"]["of"] - BAD
    assert (
        set("bytes tensor_types tokens_per_second first_token_seconds resident_bytes".split())
        <= row.keys()
    )
    assert (row["kl"], row["kl_items"]) == (0.0432, 32)
    assert report["formats_sentence"].startswith(
        "The smallest file that is no worse than Full in PyTorch (L16) is Compact as Q4_0 (92 MB)"
    )
    assert "--arm qlora --format gguf --type Q4_0" in report["formats_action"]


def test_types_that_are_chosen_after_a_look_are_tested_at_the_level_of_another_one():
    study = files({("lora", "Q8_0"): CLOSE, ("lora", "Q4_0"): BAD})
    freeze(study)
    assert levels(build_report(study))["lora", "Q8_0"] == 0.95
    study.write_config(study.config.with_changes({"formats.types": ["Q8_0"]}))
    again = build_report(with_formats(study, {("lora", "Q8_0"): CLOSE}))
    assert levels(again) == {("lora", "Q8_0"): pytest.approx(0.975)}
    assert verdicts(again)["lora", "Q8_0"] != "no worse"
    assert again["verdict"]["level"] == 0.95, "the twins are not tested again"


def test_a_file_that_was_trained_through_its_rounding_is_compared_with_one_rounded_afterwards():
    study = files(
        {("lora", "Q8_0"): FINE, ("lora", "Q4_0"): BAD, ("qat", "Q4_0"): CLOSE},
        arms=["lora", "qat"],
        formats__types=["Q8_0", "Q4_0"],
    )
    assert study.config.file_types("lora") == ["Q8_0", "Q4_0"]
    assert study.config.file_types("qat") == ["Q4_0"]
    write_report(study)
    report = read_json(study.folder / "report.json")
    (row,) = report["formats_through"]
    assert (row["arm"], row["against"], row["name"], row["metric"]) == tuple(
        "qat lora Q4_0 exact_match".split()
    )
    assert row["delta"] == pytest.approx((BAD - CLOSE) / row["n"]) and row["ci"][0] > 0
    assert row["sentence"].replace("_", "\\_") in " ".join(
        render_markdown(as_report(report)).split()
    )
    assert row["sentence"] in " ".join(render_html(as_report(report)).split())
    assert "against that of Full, which was rounded afterwards: +" in row["sentence"]
    assert served_type(study, "qat") == "Q4_0"
    assert render_html(as_report(without(report, "formats_through")))


def without(report: dict[str, Any], key: str) -> dict[str, Any]:
    """A report as earlier versions wrote it."""
    return {name: value for name, value in report.items() if name != key}


@pytest.mark.parametrize(("lost", "offered"), [(BAD, True), (FINE, False)])
def test_training_through_the_rounding_is_offered_where_a_file_loses(lost, *, offered):
    study = files({("lora", "Q4_0"): lost, ("qlora", "Q4_0"): lost})
    write_report(study)
    action = read_json(study.folder / "report.json")["formats_action"]
    assert ("--set arms=lora,qlora,qat --set train.qat_type=Q4_0" in action) == offered
    report = read_json(study.folder / "report.json")
    assert file_to_train_for(report, study.config.arms) == ("Q4_0" if offered else None)
    assert file_to_train_for(report, ["lora", "qat"]) is None
    assert file_to_train_for(None, ["lora"]) is None


def test_every_bound_of_the_verdict_must_hold():
    study = files({("lora", "Q8_0"): FINE})
    samples = samples_of(study, "formats/lora-Q8_0")
    for sample in samples:
        sample["nll"] += 0.5 * sample["tokens"]  # right, and much less sure
    scores = study.format_scores_folder / "lora-Q8_0" / "scores.json"
    write_jsonl(scores.with_name("samples.jsonl"), samples)
    record = read_json(scores)
    write_json(scores, {**record, "nll_per_token": record["nll_per_token"] + 0.5})
    (row,) = build_report(study)["formats"]
    assert row["verdict"] == "worse"
    assert [bound["outcome"] for bound in row["bounds"][:2]] == ["no worse", "worse"]
    write_jsonl(scores.with_name("samples.jsonl"), [{**sample, "nll": None} for sample in samples])
    write_json(scores, {**record, "nll_per_token": None})
    (row,) = build_report(study)["formats"]
    assert row["verdict"] == "inconclusive" and row["not_shown"] == ["nll_per_token"]


def test_scores_of_other_items_are_refused():
    study = files({("lora", "Q8_0"): FINE})
    path = study.format_scores_folder / "lora-Q8_0" / "samples.jsonl"
    write_jsonl(path, samples_of(study, "formats/lora-Q8_0")[1:])
    with pytest.raises(EvaluationError, match="lora Q8_0 lacks 1 items"):
        build_report(study)


def test_the_section_has_table_and_picture():
    report = build_report(
        files(
            {
                ("lora", "Q8_0"): FINE,
                ("lora", "Q4_0"): BAD,
                ("qlora", "Q8_0"): FINE,
                ("qlora", "Q4_0"): BAD,
            }
        )
    )
    page, text = render_html(as_report(report)), render_markdown(as_report(report))
    section = page[page.index('<section id="formats">') : page.index('<section id="bounds">')]
    assert section.count("<tr") == 5
    assert "smallest no worse" in section
    assert section.count(", 97.5%</small>") == 3
    assert 'class="allowed"' in section and section.count('class="spread ') == 4
    places = [float(found) for found in re.findall(r'c[xy]="([\d.-]+)%"', section)]
    assert places and all(0 <= place <= 100 for place in places)
    assert "Bretz" in page and "Bretz" in text
    for shown in (section, text):
        assert "0.0011" in shown
        assert "0.0432" in shown
        assert "from that of L16, in nats per token over 32" in shown
    table = text[text.index("### Which file to ship") : text.index("### What the verdict rests on")]
    assert (
        "| Q4\\_0 (Full (LoRA, 16-bit)) | 91.7 MB |" in table
        or "(Full (LoRA, 16-bit)) | 92 MB |" in table
    )
    assert "88 tokens/s" in table
    assert report["formats_sentence"].split(":")[0] in table.replace("\\_", "_")


def test_files_that_were_scored_without_a_divergence_are_shown():
    study = files({("lora", "Q8_0"): FINE})
    path = study.format_scores_folder / "lora-Q8_0" / "scores.json"
    write_json(
        path, {key: value for key, value in read_json(path).items() if not key.startswith("kl")}
    )
    report = build_report(study)
    assert report["formats"][0]["kl"] is None
    assert "next-token distribution from" not in render_html(as_report(report))


def test_without_scores_the_report_says_why_or_nothing():
    study = files({})
    assert "formats" not in build_report(study)
    assert "Which file" not in render_html(as_report(build_report(study)))
    study.write_config(study.config.with_changes({"formats.types": "Q8_0"}))
    write_json(
        study.format_scores_folder / "skipped.json",
        {"reason": "No GGUF file, because: pip install it"},
    )
    report = build_report(study)
    assert report["formats"] == [] and report["smallest_no_worse"] is None
    assert "pip install it" in render_html(
        as_report(report)
    ) and "pip install it" in render_markdown(as_report(report))
