"""The study folder: creation, atomic writes, records and states."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from assistant_builder.atomic_io import append_jsonl, read_json, read_jsonl, write_json, write_text
from assistant_builder.config import StudyConfig
from assistant_builder.errors import Cancelled, StudyError
from assistant_builder.runner.step_process import run_as_step
from assistant_builder.study import Study
from assistant_builder.study.steps import STEPS, StepRecord
from tests.synthetic_study import new_study


@pytest.fixture
def study(home: Path) -> Study:
    source = home.parent / "pairs.csv"
    source.write_text("question,answer\nWhat?,That.\n", encoding="utf-8")
    return Study.create(StudyConfig(name="one"), source)


def test_a_study_is_self_contained_and_its_name_is_unique(study, home):
    assert study.source is not None
    assert study.source.read_text(encoding="utf-8").endswith("What?,That.\n")
    with pytest.raises(StudyError, match="already exists"):
        Study.create(StudyConfig(name="one"))
    with pytest.raises(StudyError, match="Existing studies: one"):
        Study.open("two")
    with pytest.raises(StudyError):
        Study.open("../one")
    assert [path.name for path in (home / "studies").iterdir()] == ["one"]


def test_a_failed_creation_leaves_nothing(home):
    with pytest.raises(StudyError):
        Study.create(StudyConfig(name="one"), home / "missing.csv")
    assert list((home / "studies").iterdir()) == []


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.json"]


def test_only_an_incomplete_last_line_is_ignored(tmp_path):
    path = tmp_path / "log.jsonl"
    append_jsonl(path, {"text": "a\u2028b"})
    with path.open("a", encoding="utf-8") as file:
        file.write('{"text": "ha')
    assert read_jsonl(path) == [{"text": "a\u2028b"}]
    write_text(path, '{"a": 1}\n{"b\n{"c": 3}\n')
    with pytest.raises(StudyError, match="line 2"):
        read_jsonl(path)


def test_a_running_step_with_a_dead_process_is_lost(study):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = psutil.Process(process.pid).create_time()
    study.write_step(StepRecord("train-lora", "running", pid=process.pid, process_started=started))
    assert study.step("train-lora").state == "running"
    study.write_step(
        StepRecord("train-qlora", "running", pid=process.pid, process_started=started - 3600)
    )
    assert study.step("train-qlora").state == "lost"  # another process has got the number
    assert study.state == "running"  # with no runner at all: it can still be cancelled
    process.communicate(b"\n")
    assert study.step("train-lora").state == "lost"
    assert study.state == "queued"
    study.write_step(StepRecord("train-lora", "cancelled"))
    write_json(
        study.folder / "run.json",
        {"state": "running", "pid": 1 << 30, "process_started": 0.0, "time": 0.0, "error": None},
    )
    assert study.state == "cancelled"  # the runner was killed, and the step was cancelled after it
    assert study.step("evaluate").state == "queued"


def test_the_state_of_a_study_follows_its_steps(study):
    assert study.state == "queued"
    study.write_run_record("running")
    assert study.state == "running" and study.status()["dashboard"] == ""
    study.write_run_record("running", dashboard="http://10.0.0.1:8265")
    assert study.status()["dashboard"] == "http://10.0.0.1:8265"
    for step in STEPS:
        study.write_step(StepRecord(step, "succeeded", seconds=1.0))
    assert study.state == "succeeded"
    assert study.status()["steps"][0] == {"name": "data", "state": "succeeded", "seconds": 1.0}
    study.delete_step_outputs("report")
    study.write_run_record("failed")
    assert study.state == "failed" and study.status()["dashboard"] == ""


def test_deleting_the_data_step_keeps_the_data_file(home):
    file = home.parent / "pairs.jsonl"
    file.write_text('{"question": "What?", "answer": "That."}\n', encoding="utf-8")
    study = Study.create(StudyConfig(name="lines"), file)
    write_text(study.split_file("train"), "{}\n")
    for step in reversed(STEPS):
        study.delete_step_outputs(step)
    assert not study.split_file("train").exists()
    assert study.source is not None and study.source.read_bytes() == file.read_bytes()


def test_a_step_records_its_result(study):
    made = study.folder / "made.txt"
    made.write_text("x", encoding="utf-8")
    assert run_as_step(study, "data", lambda: [made]) == 0
    record = study.step("data")
    assert record.state == "succeeded"
    assert set(record.outputs) == {"made.txt"}
    assert record.peak_memory_bytes

    def stop() -> None:
        raise Cancelled("asked to")

    def burst() -> None:
        raise MemoryError

    def full() -> None:
        raise OSError(28, "No space left on device", "/somewhere")

    assert run_as_step(study, "data", stop) == 3 and study.step("data").state == "cancelled"
    for work, said, remedy in (
        (burst, "memory ran out", "micro_batch_size"),
        (full, "disk is full", "Free space"),
    ):
        assert run_as_step(study, "data", work) == 1
        error = study.step("data").error
        assert error is not None and said in error["what"] and remedy in error["remedy"]
    assert run_as_step(study, "data", lambda: None) == 0 and study.step("data").state == "queued"
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] in ("1", "True")  # gradio writes the other


def test_studies_of_one_folder_and_approach_are_equal(tmp_path):
    study = new_study("seen", approaches=["grounded", "memory"])
    views = [study, Study(study.folder), *study.views, *study.views, Study(tmp_path)]
    assert study == views[1] and study.views == study.views and len(set(views)) == 4
    assert study != study.folder
