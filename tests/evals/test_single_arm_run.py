"""A study that trains QLoRA alone, from the data file to the export, by the commands; and its twin, added later."""

import json
from pathlib import Path

import pytest

from assistant_builder.atomic_io import read_json
from assistant_builder.study import Study
from tests.commands import QUICK, command, record_of, set_words
from tests.export.tiny import tiny_base
from tests.synthetic_study import SMALL

pytestmark = pytest.mark.train


@pytest.mark.long
def test_qlora_alone_goes_the_whole_way_and_its_twin_can_follow(bundled_models, tmp_path):
    base = tiny_base(tmp_path / "base")
    settings = {**QUICK, "arms": "qlora", "model.base": base, "eval.retention": False}
    status = record_of(f"run {SMALL} --name alone", *set_words(settings))
    assert status["state"] == "succeeded"
    assert [
        step["name"] for step in status["steps"]
    ] == "data data-embed train-qlora evaluate report".split()
    study = Study.open("alone")
    assert not study.arm_folder("lora").exists()

    report = json.loads(command("report alone --format json").stdout)
    assert set(report["cells"]) == {"B4", "Q4"}
    assert report["baselines"].keys() == {"copy", "retrieval"}
    assert report["verdict"]["outcome"] == "inconclusive" and "alone" in report["verdict"]["reason"]
    assert (
        read_json(study.folder / "evals" / "baselines" / "retrieval" / "scores.json")["base"]
        == "4-bit"
    )
    assert not (study.folder / "evals" / "noise").exists()
    assert not (study.folder / "evals" / "fidelity.json").exists()
    assert Path(command("report alone").stdout.strip()).is_file()

    assert set(record_of("ask alone 'Where are the maps?'")["answers"]) == {"qlora"}
    refused = command("ask alone 'Where are the maps?' --arm lora", ends=1).stderr
    assert "trains only qlora" in refused and "--set arms=lora,qlora" in refused

    command("export alone --arm qlora --sample 2 --to", tmp_path / "taken")
    card = (tmp_path / "taken" / "README.md").read_text(encoding="utf-8")
    assert "in a study without a 16-bit twin" in card and "untuned base, metric by metric" in card
    assert "arms=lora,qlora" not in card
    refused = command("export alone --arm lora --to", tmp_path / "other", ends=1).stderr
    assert "has no lora assistant" in refused and not (tmp_path / "other").exists()

    before = {
        name: (study.folder / name).read_bytes()
        for name in (
            "arms/qlora/adapter/adapter_model.safetensors",
            "arms/qlora/summary.json",
            "evals/Q4/scores.json",
        )
    }
    status = record_of("run alone --set arms=lora,qlora")
    assert status["state"] == "succeeded"
    assert "train-lora" in {step["name"] for step in status["steps"]}
    assert before == {name: (study.folder / name).read_bytes() for name in before}
    report = read_json(study.folder / "report.json")
    assert report["verdict"]["delta"] is not None and "reason" not in report["verdict"]
    assert "arms" not in report["config"] and {"B16", "L16", "QD"} <= report["cells"].keys()
    assert "float16 base" in report["baselines"]["retrieval"]["about"]
    assert report["twins"]["matched"]
