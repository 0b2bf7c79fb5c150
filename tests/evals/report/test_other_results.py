"""What report.json says beside the headline, each figure against one computed another way.

Blind votes in the report.
"""

import math
import os

import numpy as np
import pytest
from filelock import FileLock
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from assistant_builder.atomic_io import read_json, read_jsonl, write_json, write_jsonl
from assistant_builder.chat.conversation import Answer, Choice, Turn
from assistant_builder.chat.feedback import record_vote, votes_file
from assistant_builder.data import Message
from assistant_builder.errors import ChangedInputsError, EvaluationError, StudyError
from assistant_builder.runner import invalidation
from assistant_builder.runner.run import rerender_report
from assistant_builder.study import Study
from assistant_builder.study.admin import rename_study
from assistant_builder.study.steps import StepRecord
from evals.compare import holm, paired_comparison
from evals.report.build import build_report
from evals.report.other_results import report_lacks_votes, votes
from evals.report.render import render_html, render_markdown
from tests.evals.report.synthetic_study import Recipe, full_recipe, write_study
from tests.measured_study import samples_of, with_failed_task, with_judge, with_seeds, with_tasks
from tests.synthetic_study import finished_study
from tests.typed_report import as_report

# fidelity


def test_fidelity_is_the_files_with_labels(full):
    fidelity = build_report(full)["fidelity"]
    wanted = read_json(full.folder / "evals" / "fidelity.json")["pairs"]
    assert [
        {key: pair[key] for key in pair if key not in ("label", "said")}
        for pair in fidelity["pairs"]
    ] == wanted
    assert all(pair["label"] for pair in fidelity["pairs"])
    assert (
        "by 0.0470 nats on average (median 0.0103, 99th percentile 0.5170)" in fidelity["sentence"]
    )
    assert "it is 0.0690 nats" in fidelity["sentence"]
    assert "the same at 93.8% of the positions" in fidelity["sentence"]


def test_fidelity_that_was_skipped_or_is_off(full):
    write_json(
        full.folder / "evals" / "fidelity.json",
        {"pairs": [], "skipped": "both bases do not fit", "inputs": {}},
    )
    report = build_report(full)
    assert {**report["fidelity"], "said": None} == {
        "said": None,
        "pairs": [],
        "skipped": "both bases do not fit",
        "sentence": "Not compared token by token: both bases do not fit.",
    }
    assert "fidelity_skipped" in {entry["code"] for entry in report["warnings"]}
    full.write_config(full.config.with_changes({"eval.fidelity": False}))
    report = build_report(full)
    assert report["fidelity"] is None
    assert "fidelity_skipped" not in {entry["code"] for entry in report["warnings"]}


# noise floor


def test_noise_floor_counts_what_other_batches_change(full):
    report = build_report(full)
    floor = report["flips"]["noise_floor"]
    again = {
        cell: read_jsonl(full.cell_folder(f"noise/{cell}") / "samples.jsonl")
        for cell in ("L16", "Q4")
    }
    for cell, record in floor["cells"].items():
        pairs = list(zip(samples_of(full, cell), again[cell], strict=True))
        right = [(a["metrics"]["exact_match"], b["metrics"]["exact_match"]) for a, b in pairs]
        assert (record["lost"], record["gained"]) == (right.count((1, 0)), right.count((0, 1)))
        assert record["text_differs"] == sum(a["answer"] != b["answer"] for a, b in pairs) > 0
        assert record["largest_nll_per_token_shift"] == pytest.approx(
            max(abs(a["nll"] - b["nll"]) / a["tokens"] for a, b in pairs)
        )
        assert (record["batch_size"], record["other_batch_size"], record["items"]) == (16, 7, 208)
    asked = {cell: [s for s in found if s["answerable"]] for cell, found in again.items()}
    losses = {
        cell: sum(s["nll"] for s in found) / sum(s["tokens"] for s in found)
        for cell, found in asked.items()
    }
    assert floor["delta"] == pytest.approx(losses["Q4"] - losses["L16"], abs=1e-12)
    assert floor["verdict"] == "no worse"
    assert "with batch size 7" in floor["sentence"]
    assert "of 208 items right or wrong for 16-bit LoRA" in floor["sentence"]
    full.write_config(full.config.with_changes({"eval.noise_floor": False}))
    assert build_report(full)["flips"]["noise_floor"] is None


def test_a_second_scoring_of_other_items_is_refused(full):
    path = full.cell_folder("noise/Q4") / "samples.jsonl"
    write_jsonl(path, read_jsonl(path)[1:])
    with pytest.raises(EvaluationError, match="Q4 with another batch size lacks 1 items of L16"):
        build_report(full)


# tasks


def test_tasks_are_paired_by_document(full):
    task = build_report(full)["tasks"]["ab_retention"]
    right = {
        cell: {
            line["doc_id"]: line["metrics"]["acc"]
            for line in read_jsonl(full.cell_folder(cell) / "tasks" / "ab_retention.jsonl")
        }
        for cell in ("B16", "B4", "L16", "Q4")
    }
    assert (task["metric"], task["items"], task["error"]) == ("acc", 120, None)
    for cell, share in task["cells"].items():
        assert share == pytest.approx(sum(right[cell].values()) / 120)
    rows = {row["name"]: row for row in task["contrasts"]}
    assert list(rows) == ["L16-B16", "Q4-B4", "Q4-L16", "B4-B16"]
    for name, row in rows.items():
        before, after = right[row["baseline"]], right[row["candidate"]]
        lost = [doc for doc in before if before[doc] > after[doc]]
        gained = [doc for doc in before if before[doc] < after[doc]]
        assert task["flips"][name] == {"lost": lost, "gained": gained}
        assert row["p_value"] == pytest.approx(
            mcnemar([[0, len(gained)], [len(lost), 0]], exact=True).pvalue
        )
        assert row["delta"] == pytest.approx((len(gained) - len(lost)) / 120, abs=1e-12)
        assert row["p_value_holm"] == row["p_value"]
    assert "tuning made it forget" in task["sentence"] and "On 120 questions" in task["sentence"]


def test_other_tasks_their_direction_and_the_adjustment_over_tasks(full):
    with_tasks(full, "arc_made_up", 40)
    for cell, level in (("B16", 9.0), ("L16", 12.0), ("Q4", 12.5)):
        lines = [
            {
                "doc_id": f"part/{n}",
                "document": {},
                "likelihoods": [],
                "metrics": {
                    "word_perplexity": level + n % 3 + 0.1 * (n % 7) * len(cell),
                    "text": "no number",
                },
            }
            for n in range(40)
        ]
        write_jsonl(full.cell_folder(cell) / "tasks" / "wiki.jsonl", lines)
    full.write_config(
        full.config.with_changes({"eval.tasks": ["wiki", "arc_made_up", "never_run"]})
    )
    tasks = build_report(full)["tasks"]
    assert list(tasks) == ["ab_retention", "wiki", "arc_made_up"]
    wiki = tasks["wiki"]
    assert wiki["label"] == "wiki"
    assert wiki["metric"] == "word_perplexity"
    assert wiki["flips"] == {}
    assert [row["name"] for row in wiki["contrasts"]] == ["L16-B16", "Q4-L16"]
    assert not wiki["contrasts"][0]["higher_is_better"]
    assert "worse after tuning" in wiki["sentence"] and "forget" not in wiki["sentence"]
    family = [
        next(row for row in task["contrasts"] if row["name"] == "L16-B16")
        for task in tasks.values()
    ]
    assert [row["p_value_holm"] for row in family] == pytest.approx(
        holm([row["p_value"] for row in family])
    )


def test_only_documents_of_every_cell_are_compared(full):
    path = full.cell_folder("B4") / "tasks" / "ab_retention.jsonl"
    write_jsonl(path, read_jsonl(path)[:100])
    task = build_report(full)["tasks"]["ab_retention"]
    assert task["items"] == 100
    for row in task["contrasts"]:
        assert row["n"] == 100
        assert (
            abs(row["delta"] - (task["cells"][row["candidate"]] - task["cells"][row["baseline"]]))
            <= 1e-12
        )


def test_a_task_without_numbers_has_an_error(full):
    task = build_report(with_failed_task(full))["tasks"]["arc_easy"]
    assert (task["items"], task["cells"], task["contrasts"]) == (0, {}, [])
    assert (
        task["sentence"]
        == "arc_easy cannot be shown: it has no score that is a number for each document."
    )


# seeds


def test_spread_over_seeds(full_report):
    seeds = full_report["seeds"]
    assert seeds["count"] == 3
    assert seeds["metric"] == "nll_per_token"
    assert [run["seed"] for run in seeds["runs"]] == [1, 2, 3]
    deltas = [run["delta"] for run in seeds["runs"]]
    for run in seeds["runs"]:
        assert run["delta"] == pytest.approx(run["Q4"] - run["L16"], abs=1e-12)
        assert run["ci"][0] < run["delta"] < run["ci"][1] and run["twins"]
    spread = seeds["spread"]
    interval = stats.ttest_1samp(deltas, 0).confidence_interval(0.95)
    assert spread["delta"]["ci"] == pytest.approx(list(interval))
    assert spread["delta"]["sd"] == pytest.approx(np.std(deltas, ddof=1))
    for cell in ("L16", "Q4"):
        values = [run[cell] for run in seeds["runs"]]
        assert spread[cell] == pytest.approx(
            {
                "mean": np.mean(values),
                "sd": np.std(values, ddof=1),
                "min": min(values),
                "max": max(values),
            }
        )
    assert spread["within_arm_sd"] == pytest.approx(
        math.hypot(spread["L16"]["sd"], spread["Q4"]["sd"]) / math.sqrt(2)
    )
    assert "smaller than the effect of another seed within an arm" in seeds["sentence"]
    assert "Every seed gives the same verdict: no worse." in seeds["sentence"]


def test_a_difference_larger_than_the_spread_is_called_larger():
    study = write_study(Recipe(harm=0.1, seeds=3))
    with_seeds(study, 3, move=lambda run, cell: 0.001 * run)
    report = build_report(study)
    assert "larger than the effect of another seed within an arm" in report["seeds"]["sentence"]


def test_one_seed_has_a_sentence_with_the_limitation_and_the_remedy(report):
    seeds = report["seeds"]
    assert (seeds["count"], seeds["spread"], len(seeds["runs"])) == (1, None, 1)
    assert seeds["runs"][0]["delta"] == report["verdict"]["delta"]
    assert seeds["runs"][0]["ci"] == report["verdict"]["ci"]
    assert "not the variation of training" in seeds["sentence"]
    assert "seeds: 3 in study.yaml" in seeds["sentence"] and "--set seeds=3" in seeds["sentence"]
    assert any(entry["text"] == seeds["sentence"] for entry in report["warnings"])


# judge


def test_the_judges_preference(full):
    judge = build_report(full)["judge"]
    outcomes = [line["outcome"] for line in read_jsonl(full.folder / "evals" / "judge.jsonl")]
    points = [
        {"Q4": 1.0, "tie": 0.5, "L16": 0.0}[outcome] for outcome in outcomes if outcome != "failed"
    ]
    assert judge["preference"] == pytest.approx(np.mean(points))
    assert (judge["wins"], judge["losses"], judge["failures"]) == tuple(
        map(outcomes.count, ("Q4", "L16", "failed"))
    )
    clusters = [
        s["cluster"]
        for s, outcome in zip(samples_of(full, "L16"), outcomes, strict=False)
        if outcome != "failed"
    ]
    result = paired_comparison([1 - p for p in points], points, clusters=clusters, bounds=(0, 1))
    assert judge["ci"] == pytest.approx([0.5 + result.ci_low / 2, 0.5 + result.ci_high / 2])
    assert judge["p_value"] == result.p_value
    assert (
        f"preferred QLoRA on {judge['wins']} and 16-bit LoRA on {judge['losses']}"
        in judge["sentence"]
    )


def test_without_clusters_the_judge_is_tested_by_the_sign_test():
    study = write_study(full_recipe(clustered=False, judge=False))
    assert build_report(study)["judge"] is None
    judge = build_report(with_judge(study, failures=0, agree=1.0))["judge"]
    assert judge["p_value"] == pytest.approx(
        stats.binomtest(judge["wins"], judge["wins"] + judge["losses"]).pvalue
    )


@pytest.mark.parametrize(
    ("change", "key", "empty"),
    [({"eval.judge_url": None}, "judge", None), ({"eval.retention": False}, "tasks", {})],
)
def test_what_is_switched_off_is_left_out(full, change, key, empty):
    full.write_config(full.config.with_changes(change))
    assert build_report(full)[key] == empty


VOTES: tuple[Choice, ...] = ("a", "a", "b", "a", "tie", "both bad")


def vote(study: Study) -> None:
    """QLoRA stands left: 3 for it, 1 for LoRA, a tie and both bad."""
    for number, choice in enumerate(VOTES):
        turn = Turn(
            f"<b>{number}</b>",
            {"qlora": Answer("4"), "lora": Answer("16")},
            ("qlora", "lora"),
            blind=True,
        )
        record_vote(study, turn, [Message("user", turn.question)], choice)


def test_votes_are_added_up_with_their_test_and_interval():
    study = finished_study()
    assert votes(study) is None
    vote(study)
    found = votes(study)
    assert found is not None
    assert found["votes"] == 6
    assert found["qlora"] == 3
    assert found["lora"] == 1
    assert found["ties"] == 1
    assert found["both_bad"] == 1
    assert found["p_value"] == 1.0
    likelihood = [math.comb(4, 3) * share**3 * (1 - share) for share in found["ci"]]
    assert likelihood == pytest.approx([0.05 / 5] * 2), (
        "a twentieth of the mean over all shares, which is 1/5"
    )
    assert found["left"] == 3 and found["questions"] == 6
    sentence = str(found["sentence"])
    assert "Compact 3, Full 1, 1 the same, 1 both bad: no preference shown, p = 1.00." in sentence
    assert "75.0% of the votes" in sentence


@pytest.fixture
def unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs of every step as its record has them."""
    monkeypatch.setattr(
        invalidation, "step_inputs", lambda study, step, **_: study.step(step).inputs
    )


def test_votes_come_into_the_report_afterwards_without_making_the_study_look_changed(unchanged):
    study = finished_study()
    report = read_json(study.folder / "report.json")
    assert report["votes"] is None
    for said in (render_html(as_report(report)), render_markdown(as_report(report))):
        assert "There are no votes yet" in said
    inputs = {"anything": "as it was"}
    study.write_step(StepRecord("report", state="succeeded", inputs=inputs))
    assert not report_lacks_votes(study)
    vote(study)
    os.utime(votes_file(study), (0, 0))  # the clock was set back meanwhile
    assert report_lacks_votes(study)
    rerender_report(study)
    assert not report_lacks_votes(study)
    assert study.state == "succeeded" and study.step("report").inputs == inputs
    report = read_json(study.folder / "report.json")
    assert report["votes"]["qlora"] == 3
    for said in (render_html(as_report(report)), render_markdown(as_report(report))):
        assert "Compact 3, Full 1" in said and "Chose the answer on the left" in said


def test_a_renamed_study_has_its_report_written_again_under_its_new_name(unchanged):
    study = rename_study(finished_study("before"), "after")
    assert read_json(study.folder / "report.json")["study"] == "before"
    rerender_report(study)
    assert read_json(study.folder / "report.json")["study"] == "after"
    assert study.state == "succeeded"


def test_no_report_of_scores_that_are_not_there_or_no_longer_fit(unchanged):
    study = finished_study()
    before = (study.folder / "report.html").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(invalidation, "step_inputs", lambda study, step, **_: {"train.rank": 8})
        with pytest.raises(ChangedInputsError):
            rerender_report(study)
    with FileLock(study.folder / ".lock"), pytest.raises(StudyError, match="is running"):
        rerender_report(study)
    study.write_step(StepRecord("evaluate", state="failed"))
    with pytest.raises(StudyError, match="has not been evaluated"):
        rerender_report(study)
    assert (study.folder / "report.html").read_bytes() == before
