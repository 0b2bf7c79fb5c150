"""Training time and cost: from FLOPs before a run, from its own steps during it, corrected by earlier runs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assistant_builder.arms import LORA
from assistant_builder.atomic_io import read_json
from assistant_builder.config import TrainConfig
from assistant_builder.errors import StudyError
from assistant_builder.planning.architecture import Architecture, Module
from assistant_builder.planning.memory import adapter_parameters
from assistant_builder.study import studies_folder

if TYPE_CHECKING:
    from assistant_builder.planning.hardware import Machine

FULL_SPEED = {"cuda": 0.40, "cpu": 0.33}
"""Share of the peak that a step of full fine-tuning reaches, by device, until this machine's own runs say better; those
of training adapters are ``QuantizationMethod.speed``. CPU: 281 of the 860 tokens a second that the peak of two Zen 4
cores allows the default model."""


@dataclass(frozen=True)
class TrainingFlops:
    """Operations of a whole training.

    Attributes:
        tokens: Positions trained on, padding included.
        supervised: Positions the loss counts.
        steps: Optimizer steps.
        flops: Floating-point operations, a multiply-add counted as two.
    """

    tokens: int
    supervised: int
    steps: int
    flops: float


def flops_per_token(
    architecture: Architecture, adapted: Sequence[Module], rank: int, length: int, *, checkpointing: bool,
    full: bool = False,
) -> float:
    """Operations for each trained token, the head left out.

    A frozen weight costs 2 forwards and 2 backwards (the gradient of its input), and 2 more where the forward is
    repeated by checkpointing; a trained weight 2 more backwards. Attention adds two products over half the length
    (causal), each also twice backwards.

    Args:
        architecture: The model.
        adapted: Layers with an adapter.
        rank: Rank of the adapters.
        length: Tokens of a sequence.
        checkpointing: Whether the forward is repeated.
        full: Whether all weights are trained instead of adapters.
    """
    again = 2 if checkpointing else 0
    weights = architecture.active_weights
    adapters = 0 if full else sum(adapter_parameters(layer, rank) for layer in adapted)
    products = sum(2 * block.attention * (length / 2) for block in architecture.blocks)
    base = weights * (6 if full else 4) + weights * again
    return float(base + adapters * (6 + again) + products * (6 + again))


def head_flops_per_position(architecture: Architecture, *, full: bool = False) -> float:
    """Operations of the head for each position that the loss counts."""
    return float(architecture.hidden * architecture.vocabulary * (6 if full else 4))


def training_work(
    architecture: Architecture, adapted: Sequence[Module], train: TrainConfig, *, pairs: int, tokens_per_pair: float,
    supervised_per_pair: float, checkpointing: bool, full: bool = False,
) -> TrainingFlops:
    """Operations of one arm's training.

    Args:
        architecture: The model.
        adapted: Layers with an adapter.
        train: Epochs, steps, batch, rank.
        pairs: Training pairs.
        tokens_per_pair: Mean length, padding included.
        supervised_per_pair: Mean number of positions that the loss counts.
        checkpointing: Whether activations are recomputed.
        full: Whether all weights are trained instead of adapters.
    """
    steps = max(1, math.ceil(pairs * train.epochs / train.batch_size))
    steps = min(steps, train.max_steps) if train.max_steps else steps
    sequences = steps * train.batch_size
    body = flops_per_token(architecture, adapted, train.rank, round(tokens_per_pair), checkpointing=checkpointing,
                           full=full)
    head = head_flops_per_position(architecture, full=full)
    tokens, supervised = sequences * tokens_per_pair, sequences * supervised_per_pair
    return TrainingFlops(round(tokens), round(supervised), steps, tokens * body + supervised * head)


MEASURED_STEPS = 5
"""From this many measured steps on their time is extrapolated, whatever was planned."""
_WARMUP_STEPS = 2
"""First steps that set the pace only where there are no others: kernels and buffers are made in them."""
_VALIDATION_COST = 0.3
"""Time of validating a token over that of training on one, until a validation has been measured: the forward pass alone
of the frozen base's 2 + 2, without dropout, gradients and optimizer. Measured in docs/planner.md's runs: 0.19 to 0.42,
the median 0.30."""
_GENERATION_COST = 15.0
"""Trained tokens that take as long as writing one token of the sample answers, until the first have been written: a
token at a time is bound by reading the weights. Measured in the same runs: 8 to 27."""


@dataclass(frozen=True)
class WorkRemaining:
    """What a whole run does.

    Attributes:
        steps: Optimizer steps.
        tokens: Tokens trained on, padding left out, all epochs.
        validations: How often the validation pairs are scored and a checkpoint is saved.
        validation_tokens: Tokens of the validation pairs.
        samplings: How often sample questions are answered.
        sample_tokens: Tokens that are written one after the other each time.
    """

    steps: int
    tokens: int
    validations: int = 0
    validation_tokens: int = 0
    samplings: int = 0
    sample_tokens: int = 0


class PaceEstimator:
    """Takes in the events of a run and tells its whole time.

    Args:
        ahead: What the whole run does.
    """

    def __init__(self, ahead: WorkRemaining) -> None:
        self._ahead = ahead
        self._steps = 0
        self._warm: Mapping[str, Any] | None = None
        self._last: Mapping[str, Any] | None = None
        self._elapsed = 0.0
        self._kind = ""
        self._validations: list[float] = []
        self._samplings: list[float] = []

    def add(self, event: Mapping[str, Any]) -> None:
        """Take in one event of metrics.jsonl, in order."""
        kind, elapsed = str(event["event"]), float(event["elapsed_seconds"])
        since = max(0.0, elapsed - self._elapsed)
        if kind == "step":
            if self._last is not None and self._kind != "step" and self._validations:
                own = float(event["busy_seconds"]) - float(self._last["busy_seconds"])
                self._validations[-1] += max(0.0, since - own)  # the checkpoint, saved before this step
            self._steps += 1
            if self._steps <= _WARMUP_STEPS:
                self._warm = event
            self._last = event
        elif kind == "validation":
            self._validations.append(since)
        elif kind == "sample":
            if self._kind == "sample":
                self._samplings[-1] += since
            else:
                self._samplings.append(since)
        self._elapsed, self._kind = elapsed, kind

    def total_seconds(self) -> float | None:
        """Seconds of the whole training, validations, sample answers and checkpoints included.

        Returns:
            None before :data:`MEASURED_STEPS` steps.
        """
        if self._steps < MEASURED_STEPS or self._warm is None or self._last is None:
            return None
        ahead = self._ahead
        trained = int(self._last["tokens"]) - int(self._warm["tokens"])
        pace = (float(self._last["busy_seconds"]) - float(self._warm["busy_seconds"])) / max(1, trained)
        validation = _mean(self._validations, pace * _VALIDATION_COST * ahead.validation_tokens)
        sampling = _mean(self._samplings, pace * _GENERATION_COST * ahead.sample_tokens)
        return (
            self._elapsed + pace * max(0, ahead.tokens - int(self._last["tokens"]))
            + validation * max(0, ahead.validations - len(self._validations))
            + sampling * max(0, ahead.samplings - len(self._samplings))
        )

    def remaining_seconds(self) -> float | None:
        """Seconds to the end; None before :data:`MEASURED_STEPS` steps."""
        total = self.total_seconds()
        return None if total is None else max(0.0, total - self._elapsed)


def _mean(measured: list[float], otherwise: float) -> float:
    return statistics.fmean(measured) if measured else otherwise


def extrapolated_seconds(events: Iterable[Mapping[str, Any]], ahead: WorkRemaining) -> float | None:
    """Seconds of a whole training from the events so far.

    Args:
        events: Those of metrics.jsonl.
        ahead: What the whole run does.

    Returns:
        None before :data:`MEASURED_STEPS` steps.
    """
    pace = PaceEstimator(ahead)
    for event in events:
        pace.add(event)
    return pace.total_seconds()


_MAX_RUNS = 40
"""Only the latest runs count, so that a change of library or hardware is soon learnt."""
_MAX_SIZE_RATIO = 4.0
_MIN_SECONDS = 60.0
"""Seconds of training below which start-up tells more of the time than the machine's speed does."""
_CORRECTION_RANGE = (0.5, 2.0)
"""A correction beyond these says that something else is wrong than the constants; it is cut to them."""


@dataclass(frozen=True)
class MeasuredRuns:
    """Medians over this machine's finished runs.

    Attributes:
        memory: (device, method) → measured peak over predicted peak.
        speed: (device, method) → floating-point operations a second that training achieved.
        runs: How many runs that rests on.
    """

    memory: Mapping[tuple[str, str], float] = field(default_factory=dict)
    speed: Mapping[tuple[str, str], float] = field(default_factory=dict)
    runs: int = 0

    def memory_factor(self, machine: Machine, method: str) -> float:
        """What predictions of memory are multiplied by; 1 elsewhere than here, and without finished runs."""
        return self._of(self.memory, machine, method) or 1.0

    def flops(self, machine: Machine, method: str) -> float | None:
        """Operations a second that training achieves here; None elsewhere, and without finished runs."""
        return self._of(self.speed, machine, method)

    @staticmethod
    def _of(known: Mapping[tuple[str, str], float], machine: Machine, method: str) -> float | None:
        if not machine.is_local:
            return None
        # All weights are trained by the same kernels as the 16-bit arm
        return known.get((machine.device, LORA.name if method == "full" else method))


def load_measured_runs(parameters: int, folders: Iterable[Path] | None = None) -> MeasuredRuns:
    """Read the runs of all studies on this machine with a model of about this size.

    Args:
        parameters: Parameters of the model that is planned; a model of another size has other constants and another
            speed, so that runs count only within a factor of :data:`_SIZES` of it.
        folders: Folders of studies; None: all in the home folder.
    """
    all_runs = _runs(folders if folders is not None else _all_studies())
    found = [run for run in all_runs if 1 / _MAX_SIZE_RATIO <= run["total_parameters"] / parameters <= _MAX_SIZE_RATIO]
    memory: dict[tuple[str, str], list[float]] = {}
    speed: dict[tuple[str, str], list[float]] = {}
    for run in found:
        key, predicted = (str(run["device"]), str(run["arm"])), run["predicted"]
        if predicted.get("peak_memory_bytes"):
            ratio = run["peak_memory_bytes"] / predicted["peak_memory_bytes"]
            memory.setdefault(key, []).append(min(max(ratio, _CORRECTION_RANGE[0]), _CORRECTION_RANGE[1]))
        if predicted.get("flops") and run["train_seconds"] >= _MIN_SECONDS:
            speed.setdefault(key, []).append(predicted["flops"] / run["train_seconds"])
    return MeasuredRuns(
        {key: statistics.median(values) for key, values in memory.items()},
        {key: statistics.median(values) for key, values in speed.items()}, len(found),
    )


def _all_studies() -> list[Path]:
    return [path.parent for path in studies_folder().glob("[!.]*/study.yaml")]


def _runs(folders: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """``summary.json`` of the latest runs that hold a prediction."""
    paths = [path for folder in folders for path in folder.glob("arms/*/summary.json")]
    needed = {"device", "arm", "peak_memory_bytes", "train_seconds", "total_parameters"}
    for path in sorted(paths, key=lambda path: -path.stat().st_mtime)[:_MAX_RUNS]:
        try:
            record = read_json(path)
        except (StudyError, OSError):
            continue
        if isinstance(record.get("predicted"), dict) and needed <= record.keys():
            yield record
