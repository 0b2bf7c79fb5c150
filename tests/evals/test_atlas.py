"""The atlas of finished studies and bundles."""

import json

import pytest

import assistant_builder as ab
from assistant_builder.atomic_io import read_json, write_json
from assistant_builder.errors import EvaluationError
from assistant_builder.study import Study
from evals.atlas import atlas, effects_of, markdown
from evals.bundle.container import read_bundle
from evals.bundle.write import write_bundle
from evals.report.build import write_report
from tests.commands import command
from tests.evals.bundle.test_bundle import resealed
from tests.synthetic_study import finished_study


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
