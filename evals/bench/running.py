"""Start the contenders, one process at a time, and keep what each reports."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from assistant_builder.atomic_io import read_json
from assistant_builder.child_process import python_command
from assistant_builder.errors import EvaluationError
from assistant_builder.provenance import PACKAGES
from assistant_builder.worker import child_environment
from evals.bench.contenders import Contender, interleaved
from evals.bench.job import Job

_LOG_LINES = 5
"""Last lines of a failed run's log that the error shows."""


def run_all(
    job: Job, contenders: Sequence[Contender], rounds: int, on_run: Callable[[dict[str, Any]], None]
) -> list[dict[str, Any]]:
    """Run every contender once a round, interleaved.

    Args:
        job: What to train.
        contenders: Who takes part.
        rounds: How often; the number of the round is the seed.
        on_run: Told the record of each run when it is done.

    Returns:
        The records of ``evals.bench.child.measure``, each with its ``round``.

    Raises:
        EvaluationError: A run failed.
    """
    runs = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        job.write(folder / "job.json")
        for number, contender in interleaved(contenders, rounds):
            run = {"round": number, **_run(folder, contender, number)}
            runs.append(run)
            on_run(run)
    return runs


def _run(folder: Path, contender: Contender, seed: int) -> dict[str, Any]:
    result, log = folder / "result.json", folder / "log.txt"
    result.unlink(missing_ok=True)
    inputs = [str(folder / "job.json"), contender.name, str(seed), str(result)]
    with log.open("wb") as stream:
        code = subprocess.run(
            python_command("-m", "evals.bench.child", *inputs),
            stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, env=child_environment(), check=False,
        ).returncode
    if code != 0 or not result.is_file():
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
        raise EvaluationError(
            f"the run of {contender.name} ended with code {code}: {' | '.join(tail)}",
            remedy="Leave it out with --contenders, or free memory if code is -9",
        )
    record: dict[str, Any] = read_json(result)
    return record


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "platform": platform.platform(),
        "processors": psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "packages": versions,
    }
