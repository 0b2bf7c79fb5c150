"""The steps of a study, and the records in which each says how it stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import psutil

from assistant_builder.config import ARMS, Arm

State = Literal["queued", "running", "succeeded", "failed", "cancelled", "lost"]


def arm_runs(seeds: int, arms: Sequence[Arm] = ARMS) -> tuple[str, ...]:
    """The training runs of a study in order: ``lora``, ``qlora``, then ``lora-2``, ``qlora-2`` of the second seed."""
    return tuple(run_of(arm, seed) for seed in range(1, seeds + 1) for arm in arms)


def run_of(arm: str, seed: int = 1) -> str:
    """Name of the training run of an arm and the number of a seed: ``lora``, ``lora-2``."""
    return arm if seed == 1 else f"{arm}-{seed}"


def split_run(run: str) -> tuple[Arm, int]:
    """Arm and number of the seed (1 is the first) of a training run: ``lora-2`` is ``("lora", 2)``."""
    arm, _, seed = run.partition("-")
    return ("qlora" if arm == "qlora" else "lora"), int(seed or 1)


def steps_of(seeds: int, arms: Sequence[Arm] = ARMS) -> tuple[str, ...]:
    """The steps of a study that trains each arm ``seeds`` times, in order of running."""
    return "data", "data-embed", *(f"train-{run}" for run in arm_runs(seeds, arms)), "evaluate", "report"


def with_parts(steps: Sequence[str], parts: Sequence[str]) -> tuple[str, ...]:
    """Steps in order of running, with parts of the evaluation that are computed at once before it."""
    at = steps.index("evaluate")
    return (*steps[:at], *parts, *steps[at:])


def needed_before(step: str, steps: Sequence[str]) -> list[str]:
    """The steps that have to be done before one can start: all before it, but those of its kind that run at once."""
    kind = next((kind for kind in ("train-", "score-") if step.startswith(kind)), None)
    return [other for other in steps[:steps.index(step)] if kind is None or not other.startswith(kind)]


def evaluates(step: str) -> bool:
    """Whether a step scores: the evaluation itself, or a part of it."""
    return step == "evaluate" or step.startswith("score-")


STEPS = steps_of(1)
"""The steps of a study of both arms and one seed."""


@dataclass(frozen=True)
class StepRecord:
    """What a step's status file holds.

    Attributes:
        step: Name of the step.
        state: As last written; :meth:`Study.step` turns a dead ``running`` into ``lost``.
        inputs: What the step was made from, flat: dotted setting or file → value or hash.
        started: Unix time of the first start.
        seconds: Wall time spent so far, all attempts together.
        pid: Process that wrote the record.
        process_started: What :func:`process_mark` said of it, so that a reused pid is not mistaken for it.
        error: ``AssistantBuilderError.to_record()`` of a failed step.
        outputs: File below the study folder → SHA-256.
        peak_memory_bytes: Highest resident set of the process (CPU), highest allocation (GPU) if there is one.
        node: Node of the cluster that it ran on; None where it ran beside the process that runs the study.
    """

    step: str
    state: State = "queued"
    inputs: dict[str, Any] = field(default_factory=dict)
    started: float | None = None
    seconds: float = 0.0
    pid: int | None = None
    process_started: str | float | None = None
    error: dict[str, Any] | None = None
    outputs: dict[str, str] = field(default_factory=dict)
    peak_memory_bytes: int | None = None
    node: str | None = None


@dataclass(frozen=True)
class Progress:
    """How far a running step is: ``done`` of ``total`` ``unit``, and what is left in seconds."""

    done: int
    total: int
    unit: str
    message: str = ""
    eta_seconds: float | None = None


_NO_INPUT = {"model.trust_remote_code"}
"""Keys that records hold and that change no result: the base model's hash covers its code."""


def changed_inputs(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One line, ``key: old -> new``, for each input that differs."""
    shown = []
    for key in sorted((old.keys() | new.keys()) - _NO_INPUT):
        before, after = old.get(key), new.get(key)
        if before != after:
            shown.append(f"{key}: {_short(before)} -> {_short(after)}")
    return shown


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else text[:12] + "…"


def process_mark(pid: int) -> str | float:
    """What tells a process from every other that has, had or will have its id, on this machine.

    On Linux it is the boot and the moment within it, which no change of the clock moves. The start time in seconds
    since 1970 does move, and a run would seem dead once the clock was set; it has to do where there is no other.

    Raises:
        psutil.NoSuchProcess: There is no such process.
    """
    boot, ticks = _boot(), _stat(pid)
    return f"{boot}/{ticks[1]}" if boot and ticks else float(psutil.Process(pid).create_time())


def process_alive(pid: int | None, started: str | float | None) -> bool:
    """Whether the very process that wrote a record still runs.

    Args:
        pid: Its id.
        started: Its :func:`process_mark`; a number where the system tells no better, and in records of older versions.
    """
    if pid is None or started is None:
        return False
    try:
        if isinstance(started, str):
            stat = _stat(pid)
            return stat is not None and process_mark(pid) == started and stat[0] not in ("Z", "X")
        process = psutil.Process(pid)
        return abs(process.create_time() - started) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _stat(pid: int) -> tuple[str, int] | None:
    """State of a process, and its start in clock ticks since the boot; None where the system does not tell."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        fields = text.rpartition(")")[2].split()  # the name before may hold spaces and brackets
        return fields[0], int(fields[19])
    except (OSError, IndexError, ValueError):
        return None


@cache
def _boot() -> str:
    """Name of this boot, other after every start of the machine; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
