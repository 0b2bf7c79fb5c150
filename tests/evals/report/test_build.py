"""report.json: the contract's keys, the arithmetic, the verdict in words, and what is refused."""

import json
import math
import re
from typing import Any

import pytest

from assistant_builder.atomic_io import file_hash, read_json, read_jsonl, write_json, write_jsonl
from assistant_builder.errors import EvaluationError
from assistant_builder.study import home
from evals.declaration import freeze
from evals.report.build import build_report, write_report
from evals.report.render import render_html, render_markdown
from evals.report.schema import VERSION
from tests.evals.report.synthetic_study import Recipe, write_study
from tests.texts import parts
from tests.typed_report import as_report


def contrast(report: dict[str, Any], name: str, metric: str) -> dict[str, Any]:
    return next(
        row for row in report["contrasts"] if (row["name"], row["metric"]) == (name, metric)
    )


def test_contract_keys(report):
    assert (
        set("version study primary_metric verdict cells contrasts resources".split())
        <= report.keys()
    )
    assert report["version"] == VERSION
    assert report["study"] == "lighthouses"
    assert report["primary_metric"] == "nll_per_token"
    assert {"outcome", "metric", "margin", "delta", "ci"} <= report["verdict"].keys()
    assert set(report["cells"]) == {"B16", "B4", "L16", "Q4"}
    for cell in report["cells"].values():
        assert cell["items"] == 208
        assert cell["metrics"]["nll_per_token"] == cell["nll_per_token"]
    for row in report["contrasts"]:
        assert {"name", "metric", "delta", "ci_low", "ci_high", "p_value", "n"} <= row.keys()
        assert row["ci_low"] <= row["delta"] <= row["ci_high"]
    wanted = set(
        "base_bytes adapter_bytes peak_memory_bytes train_seconds tokens_per_second".split()
    )
    assert all(wanted <= report["resources"][arm].keys() for arm in ("lora", "qlora"))


def test_loss_is_weighted_by_tokens(study):
    cell = build_report(study)["cells"]["Q4"]
    rows = [
        row for row in read_jsonl(study.cell_folder("Q4") / "samples.jsonl") if row["answerable"]
    ]
    nll, tokens = sum(row["nll"] for row in rows), sum(row["tokens"] for row in rows)
    assert cell["nll_per_token"] == pytest.approx(nll / tokens, rel=1e-14)
    assert cell["perplexity"] == pytest.approx(math.exp(cell["nll_per_token"]))


def test_ten_arms_have_fifteen_contrasts(report_of_ten):
    names = {row["name"] for row in report_of_ten["contrasts"]}
    assert names == set(
        """
        Q4-L16 L4-L16 Q4-L4 B4-B16 Q16-Q4 QD-Q4 QR-QD QR-Q4 LM-L16 LR-LM LR-L16 Q4-LR QR-LR
        L16-B16 Q4-B4
    """.split()
    )


@pytest.mark.parametrize(
    ("recipe", "outcome", "words"),
    [
        (Recipe(flips=0.0), "no worse", "4-bit is no worse"),
        (
            Recipe(harm=0.015, harm_noise=0.02, flips=0.0),
            "no worse",
            "measurably worse, but within the 0.03 nats per token allowed",
        ),
        (Recipe(harm=-0.05, harm_noise=0.05, flips=0.0), "no worse", "it is better"),
        (Recipe(harm=0.09), "worse", "all of it beyond the 0.03 nats per token allowed"),
        (
            Recipe(harm=0.03, harm_noise=0.02),
            "worse",
            "the harm may exceed the 0.03 nats per token allowed",
        ),
        (Recipe(harm=0.02, harm_noise=0.5), "inconclusive", "the result is inconclusive"),
    ],
)
def test_verdict_in_words(recipe, outcome, words):
    report = build_report(write_study(recipe))
    assert report["verdict"]["outcome"] == outcome
    assert words in report["sentence"]
    assert "200 held-out questions" in report["sentence"]


def test_another_metric_beyond_its_margin_makes_the_verdict_worse():
    report = build_report(write_study(Recipe(flips=0.25)))
    primary, second, declines = report["verdict"]["bounds"]
    assert primary["passed"] and declines["passed"] and not second["passed"]
    assert report["verdict"]["outcome"] == "worse"
    assert (
        "worse in another respect, beyond the margin: share of exactly right answers"
        in report["sentence"]
    )


def test_possible_harm_is_named_unadjusted_beside_a_reassuring_verdict():
    settings = {"eval.primary_metric": "exact_match", "eval.margin": 0.5}
    report = build_report(write_study(Recipe(flips=0.3, settings=settings)))
    verdict = report["verdict"]
    assert verdict["outcome"] == "no worse"
    assert {"exact_match", "token_f1"} <= set(verdict["possible_harm"])
    assert report["objection"].startswith("Possible harm by another measure: token F1")
    assert report["sentence"].endswith(report["objection"])
    assert 'class="verdict mixed"' in render_html(as_report(report))


def test_a_bound_that_is_not_shown_makes_the_verdict_inconclusive():
    report = build_report(write_study(Recipe(flips=0.0, settings={"eval.decline_margin": 0.01})))
    assert report["verdict"]["outcome"] == "inconclusive"
    assert [bound["passed"] for bound in report["verdict"]["bounds"]] == [True, True, False]
    assert (
        "is not ruled out for the share of answerable questions that it declines"
        in report["sentence"]
    )
    assert (
        "held-out questions" in report["verdict"]["action"]
        or "16-bit" in report["verdict"]["action"]
    )


def test_what_was_changed_after_scoring_is_shown_at_the_verdict():
    study = write_study(Recipe(flips=0.0))
    assert "may have been chosen afterwards" in " ".join(build_report(study)["basis"])
    freeze(study)
    report = build_report(study)
    frozen = report["verdict"]["frozen"]
    assert frozen["changes"] == [] and frozen["declared"]["margin"] == 0.03
    assert any(frozen["sha256"][:12] in line for line in report["basis"])
    study.write_config(study.config.with_changes({"eval.margin": 0.5}))
    again = build_report(study)
    assert again["verdict"]["margin"] == 0.03, "the verdict is by what was declared"
    assert "Changed after scoring and not applied: margin, was 0.03" in " ".join(
        render_html(as_report(again)).split()
    )
    path = study.folder / "declaration.json"
    record = read_json(path)
    write_json(path, {**record, "declared": {**record["declared"], "margin": 0.5}})
    assert "its hash does not hold" in " ".join(build_report(study)["basis"])
    path.unlink()
    freeze(study)
    assert "were used 1 time before on this computer" in " ".join(build_report(study)["basis"])


def test_a_test_that_grew_after_it_was_seen_is_judged_at_the_level_of_a_second_look():
    first, other, grown = (
        write_study(Recipe(name=name, towns=towns, flips=0.02))
        for name, towns in (("first", 4), ("again", 4), ("grown", 8))
    )
    for study in (first, other, grown):
        freeze(study)
    verdicts = {study.name: build_report(study)["verdict"] for study in (first, other, grown)}
    assert [(verdict["look"], verdict["level"]) for verdict in verdicts.values()] == [
        (1, 0.95),
        (1, 0.95),
        (2, pytest.approx(0.975)),
    ], "the same questions again are listed, not counted"
    (grown.folder / "declaration.json").unlink()
    text = " ".join(build_report(grown)["basis"])
    assert "look 2" in text, "a declaration that is deleted gives back no look"
    freeze(grown)
    report = build_report(grown)
    assert "This is look 2 at these questions" in " ".join(report["basis"])
    assert "97.5% interval" in report["sentence"] and "97.5% interval" in render_html(
        as_report(report)
    )
    (home() / "declarations.jsonl").unlink()
    (grown.folder / "declaration.json").unlink()
    freeze(grown)
    alone = build_report(grown)["verdict"]
    width = {
        name: each["ci"][1] - each["ci"][0]
        for name, each in (("alone", alone), ("second", verdicts["grown"]))
    }
    assert width["second"] > width["alone"]


def test_the_questions_that_are_asked_for_are_counted_at_the_level_of_the_next_look():
    verdict = build_report(
        write_study(Recipe(clustered=False, harm=0.0, harm_noise=0.3, flips=0.0))
    )["verdict"]
    bound = verdict["bounds"][0]
    assert (verdict["outcome"], bound["passed"]) == ("inconclusive", False)
    asked_for = int(
        re.search(r"with ([\d,]+) facts about half", verdict["action"])[1].replace(",", "")
    )
    harm, high = bound["delta"], bound["ci"][1]
    at_this_level = verdict["n_clusters"] * ((high - harm) / (bound["margin"] - harm)) ** 2
    assert 1.25 * at_this_level < asked_for < 1.45 * at_this_level + 10


def test_the_margin_of_the_loss_is_a_share_of_what_tuning_gained():
    report = build_report(write_study(Recipe(settings={"eval.margin": None})))
    gain = report["cells"]["B16"]["nll_per_token"] - report["cells"]["L16"]["nll_per_token"]
    tuned = contrast(report, "L16-B16", "nll_per_token")
    assert report["verdict"]["margin"] == pytest.approx(0.03 * -tuned["ci_high"]), (
        "the gain is measured on these items"
    )
    assert 0.8 * 0.03 * gain < report["verdict"]["margin"] < 0.03 * gain


def test_questions_to_decline_and_uncovered_ones_are_no_part_of_the_headline(study):
    report = build_report(study)
    assert contrast(report, "Q4-L16", "exact_match")["n"] == 200
    assert contrast(report, "Q4-L16", "right_decline")["n"] == 8
    assert report["verdict"]["estimand"] == "wordings" and "uncovered" not in report
    training = read_jsonl(study.split_file("train"))
    kept = [row for row in training if not (row["cluster"] or "").startswith("Aldermoor")]
    write_jsonl(study.split_file("train"), kept)
    record = read_json(study.folder / "data" / "split.json")
    record["hashes"]["train"] = file_hash(study.split_file("train"))
    write_json(study.folder / "data" / "split.json", record)
    fewer = build_report(study)
    assert fewer["verdict"]["n"] == 175
    assert fewer["uncovered"]["items"] == fewer["verdict"]["uncovered"] == 25
    assert fewer["uncovered"]["cells"]["Q4"].keys() >= {"nll_per_token", "exact_match"}


def test_the_headline_about_facts_from_the_samples_by_another_route():
    """The difference and its interval by statsmodels, from samples.jsonl alone."""
    import statsmodels.api as sm

    study = write_study(
        Recipe(
            flips=0.5,
            settings={
                "eval.primary_metric": "exact_match",
                "eval.margin": 0.05,
                "eval.estimand": "facts",
            },
        )
    )
    report = build_report(study)
    verdict = report["verdict"]
    method = contrast(report, "Q4-L16", "exact_match")["method"]
    assert method.startswith("cluster-robust t interval (CR2, 39 degrees of freedom); whole")
    cells = [
        {
            row["item"]: row
            for row in read_jsonl(study.cell_folder(cell) / "samples.jsonl")
            if row["answerable"]
        }
        for cell in ("L16", "Q4")
    ]
    differences = [
        cells[1][item]["metrics"]["exact_match"] - cells[0][item]["metrics"]["exact_match"]
        for item in cells[0]
    ]
    groups = [
        sorted({row["cluster"] for row in cells[0].values()}).index(row["cluster"])
        for row in cells[0].values()
    ]
    fit = sm.OLS(differences, [1.0] * len(differences)).fit(
        cov_type="cluster", cov_kwds={"groups": groups}, use_t=True
    )
    low, high = fit.conf_int()[0]
    assert verdict["delta"] == pytest.approx(fit.params[0], abs=1e-12)
    # statsmodels has CR1, 200 / 199 apart
    assert verdict["ci"] == pytest.approx([low, high], abs=1e-3)


def test_few_items_are_called_few():
    report = build_report(write_study(Recipe(towns=1, clustered=False, unanswerable=0)))
    assert "25 held-out questions (too few for a firm verdict)" in report["sentence"]
    assert any(
        entry["level"] == "serious" and "too few items" in entry["text"]
        for entry in report["warnings"]
    )


def test_a_missing_headline_cell_is_refused():
    study = write_study(Recipe(cells=("B16", "L16")))
    with pytest.raises(
        EvaluationError, match="Q4 has not been scored.*assistant-builder run lighthouses"
    ):
        write_report(study)
    assert not (study.folder / "report.json").exists()


def test_cells_scored_on_other_items_are_refused(study):
    path = study.cell_folder("Q4") / "samples.jsonl"
    write_jsonl(path, read_jsonl(path)[:-3])
    with pytest.raises(EvaluationError, match="Q4 lacks 3 items of L16.*--redo"):
        build_report(study)


def test_scores_that_contradict_the_samples_are_refused(study):
    path = study.cell_folder("B4") / "scores.json"
    write_json(path, {**read_json(path), "nll_per_token": 9.0})
    with pytest.raises(EvaluationError, match="scores.json of B4 contradicts its samples"):
        build_report(study)


def test_an_unscored_primary_metric_is_refused():
    study = write_study(
        Recipe(metrics=("exact_match",), settings={"eval.primary_metric": "similarity"})
    )
    with pytest.raises(
        EvaluationError, match="similarity was not scored.*nll_per_token, exact_match"
    ):
        build_report(study)


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(cells=("L16", "Q4"), metrics=()),
        Recipe(clustered=False, metrics=("exact_match", "chrf")),
    ],
)
def test_less_than_everything_still_makes_a_report(recipe):
    study = write_study(recipe)
    for path in ("provenance.json", "data/findings.json", "data/split.json", "data/embedding.json"):
        (study.folder / path).unlink()
    for arm in ("lora", "qlora"):
        for file in ("config.json", "summary.json", "metrics.jsonl"):
            (study.arm_folder(arm) / file).unlink()
    path = write_report(study)
    page, text = path.read_text(), (study.folder / "report.md").read_text()
    for said in parts(
        """
        no provenance record | no curves | time and memory are unknown | this cannot be shown
        """
    ):
        assert said in page
    assert "time and memory are unknown" in text


def test_a_metric_that_only_some_items_carry(study):
    for cell in ("L16", "Q4"):
        path = study.cell_folder(cell) / "samples.jsonl"
        rows = read_jsonl(path)
        for row in rows[:8]:
            del row["metrics"]["exact_match"]
        write_jsonl(path, rows)
    report = build_report(study)
    for row in report["contrasts"]:
        figures = [
            report["cells"][row[role]]["metrics"][row["metric"]]
            for role in ("candidate", "baseline")
        ]
        assert row["delta"] == pytest.approx(figures[0] - figures[1], abs=1e-12)
    assert contrast(report, "Q4-L16", "exact_match")["n"] == 192


def test_power_reports_the_detectable_difference(report):
    loss, exact = report["power"]
    row = contrast(report, "Q4-L16", "nll_per_token")
    assert loss["detectable"] == pytest.approx(
        2.8016 * (row["ci_high"] - row["ci_low"]) / 2 / 1.96, rel=1e-3
    )
    assert (loss["unit"], loss["units"], loss["target"]) == ("items", 200, 0.03)
    assert exact["target"] == 0.02 and exact["needed"] > 200


def test_leaks_left_in_are_a_serious_warning():
    report = build_report(write_study(Recipe(leaks=2)))
    leaks = report["data"]["leaks"]
    assert (leaks["text"], leaks["embedding"], leaks["removed"], leaks["left"]) == (0, 2, 0, 1)
    assert any(
        entry["code"] == "leaks_left" and entry["level"] == "serious"
        for entry in report["warnings"]
    )


def test_all_files_are_rendered_from_the_json(study):
    path = write_report(study)
    report = json.loads((study.folder / "report.json").read_text())
    assert path == study.folder / "report.html"
    assert path.read_text() == render_html(as_report(report))
    assert (study.folder / "report.md").read_text() == render_markdown(as_report(report))
