"""The atlas of finished studies and bundles."""

import json
from pathlib import Path
from typing import Any

import pytest

import assistant_builder as ab
from assistant_builder.atomic_io import read_json, write_json
from assistant_builder.config import StudyConfig
from assistant_builder.errors import ConfigError, EvaluationError, StudyError
from assistant_builder.study import Study
from evals.atlas import atlas, declared, effects_of, markdown, run_missing
from evals.bundle.container import read_bundle
from evals.bundle.write import write_bundle
from evals.report.build import write_report
from tests.commands import command
from tests.evals.bundle.test_bundle import resealed
from tests.synthetic_study import finished_study

PROVENANCE = {
    "created": "2026-01-01T00:00:00Z",
    "assistant_builder": "0.2.0",
    "git_revision": None,
    "packages": {"torch": "2.13.0"},
    "hardware": {"cpu": "any", "cores": 2},
}


def study(name: str, shift: float) -> Study:
    """A finished study of questions of its own, whose 4-bit loss is higher by ``shift`` nats per token."""
    made = finished_study(name)
    path = write_report(made).with_suffix(".json")
    report = read_json(path)
    for row in report["contrasts"]:
        if (row["name"], row["metric"]) == ("Q4-L16", "nll_per_token"):
            row |= {key: row[key] + shift for key in ("delta", "ci_low", "ci_high")}
    write_json(path, report)
    write_json(made.folder / "declaration.json", {"heldout_sha256": name})
    write_json(made.folder / "provenance.json", PROVENANCE)
    return made


def test_studies_are_pooled_and_the_one_that_differs_is_named(tmp_path):
    studies = [study(name, shift) for name, shift in (("a", 0), ("b", 0.01), ("c", 0.3))]
    found = atlas([each.name for each in studies])
    group = next(each for each in found["groups"] if each["metric"] == "nll_per_token")
    assert (group["storage"], group["approach"], group["unit"]) == (
        "nf4",
        "memory",
        "nats per token",
    )
    harms = [row["harm"] for row in group["studies"]]
    assert harms[1] - harms[0] == pytest.approx(0.01) and harms[2] - harms[0] == pytest.approx(0.3)
    pooled = group["pooled"]
    assert min(harms) < pooled["mean"] < max(harms) and pooled["i_squared"] > 0.9
    assert sum(pooled["weights"]) == pytest.approx(1)
    text = markdown(found)
    assert "| a (" in text and "**pooled**" in text and "a new study like these" in text
    assert "Without c, which moves it most" in text
    target = tmp_path / "atlas.md"
    command(f"atlas a b c --to {target}")
    assert target.read_text(encoding="utf-8") == text
    assert json.loads(command("atlas a b c --json").stdout) == json.loads(json.dumps(found))


def test_the_same_questions_are_not_pooled_twice_and_one_study_is_not_pooled():
    first, second = study("a", 0), study("b", 0.1)
    write_json(second.folder / "declaration.json", read_json(first.folder / "declaration.json"))
    with pytest.raises(EvaluationError, match="b and a have the same test questions"):
        atlas(["a", "b"])
    alone = atlas(["a", "a"])
    assert all(group["pooled"] is None for group in alone["groups"])
    assert "One study is not pooled" in markdown(alone)


def test_a_bundle_has_the_effects_of_its_study_and_a_changed_one_is_refused(tmp_path):
    ab.example()
    path = write_bundle("example", tmp_path / "a.bundle")
    ours, theirs = (
        {(each.storage, each.approach, each.metric): each.harm for each in effects_of(name)}
        for name in (str(path), "example")
    )
    assert ours and ours == {key: pytest.approx(theirs[key]) for key in ours}
    with pytest.raises(EvaluationError, match="example and example have the same test questions"):
        atlas(["example", str(path)])
    path.write_bytes(path.read_bytes().replace(b'"delta"', b'"delto"', 1))
    with pytest.raises(EvaluationError, match="does not hold"):
        effects_of(str(path))


@pytest.fixture
def atlas_file(tmp_path, monkeypatch) -> Path:
    """An atlas of three studies, which are finished at once; "c" fails the first time."""
    for name in "abc":
        rows = f"question,answer\nWhat is {name}?,It is {name}.\n"
        (tmp_path / f"{name}.csv").write_text(rows, encoding="utf-8")
    ran: list[str] = []

    def create(config: StudyConfig, data: Path, before: Any) -> Study:
        before(config)
        ran.append(config.name)
        if config.name == "four-bit-c" and ran.count(config.name) == 1:
            raise StudyError("no space left", where=config.name)
        return study(config.name, 0.1 * len(ran))

    monkeypatch.setattr(declared, "create_or_update", create)
    monkeypatch.setattr(declared, "run_study", lambda study, **rest: None)
    path = tmp_path / "four-bit.yaml"
    path.write_text(
        "note: One base alone.\nsettings: {approaches: [memory], seeds: 3}\n"
        "studies: [a.csv, b.csv, {source: c.csv, settings: {seeds: 1}}]\n",
        encoding="utf-8",
    )
    return path


def test_missing_studies_are_run_and_their_cells_stay(atlas_file):
    found = declared.read_atlas(atlas_file)
    seeds = [(each.config.seeds, each.config.approaches) for each in found.studies]
    assert seeds == [(3, ["memory"]), (3, ["memory"]), (1, ["memory"])]
    assert atlas([str(atlas_file)])["missing"] == [f"four-bit-{each}" for each in "abc"]
    with pytest.raises(EvaluationError, match="1 of 3 studies failed .four-bit-c: no space left"):
        run_missing(found)
    assert [each.config.name for each in found.missing] == ["four-bit-c"]
    run_missing(found)
    pooled = atlas([str(atlas_file)])
    group = next(each for each in pooled["groups"] if each["metric"] == "nll_per_token")
    assert [each["study"] for each in group["studies"]] == [f"four-bit-{each}" for each in "abc"]
    relative = [100 * each["harm"] / each["reference"] for each in group["studies"]]
    assert min(relative) < group["relative"]["mean"] < max(relative)
    text = markdown(pooled)
    assert command(f"atlas {atlas_file} --run").stdout.strip() == text.strip()
    assert text.startswith("One base alone.\n\n## Overview") and "Not run yet" not in text
    items = sum(each["items"] for each in group["studies"])
    quote = next(line for line in text.splitlines() if line.startswith("> ") and "Loss" in line)
    assert f"in 3 studies with {items} held-out questions" in quote
    assert "This neither confirms nor contradicts “1–3 %”." in quote
    cell = found.studies[0].cell
    assert "It is a" not in cell.read_text(encoding="utf-8")
    run_missing(found)  # nothing is left to do
    mine = study("mine", 0.2)
    more = atlas([str(atlas_file), mine.name])["groups"]
    assert max(len(each["studies"]) for each in more) == 4


def test_a_cell_of_other_settings_or_data_is_not_pooled(atlas_file):
    with pytest.raises(EvaluationError):
        run_missing(declared.read_atlas(atlas_file))
    before = atlas_file.read_text(encoding="utf-8")
    atlas_file.write_text(before.replace("seeds: 3", "seeds: 2"), encoding="utf-8")
    with pytest.raises(EvaluationError, match="other settings or data"):
        atlas([str(atlas_file)])
    atlas_file.write_text(before, encoding="utf-8")
    with (atlas_file.parent / "a.csv").open("a", encoding="utf-8") as file:
        file.write("And b?,That too.\n")
    with pytest.raises(EvaluationError, match="other settings or data"):
        atlas([str(atlas_file)])


def test_a_cell_of_values_that_cannot_be_pooled_is_damaged(atlas_file):
    with pytest.raises(EvaluationError):
        run_missing(declared.read_atlas(atlas_file))
    cell = declared.read_atlas(atlas_file).studies[0].cell
    before = read_json(cell)
    first = before["effects"][0]
    for changed in (
        [first | {"ci_low": -1e308, "ci_high": 1e308}],
        [first | {"ci_low": first["ci_high"]}],
        [first | {"pairs": -1}],
        [first | {"items": -5}],
        [first | {"answer_words": 1e300}],
        [first | {"reference": 1e-300}],
        [first | {"study": str(n), "heldout": str(n)} for n in range(20_000)],
    ):
        write_json(cell, before | {"effects": changed})
        with pytest.raises(StudyError, match="damaged"):
            atlas([str(atlas_file)])


def test_cells_are_not_written_through_a_link(atlas_file, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (atlas_file.parent / "cells").symlink_to(elsewhere)
    with pytest.raises(ConfigError, match="is a link"):
        declared.read_atlas(atlas_file)
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("studies: []", "studies: List should have at least 1 item"),
        ("studies: [gone.csv]", "there is no file gone.csv"),
        (f"studies: [{'a' * 5000}]", "there is no file aaa"),
        ("studies: [a.csv, ./a.csv]", "two studies would have the name 'four-bit-a'"),
        ("studies: [a.csv]\nsettings: {train.rang: 3}", "train.rang: no such setting"),
        ("- a", "not an atlas"),
        ("studies: [a.csv", "not an atlas"),
    ],
)
def test_a_wrong_atlas_is_an_error_that_says_what(atlas_file, content, said):
    atlas_file.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        declared.read_atlas(atlas_file)


def test_texts_of_a_bundle_cannot_form_markup(tmp_path):
    ab.example()
    values, _ = read_bundle(write_bundle("example", tmp_path / "a.bundle"))
    text = "x\n\n![p](http://a.example/p.png) <script>"
    values["bundle"] |= {"name": text, "storage": text, "approach": text}
    values["provenance"]["base_model"]["name"] = text
    found = markdown(atlas([str(resealed(values, tmp_path / "b.bundle"))]))
    assert "example" in found and not any(mark in found for mark in ("![", "<", "://", "\n\nx"))
    values["provenance"] = None
    with pytest.raises(EvaluationError, match="has the wrong type"):
        effects_of(str(resealed(values, tmp_path / "b.bundle")))


@pytest.mark.parametrize(
    "change",
    [
        {"config": {}},
        {"config": {"model": None}},
        {"delta": 1e308},
        {"delta": 5.0},
        {"metric": "x\n![p](http://a.example)"},
    ],
)
def test_odd_reports_are_errors_or_text(change):
    made = study("a", 0)
    report = read_json(made.folder / "report.json")
    target = report if "config" in change else report["contrasts"][0]
    target.update(change)
    write_json(made.folder / "report.json", report)
    try:
        assert "![" not in markdown(atlas(["a"]))
    except EvaluationError:
        return
