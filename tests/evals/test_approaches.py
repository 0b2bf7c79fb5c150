"""Studies with two approaches: their files, their comparison, and the recommended approach."""

from dataclasses import replace
from typing import Any

import pytest

from assistant_builder.arms import LORA, QLORA
from assistant_builder.atomic_io import read_json, read_jsonl, write_json, write_jsonl
from assistant_builder.errors import ConfigError
from assistant_builder.retrieval.decline import score_rule
from assistant_builder.study import Study
from evals.answers import AFTER_TURNS, further_prompts
from evals.formats import recommended
from evals.report.approaches import add_approaches
from evals.report.build import build_report, write_report
from evals.report.conclusion import conclude
from evals.report.render import render_html, render_markdown
from tests.measured_study import with_formats
from tests.synthetic_study import LARGE, evaluated, finished_study, new_study, trained, with_data
from tests.typed_report import as_report

CELLS = [LORA.untuned_cell, LORA.cell, QLORA.cell]


def both(right: dict[str, int], *, main: str = "grounded", **changes: Any) -> Study:
    """A scored study with both approaches; ``right``: of ten answers of each way of building it, the right ones."""
    other = "memory" if main == "grounded" else "grounded"
    study = with_data(
        new_study(
            "both",
            LARGE,
            approaches=[main, other],
            eval__primary_metric="exact_match",
            eval__margin=0.05,
            eval__cells=CELLS,
            eval__fidelity=False,
            eval__noise_floor=False,
            eval__bootstrap_resamples=1000,
            **changes,
        )
    )
    for view in study.views:
        evaluated(trained(view))
        grounded = view.config.grounded
        for name, way in (
            ("baselines/copy", "copy"),
            (LORA.untuned_cell, "base+facts"),
            (LORA.cell, "lora+facts" if grounded else "lora"),
            (QLORA.cell, "qlora+facts" if grounded else "qlora"),
        ):
            if way in right:
                answer(view, name, right[way])
    return study


def answer(view: Study, name: str, right: int) -> None:
    """Replace the answers of a cell: of ten in a row the first ``right`` ones are right."""
    folder = view.cell_folder(name)
    like = view.cell_folder(LORA.cell)
    samples = read_jsonl((folder if folder.exists() else like) / "samples.jsonl")
    for place, sample in enumerate(samples):
        good = place % 10 < right
        sample["answer"] = sample["reference"] if good else "no"
        sample["metrics"] |= {"exact_match": float(good)}
        if "baselines" in name:
            sample["nll"] = None
    write_jsonl(folder / "samples.jsonl", samples)
    write_json(folder / "scores.json", {"cell": name, "items": len(samples)})


def test_each_approach_has_its_own_files():
    study = new_study(approaches=["grounded", "memory"])
    grounded, memory = study.views
    assert (grounded.config.approaches, memory.config.approaches) == (["grounded"], ["memory"])
    assert study.config.approaches == ["grounded", "memory"]
    assert study.arm_folder("lora") == grounded.arm_folder("lora") != memory.arm_folder("lora")
    assert (
        memory.arm_folder("lora-2")
        == study.arm_folder("lora-2+memory")
        == memory.arm_folder("lora-2+memory")
    )
    assert memory.cell_folder("L16") == study.folder / "evals+memory" / "L16"
    assert [
        step for step in study.steps if step.startswith("train-")
    ] == "train-lora train-qlora train-lora+memory train-qlora+memory".split()
    assert study.of_run("qlora+memory").config.approaches == ["memory"]
    assert study.of_run("qlora").config.approaches == ["grounded"]
    assert new_study("other", approaches=["memory", "grounded"]).steps[2:6] == tuple(
        "train-lora train-qlora train-lora+facts train-qlora+facts".split()
    )


def test_a_step_seen_through_its_approach_is_the_same_step():
    study = trained(new_study(approaches=["grounded", "memory"]).of_approach("memory"))
    assert study.step("train-lora").step == "train-lora+memory"
    plain = Study.open(study.name)
    assert plain.step("train-lora+memory").state == "succeeded"
    assert plain.step("train-lora").state == "queued"


def test_an_approach_that_is_not_trained_is_an_error_with_the_command_that_adds_it():
    with pytest.raises(ConfigError, match="approaches=memory,grounded"):
        new_study(approaches=["memory"]).of_approach("grounded")


@pytest.mark.parametrize("main", ["grounded", "memory"])
def test_the_better_approach_is_recommended_and_all_are_compared(main):
    study = both(
        {"copy": 8, "base+facts": 2, "lora": 6, "qlora": 6, "lora+facts": 9, "qlora+facts": 9},
        main=main,
    )
    write_report(study)
    report = read_json(study.folder / "report.json")
    assert report["recommended_approach"] == report["approach"] == "grounded"
    assert [
        row["name"] for row in report["approaches"]
    ] == "copy base+facts lora qlora lora+facts qlora+facts".split()
    outcomes = {row["name"]: row["outcome"] for row in report["approach_comparisons"]}
    assert outcomes["qlora+facts-copy"] == outcomes["qlora+facts-qlora"] == "better"
    assert outcomes["qlora-copy"] == "worse"
    assert study.recommended.approach == "grounded"
    assert "with facts" in report["approach_sentence"]
    other = read_json(study.folder / "report+memory.json")
    assert other["approach"] == "memory"
    assert other["cells"]["Q4"]["metrics"]["exact_match"] == pytest.approx(0.6, abs=0.02)
    assert study.of_approach("memory").report_file == study.folder / "report+memory.json"
    rows = report["approach_comparisons"]
    assert len(rows) == 8
    assert all(row["p_value_holm"] >= row["p_value"] for row in rows)
    smallest = min(rows, key=lambda row: row["p_value"])
    assert smallest["p_value_holm"] == pytest.approx(min(1.0, 8 * smallest["p_value"]))
    for text in (render_html(as_report(report)), render_markdown(as_report(report))):
        assert "Ways of building the assistant" in text
        assert "QLoRA with facts" in text
        assert "Copying the best fact" in text
        assert "how well they read a fact that was found" in " ".join(text.split())


def test_memory_is_recommended_where_it_is_better():
    study = both(
        {"copy": 3, "base+facts": 2, "lora": 9, "qlora": 9, "lora+facts": 4, "qlora+facts": 4},
        formats__types=["Q8_0"],
    )
    # its files are scored, before there is a report
    assert recommended(study).config.approaches == ["memory"]
    with_formats(study.of_approach("memory"), {("lora", "Q8_0"): 0})
    write_report(study)
    assert study.recommended.config.approaches == ["memory"]
    assert [row["name"] for row in read_json(study.folder / "report.json")["formats"]] == ["Q8_0"]
    assert "formats" not in read_json(study.folder / "report+facts.json")
    assert read_json(study.folder / "report.json")["cells"]["Q4"]["metrics"]["exact_match"] > 0.8
    assert (study.folder / "report+facts.html").is_file()


def test_a_test_about_other_subjects_does_not_decide_between_the_approaches():
    study = both(
        {"copy": 3, "base+facts": 2, "lora": 9, "qlora": 9, "lora+facts": 4, "qlora+facts": 4}
    )
    reports = {view.config.approaches[0]: build_report(view) for view in study.views}
    asked = reports["grounded"]["taught"]["items"]
    assert reports["grounded"]["taught"]["covered"] == asked > 0
    add_approaches(study, reports)
    reports["memory"]["baselines"]["copy"]["metrics"]["exact_match"] = (
        0.9  # not what the comparisons are made with
    )
    assert (
        "better than copying the best fact (87 right"
        in conclude(as_report(reports["memory"])).good_enough
    )
    for report in reports.values():
        report["taught"]["covered"] = asked // 2 - 1
    assert add_approaches(study, reports) == "grounded"
    found = reports["grounded"]
    assert found["approach_sentence"].endswith("Use it if your users will ask about such subjects.")
    assert "from memory is better on this test" in found["approach_sentence"]
    assert conclude(as_report(found)).notes[0] == (
        f"Of the {asked} test questions, {asked // 2 - 1} have an answer that the training data has, too."
    )


def test_the_main_approach_is_recommended_where_the_comparison_is_inconclusive():
    same = dict.fromkeys(("copy", "base+facts", "lora", "qlora", "lora+facts", "qlora+facts"), 7)
    study = both(same, main="memory")
    reports = {view.config.approaches[0]: build_report(view) for view in study.views}
    assert add_approaches(study, reports) == "memory"


def test_a_report_from_memory_alone_does_not_mention_approaches():
    report = read_json(finished_study().folder / "report.json")
    assert not [key for key in report if "approach" in key]
    assert "Ways of building" not in render_html(as_report(report))
    assert not [line for line in report["basis"] if "a fact that was found" in line]


def test_settings_from_before_the_choice_mean_memory():
    study = new_study()
    text = (study.folder / "study.yaml").read_text(encoding="utf-8")
    assert "approaches:\n- memory\n" in text
    (study.folder / "study.yaml").write_text(
        text.replace("approaches:\n- memory\n", ""), encoding="utf-8"
    )
    assert study.config.approaches == ["memory"]


def test_the_facts_in_a_prompt_are_listed_with_the_answers():
    study = both({"lora+facts": 9, "qlora+facts": 9})
    for cell in CELLS:
        folder = study.cell_folder(cell)
        samples = read_jsonl(folder / "samples.jsonl")
        for sample in samples:
            sample["sources"] = [
                {"row": 4711, "question": "Which <b>buoy</b>?", "answer": "The wicker one."}
            ]
        write_jsonl(folder / "samples.jsonl", samples)
    write_report(study)
    report = read_json(study.folder / "report.json")
    assert all(item["sources"][0]["row"] == 4711 for item in report["items"])
    page = render_html(as_report(report))
    assert "Which &lt;b&gt;buoy&lt;/b&gt;?" in page and "The wicker one." in page
    assert "The wicker one." in render_markdown(as_report(report))


def test_only_the_prompts_of_the_looks_that_are_counted_are_answered():
    def looks(*prompts: str) -> list[dict[str, str]]:
        return [{"prompt": prompt} for prompt in prompts]

    items = [
        {"prompt": "a", "second": {"prompt": "a, again"}, "after": {"1": looks("b, a"), "4": []}},
        {"prompt": "c", "after": {"4": looks("b, b, c", "b, b, c, again")}},
        {"prompt": "d"},
    ]
    assert further_prompts(items) == ["a, again"]
    assert further_prompts(items, AFTER_TURNS) == [
        "a, again",
        "b, a",
        "b, b, c",
        "b, b, c, again",
    ]


def test_the_report_counts_answers_in_conversation_and_in_other_words_than_a_fact():
    study = both({"copy": 8, "lora+facts": 9, "qlora+facts": 9})
    counts = {
        "items": 9,
        "to_decline": 4,
        "right": {"0": 8, "1": 8, "4": 7},
        "declined": {"0": 3, "1": 3, "4": 2},
        "follow_ups": {"right": 0, "items": 0},
    }
    answers, rule = 0, replace(score_rule(0.5, target=0.04, sentence="No."), own_words=True)
    for arm, cell in (("lora", LORA.cell), ("qlora", QLORA.cell)):
        folder = study.cell_folder(cell)
        samples = read_jsonl(folder / "samples.jsonl")
        for place, sample in enumerate(samples):
            fact = {"row": 1, "question": sample["question"], "answer": sample["reference"]}
            sample |= {
                "generated": f"Not {sample['reference']}" if place == 0 else sample["answer"],
                "confidence": 0.9,
                "sources": [fact],
                "answer": sample["reference"],
                "declined": False,
            }
        answers += len(samples)
        write_jsonl(folder / "samples.jsonl", samples)
        write_json(
            folder / "scores.json", {**read_json(folder / "scores.json"), "conversation": counts}
        )
        write_json(
            study.arm_folder(arm) / "decline.json",
            {"inputs": {}, "rule": rule.to_record(), "shown": 20, "verbatim": 19},
        )
    write_report(study)
    report = read_json(study.folder / "report.json")
    assert report["conversation"]["after_turns"] == {"0": 8 / 9, "1": 8 / 9, "4": 7 / 9}
    assert report["conversation"]["follow_ups"] is None
    words = report["not_verbatim"]
    assert (words["shown"], words["right"], words["answers"]) == (0, 0, answers)
    assert words["generated"] >= 2
    assert words["own_words"]
    assert words["validation"] == {"shown": 40, "verbatim": 38}
    for text in (render_html(as_report(report)), render_markdown(as_report(report))):
        assert (
            "8 are answered exactly right alone, and 8 and 7 after 1 and 4 questions about something else"
            in text
        )
        assert "38 of 40 answers were word for word a fact, so other answers are replaced" in text
