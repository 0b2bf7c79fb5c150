"""The figures of finished studies, and what is said where a study cannot tell any."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from assistant_builder.atomic_io import read_json, write_bytes, write_json
from assistant_builder.errors import EvaluationError
from assistant_builder.steps import StepRecord
from assistant_builder.study import Study
from evals.capacity.__main__ import main
from evals.capacity.measured import KINDS, STEPS, Measured, read_measured, write_measured
from evals.capacity.measuring import kind_of, measure
from tests.evals.capacity.numbers import made_up
from tests.synthetic_study import finished_study

SCHEDULING = made_up().model_dump(mode="json")["scheduling"]


@pytest.fixture(autouse=True)
def base(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A base model of 1,000 bytes, and a short home screen."""
    write_bytes(tmp_path / "base" / "model.safetensors", bytes(1000))
    monkeypatch.setattr("evals.capacity.measuring.LISTED", 20)
    monkeypatch.setattr("evals.capacity.measuring.fetch", lambda *_, **__: tmp_path / "base")


@pytest.fixture
def study() -> Study:
    return ready(finished_study())


def ready(study: Study, cores: int = 2) -> Study:
    """Add what a real run leaves besides."""
    write_json(study.folder / "provenance.json", {"hardware": {"cores": cores, "gpu": None}})
    for arm in ("lora", "qlora"):
        folder = study.arm_folder(arm)
        write_bytes(folder / "adapter" / "adapter_model.safetensors", bytes(3000))
        for step in (15, 60):
            write_bytes(folder / "checkpoints" / f"checkpoint-{step}" / "optimizer.pt", bytes(5000))
        study.write_step(StepRecord(f"train-{arm}", state="succeeded", seconds=190.0, peak_memory_bytes=2_000_000_000))
    return study


def test_figures_of_a_finished_study(study: Study) -> None:
    found = measure([study.name])
    assert set(found.steps) == set(STEPS) and set(found.bytes) == set(KINDS)
    lora = found.steps["train-lora"]
    assert (lora.seconds, lora.cpus, lora.gpus, lora.peak_memory_bytes) == (190.0, 2, 0, 2_000_000_000)
    assert lora.kept_seconds == 190.0 / 4, "four validations, each with a checkpoint"
    assert found.steps["evaluate"].kept_seconds == 164.0 / len(study.config.eval.cells)
    assert found.steps["data"].cpus == found.steps["report"].cpus == 1
    assert (found.tokens, found.optimizer_steps, found.checkpoints, found.checkpoints_kept) == (54_000, 60, 4, 2)
    assert (found.bytes["adapters"], found.bytes["checkpoints"], found.base_bytes) == (3000, 10_000, 1000)
    assert found.pairs == read_json(study.folder / "data" / "split.json")["counts"]["train"]
    assert 0 < found.listing_seconds < found.first_listing_seconds < 1 and 0 < found.watching_seconds < 1
    assert found.scheduling is None and found.overhead_seconds == 0


def test_every_byte_is_counted_once(study: Study) -> None:
    found = measure([study.name])
    files = [path for path in study.folder.rglob("*") if path.is_file()]
    assert sum(found.study_bytes(1).values()) == sum(path.stat().st_size for path in files)


@pytest.mark.parametrize(("path", "kind"), [
    ("arms/lora/adapter/adapter_model.safetensors", "adapters"),
    ("arms/qlora/checkpoints/checkpoint-4/a", "checkpoints"),
    ("arms/lora/metrics.jsonl", "logs"), ("arms/lora/log.txt", "logs"), ("evals/evaluate.log.txt", "logs"),
    ("arms/lora/summary.json", "other"), ("evals/B4/samples.jsonl", "samples"), ("data/train.jsonl", "data"),
    ("report.html", "reports"), ("study.yaml", "other"), ("arms/lora/status.json", "other"),
])
def test_kinds_of_files(path: str, kind: str) -> None:
    assert kind_of(Path(path)) == kind


def test_nothing_tells_which_machine_it_was(study: Study) -> None:
    text = measure([study.name]).model_dump_json()
    assert str(Path.home()) not in text and os.uname().nodename not in text and str(study.folder) not in text
    assert study.name not in text


def test_the_middle_of_several_studies(study: Study) -> None:
    for name, seconds in (("second", 400.0), ("third", 500.0)):
        other = ready(finished_study(name))
        other.write_step(StepRecord("evaluate", state="succeeded", seconds=seconds))
    found = measure([study.name, "second", "third"])
    assert found.studies == 3 and found.steps["evaluate"].seconds == 400.0


def test_scheduling_as_its_command_printed_it(study: Study, tmp_path: Path) -> None:
    path = tmp_path / "scheduling.json"
    path.write_text(json.dumps(SCHEDULING))
    assert measure([study.name], path).overhead_seconds == 0.5
    path.write_text("{}")
    with pytest.raises(EvaluationError, match="not what evals.bench.scheduling prints"):
        measure([study.name], path)


def test_an_unfinished_study_tells_nothing(study: Study) -> None:
    study.write_step(StepRecord("evaluate", state="failed"))
    with pytest.raises(EvaluationError, match="it is queued, and only finished"):
        measure([study.name])


def test_machines_that_differ_are_not_mixed(study: Study) -> None:
    other = ready(finished_study("other"), cores=64)
    with pytest.raises(EvaluationError, match="machines that differ"):
        measure([study.name, other.name])


def test_the_file_is_read_as_it_was_written_and_damage_is_said(tmp_path: Path) -> None:
    path = tmp_path / "measured.json"
    assert read_measured(path) is None
    write_measured(made_up(), path)
    assert read_measured(path) == made_up()
    damaged: list[dict[str, Any]] = [{}, {**made_up().model_dump(mode="json"), "bytes": {}}]
    for tree in damaged:
        write_json(path, tree)
        with pytest.raises(EvaluationError, match="damaged"):
            read_measured(path)


def test_the_command_writes_the_file_or_one_line(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "figures.json"
    assert main(["measure", study.name, "--to", str(path)]) == 0
    assert isinstance(read_measured(path), Measured)
    assert main(["measure", "nobody", "--to", str(path)]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "nobody" in said[0]
