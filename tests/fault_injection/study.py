"""The small study of fault injection, its results, and the table of injected faults."""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assistant_builder.atomic_io import file_hash, read_json
from assistant_builder.child_process import python_command, python_environment
from assistant_builder.config import StudyConfig
from assistant_builder.study import Study
from assistant_builder.study.addresses import allow_addresses

DATA = Path(__file__).resolve().parents[2] / "datasets_cards" / "thimble-row-library" / "data.csv"
SETTINGS: dict[str, Any] = {
    "approaches": ["memory"],
    "formats.types": [],
    "train.max_steps": 6,
    "train.batch_size": 4,
    "train.micro_batch_size": 2,
    "train.evaluations": 3,
    "train.rank": 4,
    "train.dropout": 0.05,
    "train.sample_answers": 1,
    "data.max_heldout": 4,
    "eval.max_new_tokens": 8,
    "eval.bootstrap_resamples": 200,
    "eval.retention": False,
    "eval.noise_floor": False,
    "eval.baselines": False,
    "eval.fidelity": False,
    "eval.cells": ["L16", "Q4"],
}
"""Six steps with dropout, a checkpoint after every second one, and the two cells that a report cannot do without."""


def small_study(name: str, base: str = "", **changes: Any) -> Study:
    """Create a study of :data:`SETTINGS` without running it.

    Args:
        name: Its name.
        base: Base model; empty: the bundled one.
        changes: Other settings, dotted keys with ``__`` for the dot.
    """
    wanted = {
        **SETTINGS,
        **({"model.base": base} if base else {}),
        **{key.replace("__", "."): value for key, value in changes.items()},
    }
    config = StudyConfig(name=name).with_changes({**wanted, "data.source": str(DATA)})
    allow_addresses(config.addresses.values())  # whoever makes a study types its addresses
    return Study.create(config, DATA)


def copy_of(study: Study, name: str, *, without: Sequence[str] = ()) -> Study:
    """Copy a study, without some of its steps.

    Args:
        study: The study.
        name: Name of the copy.
        without: Steps whose files are left out.
    """
    folder = study.folder.with_name(name)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(study.folder, folder)
    copy = Study(folder)
    copy.write_config(study.config.model_copy(update={"name": name}))
    for step in without:
        copy.delete_step_outputs(step)
    (folder / "run.json").unlink(missing_ok=True)
    return copy


def start(study: Study, *words: str) -> subprocess.Popen[str]:
    """Start ``assistant-builder run`` on a study; one thread, so that other work on the machine slows it down less."""
    command = python_command("-m", "assistant_builder", "run", study.name, "--now", *words)
    home = str(study.folder.parents[1])
    environment = {**python_environment(), "OMP_NUM_THREADS": "1", "ASSISTANT_BUILDER_HOME": home}
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
    )


def run(study: Study, *words: str) -> tuple[int, str]:
    """Run a study to its end.

    Returns:
        Exit code and output.
    """
    process = start(study, *words)
    said, _ = process.communicate()
    return process.returncode, said


def outcome(study: Study) -> dict[str, Any]:
    """Results that must not change: each adapter's bytes, each scored item, and the verdict; no times."""
    found: dict[str, Any] = {
        path.parent.parent.name: file_hash(path)
        for path in sorted(study.folder.glob("arms/*/adapter/adapter_model.safetensors"))
    }
    for path in sorted(study.folder.glob("evals/*/samples.jsonl")):
        found[path.parent.name] = file_hash(path)
    report = study.folder / "report.json"
    if report.is_file():
        found["verdict"] = read_json(report)["verdict"]
    return found


def differences(study: Study, reference: dict[str, Any]) -> list[str]:
    """Differences from the undisturbed run, as sentences."""
    found = outcome(study)
    return [
        f"{key} differs from the undisturbed run" if key in found else f"{key} is missing"
        for key, value in reference.items()
        if found.get(key) != value
    ]


@dataclass
class Row:
    """One kind of fault.

    Attributes:
        fault: Description of the fault.
        injected: Number of injections.
        compared: Results compared with those of the undisturbed run, or sentences looked at.
        lost: Descriptions of results that differ from the promise.
        missed: Injections that came too late to have an effect.
    """

    fault: str
    injected: int = 0
    compared: int = 0
    lost: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)

    def add(self, done: bool, otherwise: str) -> None:
        """Count a fault, or note that it came too late."""
        if done:
            self.injected += 1
        else:
            self.missed.append(otherwise)

    def compare(self, problems: Sequence[str], what: str) -> None:
        """Count a comparison and record its differences."""
        self.compared += 1
        self.lost += [f"{what}: {problem}" for problem in problems]


def table(rows: Sequence[Row]) -> str:
    """Markdown table with one line per kind of fault, followed by the lost results."""
    lines = ["| fault | injected | compared | lost |", "| --- | ---: | ---: | ---: |"]
    lines += [
        f"| {row.fault} | {row.injected} | {row.compared} | {len(row.lost)} |" for row in rows
    ]
    lines += [f"LOST  {row.fault}: {problem}" for row in rows for problem in row.lost]
    lines += [f"late  {row.fault}: {problem}" for row in rows for problem in row.missed]
    return "\n".join(lines)
