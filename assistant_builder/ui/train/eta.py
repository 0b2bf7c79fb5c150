"""How long things take on this machine, told from the runs it has finished; what training takes is told by the plan.

Pure reading of files: no gradio, no model.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psutil

from assistant_builder.atomic_io import read_json
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.study import Study
from assistant_builder.study.steps import evaluates
from assistant_builder.ui.study_snapshot import Snapshot


def scoring_seconds(base: str) -> float | None:
    """Seconds the evaluation took for a held-out answer and cell in the last run with a base model on this machine."""
    for study in Study.all():
        try:
            seconds = _measured(study, base)
        except (AssistantBuilderError, KeyError, TypeError, ZeroDivisionError, OSError):
            continue  # a damaged study tells nothing
        if seconds is not None:
            return seconds
    return None


def _measured(study: Study, base: str) -> float | None:
    provenance = study.folder / "provenance.json"
    if not provenance.exists() or study.step("evaluate").state != "succeeded" or study.config.model.base != base:
        return None
    if not _same_machine(read_json(provenance)["hardware"]):
        return None
    answers = read_json(study.folder / "data" / "split.json")["turns"]["heldout"]
    seconds = sum(study.step(step).seconds for step in study.shown_steps if evaluates(step))
    return seconds / (answers * len(study.config.cells))


def _same_machine(hardware: Mapping[str, Any]) -> bool:
    return (hardware["cores"], hardware["memory_bytes"]) == (os.cpu_count(), psutil.virtual_memory().total)


@dataclass(frozen=True)
class TimeRemaining:
    """What is left of a run.

    Attributes:
        seconds: Estimate for the steps whose time can be told.
        whole: Whether those are all the long ones; else scoring comes on top.
    """

    seconds: float
    whole: bool


def time_left(snapshot: Snapshot, scoring: float | None, answers: int) -> TimeRemaining | None:
    """How long a running study still takes; None until its first training step tells.

    An arm that has not begun is taken to need what its twin needs.

    Args:
        snapshot: The study.
        scoring: Seconds the evaluation takes for an answer and cell, where that is known.
        answers: Held-out answers that are scored.
    """
    seconds, whole, total = 0.0, True, _arm_seconds(snapshot)
    parts = sum(record.step.startswith("score-") for record in snapshot.steps)  # then the evaluation is short
    quick = {"data", "data-embed", "report", *(["evaluate"] if parts else [])}
    for record in snapshot.steps:
        progress = snapshot.progress.get(record.step)
        if record.state == "succeeded" or record.step in quick:
            continue
        if record.state == "running" and progress is not None and progress.eta_seconds is not None:
            seconds += progress.eta_seconds
        elif record.step.startswith("train-"):
            if total is None:
                return None
            seconds += total
        elif scoring is not None:
            seconds += scoring * answers * len(snapshot.config.cells) / (parts or 1)
        else:
            whole = False
    return TimeRemaining(seconds, whole)


def _arm_seconds(snapshot: Snapshot) -> float | None:
    """What one arm takes: as one has taken, or as one is going to."""
    done = [seen.summary["train_seconds"] for seen in snapshot.arms.values() if seen.summary is not None]
    going = [
        seen.last["elapsed_seconds"] + seen.last["eta_seconds"]
        for seen in snapshot.arms.values() if seen.last is not None
    ]
    return max(done or going, default=None)
