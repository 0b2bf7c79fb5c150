"""Damaged files are detected and named, and --redo rebuilds them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from assistant_builder import atomic_io
from assistant_builder.atomic_io import (
    append_jsonl,
    file_hash,
    read_json,
    read_jsonl,
    write_json,
    write_text,
)
from assistant_builder.cli import app
from assistant_builder.errors import AssistantBuilderError, ConfigError, StudyError
from assistant_builder.runner import invalidation
from assistant_builder.runner.invalidation import first_stale_step
from assistant_builder.runner.local_runner import LocalRunner
from assistant_builder.runner.run import run_study
from assistant_builder.study import CHECKPOINT_MARKER, Study
from assistant_builder.study.steps import StepRecord
from assistant_builder.training import checkpoints
from assistant_builder.ui.refresh import StudyView
from assistant_builder.ui.study_snapshot import take_snapshot
from assistant_builder.ui.train.view import run_panel
from tests.fault_injection.conftest import flip
from tests.synthetic_study import new_study, with_data


@pytest.fixture
def no_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every step unchanged inputs, because these tests are about outputs."""
    monkeypatch.setattr(
        invalidation, "step_inputs", lambda study, step, config=None, source=None: {}
    )


def trained_twin(study: Study) -> Path:
    """Give a study a finished data step with outputs, and an adapter."""
    adapter = study.arm_folder("lora") / "adapter" / "adapter_model.safetensors"
    adapter.parent.mkdir(parents=True, exist_ok=True)
    adapter.write_bytes(os.urandom(64))
    study.write_step(StepRecord("data", "succeeded"))
    study.write_step(StepRecord("data-embed", "succeeded"))
    study.write_step(
        StepRecord(
            "train-lora",
            "succeeded",
            outputs={str(adapter.relative_to(study.folder)): file_hash(adapter)},
        )
    )
    return adapter


@pytest.mark.parametrize("harm", ["flip", "truncate", "remove"])
def test_a_damaged_adapter_is_refused_and_retrained_with_redo(harm, no_inputs):
    study = new_study()
    adapter = trained_twin(study)
    assert first_stale_step(study, redo=False) is None
    {
        "flip": lambda: flip(adapter),
        "truncate": lambda: os.truncate(adapter, 10),
        "remove": adapter.unlink,
    }[harm]()
    with pytest.raises(
        StudyError, match=r"adapter_model.safetensors, written by step 'train-lora', is dam.*--redo"
    ):
        first_stale_step(study, redo=False)
    assert study.step("train-lora").state == "succeeded"  # nothing is thrown away unasked
    assert first_stale_step(study, redo=True) == "train-lora"


def test_a_damaged_report_is_rendered_again_without_redo(no_inputs):
    study = new_study()
    path = study.folder / "report.json"
    write_json(path, {"version": 1})
    for step in study.steps:
        outputs = {"report.json": file_hash(path)} if step == "report" else {}
        study.write_step(StepRecord(step, "succeeded", outputs=outputs))
    assert not invalidation.queue_if_stale(study, "report")
    flip(path)
    assert first_stale_step(study, redo=False) is None
    assert invalidation.queue_if_stale(study, "report") and study.step("report").state == "queued"


def test_a_damaged_status_file_is_reported_everywhere_and_repaired_by_redo(no_inputs, monkeypatch):
    monkeypatch.setattr(LocalRunner, "run_steps", lambda self, study, on_event: None)
    for content in (
        '{"step": "data',
        "[]",
        '{"step": "data", "state": "succeedec"}',
        '{"step": "report"}',
        "",
    ):
        study = new_study(f"study{len(Study.all())}")
        trained_twin(study)
        write_text(study.folder / "data" / "status.json", content)
        with pytest.raises(StudyError, match="--redo"):
            study.step("data")
        result = CliRunner().invoke(app, ["status", study.name])
        assert isinstance(result.exception, StudyError), content
        look = StudyView(study.name)
        assert look.snapshot is None and look.error is not None and "--redo" in look.error["remedy"]
        with pytest.raises(StudyError, match="--redo"):
            run_study(study)
        run_study(study, redo=True)
        assert study.step("data").state == "queued", content
        assert study.step("train-lora").state == "succeeded"  # kept, unless the data change


def test_a_damaged_status_file_of_a_late_step_is_repaired(no_inputs, monkeypatch):
    monkeypatch.setattr(LocalRunner, "run_steps", lambda self, study, on_event: None)
    study = new_study()
    write_text(study.status_file("evaluate"), "{")
    run_study(study, redo=True)
    assert study.step("evaluate").state == "queued"


def test_damaged_progress_and_run_records_are_ignored():
    study = with_data(new_study())
    for content in ("{", "[]", "7", '{"state": "dancing"}'):
        write_text(study.folder / "run.json", content)
        write_text(study.folder / "data" / "data.progress.json", content)
        assert study.progress("data") is None
        assert study.state == "lost", content
        assert "Resume" in run_panel(take_snapshot(study), "")


def test_unreadable_settings_are_reported_with_file_and_line():
    study = new_study()
    path = study.folder / "study.yaml"
    whole = path.read_bytes()
    for content in (
        whole[: len(whole) // 3] + b"\n: [",
        b"\xff\xfe" + whole,
        b"",
        b"- 1\n",
        b"name: [\n",
    ):
        path.write_bytes(content)
        with pytest.raises(ConfigError) as caught:
            _ = study.config
        assert "study.yaml" in str(caught.value) and str(caught.value.remedy), content
        result = CliRunner().invoke(app, ["status", study.name])
        assert isinstance(result.exception, AssistantBuilderError)
        assert StudyView(study.name).snapshot is None


def test_appended_lines_are_atomic(tmp_path):
    path = tmp_path / "votes.jsonl"
    append_jsonl(path, {"vote": 1})
    with path.open("ab") as file:
        file.write(b'{"vote": 2')  # a crash in the middle of a line
    append_jsonl(path, {"vote": 3})
    assert read_jsonl(path) == [{"vote": 1}, {"vote": 3}]
    with path.open("ab") as file:
        file.write(b'{"vote": 4}')  # complete, but without line end
    append_jsonl(path, {"vote": 5})
    assert [line["vote"] for line in read_jsonl(path)] == [1, 3, 4, 5]


_KILLED = """
import os, sys
from pathlib import Path
from assistant_builder.atomic_io import write_json
os.replace = lambda *paths: os.kill(os.getpid(), 9)
write_json(Path(sys.argv[1]), {"served": "b"})
"""


def test_what_killed_writers_leave_is_removed_by_the_next_write(tmp_path):
    path = tmp_path / "versions.json"
    write_json(path, {"served": "a"})
    for _ in range(2):
        killed = subprocess.run([sys.executable, "-c", _KILLED, str(path)], check=False)
        assert killed.returncode == -9
    # the second removed the first
    assert len(list(tmp_path.iterdir())) == 2 and read_json(path) == {"served": "a"}
    running = tmp_path / f".versions.json.{atomic_io._HOST}-{os.getpid()}-abcdefgh"
    others = [
        tmp_path / name
        for name in (
            ".versions.json.lock",
            f".versions.json.00000000-{2**22 + 1}-abcdefgh",
            ".versions.json.abcdefgh",
            ".versions.jsonl.abcdefgh",
        )
    ]
    for other in (running, *others):
        other.touch()
    os.utime(others[2], (0, 0))
    write_json(path, {"served": "c"})
    assert {*tmp_path.iterdir()} == {path, running, others[0], others[1], others[3]}


def test_files_are_bounded_in_size_and_depth(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    for content in (
        "[" * 100 + "]" * 100,
        "[" * 100_000 + "]" * 100_000,
        "NaN",
        "1" * 10_000,
        "\ud800",
    ):
        path.write_text(content, encoding="utf-8", errors="replace")
        for read in (
            lambda: read_json(path, list[Any]),
            lambda: read_jsonl(path.with_suffix(".jsonl")),
        ):
            path.with_suffix(".jsonl").write_text(
                content + "\n{}\n", encoding="utf-8", errors="replace"
            )
            with pytest.raises(StudyError, match="damaged.*--redo"):
                read()
    monkeypatch.setattr(atomic_io, "MAX_BYTES", 10)
    path.write_text('{"a": "long"}')
    with pytest.raises(StudyError, match="damaged"):
        read_json(path)


@pytest.mark.parametrize("number", ["1e999", "-1e400", "1" + 400 * "0", "-9" + 309 * "9"])
def test_numbers_that_no_calculation_can_use_are_damage(tmp_path, number):
    (path := tmp_path / "a.json").write_text(f'{{"seconds": [{number}]}}')
    (lines := tmp_path / "a.jsonl").write_text(f'{{"seconds": {number}}}\n{{}}\n')
    for read in (lambda: read_json(path), lambda: read_jsonl(lines)):
        with pytest.raises(StudyError, match="damaged"):
            read()


def test_large_numbers_and_long_digits_are_kept(tmp_path):
    record = {
        "a": [1e300, -1e-300, 2**63, int(1e30), 0.00012345678901234567],
        "hash": "e123" + 40 * "1",
    }
    write_json(path := tmp_path / "a.json", record)
    assert read_json(path) == record


def checkpoint(root: Path, step: int) -> Path:
    folder = checkpoints.checkpoint_folder(root, step)
    folder.mkdir(parents=True)
    for name in ("adapter_model.safetensors", "optimizer.pt", "rng_state.pth"):
        (folder / name).write_bytes(os.urandom(256))
    checkpoints.mark_complete(folder)
    return folder


def metrics(path: Path, losses: dict[int, float]) -> Path:
    for step in range(1, max(losses) + 1):
        append_jsonl(path, {"event": "step", "step": step, "tokens": 1, "busy_seconds": 1.0})
        if step in losses:
            append_jsonl(path, {"event": "validation", "step": step, "loss": losses[step]})
    return path


@pytest.mark.parametrize(
    "name", ["adapter_model.safetensors", "optimizer.pt", "rng_state.pth", CHECKPOINT_MARKER]
)
def test_training_never_resumes_from_a_damaged_checkpoint(tmp_path, name):
    steps = metrics(tmp_path / "metrics.jsonl", {2: 3.0, 4: 2.0})
    root = tmp_path / "checkpoints"
    checkpoint(root, 2)
    last = checkpoint(root, 4)
    assert checkpoints.resume_step(root, steps) == 4
    flip(last / name, 3)
    assert checkpoints.resume_step(root, steps) == 2


@pytest.mark.parametrize("outside", ["../../outside", "{root}/outside"])
def test_a_checkpoint_lists_no_files_of_other_folders(tmp_path, outside):
    """A marker of somebody else could name a device that is read without end."""
    steps = metrics(tmp_path / "metrics.jsonl", {2: 3.0, 4: 2.0})
    root = tmp_path / "checkpoints"
    checkpoint(root, 2)
    marker = checkpoint(root, 4) / CHECKPOINT_MARKER
    (tmp_path / "outside").write_bytes(b"x")
    entry = [1, atomic_io.file_hash(tmp_path / "outside")]
    write_json(marker, {**read_json(marker), outside.format(root=tmp_path): entry})
    assert checkpoints.resume_step(root, steps) == 2


def test_training_resumes_before_a_damaged_best_checkpoint(tmp_path):
    steps = metrics(tmp_path / "metrics.jsonl", {2: 1.0, 4: 2.0})
    root = tmp_path / "checkpoints"
    best = checkpoint(root, 2)
    checkpoint(root, 4)
    assert checkpoints.resume_step(root, steps) == 4
    flip(best / "adapter_model.safetensors")
    assert checkpoints.resume_step(root, steps) == 0


def test_training_resumes_where_its_metrics_end(tmp_path):
    root = tmp_path / "checkpoints"
    checkpoint(root, 2)
    checkpoint(root, 4)
    assert checkpoints.resume_step(root, metrics(tmp_path / "metrics.jsonl", {2: 1.0})) == 2
    assert checkpoints.resume_step(root, tmp_path / "none.jsonl") == 0


def test_settings_of_another_version_are_refused_with_one_error():
    study = new_study()
    path = study.folder / "study.yaml"
    text = path.read_text(encoding="utf-8")
    write_text(path, text.replace("version: 1", "version: 2") + "colour: red\n")
    with pytest.raises(
        ConfigError, match=r"version 2, and this release .* reads version 1. Update"
    ) as caught:
        _ = study.config
    assert "colour" not in str(caught.value)
    write_text(path, text.replace("version: 1", "version: 0"))
    with pytest.raises(ConfigError, match="version 0"):
        _ = study.config
    write_text(path, text.replace("version: 1\n", ""))
    assert study.config.version == 1


def test_steps_of_an_older_release_are_kept_without_redo(monkeypatch):
    study = new_study()
    monkeypatch.setattr(invalidation, "step_inputs", lambda *_, **__: {"code": "0.2.0"})
    for step in study.steps:
        study.write_step(StepRecord(step, "succeeded", inputs={"code": "0.1.0"}))
    with pytest.raises(StudyError, match=r"code: 0.1.0 -> 0.2.0.*--name NEW.*--redo"):
        run_study(study)
    assert study.state == "succeeded"


def test_a_status_file_with_unknown_keys_is_of_another_version():
    study = new_study()
    study.write_step(StepRecord("data", "succeeded"))
    record = read_json(study.status_file("data"))
    write_json(study.status_file("data"), {**record, "cluster": "node-7"})
    with pytest.raises(StudyError, match="damaged or of another version"):
        study.step("data")
