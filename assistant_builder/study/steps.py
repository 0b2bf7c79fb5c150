"""The steps of a study, and the record of a step's state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from assistant_builder.arms import TWINS, continued
from assistant_builder.config import Approach, StudyConfig
from assistant_builder.error_record import ErrorRecord
from assistant_builder.i18n import Text, text_of, written

FORMATS = "formats"
"""The step that writes and scores GGUF files."""
UnixTime = Annotated[float, Field(ge=0, lt=3e10)]
"""Seconds since 1970, before the last year that every system can write as a date."""
State = Literal["queued", "running", "succeeded", "failed", "cancelled", "lost"]


def arm_runs(seeds: int, arms: Sequence[str] = TWINS) -> tuple[str, ...]:
    """The training runs of a study in order: ``lora``, ``qlora``, then ``lora-2``, ``qlora-2`` for the second seed."""
    return tuple(run_of(arm, seed) for seed in range(1, seeds + 1) for arm in arms)


def run_of(arm: str, seed: int = 1) -> str:
    """Name of the training run of an arm and a seed number: ``lora``, ``lora-2``."""
    return arm if seed == 1 else f"{arm}-{seed}"


def split_run(run: str) -> tuple[str, int]:
    """Arm and 1-based seed number of a training run: ``lora-2`` and ``lora-2+facts`` are ``("lora", 2)``."""
    arm, _, seed = run.partition("+")[0].partition("-")
    return arm, int(seed or 1)


def continued_run(run: str, arms: Sequence[str]) -> str | None:
    """The training run, of the same seed and approach, whose adapter a run starts from; None: from a new adapter."""
    arm, _ = split_run(run)
    before = continued(arm, arms)
    return None if before is None else before + run.removeprefix(arm)


SUFFIXES: Mapping[Approach, str] = {"grounded": "+facts", "memory": "+memory"}
"""Approach → what the names of its training runs end with, unless it is the main approach of the study."""


def suffix_of(approach: Approach, approaches: Sequence[Approach]) -> str:
    """What the names of runs and files of one of the study's approaches end with."""
    return "" if approach == approaches[0] else SUFFIXES[approach]


def approach_of_run(run: str, approaches: Sequence[Approach]) -> Approach:
    """The approach of a training run of a study."""
    return next(
        approach
        for approach in reversed(approaches)
        if run.endswith(suffix_of(approach, approaches))
    )


def steps_of(config: StudyConfig) -> tuple[str, ...]:
    """The steps of a study in execution order: each arm is trained with each seed in each approach."""
    runs = [
        run + suffix_of(approach, config.approaches)
        for approach in config.approaches
        for run in arm_runs(config.seeds, config.arms)
    ]
    return _around(runs, formats=bool(config.formats.types))


def _around(runs: Sequence[str], *, formats: bool) -> tuple[str, ...]:
    return (
        "data",
        "data-embed",
        *(f"train-{run}" for run in runs),
        "evaluate",
        *([FORMATS] if formats else []),
        "report",
    )


def insert_shards(steps: Sequence[str], shards: Sequence[str]) -> tuple[str, ...]:
    """Steps in execution order, with the shards of the evaluation before the evaluation."""
    at = steps.index("evaluate")
    return (*steps[:at], *shards, *steps[at:])


def needed_before(step: str, steps: Sequence[str]) -> list[str]:
    """The steps that must finish before a step starts: all earlier ones, except others of its kind (train, score).

    A training that continues another waits for it.
    """
    kind = next((kind for kind in ("train-", "score-") if step.startswith(kind)), None)
    arms = [
        split_run(other.removeprefix("train-"))[0] for other in steps if other.startswith("train-")
    ]
    before = continued_run(step.removeprefix("train-"), arms) if kind == "train-" else None
    return [
        other
        for other in steps[: steps.index(step)]
        if kind is None or not other.startswith(kind) or other == f"train-{before}"
    ]


def evaluates(step: str) -> bool:
    """Whether a step scores answers: the evaluation, a shard of it, or that of the GGUF files."""
    return step in ("evaluate", FORMATS) or step.startswith("score-")


STEPS = _around(arm_runs(1), formats=True)
"""The steps of a study with default settings."""


@dataclass(frozen=True)
class StepRecord:
    """The content of a step's status file."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    step: str
    # state as last written; :meth:`Study.step` turns ``running`` into ``lost`` if the process is dead
    state: State = "queued"
    # dotted setting or name of a file → value or hash that the step was made from
    inputs: dict[str, Any] = field(default_factory=dict)
    started: UnixTime | None = None  # of the first start
    seconds: float = 0.0  # wall time of all attempts
    pid: int | None = None  # process that wrote the record
    # its :func:`~assistant_builder.study.locks.process_identity`
    process_started: str | float | None = None
    error: ErrorRecord | None = None  # ``AssistantBuilderError.to_record()`` of a failed step
    outputs: dict[str, str] = field(default_factory=dict)  # file below the study folder → SHA-256
    # peak GPU allocation of the process if it used a GPU, else its peak resident memory
    peak_memory_bytes: int | None = None
    # cluster node on which it ran; None for the machine that runs the study
    node: str | None = None

    @property
    def skipped(self) -> bool:
        """Whether the step succeeded without doing anything, because something is not installed."""
        return self.step == FORMATS and self.state == "succeeded" and not self.outputs


class RunRecord(TypedDict):
    """The content of ``run.json``."""

    state: State
    pid: int | None
    process_started: str | float | None
    time: NotRequired[UnixTime]
    error: NotRequired[ErrorRecord | None]
    behind: NotRequired[list[str]]
    dashboard: NotRequired[str]


@dataclass(frozen=True)
class Progress:
    """Progress of a running step: ``done`` of ``total`` ``unit``, and the estimated seconds that remain.

    ``message`` is English in files; ``said`` is the record of the message. ``verdict_seconds`` is the estimated time
    until the first verdict; None if it is there, or not known.
    """

    done: int
    total: int
    unit: str
    message: str = ""
    eta_seconds: float | None = None
    said: dict[str, Any] | None = None
    verdict_seconds: float | None = None

    @classmethod
    def saying(
        cls,
        done: int,
        total: int,
        unit: str,
        text: Text,
        eta_seconds: float | None = None,
        verdict_seconds: float | None = None,
    ) -> Progress:
        """Progress with a message."""
        message, said = written(text)
        return cls(done, total, unit, message, eta_seconds, said, verdict_seconds)

    @property
    def text(self) -> Text:
        """What the step does."""
        return text_of(self.said, self.message)


_IGNORED_INPUTS = {
    "model.trust_remote_code",
    "train.early_stopping",
    "train.patience",
    "train.kernels",
    "stops with",
}
"""Recorded inputs that change no result, because the hash of the base model includes its code, or that no longer exist.
"""


def changed_inputs(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One line, ``key: old -> new``, for each input that differs."""
    lines = []
    for key in sorted((old.keys() | new.keys()) - _IGNORED_INPUTS):
        before, after = old.get(key), new.get(key)
        if before != after:
            lines.append(f"{key}: {_short(before)} -> {_short(after)}")
    return lines


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else text[:12] + "…"
