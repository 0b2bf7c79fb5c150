"""The export's process: state in files, detection of its death, refusal without a trained arm."""

import json
import os
import time
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from assistant_builder.arms import TWINS
from assistant_builder.cli import app
from assistant_builder.errors import ConfigError, StudyError
from assistant_builder.export.job import ExportJob, JobRecord
from assistant_builder.export_formats import ExportSpec, estimated_bytes, export_specs
from assistant_builder.study import Study
from tests.synthetic_study import finished_study, new_study, with_data

SPEC = ExportSpec("qlora", "adapter")


def with_adapters(study: Study) -> Study:
    for arm in ("qlora", "lora"):
        folder = study.arm_folder(arm) / "adapter"
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return study


def record_of(**more: object) -> JobRecord:
    process = psutil.Process()
    values = {
        "state": "running",
        "target": "x",
        "started": time.time(),
        "pid": process.pid,
        "process_started": process.create_time(),
        **more,
    }
    return JobRecord(**values)


def test_an_untrained_study_cannot_be_exported(tmp_path):
    study = with_data(new_study())
    for spec in export_specs(TWINS):
        with pytest.raises(StudyError, match="is not trained yet"):
            ExportJob(study, spec).start(tmp_path / "out")
    words = [
        "export",
        "library",
        "--arm",
        "lora",
        "--format",
        "adapter",
        "--to",
        str(tmp_path / "out"),
    ]
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, StudyError) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        ["--arm", "dora"],
        ["--arm", "lora", "--format", "onnx"],
        ["--arm", "lora", "--format", "gguf", "--type", "Q9"],
    ],
)
def test_a_wrong_call_is_exit_code_2(wrong, tmp_path):
    result = CliRunner().invoke(app, ["export", "library", *wrong, "--to", str(tmp_path)])
    assert result.exit_code == 2 and "is not one of" in result.output


def test_a_folder_that_must_stay_is_refused_before_anything_starts(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    job = ExportJob(with_adapters(finished_study()), SPEC)
    with pytest.raises(ConfigError, match="is not empty"):
        job.start(tmp_path)
    assert job.record() is None


def test_a_dead_process_is_lost_and_a_living_one_bars_a_second(tmp_path):
    job = ExportJob(with_adapters(finished_study()), SPEC)
    assert job.record() is None and not job.running
    job.write(record_of(percent=40))
    assert job.running
    with pytest.raises(StudyError, match="being exported already"):
        job.start(tmp_path / "out")
    job.write(record_of(process_started=1.0, percent=40))
    record = job.record()
    assert record is not None and record.state == "lost" and record.percent == 40
    job.status_file.write_text('{"state": "of another version"}')
    assert job.record() is None


def test_the_page_exports_into_the_study(monkeypatch):
    started: list[list[str]] = []

    class Process:
        pid = os.getpid()

    monkeypatch.setattr("subprocess.Popen", lambda words, **_: started.append(words) or Process())
    study = with_adapters(finished_study())
    for spec in (SPEC, ExportSpec("lora", "merged")):
        job = ExportJob(study, spec)
        job.start()
        record = job.record()
        assert record is not None and record.state == "running" and Path(record.target) == job.files
    assert all(["-P", "-m", "assistant_builder.export"] == words[1:4] for words in started)
    options = [json.loads(words[-1]) for words in started]
    assert all(each["force"] for each in options)
    assert "archive" not in options[0] and options[1]["archive"] == str(job.archive)


def test_sizes_are_estimated_before_the_export():
    study = finished_study()
    assert estimated_bytes(study, ExportSpec("lora", "merged")) == pytest.approx(
        269_000_000, rel=0.04
    )
    assert estimated_bytes(study, SPEC) == pytest.approx(2 * 19_500_000, rel=0.5)
