"""Studies that are read-only, removed or run twice, and full disks."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from typer.testing import CliRunner

from assistant_builder.atomic_io import append_jsonl, read_json, read_jsonl
from assistant_builder.cli import app, main
from assistant_builder.error_translation import translate_error
from assistant_builder.errors import AssistantBuilderError, ResourceError, StudyError
from assistant_builder.planning.training_time import WorkRemaining
from assistant_builder.runner.open_study import open_or_create
from assistant_builder.runner.run import run_study, start_run
from assistant_builder.runner.step_process import run_as_step
from assistant_builder.study import Study
from assistant_builder.study.locks import process_identity
from assistant_builder.study.steps import Progress, StepRecord
from assistant_builder.training.progress import MetricsLog
from evals.report.build import write_report
from tests.cluster.conftest import wait_until
from tests.fault_injection.conftest import fill, lock, python
from tests.synthetic_study import finished_study, new_study, running


def refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str
) -> str:
    """The error line of a refused command."""
    monkeypatch.setattr(sys, "argv", ["assistant-builder", *words])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main()
    output = capsys.readouterr()
    assert ended.value.code == 1 and output.out == "" and output.err.strip().count("\n") == 0, (
        output
    )
    return output.err


def test_a_step_on_a_full_disk_reports_it(small_disk, monkeypatch):
    monkeypatch.setenv("ASSISTANT_BUILDER_HOME", str(small_disk))
    study = new_study()
    study.reserve_disk_space()
    monkeypatch.setattr(
        "traceback.print_exception", lambda error: (_ for _ in ()).throw(OSError(28, "no space"))
    )

    def work() -> list[Path]:
        fill(small_disk)
        study.write_progress("data", Progress(1, 2, "file"))
        raise AssertionError("the disk was not full")

    assert run_as_step(study, "data", work) == 1
    error = study.step("data").error
    assert study.step("data").state == "failed" and error is not None
    assert error["what"] == "the disk is full" and "Free space" in error["remedy"]
    (small_disk / "filler").unlink()
    assert run_as_step(study, "data", lambda: []) == 0


def test_a_step_that_finishes_on_a_full_disk_is_done(small_disk, monkeypatch):
    monkeypatch.setenv("ASSISTANT_BUILDER_HOME", str(small_disk))
    study = new_study()
    study.reserve_disk_space()

    def work() -> list[Path]:
        fill(small_disk)
        return []

    assert run_as_step(study, "data", work) == 0 and study.step("data").state == "succeeded"


def test_a_run_on_a_full_disk_ends_with_an_error(small_disk, monkeypatch):
    monkeypatch.setenv("ASSISTANT_BUILDER_HOME", str(small_disk))
    study = new_study()
    fill(small_disk)
    with pytest.raises(ResourceError, match="the disk is full.*Free space"):
        run_study(study)
    assert study.state in ("queued", "failed")
    # no half-written file is left
    assert {path.name for path in study.folder.rglob(".*.*")} <= {".lock"}


def test_a_report_on_a_full_disk_keeps_the_old_one(small_disk, monkeypatch):
    monkeypatch.setenv("ASSISTANT_BUILDER_HOME", str(small_disk))
    study = finished_study()
    study.reserve_disk_space()
    before = {
        name: (study.folder / name).read_bytes()
        for name in ("report.json", "report.html", "report.md")
    }
    fill(small_disk)
    assert run_as_step(study, "report", lambda: [write_report(study)]) == 1
    error = study.step("report").error
    assert error is not None
    assert error["what"] == "the disk is full"
    assert study.step("report").state == "failed"
    assert {name: (study.folder / name).read_bytes() for name in before} == before
    assert not list(study.folder.glob(".report*"))


def test_a_run_reports_that_an_orphaned_step_died(monkeypatch):
    study = new_study()
    monkeypatch.setattr(Study, "steps", ("data",))
    monkeypatch.setattr("assistant_builder.runner.local_runner._POLL_SECONDS", 0.01)
    gone = "started by an earlier run, exited without reporting a result.*Run again to resume"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        study.write_step(
            StepRecord(
                "data", "running", pid=process.pid, process_started=process_identity(process.pid)
            )
        )

        def watch(event: object) -> None:
            process.kill()
            process.wait()

        with pytest.raises(AssistantBuilderError, match=gone):
            run_study(study, on_event=watch)
    assert study.state == "failed"


def test_a_file_that_grows_too_large_is_left_as_it_was(tmp_path):
    path = tmp_path / "metrics.jsonl"
    append_jsonl(path, {"step": 1})
    result = python(
        f"from pathlib import Path\nfrom assistant_builder.atomic_io import append_jsonl, write_json\n"
        f"path = Path({str(path)!r})\n"
        "for write in (append_jsonl, lambda path, record: write_json(path.with_suffix('.json'), record)):\n"
        "    try: write(path, {'text': 'x' * 5000})\n"
        "    except OSError as error: print(error.errno in (27, 28))\n",
        limits="import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))",
    )
    assert result.stdout.split() == ["True", "True"], result.stderr
    assert read_jsonl(path) == [{"step": 1}]
    assert [found.name for found in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_library_errors_of_full_disk_and_memory_are_translated():
    full = [
        OSError(28, "No space left on device", "/somewhere"),
        RuntimeError("PytorchStreamWriter failed writing file data/17: file write failed"),
        RuntimeError("[enforce fail at inline_container.cc:626] . unexpected pos 64 vs 0"),
        RuntimeError("basic_ios::clear: iostream error"),
        Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
    ]
    for error in full:
        assert str(translate_error(error).what) == "the disk is full", error
    shared = [
        RuntimeError(
            "NCCL error: unhandled system error. Last error:\nError while creating shared memory segment "
            "/dev/shm/nccl-ufPo8D (size 9637888), error: No space left on device (28)"
        ),
        RuntimeError(
            "unable to allocate shared memory(shm) for file </torch_71_1>: No space left on device (28)"
        ),
        RuntimeError("unable to write to file </torch_71_1>: No space left on device (28)"),
        OSError(28, "No space left on device", "/dev/shm/psm_1"),
    ]
    for error in shared:
        found = translate_error(error)
        assert str(found.what) == "shared memory is full"
        assert str(found.where) == "/dev/shm"
        assert "--shm-size" in str(found.remedy)
    short = [
        MemoryError(),
        OSError(12, "Cannot allocate memory"),
        Exception("Cannot allocate memory (os error 12)"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried ..."
        ),
        RuntimeError("can't start new thread"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("could not create a primitive"),  # of oneDNN
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ]
    for error in short:
        assert str(translate_error(error).what) == "memory ran out", error
    wrapped = StudyError("not loadable: Cannot allocate memory")
    wrapped.__cause__ = OSError(12, "Cannot allocate memory")
    assert isinstance(translate_error(wrapped), ResourceError)
    own = ResourceError("the base does not fit", remedy="choose a smaller one")
    own.__cause__ = MemoryError()
    assert str(translate_error(own).remedy) == "choose a smaller one"
    assert str(translate_error(StudyError("as it was", remedy="do this")).remedy) == "do this"


def test_a_read_only_study_is_readable_but_not_run(read_only, capsys, monkeypatch):
    study = finished_study()
    lock(study.folder, read_only)
    with pytest.raises(StudyError, match="is not writable.*Make the folder writable"):
        run_study(study)
    with pytest.raises(StudyError, match="is not writable"):
        start_run(study.name)
    for words in (["status", study.name], ["report", study.name, "--format", "md"], ["list"]):
        assert CliRunner().invoke(app, words).exit_code == 0
    other = new_study("other")
    lock(other.folder, read_only)
    line = refused(capsys, monkeypatch, "run", other.name)
    assert "is not writable" in line
    assert str(other.folder) in line
    assert "Make the folder writable" in line


def test_a_removed_study_is_not_recreated_by_its_step():
    study = new_study()
    log = MetricsLog(study.arm_folder("lora") / "metrics.jsonl", step=0, work=WorkRemaining(4, 400))
    study.arm_folder("lora").mkdir(parents=True)
    log.record_validation(1, 2.0)

    def work() -> list[Path]:
        shutil.rmtree(study.folder)
        for write in (
            lambda: log.record_validation(2, 1.0),
            lambda: study.write_progress("data", Progress(1, 2, "f")),
        ):
            with pytest.raises(StudyError, match="missing.*Restore it"):
                write()
        return []

    with pytest.raises(StudyError, match="the folder of study library is missing"):
        run_as_step(study, "data", work)
    assert not study.folder.exists()
    with pytest.raises(StudyError, match="no study named"):
        Study.open(study.name)
    new_study()  # its name is free


def test_a_run_reports_that_its_study_was_removed(monkeypatch):
    study = new_study()
    runner = "assistant_builder.runner.local_runner.LocalRunner"
    monkeypatch.setattr(f"{runner}.run_steps", lambda *_: shutil.rmtree(study.folder))
    with pytest.raises(StudyError, match="missing.*Restore it"):
        run_study(study)
    assert not study.folder.exists()


def test_a_second_run_is_refused_and_changes_nothing(capsys, monkeypatch):
    study = new_study()
    before = (study.folder / "study.yaml").read_bytes()
    with FileLock(study.folder / ".lock"):
        with pytest.raises(StudyError, match=r"another process runs this study.*status library"):
            run_study(study)
        with pytest.raises(StudyError, match="another process runs this study"):
            open_or_create(study.name, name=None, changes={"train.rank": "8"}, redo=False)
        line = refused(capsys, monkeypatch, "run", study.name, "--set", "train.rank=8")
        assert "another process runs this study" in line
    assert (study.folder / "study.yaml").read_bytes() == before
    assert study.step("data").state == "queued"


def test_settings_cannot_change_while_a_step_outlives_its_run():
    study = new_study()
    running(study, "train-lora")
    with pytest.raises(StudyError, match="still running with the previous settings"):
        open_or_create(study.name, name=None, changes={"train.rank": "8"}, redo=False)
    assert open_or_create(study.name, name=None, changes={}, redo=False).name == study.name


def test_a_step_that_outlived_its_run_with_other_settings_is_run_again(monkeypatch):
    """The settings were changed in the file while the step was running."""
    study = new_study()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        study.write_step(
            StepRecord(
                "data",
                "running",
                inputs={"rank": 4},
                pid=process.pid,
                process_started=process_identity(process.pid),
            )
        )
        monkeypatch.setattr(
            "assistant_builder.runner.invalidation.step_inputs", lambda *_, **__: {"rank": 8}
        )
        monkeypatch.setattr(Study, "steps", ("data",))
        made: list[str] = []

        def begin(study: Study, step: str) -> list[str]:
            made.append(step)
            study.write_step(StepRecord(step, "succeeded", inputs={"rank": 8}))
            return [sys.executable, "-c", ""]

        monkeypatch.setattr("assistant_builder.runner.local_runner.step_command", begin)

        def watch(event: object) -> None:
            if not made and study.step("data").state == "running":
                study.write_step(StepRecord("data", "succeeded", inputs={"rank": 4}))

        run_study(study, on_event=watch)
    assert made == ["data"] and study.step("data").inputs == {"rank": 8}


def test_a_run_outlives_the_page_that_started_it(home):
    """The server is killed; the run has its own session and continues to its end."""
    study = new_study()
    server = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import subprocess, sys\n"
            "from assistant_builder.runner import run\n"
            "real = subprocess.Popen\n"
            "slow = 'import time, pathlib, sys; time.sleep(1.5); pathlib.Path(sys.argv[1]).write_text(\"done\")'\n"
            f"mark = {str(home / 'done.txt')!r}\n"
            "run.subprocess.Popen = lambda words, **more: real([sys.executable, '-c', slow, mark], **more)\n"
            f"print(run.start_run({study.name!r}), flush=True)\n"
            "input()\n",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None and int(server.stdout.readline()) > 0
    server.kill()
    server.communicate()  # also closes its pipes
    wait_until((home / "done.txt").exists)
    assert (home / "done.txt").read_text() == "done"


def test_the_end_of_a_run_is_recorded_atomically():
    study = new_study()
    study.write_run_record("failed", StudyError("w", remedy="r"))
    assert read_json(study.folder / "run.json")["error"]["remedy"] == "r"
