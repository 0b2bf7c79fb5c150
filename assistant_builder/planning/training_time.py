"""Training time: estimated from FLOPs and earlier runs before a run, and from its own steps during the run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt
from typing_extensions import TypedDict

from assistant_builder.atomic_io import read_json
from assistant_builder.config import TrainConfig
from assistant_builder.errors import StudyError
from assistant_builder.planning.hardware import Machine
from assistant_builder.study import Study
from assistant_builder.study.containment import is_plain

ROUNDING_SPEED = 0.8
"""Speed of a training through the rounding of a format, as a share of that without (default model, 16 pairs a step)."""


@dataclass(frozen=True)
class TrainingFlops:
    """Operations of a training; a multiply-add counts as two."""

    tokens: int  # trained positions with padding
    supervised: int  # positions
    steps: int  # of the optimizer
    flops: float


def total_steps(train: TrainConfig, examples: int) -> int:
    """Return the optimizer steps of a full run over ``examples`` training sequences."""
    steps = max(1, math.ceil(examples * train.epochs / train.batch_size))
    return min(steps, train.max_steps) if train.max_steps else steps


MEASURED_STEPS = 5  # number of measured steps from which on the time is extrapolated
# the first steps are slower, because kernels and buffers are set up in them, and do not count for the pace
_WARMUP_STEPS = 2
# time of a validated and of a generated token relative to a trained one, until it has been measured: medians of the
# runs in docs/planner.md (0.19 to 0.42 and 8 to 27; token-by-token generation is bound by memory bandwidth)
_VALIDATION_COST, _GENERATION_COST = 0.3, 15.0


@dataclass(frozen=True)
class WorkRemaining:
    """The work of a run from start to end."""

    steps: int
    tokens: int  # trained, of all epochs without padding
    validations: int = 0  # each with a checkpoint
    validation_tokens: int = 0  # of the validation pairs
    samplings: int = 0  # times that sample questions are answered
    sample_tokens: int = 0  # generated each time


class PaceEstimator:
    """Estimates the total time of a run from its events."""

    def __init__(self, ahead: WorkRemaining) -> None:
        self.ahead = ahead
        self._steps = 0
        self._warm: Mapping[str, Any] | None = None
        self._last: Mapping[str, Any] | None = None
        self._elapsed = 0.0
        self._kind = ""
        self._validations: list[float] = []
        self._samplings: list[float] = []

    def add(self, event: Mapping[str, Any]) -> None:
        """Process one event of metrics.jsonl; events must arrive in order."""
        kind, elapsed = str(event["event"]), float(event["elapsed_seconds"])
        since = max(0.0, elapsed - self._elapsed)
        if kind == "step":
            if self._last is not None and self._kind != "step" and self._validations:
                own = float(event["busy_seconds"]) - float(self._last["busy_seconds"])
                checkpoint = max(0.0, since - own)  # saved before this step
                self._validations[-1] += checkpoint
            self._steps += 1
            if self._steps <= _WARMUP_STEPS:
                self._warm = event
            self._last = event
        elif kind == "validation":
            self._validations.append(since)
        elif kind == "sample" and self._kind == "sample":
            self._samplings[-1] += since
        elif kind == "sample":
            self._samplings.append(since)
        self._elapsed, self._kind = elapsed, kind

    def total_seconds(self) -> float | None:
        """Seconds of the whole training with checkpoints; None before :data:`MEASURED_STEPS` steps."""
        if self._steps < MEASURED_STEPS or self._warm is None or self._last is None:
            return None
        ahead = self.ahead
        trained = int(self._last["tokens"]) - int(self._warm["tokens"])
        seconds = float(self._last["busy_seconds"]) - float(self._warm["busy_seconds"])
        pace = seconds / max(1, trained)
        validation = _mean(self._validations, pace * _VALIDATION_COST * ahead.validation_tokens)
        sampling = _mean(self._samplings, pace * _GENERATION_COST * ahead.sample_tokens)
        return (
            self._elapsed
            + pace * max(0, ahead.tokens - int(self._last["tokens"]))
            + validation * max(0, ahead.validations - len(self._validations))
            + sampling * max(0, ahead.samplings - len(self._samplings))
        )

    def remaining_seconds(self) -> float | None:
        """Remaining seconds; None before :data:`MEASURED_STEPS` steps."""
        total = self.total_seconds()
        return None if total is None else max(0.0, total - self._elapsed)


def _mean(measured: list[float], default: float) -> float:
    return statistics.fmean(measured) if measured else default


def extrapolated_seconds(events: Iterable[Mapping[str, Any]], ahead: WorkRemaining) -> float | None:
    """Return the total seconds of a training, estimated from its events so far; None in its first steps."""
    pace = PaceEstimator(ahead)
    for event in events:
        pace.add(event)
    return pace.total_seconds()


_MAX_RUNS = 40  # the latest, so that a change of library or hardware takes effect soon
_MAX_SIZE_RATIO = 4.0  # runs count only if their model is at most this many times larger or smaller
_MIN_SECONDS = 60.0  # shorter runs are dominated by start-up time and do not count for the speed
# limits of a correction; ratios beyond them have other causes than the constants of the formulas
_CORRECTION_RANGE = (0.5, 2.0)


class _Prediction(TypedDict, total=False):
    peak_memory_bytes: float
    flops: float


class _Measured(TypedDict):
    device: str
    arm: str
    peak_memory_bytes: Annotated[float, Gt(0)]
    train_seconds: Annotated[float, Ge(0)]
    total_parameters: Annotated[float, Gt(0)]
    predicted: _Prediction


@dataclass(frozen=True)
class MeasuredRuns:
    """Medians over this machine's finished runs by (device, method)."""

    # ratio of measured to predicted peak, and operations per second
    memory: Mapping[tuple[str, str], float] = field(default_factory=dict)
    speed: Mapping[tuple[str, str], float] = field(default_factory=dict)
    runs: int = 0  # their number

    def memory_factor(self, machine: Machine, method: str) -> float:
        """Factor for predictions of memory; 1 for other machines and without finished runs."""
        return self._of(self.memory, machine, method) or 1.0

    def flops(self, machine: Machine, method: str) -> float | None:
        """Achieved operations per second; None for other machines and without finished runs."""
        return self._of(self.speed, machine, method)

    @staticmethod
    def _of(known: Mapping[tuple[str, str], float], machine: Machine, method: str) -> float | None:
        return known.get((machine.device, method)) if machine.is_local else None


def load_measured_runs(parameters: int) -> MeasuredRuns:
    """Load the finished runs of this machine with a model of a similar size."""
    folders = [study.folder for study in Study.all() if is_plain(study.folder)]
    ratios = ((run, run["total_parameters"] / parameters) for run in _latest_summaries(folders))
    runs = [run for run, ratio in ratios if 1 / _MAX_SIZE_RATIO <= ratio <= _MAX_SIZE_RATIO]
    memory: dict[tuple[str, str], list[float]] = {}
    speed: dict[tuple[str, str], list[float]] = {}
    least, most = _CORRECTION_RANGE
    for run in runs:
        key, predicted = (str(run["device"]), str(run["arm"])), run["predicted"]
        if predicted.get("peak_memory_bytes"):
            ratio = run["peak_memory_bytes"] / predicted["peak_memory_bytes"]
            memory.setdefault(key, []).append(min(max(ratio, least), most))
        if predicted.get("flops") and run["train_seconds"] >= _MIN_SECONDS:
            speed.setdefault(key, []).append(predicted["flops"] / run["train_seconds"])
    return MeasuredRuns(
        {key: statistics.median(values) for key, values in memory.items()},
        {key: statistics.median(values) for key, values in speed.items()},
        len(runs),
    )


def _latest_summaries(folders: Iterable[Path]) -> Iterator[dict[str, Any]]:
    paths = [path for folder in folders for path in folder.glob("arms/*/summary.json")]
    for path in sorted(paths, key=lambda path: -path.stat().st_mtime)[:_MAX_RUNS]:
        try:
            yield read_json(path, _Measured)
        except (StudyError, OSError):  # of another study, which is damaged, or without a prediction
            continue
