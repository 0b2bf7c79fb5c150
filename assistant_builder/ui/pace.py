"""How long things take on this machine, told from the runs it has finished, or from a stated rough rate.

Pure reading of files: no gradio, no model.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psutil

from assistant_builder.config import ARMS
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.files import read_json
from assistant_builder.models.catalog import CATALOG
from assistant_builder.study import Study
from assistant_builder.ui.snapshots import Snapshot

_ROUGH_RATE = 250.0
"""Training tokens a second of the bundled model on :data:`_ROUGH_CORES` cores (Zen 4, bfloat16), all included."""
_ROUGH_CORES = 2
_ROUGH_PARAMETERS = 134_515_008
_MOST_CORES = 16
"""Beyond this many a small model trains no faster."""


@dataclass(frozen=True)
class Pace:
    """How fast this machine works with one base model.

    Attributes:
        training: Seconds an arm takes for a training token, validations included.
        scoring: Seconds the evaluation takes for a held-out answer and cell; None where no run has told.
        source: The study that told it; empty for the rough rate.
    """

    training: Mapping[str, float]
    scoring: float | None = None
    source: str = ""


def pace_of(base: str) -> Pace | None:
    """The pace with a base model: of the last run on this machine, else rough, else (a GPU, an unknown model) None."""
    for study in Study.all():
        try:
            pace = _measured(study, base)
        except (AssistantBuilderError, KeyError, TypeError, ZeroDivisionError, OSError):
            continue  # a damaged study tells nothing
        if pace is not None:
            return pace
    entry = CATALOG.get(base)
    if entry is None or shutil.which("nvidia-smi"):
        return None
    cores = min(os.cpu_count() or 1, _MOST_CORES)
    rate = _ROUGH_RATE * _ROUGH_PARAMETERS / entry.parameters * cores / _ROUGH_CORES
    return Pace({str(arm): 1 / rate for arm in ARMS})


def _measured(study: Study, base: str) -> Pace | None:
    summaries = {arm: study.arm_folder(arm) / "summary.json" for arm in ARMS}
    provenance = study.folder / "provenance.json"
    if not provenance.exists() or not all(path.exists() for path in summaries.values()):
        return None
    if study.config.model.base != base or not _same_machine(read_json(provenance)["hardware"]):
        return None
    training = {str(arm): _seconds_a_token(read_json(path)) for arm, path in summaries.items()}
    scoring = None
    evaluated = study.step("evaluate")
    if evaluated.state == "succeeded":
        answers = read_json(study.folder / "data" / "split.json")["turns"]["heldout"]
        scoring = evaluated.seconds / (answers * len(study.config.eval.cells))
    return Pace(training, scoring, study.name)


def _seconds_a_token(summary: Mapping[str, Any]) -> float:
    return float(summary["train_seconds"]) / float(summary["tokens"])


def _same_machine(hardware: Mapping[str, Any]) -> bool:
    return (hardware["cores"], hardware["memory_bytes"]) == (os.cpu_count(), psutil.virtual_memory().total)


@dataclass(frozen=True)
class Left:
    """What is left of a run.

    Attributes:
        seconds: Estimate for the steps whose time can be told.
        whole: Whether those are all the long ones; else scoring comes on top.
    """

    seconds: float
    whole: bool


def time_left(snapshot: Snapshot, pace: Pace | None, answers: int) -> Left | None:
    """How long a running study still takes; None until its first training step tells.

    An arm that has not begun is taken to need what its twin needs.

    Args:
        snapshot: The study.
        pace: Of its base model.
        answers: Held-out answers that are scored.
    """
    seconds, whole, total = 0.0, True, _arm_seconds(snapshot)
    for record in snapshot.steps:
        progress = snapshot.progress.get(record.step)
        if record.state == "succeeded" or record.step in ("data", "data-embed", "report"):
            continue
        if record.state == "running" and progress is not None and progress.eta_seconds is not None:
            seconds += progress.eta_seconds
        elif record.step.startswith("train-"):
            if total is None:
                return None
            seconds += total
        elif pace is not None and pace.scoring is not None:
            seconds += pace.scoring * answers * len(snapshot.config.eval.cells)
        else:
            whole = False
    return Left(seconds, whole)


def _arm_seconds(snapshot: Snapshot) -> float | None:
    """What one arm takes: as one has taken, or as one is going to."""
    done = [seen.summary["train_seconds"] for seen in snapshot.arms.values() if seen.summary is not None]
    going = [
        seen.last["elapsed_seconds"] + seen.last["eta_seconds"]
        for seen in snapshot.arms.values() if seen.last is not None
    ]
    return max(done or going, default=None)
