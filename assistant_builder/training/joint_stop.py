"""The common end of the arms of a seed where nothing is left to learn: one arm decides for the others."""

from __future__ import annotations

import hashlib
import json
from typing import Literal

from assistant_builder.arms import continued
from assistant_builder.atomic_io import read_json
from assistant_builder.config import StudyConfig, TrainConfig
from assistant_builder.study import Study
from assistant_builder.study.contents import ArmSummary, TrainingStop
from assistant_builder.study.steps import split_run
from assistant_builder.training.schedule import Stop
from assistant_builder.training.sequences import Sequences

_REMOVED = {"early_stopping": False, "patience": 2}
"""Settings of earlier versions, whose hashes these are, too."""


def stop_loss(config: StudyConfig) -> float:
    """The loss below which a training of these settings ends early; 0: never."""
    return config.train.stop_loss if config.grounded else 0.0


def schedule_hash(train: TrainConfig, sequences: Sequences) -> str:
    """A hash of what determines the losses of all arms but for their base: settings of training, and the sequences."""
    settings = {**train.model_dump(mode="json"), **_REMOVED}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for example in sequences.examples:
        digest.update(repr(example.input_ids).encode())
    return digest.hexdigest()


def stop_of_others(study: Study, run: str, schedule: str) -> Stop | Literal["decide", "wait"]:
    """Where another arm of this seed stopped; else whether this arm decides, or waits for the arm that does.

    An arm that was trained with the same ``schedule`` has decided, also if it is not the first of the study: an arm
    that is added later ends where the others did. Otherwise the first arm decides. A training that starts from the
    adapter of another arm decides alone.
    """
    arm, _ = split_run(run)
    together = [other for other in study.config.arms if continued(other, study.config.arms) is None]
    if arm not in together:
        return "decide"
    for other in (other for other in together if other != arm):
        name = other + run.removeprefix(arm)
        if study.step(f"train-{name}").state != "succeeded":
            continue
        summary = read_json(study.arm_folder(name) / "summary.json", ArmSummary)
        stop: TrainingStop | None = summary.get("stop")
        if other == together[0] or (stop and stop["schedule"] == schedule):
            end = summary["steps"]
            return Stop(stop and stop["after"] or end, end)
    return "decide" if arm == together[0] else "wait"
