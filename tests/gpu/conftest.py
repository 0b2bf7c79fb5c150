"""Fixtures of the suite for machines with a GPU; docs/gpu.md describes it, and dry runs without a GPU.

Every case uses the command line, the process of a step, or the files of a study. Models run in child processes, so that
cases do not share memory.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from assistant_builder.atomic_io import file_hash, read_jsonl, write_json
from assistant_builder.child_process import compute_environment
from assistant_builder.config import StudyConfig
from assistant_builder.models import bundled
from assistant_builder.runner.data_steps import prepare_data
from assistant_builder.runner.step_process import run_as_step, step_command
from assistant_builder.study import Study
from tests.export.tiny import tiny_base
from tests.synthetic_study import SMALL

VARIABLE = "ASSISTANT_BUILDER_GPU_SUITE_DEVICE"
DEVICE = os.environ.get(VARIABLE, "cuda")
"""``cuda``; ``cpu`` runs every case that does not need CUDA itself, to try the suite's own code."""
ARMS = ("lora", "qlora")
TOLERANCE = {"bfloat16": 3e-2, "float16": 4e-3, "float32": 1e-4}
"""How far a loss curve may lie from the CPU's curve in float32, in nats a token.

bfloat16 has 8 bits of mantissa: another batch shape alone changes the loss of a step by 0.01, and the curves of
one process and of two on a CPU may differ by 3e-2 (tests/training/test_distributed.py). float16 has three more bits, so
its rounding errors are an eighth as large; larger differences would come from gradients that underflow.
"""
NO_GPU = f"no CUDA device: nothing was run ({VARIABLE}=cpu runs the suite's logic on the CPU, see docs/gpu.md)"
_TOLD = "measured"
"""Property of a test's report that holds a line; reports come from the workers of pytest-xdist too."""

if DEVICE == "cpu":  # before torch is imported, here and in every child process
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


def cards() -> int:
    """CUDA devices that this process sees."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip every case before its fixtures are created, so that the summary has one line."""
    if DEVICE not in ("cpu", "cuda"):
        raise pytest.UsageError(f"{VARIABLE}={DEVICE} is neither cpu nor cuda")
    if DEVICE == "cuda" and not cards():
        pytest.skip(NO_GPU)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the measurements of the cases."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    lines = [
        line
        for report in reports
        if getattr(report, "when", "") == "call"
        for name, line in report.user_properties
        if name == _TOLD
    ]
    if lines:
        terminalreporter.section(f"measured on {device_name()}")
        for line in lines:
            terminalreporter.write_line(line)


def device_name() -> str:
    """The first card's name with its driver and CUDA versions; or the CPU, in a dry run."""
    import torch

    if DEVICE == "cpu":
        return f"the CPU (dry run), torch {torch.__version__}"
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(
            asked, capture_output=True, text=True, timeout=10, check=True
        ).stdout.splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        driver = "unknown"
    return (
        f"{torch.cuda.get_device_name(0)} ({cards()} visible), driver {driver}, CUDA {torch.version.cuda}, "
        f"torch {torch.__version__}"
    )


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Function that adds a line to the printed measurements."""
    return lambda line: request.node.user_properties.append((_TOLD, line))


@pytest.fixture
def cuda() -> None:
    """Skip cases that need CUDA."""
    if DEVICE != "cuda":
        pytest.skip("only CUDA can do this")


@pytest.fixture
def two_devices() -> None:
    """Skip cases that need two cards; a dry run uses two processes over gloo."""
    if DEVICE == "cuda" and cards() < 2:
        pytest.skip("one card is visible, and this takes two")


@pytest.fixture(params=["bfloat16", "float16"])
def dtype(request: pytest.FixtureRequest) -> str:
    """Each 16-bit compute dtype of the device."""
    import torch

    if (
        DEVICE == "cuda"
        and request.param == "bfloat16"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        pytest.skip("this card has no bfloat16")
    return str(request.param)


@pytest.fixture(scope="session")
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base that trains in seconds: four layers of the bundled one; in a dry run two layers with random weights."""
    if DEVICE == "cuda":
        found: Path = request.getfixturevalue("short_base")
        return found
    return tiny_base(tmp_path_factory.mktemp("gpu") / "base")


def environment(**changes: str) -> dict[str, str]:
    """The environment of a child process; in a dry run with as many threads as the tests run with."""
    return {**compute_environment(), **changes}


ON_THE_CPU = {"CUDA_VISIBLE_DEVICES": ""}
"""Environment of a child process that shall not see the cards."""


def new_study(name: str, base: Path | str, **changes: Any) -> Study:
    """A study of 20 steps of eight pairs with prepared data; ``changes`` are dotted keys with ``__`` for the dot."""
    config = StudyConfig(name=name).with_changes(
        {
            "data.source": str(SMALL),
            "data.max_heldout": 4,
            "model.base": str(base),
            "model.allow_float32_compute": True,
            "executor.devices": 1,
            "train.max_steps": 20,
            "train.epochs": 100,
            "train.batch_size": 8,
            "train.micro_batch_size": 4,
            "train.evaluations": 2,
            "train.rank": 4,
            "train.dropout": 0,
            "train.sample_answers": 1,
            "eval.max_new_tokens": 8,
            "eval.bootstrap_resamples": 500,
            "eval.similarity": False,
            "eval.baselines": False,
            "eval.noise_floor": False,
            "eval.retention": False,
            "eval.cells": ["B16", "B4", "L16", "Q4"],
            **{key.replace("__", "."): value for key, value in changes.items()},
        }
    )
    study = Study.create(config, SMALL)
    assert run_as_step(study, "data", lambda: prepare_data(study)) == 0
    return study


def change(study: Study, **changes: Any) -> None:
    """Change settings of a study; :func:`step` does not check for stale steps."""
    study.write_config(
        study.config.with_changes({key.replace("__", "."): value for key, value in changes.items()})
    )


def start(
    study: Study, name: str, words: list[str] | None = None, **more: str
) -> subprocess.Popen[bytes]:
    """Start a step as a run does, its output in the step's log.

    Args:
        study: The study.
        name: The step.
        words: Another command line than the step's own.
        more: Environment variables.
    """
    log = study.log_file(name)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        return subprocess.Popen(
            words or step_command(study, name),
            stdout=file,
            stderr=file,
            stdin=subprocess.DEVNULL,
            env=environment(**more),
        )


def step(study: Study, name: str, **more: str) -> None:
    """Run a step to its end.

    Raises:
        AssertionError: It failed; with the end of its log.
    """
    code = start(study, name, **more).wait()
    assert code == 0, log_end(study, name)


def log_end(study: Study, name: str) -> str:
    """The last lines of a step's log, for the message of a failed test."""
    return study.log_file(name).read_text(encoding="utf-8", errors="replace")[-3000:]


def copy_of(study: Study, folder: Path) -> Study:
    """A copy of the study's folder, of the same name."""
    shutil.copytree(study.folder, folder / study.folder.name)
    return Study(folder / study.folder.name)


def events(study: Study, run: str, kind: str = "step") -> list[dict[str, Any]]:
    """Events of one kind of a run's ``metrics.jsonl``."""
    return [
        event
        for event in read_jsonl(study.arm_folder(run) / "metrics.jsonl")
        if event["event"] == kind
    ]


def adapter_hash(study: Study, run: str) -> str:
    """SHA-256 of the adapter of a training run."""
    return file_hash(study.arm_folder(run) / "adapter" / "adapter_model.safetensors")


@pytest.fixture(scope="session")
def trained_home(
    base: Path, model_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A home with one study, ``trained``, whose two arms were trained on the device."""
    folder = tmp_path_factory.mktemp("gpu-home")
    (folder / "models").mkdir()
    for bundle in bundled.BUNDLES:
        (folder / "models" / bundle.name).symlink_to(model_cache / "models" / bundle.name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSISTANT_BUILDER_HOME", str(folder))
        study = new_study("trained", base)
        for arm in ARMS:
            step(study, f"train-{arm}")
    yield folder


@pytest.fixture
def trained(trained_home: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A study whose arms were trained on the device; tests change only a :func:`copy_of` it."""
    monkeypatch.setenv("ASSISTANT_BUILDER_HOME", str(trained_home))
    return Study.open("trained")


def cli(*words: str) -> str:
    """Standard output of an ``assistant-builder`` command.

    Raises:
        AssertionError: It failed; with what it said.
    """
    done = subprocess.run(
        [sys.executable, "-m", "assistant_builder", *words],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def short_of_memory(words: list[str], *, loads: int, spare_bytes: int, folder: Path) -> list[str]:
    """The command line of a Python module that gets hardly any memory once it has loaded some bases.

    Args:
        words: ``[python, "-m", module, …]``.
        loads: Bases that it may load.
        spare_bytes: What it may take beyond them.
        folder: Folder for the script's limits.
    """
    _, flag, module, *rest = words[:1] + [word for word in words[1:] if word != "-P"]
    assert flag == "-m", words
    write_json(
        folder / "short.json", {"device": DEVICE, "loads": loads, "spare_bytes": spare_bytes}
    )
    return [
        words[0],
        str(Path(__file__).with_name("short_of_memory.py")),
        str(folder / "short.json"),
        module,
        *rest,
    ]
