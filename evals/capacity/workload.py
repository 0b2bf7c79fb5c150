"""The studies that come in: when, with which steps, and how long each of these takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from assistant_builder.jobs.room import Ask
from assistant_builder.steps import needed_before, split_run, steps_of
from assistant_builder.training.schedule import CHECKPOINT_SECONDS
from evals.capacity.assumptions import DAY_SECONDS, Assumptions, Profile
from evals.capacity.measured import Measured

_OFFICE_HOURS, _OFFICE_SHARE = (8 * 3600.0, 18 * 3600.0), 0.9


@dataclass(frozen=True)
class Task:
    """One step of a study.

    Attributes:
        step: Its name.
        seconds: How long it computes.
        ask: What it asks a node for.
        kept_seconds: Work between two moments from which it carries on after a loss.
    """

    step: str
    seconds: float
    ask: Ask
    kept_seconds: float


Stages = tuple[tuple[Task, ...], ...]
"""The steps of a study; those of one stage run at once, each stage after the one before."""


@dataclass(frozen=True)
class Arrival:
    """A study that comes in.

    Attributes:
        at: Seconds since the beginning.
        stages: Its steps.
    """

    at: float
    stages: Stages


def stages_of(measured: Measured, seeds: int) -> Stages:
    """The steps of a study as they were measured; the seeds of an arm take the same."""
    steps = steps_of(seeds)
    alike = groupby(steps, key=lambda step: len(needed_before(step, steps)))
    return tuple(tuple(_task(measured, step) for step in stage) for _, stage in alike)


def _task(measured: Measured, step: str) -> Task:
    trains = step.startswith("train-")
    name = f"train-{split_run(step.removeprefix('train-'))[0]}" if trains else step
    found = measured.steps[name]
    asks_memory = (trains or step == "evaluate") and not found.gpus  # as jobs.room.ask_of has it
    ask = Ask(float(found.cpus), float(found.gpus), found.peak_memory_bytes if asks_memory else 0)
    return Task(step, found.seconds, ask, found.kept_seconds)


def alone_seconds(stages: Stages) -> float:
    """How long a study takes that waits for nothing."""
    return sum(max(task.seconds for task in stage) for stage in stages)


def busy_seconds(stages: Stages, overhead: float = 0.0) -> float:
    """Processors of a study times seconds, with ``overhead`` seconds for each step besides."""
    return sum(task.ask.cpus * (task.seconds + overhead) for stage in stages for task in stage)


def arrivals(stages: Stages, assumptions: Assumptions, repetition: int) -> list[Arrival]:
    """Studies of the first day and those after it, in order; the same whatever cluster they meet.

    Args:
        stages: Steps of a study of mean size.
        assumptions: How many come, when, and how much they differ.
        repetition: Which repetition.
    """
    rng = np.random.default_rng([assumptions.seed, repetition, 0])
    days = assumptions.days + 1
    count = rng.poisson(assumptions.studies_a_day * days)
    moments = np.sort(DAY_SECONDS * rng.integers(0, days, count) + times_of_day(rng, count, assumptions.profile))
    factors = sizes(rng, count, assumptions.variation)
    return [Arrival(float(at), scaled(stages, float(factor))) for at, factor in zip(moments, factors, strict=True)]


def times_of_day(rng: np.random.Generator, count: int, profile: Profile) -> np.ndarray:
    """Seconds since midnight, shape ``[count]``."""
    if profile == "even":
        return rng.random(count) * DAY_SECONDS
    opens, closes = _OFFICE_HOURS
    inside = opens + rng.random(count) * (closes - opens)
    outside = (closes + rng.random(count) * (DAY_SECONDS - (closes - opens))) % DAY_SECONDS
    return np.where(rng.random(count) < _OFFICE_SHARE, inside, outside)


def sizes(rng: np.random.Generator, count: int, variation: float) -> np.ndarray:
    """Lognormal factors with mean 1, shape ``[count]``."""
    variance = math.log1p(variation**2)
    return np.exp(rng.normal(-variance / 2, math.sqrt(variance), count))


def scaled(stages: Stages, factor: float) -> Stages:
    """The steps of a study that is larger or smaller."""
    return tuple(tuple(_scaled(task, factor) for task in stage) for stage in stages)


def _scaled(task: Task, factor: float) -> Task:
    kept = task.kept_seconds * factor  # validations lie further apart, but a training keeps a checkpoint by the clock
    if task.step.startswith("train-"):
        kept = min(kept, CHECKPOINT_SECONDS)
    return Task(task.step, task.seconds * factor, task.ask, kept)
