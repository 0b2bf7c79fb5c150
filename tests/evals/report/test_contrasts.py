"""Where the difference comes from: identities, attribution, exports, untuned baselines, and what it cost."""

from typing import Any

import pytest

from assistant_builder.atomic_io import read_jsonl, write_jsonl
from evals.compare import holm, paired_comparison
from evals.report.build import build_report
from evals.report.number_format import share_lost
from tests.evals.report.synthetic_study import Recipe, full_recipe, write_study
from tests.measured_study import samples_of
from tests.texts import parts

RECORD = dict[str, Any]


def rows_of(report: RECORD, name: str) -> dict[str, RECORD]:
    return {row["metric"]: row for row in report["contrasts"] if row["name"] == name}


def test_every_delta_is_the_difference_of_the_figures_also_against_baselines(full_report):
    figures = {**full_report["cells"], **full_report["baselines"]}
    names = {row["name"] for row in full_report["contrasts"]}
    assert {"L16-copy", "Q4-copy", "L16-retrieval", "Q4-retrieval"} <= names
    for row in full_report["contrasts"]:
        before, after = (
            figures[row[role]]["metrics"][row["metric"]] for role in ("baseline", "candidate")
        )
        assert abs(row["delta"] - (after - before)) <= 1e-12
    assert "nll_per_token" not in rows_of(full_report, "L16-copy")
    assert "nll_per_token" in rows_of(full_report, "L16-retrieval")
    assert full_report["baselines"]["copy"]["nll_per_token"] is None
    assert full_report["baselines"]["copy"]["perplexity"] is None


def test_holm_goes_over_the_metrics_of_a_pair(full_report):
    rows = list(rows_of(full_report, "Q4-retrieval").values())
    assert [row["p_value_holm"] for row in rows] == pytest.approx(
        holm([row["p_value"] for row in rows])
    )


def test_attribution_leads_from_one_level_to_the_other(full_report):
    attribution = full_report["attribution"]
    assert "a clear loss" in attribution["sentence"] and "a clear gain" in attribution["sentence"]


@pytest.mark.parametrize(
    "recipe",
    [Recipe(), full_recipe(settings={"eval.primary_metric": "exact_match", "eval.margin": 0.02})],
)
def test_no_attribution_without_l4_on_the_metric(recipe):
    assert build_report(write_study(recipe))["attribution"] is None


def test_exports_are_judged_by_the_rule_of_the_verdict(full):
    report = build_report(full)
    rows = {row["cell"]: row for row in report["exports"]}
    assert list(rows) == ["Q4", "Q16", "QD", "QR", "L16", "L4", "LM", "LR"]
    keeps = {"no worse": "yes", "worse": "no", "inconclusive": "cannot be told"}
    for cell, row in rows.items():
        if cell == row["measured"]:
            assert (row["keeps"], row["delta"]) == ("measured", None)
            continue
        before, after = (
            [s for s in samples_of(full, name) if s["answerable"]]
            for name in (row["measured"], cell)
        )
        result = paired_comparison(
            [s["nll"] / s["tokens"] for s in before],
            [s["nll"] / s["tokens"] for s in after],
            weights=[s["tokens"] for s in before],
            margin=0.03,
            higher_is_better=False,
            resamples=2000,
        )
        assert (row["keeps"], row["ci_high"]) == (keeps[result.verdict], result.ci_high)
    assert {row["keeps"] for row in rows.values()} >= {"yes", "no", "measured"}
    assert rows["Q4"]["bytes"] == 110_000_000 + 19_500_000 and rows["QR"]["bytes"] == 110_000_000
    assert rows["L4"]["exact_match"] is None and rows["LM"]["exact_match"] is not None
    loss = {name: cell["nll_per_token"] for name, cell in report["cells"].items()}
    assert rows["QR"]["lost_share"] == pytest.approx(
        (loss["QR"] - loss["Q4"]) / (loss["B4"] - loss["Q4"])
    )
    assert rows["LR"]["lost_share"] == pytest.approx(
        (loss["LR"] - loss["L16"]) / (loss["B16"] - loss["L16"])
    )
    assert rows["Q4"]["lost_share"] is None


def test_export_loss_is_reported_as_a_share_of_the_gain_from_tuning():
    texts = [str(share_lost({"lost_share": share})) for share in (None, 0.02, 0.6, 1.2)]
    assert texts == parts(
        """
        some quality | some quality | most of what tuning gained | all that tuning gained
        """
    )
    right = build_report(
        write_study(
            full_recipe(
                forced=(), settings={"eval.primary_metric": "exact_match", "eval.margin": 0.02}
            )
        )
    )
    share = {name: cell["metrics"]["exact_match"] for name, cell in right["cells"].items()}
    row = next(row for row in right["exports"] if row["cell"] == "QR")
    assert row["lost_share"] == pytest.approx(
        (share["Q4"] - share["QR"]) / (share["Q4"] - share["B4"])
    )


def test_tuning_is_set_against_each_baseline():
    study = write_study(full_recipe())
    path = study.cell_folder("baselines/copy") / "samples.jsonl"
    rows = read_jsonl(path)
    tuned = {sample["item"]: sample["metrics"] for sample in samples_of(study, "L16")}
    for row in rows:  # as good as LoRA by similarity, always right by exact match
        row["metrics"] |= {"similarity": tuned[row["item"]]["similarity"], "exact_match": 1.0}
    write_jsonl(path, rows)
    report = build_report(study)
    found = {(entry["cell"], entry["baseline"]): entry for entry in report["beats_untuned"]}
    assert set(found) == {(cell, name) for cell in ("L16", "Q4") for name in ("copy", "retrieval")}
    entry = found["L16", "copy"]
    assert entry["worse"] == ["exact_match"]
    assert entry["not_beaten"] == ["similarity"]
    assert entry["arm"] == "lora"
    assert {"token_f1", "rouge_l", "chrf"} <= set(entry["beaten"])
    share = report["cells"]["L16"]["metrics"]["exact_match"]
    assert entry["sentence"].startswith(
        "Against copying the answer of the nearest training question, 16-bit LoRA is worse in share of exactly right "
        f"answers ({100 * share:.1f}% against 100.0%) and not clearly better in similarity"
    )
    assert not found["L16", "retrieval"]["not_beaten"]
    assert found["L16", "retrieval"]["sentence"].startswith(
        "16-bit LoRA clearly beats the untuned base"
    )
    warning = next(entry for entry in report["warnings"] if entry["code"] == "not_better_than_copy")
    assert warning["level"] == "serious"
    assert warning["text"].startswith("Tuning does not beat copying")
    assert "; QLoRA is worse on 1 of 6 metrics" in warning["text"]
    assert "want of evidence" not in warning["text"]
    assert not any(entry["code"] == "not_better_than_retrieval" for entry in report["warnings"])


def test_cost_and_time_of_every_run():
    study = write_study(full_recipe(seeds=3, settings={"eval.price_per_hour": 1.5}))
    report = build_report(study)
    lora = report["resources"]["lora"]
    assert lora["cost"] == pytest.approx(1.5 * 141.3 / 3600)
    assert lora["seconds_per_step"] == pytest.approx(141.3 / 60)
    assert lora["train_seconds_all"] == [
        141.3,
        pytest.approx(141.3 * 1.04),
        pytest.approx(141.3 * 1.06),
    ]
    study.write_config(study.config.with_changes({"eval.price_per_hour": None, "seeds": 1}))
    resources = build_report(study)["resources"]
    assert resources["lora"]["cost"] is None and resources["qlora"]["train_seconds_all"] == [133.9]


def test_scores_of_cells_no_longer_asked_for_are_left_out(full):
    assert (full.cell_folder("LR") / "scores.json").exists()
    full.write_config(full.config.with_changes({"eval.cells": ["B16", "B4", "L16", "Q4"]}))
    report = build_report(full)
    assert set(report["cells"]) == {"B16", "B4", "L16", "Q4"}
    assert [row["cell"] for row in report["exports"]] == ["Q4", "L16"]
