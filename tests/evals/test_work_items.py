"""What an evaluation still has to do."""

from pathlib import Path
from typing import Any

import pytest

from assistant_builder.arms import CELLS, TWIN_CELLS
from assistant_builder.atomic_io import write_json, write_jsonl
from assistant_builder.study import Study
from evals.work_items import EvaluationPlan
from tests.synthetic_study import new_study, trained, with_data


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (folder / name).write_text("{}")
    return folder


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return trained(with_data(new_study()))


def plan(
    study: Study,
    base: Path,
    tasks: tuple[str, ...] = ("ab_retention",),
    part: tuple[int, int] | None = None,
) -> EvaluationPlan:
    items = study.folder / "evals" / "tasks" / "items.jsonl"
    if not items.exists():
        write_jsonl(items, [{"item": "1"}])
    return EvaluationPlan(study, base, items, tasks, part)


def names(made: EvaluationPlan) -> list[str]:
    return sorted(str(piece.folder.relative_to(made.evals)) for piece in made.pieces)


def finish(made: EvaluationPlan) -> None:
    """Leave the marks that doing all of it leaves."""
    for piece in made.pieces:
        write_json(piece.folder / "scores.json", {"inputs": made.inputs(piece)})
    for cell, task in made.tasks:
        write_json(made.task_folder(cell) / f"{task}.json", {"inputs": made.task_inputs(cell)})
    write_json(made.baseline("copy") / "scores.json", {"inputs": made.copy_inputs})
    write_json(made.evals / "fidelity.json", {"inputs": made.fidelity_inputs})


def change(study: Study, **changes: Any) -> None:
    study.write_config(
        study.config.with_changes({key.replace("__", "."): value for key, value in changes.items()})
    )


def test_a_new_study_has_everything_to_do(study, base):
    made = plan(study, base)
    assert names(made) == sorted([*TWIN_CELLS, "noise/L16", "noise/Q4", "baselines/retrieval"])
    assert made.tasks == [(cell, "ab_retention") for cell in ("B16", "B4", "L16", "Q4")]
    assert made.copy and made.fidelity and not made.read_again
    sizes = {piece.kind: piece.batch_size for piece in made.pieces}
    assert sizes == {"cell": 64, "noise": 128, "retrieval": 64}
    counts = made.planned(10, {"ab_retention": 100})
    assert counts["likelihood"] == counts["answers"] == 12 * 10 and counts["long answers"] == 10
    assert counts["documents"] == 400 and counts["similarity"] == 14 * 10


def test_what_the_verdict_needs_comes_first(study, base):
    change(study, seeds=2)
    for run in ("lora-2", "qlora-2"):
        write_json(study.arm_folder(run) / "summary.json", {"adapter_sha256": run})
    made = plan(study, base)
    first = {(piece.variant.cell.name, piece.variant.seed) for piece in made.headline}
    assert first == {("B16", 1), ("L16", 1), ("Q4", 1), ("L16", 2), ("Q4", 2)}
    assert {piece.kind for piece in made.headline} == {"cell"}
    assert made.order == ["B16", "L16", "Q4", "Q16", "B4", "L4"]
    assert made.planned_first(10)["likelihood"] == 5 * 10
    assert made.planned_first(10)["similarity"] == 6 * 10  # with the copied answers
    later = [str(variant.cell.name) for variant in made.variants()]
    assert "LR" in later and later.count("L16") == 1  # for the noise floor
    assert not plan(study, base, part=(1, 2)).headline


def test_what_is_done_is_not_done_again(study, base):
    finish(plan(study, base))
    again = plan(study, base)
    assert not (again.pieces or again.tasks or again.copy or again.fidelity or again.variants())


def test_more_seeds_and_tasks_ask_for_what_is_new_alone(study, base):
    finish(plan(study, base))
    change(study, seeds=2)
    for arm in ("lora", "qlora"):
        write_json(
            study.arm_folder(f"{arm}-2") / "summary.json", {"adapter_sha256": f"second {arm}"}
        )
    more = plan(study, base, ("ab_retention", "arc_easy"))
    assert names(more) == ["seeds/2/L16", "seeds/2/Q4"]
    assert [(piece.variant.cell.name, piece.variant.run) for piece in more.headline] == [
        ("L16", "lora-2"),
        ("Q4", "qlora-2"),
    ]
    assert {task for _, task in more.tasks} == {"arc_easy"}


def test_another_adapter_asks_for_its_cells_again(study, base):
    finish(plan(study, base))
    write_json(study.arm_folder("qlora") / "summary.json", {"adapter_sha256": "another"})
    again = plan(study, base)
    assert names(again) == sorted(["Q4", "Q16", "QD", "QR", "noise/Q4"])
    assert [cell for cell, _ in again.tasks] == ["Q4"]
    assert again.fidelity and not again.copy
    # the others are scored
    assert {variant.cell.name for variant in again.read_again} == {"B16", "L16", "B4", "L4"}


def test_what_is_switched_off_is_left_out(study, base):
    change(
        study,
        eval__cells=["L16", "Q4"],
        eval__baselines=False,
        eval__noise_floor=False,
        eval__fidelity=False,
    )
    made = plan(study, base, ())
    assert names(made) == ["L16", "Q4"] and not (made.tasks or made.copy or made.fidelity)


def test_what_is_no_longer_asked_for_is_taken_away(study, base):
    change(study, seeds=2)
    for arm in ("lora", "qlora"):
        write_json(
            study.arm_folder(f"{arm}-2") / "summary.json", {"adapter_sha256": f"second {arm}"}
        )
    made = plan(study, base)
    finish(made)
    write_json(made.evals / "judge.json", {})
    assert [path.name for path in made.obsolete_results()] == ["judge.json"]
    change(
        study,
        seeds=1,
        eval__cells=["L16", "Q4", "LM"],
        eval__fidelity=False,
        eval__noise_floor=False,
    )
    less = plan(study, base, ())
    assert {str(path.relative_to(made.evals)) for path in less.obsolete_results()} == {
        "judge.json",
        "fidelity.json",
        "noise",
        "seeds/2",
        "L16/tasks/ab_retention.json",
        "Q4/tasks/ab_retention.json",
        *(name for name in TWIN_CELLS if name not in ("L16", "Q4", "LM")),
    }


def test_parts_share_out_all_cells_those_of_one_base_together(study, base):
    change(study, executor="ray", executor__evaluate_tasks="3", seeds="2")
    for arm in ("lora", "qlora"):
        write_json(
            study.arm_folder(f"{arm}-2") / "summary.json", {"adapter_sha256": f"second {arm}"}
        )
    assert study.shards == ("score-1", "score-2", "score-3") and study.shown_steps == study.steps
    whole, parts = plan(study, base), [plan(study, base, part=(part, 3)) for part in (1, 2, 3)]
    assert sorted(name for part in parts for name in names(part)) == names(whole)
    assert sorted(task for part in parts for task in part.tasks) == sorted(whole.tasks)
    shares = [{piece.variant for piece in part.pieces} for part in parts]
    assert not shares[0] & shares[1] and not shares[1] & shares[2] and not shares[0] & shares[2]
    assert max(len(part.pieces) for part in parts) - min(len(part.pieces) for part in parts) <= 2
    loads = sum(
        len({(cell.cell.base, cell.cell.merged or "") for cell in share}) for share in shares
    )
    assert loads <= 2 + 4 + 2  # a base loaded once for each part that has cells of it
    for part in parts:
        assert not (
            part.copy
            or part.fidelity
            or part.judges
            or part.obsolete_results()
            or part.score_files()
        )
        for piece in part.pieces:
            write_json(piece.folder / "scores.json", {"inputs": part.inputs(piece)})
        for cell, task in part.tasks:
            write_json(part.task_folder(cell) / f"{task}.json", {"inputs": part.task_inputs(cell)})
    (study.folder / "evals" / "score-1.progress.json").write_text("{}")
    again = plan(study, base)
    assert not again.pieces
    assert not any(plan(study, base, part=(part, 3)).variants() for part in (1, 2, 3))
    assert {variant.cell.name for variant in again.read_again} == set(
        "B16 L16 Q16 B4 L4 Q4".split()
    )
    assert again.variants() == again.read_again
    assert again.planned(10, {"ab_retention": 100})["fidelity"] == 6 * 10
    made = [path for path in again.score_files() if path.name != "items.jsonl"]
    assert len(made) == len(whole.pieces) + len(whole.tasks)


def test_a_study_of_one_arm_scores_what_needs_no_other_base(base):
    study = trained(with_data(new_study("alone", arms=["qlora"], seeds=2)))
    write_json(study.arm_folder("qlora-2") / "summary.json", {"adapter_sha256": "q2"})
    change(study, eval__judge_url="http://127.0.0.1:9", eval__judge_model="judge")
    made = plan(study, base)
    assert names(made) == sorted(["B4", "Q4", "baselines/retrieval", "seeds/2/Q4"])
    assert {variant.cell.base for variant in made.variants()} == {"4-bit"}
    assert [cell for cell, _ in made.tasks] == ["B4", "Q4"]
    assert made.copy and not made.fidelity and not made.judges


def test_when_the_twin_is_added_only_what_is_new_is_scored(base):
    study = trained(with_data(new_study("both")))
    change(study, arms=["qlora"])
    made = plan(study, base)
    for piece in made.pieces:
        write_json(piece.folder / "scores.json", {"inputs": made.inputs(piece)})
    assert plan(study, base).pieces == [] and plan(study, base).obsolete_results() == []
    change(study, arms=["lora", "qlora"])
    left = names(plan(study, base))
    assert "B4" not in left
    assert "Q4" not in left
    assert {"B16", "L16", "QD", "noise/L16", "noise/Q4"} <= set(left)
    assert "baselines/retrieval" in left  # it ran on the 4-bit base before


def test_what_the_taken_away_arm_left_is_unwanted(study, base):
    finish(plan(study, base))
    change(study, arms=["qlora"])
    left = {
        str(path.relative_to(study.folder / "evals"))
        for path in plan(study, base).obsolete_results()
    }
    assert {"L16", "B16", "QD", "noise", "fidelity.json"} <= left
    assert not {"Q4", "B4", "baselines"} & left


def test_a_cell_belongs_to_its_adapters_arm_and_to_that_of_the_16_bit_base_where_it_needs_it_whole():
    for name, spec in CELLS.items():
        needed = {spec.adapter} if spec.adapter else set()
        if spec.base == "float16" or spec.merged:
            needed.add("lora")
        for arms in ({"lora"}, {"qlora"}, {"lora", "qlora"}):
            assert spec.scorable(arms) == (needed <= arms), (name, arms)


def test_another_share_of_false_declines_scores_grounded_assistants_again(study, base):
    change(study, approaches=["grounded"])
    finish(plan(study, base))
    assert not plan(study, base).pieces
    change(study, retrieval__sources_in_endpoint=True)
    assert not plan(study, base).pieces
    change(study, retrieval__false_declines=0.1)
    assert {"L16", "Q4"} <= set(names(plan(study, base))) and plan(study, base).copy
