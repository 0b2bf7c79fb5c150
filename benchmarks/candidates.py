"""The trainers that the benchmarks compare, and how their runs are ordered, timed and started; no torch."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from assistant_builder.arms import TWINS
from assistant_builder.atomic_io import read_json
from assistant_builder.child_process import compute_environment, python_command
from assistant_builder.errors import EvaluationError
from benchmarks.paths import log_end

Family = Literal["ours", "plain", "tuned", "factory", "unsloth"]
Run = Mapping[str, Any]
"""Record of ``training_process.measure`` with its ``round``; GPU runs add ``tokens``, or ``failed`` if they failed."""
_T = TypeVar("_T")

TITLES: dict[Family, str] = {
    "ours": "Assistant Builder",
    "plain": "TRL, plain",
    "tuned": "TRL, tuned",
    "factory": "LLaMA-Factory",
    "unsloth": "Unsloth",
}
BASES: dict[str, str] = {"lora": "16-bit base", "qlora": "NF4 base"}


@dataclass(frozen=True)
class Candidate:
    """One way to train one arm."""

    family: Family  # the training loop that runs
    arm: str  # the base it trains over: ``lora`` 16-bit, ``qlora`` 4-bit

    @property
    def name(self) -> str:
        """Name in the command line, the files and the worker process."""
        return f"{self.family}-{self.arm}"

    @property
    def title(self) -> str:
        """Name in the table."""
        return TITLES[self.family]


def _candidates(*families: Family) -> tuple[Candidate, ...]:
    return tuple(Candidate(family, arm) for arm in TWINS for family in families)


CPU_CANDIDATES = _candidates("plain", "tuned", "ours")
"""Candidates of ``benchmarks.training_speed``."""
CPU_ORDER = _candidates("plain", "tuned", "ours", "factory")
"""Row order of its table; LLaMA-Factory is optional because it needs an environment of its own."""
GPU_CANDIDATES = _candidates("ours", "plain", "tuned", "unsloth")
"""Candidates of ``benchmarks.gpu``."""
BY_NAME = {candidate.name: candidate for candidate in (*CPU_ORDER, *GPU_CANDIDATES)}


def factory_candidates(device: str) -> tuple[Candidate, ...]:
    """LLaMA-Factory's; on a CPU only the 16-bit base, because its 4-bit training fails there (release 0.9.5)."""
    return tuple(Candidate("factory", arm) for arm in TWINS if device == "cuda" or arm == "lora")


def candidates_option(allowed: Sequence[Candidate]) -> Callable[[str], tuple[Candidate, ...]]:
    """Parser of a ``--candidates`` option: comma-separated names, returned in the order of ``allowed``."""
    names = [candidate.name for candidate in allowed]

    def parse(text: str) -> tuple[Candidate, ...]:
        wanted = [name.strip() for name in text.split(",")]
        unknown = [name for name in wanted if name not in names]
        if unknown:
            raise argparse.ArgumentTypeError(
                f"{', '.join(unknown)}: choose from {', '.join(names)}"
            )
        return tuple(candidate for candidate in allowed if candidate.name in wanted)

    return parse


def positive(text: str) -> int:
    """Parser of an option that takes a whole number of 1 or more."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


def interleaved(candidates: Sequence[_T], rounds: int) -> list[tuple[int, _T]]:
    """Round (from 1) and candidate of every run: each round runs each candidate once, every second round in reverse.

    A machine that slowly gets warmer or busier then favours no candidate.
    """
    order: list[tuple[int, _T]] = []
    for number in range(1, rounds + 1):
        order += [
            (number, candidate)
            for candidate in (candidates if number % 2 else reversed(candidates))
        ]
    return order


def start_worker(
    job: Path,
    candidate: Candidate,
    seed: int,
    *options: str,
    environment: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Run one candidate in a process of its own, in the environment of the product's steps; returns exit code and log.

    ``options`` are further arguments of ``training_process``; its output is written to the folder of the job.
    """
    result, log = job.with_name("result.json"), job.with_name("log.txt")
    result.unlink(missing_ok=True)
    with log.open("wb") as stream:
        words = (*options, str(job), candidate.name, str(seed), str(result))
        code = subprocess.run(
            python_command("-m", "benchmarks.training_process", *words),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**compute_environment(), **(environment or {})},
            check=False,
        ).returncode
    return code, log.read_text(encoding="utf-8", errors="replace")


def run_case(module: str, *options: str, remedy: str) -> Any:
    """Run one case as ``python -m MODULE OPTIONS… --out FILE``; returns the JSON document that it wrote.

    Raises:
        EvaluationError: The process failed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch) / "result.json"
        done = subprocess.run(
            python_command("-m", module, *options, "--out", str(result)),
            capture_output=True,
            text=True,
            env=compute_environment(),
            check=False,
        )
        if done.returncode:
            raise EvaluationError(
                f"{module} {' '.join(options)} failed: {log_end(done.stderr)}",
                remedy=remedy,
            )
        return read_json(result)


@dataclass(frozen=True)
class Spread:
    """Median, lowest and highest value of the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


def spread_text(value: Spread | None, places: int) -> str:
    """``312 (290-330)``; only the median of a single round; a dash for None."""
    if value is None:
        return "–"
    median, low, high = (f"{number:.{places}f}" for number in (value.median, value.low, value.high))
    return median if low == high else f"{median} ({low}-{high})"
