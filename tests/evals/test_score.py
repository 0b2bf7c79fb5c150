"""The evaluation step on a model of two layers, with adapters that change something."""

import json
import shutil
from pathlib import Path

import pytest

from assistant_builder.atomic_io import file_hash, read_json, read_jsonl, write_json
from assistant_builder.errors import Cancelled
from assistant_builder.models.loading import BaseSpec, add_adapter, load_base
from assistant_builder.study import Study
from evals.score import score_study
from evals.work_items import ProgressTracker
from tests.commands import FEW_SCORES, python
from tests.export.tiny import tiny_base
from tests.synthetic_study import new_study, with_data
from tests.tiny_models import as_if_trained

pytestmark = pytest.mark.train


@pytest.fixture
def base(bundled_models: Path, tmp_path: Path) -> Path:
    return tiny_base(tmp_path / "base")


@pytest.fixture
def study(base: Path) -> Study:
    """A study with data and adapters of random values; nothing was trained."""
    study = with_data(
        new_study(
            "scored",
            data__max_heldout=5,
            train__rank=4,
            eval__max_new_tokens=4,
            eval__batch_size=4,
            eval__retention=False,
            seeds=2,
            model__base=str(base),
        )
    )
    write_json(study.embedding_file, {"leaks": []})
    for seed, run in enumerate(("lora", "qlora", "lora-2", "qlora-2")):
        model = add_adapter(
            load_base(BaseSpec(base, "float16", True, "float32")), study.config.train, seed
        )
        adapter = study.arm_folder(run) / "adapter"
        as_if_trained(model, 0.05, seed).save_pretrained(str(adapter))
        digest = file_hash(adapter / "adapter_model.safetensors")
        write_json(study.arm_folder(run) / "summary.json", {"adapter_sha256": digest})
    return study


def contents(study: Study) -> dict[str, object]:
    """Everything that scoring left, but for times."""
    found: dict[str, object] = {}
    for path in sorted((study.folder / "evals").rglob("*.json*")):
        if path.name.endswith("progress.json"):
            continue
        records = read_jsonl(path) if path.suffix == ".jsonl" else [read_json(path)]
        for record in records:
            record.pop("seconds", None)
        found[str(path.relative_to(study.folder))] = records
    return found


@pytest.mark.long
def test_everything_is_scored_carried_on_and_consistent(study, monkeypatch):
    calls = []

    def stop_in_the_middle(clock: ProgressTracker, kind: str, items: float) -> None:
        calls.append(kind)
        if len(calls) == 25:
            raise Cancelled("cancelled on request")

    def scores() -> dict[Path, int]:
        found = (study.folder / "evals").rglob("scores.json")
        return {path: path.stat().st_mtime_ns for path in found}

    with monkeypatch.context() as patch:
        patch.setattr(ProgressTracker, "tick", stop_in_the_middle)
        with pytest.raises(Cancelled):
            score_study(study)
    kept = scores()
    assert kept

    def stop_behind_the_verdict() -> None:
        names = {path.parent.relative_to(study.folder / "evals").as_posix() for path in scores()}
        seeds = {"seeds/2/L16", "seeds/2/Q4"}
        assert names == {"B16", "L16", "Q4", *seeds, "baselines/copy"}
        assert (study.folder / "evals" / "similar_questions.json").is_file()
        study.request_cancel()

    with pytest.raises(Cancelled):
        score_study(study, on_headline=stop_behind_the_verdict)
    study.clear_cancel()
    kept |= scores()
    score_study(study)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    whole = contents(study)

    cells = {
        name: read_json(study.cell_folder(name) / "scores.json") for name in study.config.eval.cells
    }
    assert len({cell["nll_per_token"] for cell in cells.values()}) == 10
    for name, cell in cells.items():
        finishes = [
            sample["finish"] for sample in read_jsonl(study.cell_folder(name) / "samples.jsonl")
        ]
        assert set(finishes) <= {"stop", "length"}
        assert cell["cut_answers"] == finishes.count("length")
    for name in ("L16", "Q4"):
        loss = cells[name]["nll_per_token"]
        assert read_json(study.cell_folder(name, seed=2) / "scores.json")["nll_per_token"] != loss
        other = read_json(study.folder / "evals" / "noise" / name / "scores.json")
        assert other["batch_size"] == 8 and other["nll_per_token"] == pytest.approx(loss, abs=0.05)

    fidelity = read_json(study.folder / "evals" / "fidelity.json")
    assert [pair["name"] for pair in fidelity["pairs"]] == ["B4-B16", "L4-L16", "Q4-Q16", "Q4-L16"]
    for pair in fidelity["pairs"]:
        rise = cells[pair["candidate"]]["nll_per_token"] - cells[pair["reference"]]["nll_per_token"]
        # the very distributions that were scored
        assert pair["delta_nll"] == pytest.approx(rise, abs=1e-12)
        assert 0 < pair["kl_median"] <= pair["kl_p99"] <= pair["kl_max"]
        assert 0 < pair["top1_agreement"] < 1

    copied = read_jsonl(study.folder / "evals" / "baselines" / "copy" / "samples.jsonl")
    training = {record["row"]: record for record in read_jsonl(study.split_file("train"))}
    for sample in copied:
        (near,) = sample["neighbours"]
        assert sample["answer"] == training[near["row"]]["messages"][-1]["content"]
        assert sample["nll"] is None
    retrieved = read_jsonl(study.folder / "evals" / "baselines" / "retrieval" / "samples.jsonl")
    assert all(len(sample["neighbours"]) == 3 and sample["nll"] > 0 for sample in retrieved)

    shutil.rmtree(study.folder / "evals")
    study.write_config(study.config.with_changes({"eval.batch_size": 4}))
    score_study(study)
    assert contents(study) == whole  # to the last digit, whether carried on or not


@pytest.mark.long
def test_the_tasks_run_from_the_shell_with_lm_eval_itself(study, base, tmp_path):
    study.write_config(
        study.config.with_changes(
            {
                **FEW_SCORES,
                "eval.cells": ["L16", "Q4"],
                "eval.compute_dtype": "float32",
                "seeds": 1,
            }
        )
    )
    score_study(study)
    adapter = study.arm_folder("lora") / "adapter"
    words = (
        f"run --model hf --model_args pretrained={base},peft={adapter},dtype=float32 --device cpu --batch_size 4 "
        f"--tasks scored_nll,scored_gen --include_path {study.folder}/evals/tasks --output_path {tmp_path}/out"
    )
    python("-m", "lm_eval", *words.split(), env={"HF_HUB_OFFLINE": "1"})
    results = json.loads(next((tmp_path / "out").rglob("results_*.json")).read_text())["results"]
    ours = read_json(study.cell_folder("L16") / "scores.json")
    assert results["scored_nll"]["nll_per_token,none"] == pytest.approx(
        ours["nll_per_token"], rel=1e-4
    )
    assert results["scored_gen"]["token_f1,none"] == pytest.approx(
        ours["metrics"]["token_f1"], abs=1e-6
    )
