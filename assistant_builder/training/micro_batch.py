"""The number of pairs per pass that fits into the memory of a GPU, the same in all runs of a study.

The plan chooses it. Before its first step a training tries its largest micro-batch; if memory runs out, fewer pairs are
recorded and the training starts again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

from filelock import FileLock

from assistant_builder.atomic_io import read_json, write_json
from assistant_builder.config import StudyConfig
from assistant_builder.planning.memory import per_device_batch_size
from assistant_builder.planning.plan import Plan
from assistant_builder.study import Study

CHOICES_FILE = "micro_batches.json"
"""What was chosen for the runs of a study, by a hash of the settings: other numbers of rows round otherwise."""


def plan_with_micro_batch(
    study: Study,
    config: StudyConfig,
    devices: int,
    device: str,
    plan: Callable[[StudyConfig], Plan],
) -> Plan:
    """The plan of a training with its micro-batch size on each of ``devices`` devices of a kind (``cpu`` or ``cuda``).

    On a GPU an empty ``train.micro_batch_size`` becomes the largest divisor of the pairs of a device per step with
    which all arms fit comfortably into the free memory, without recomputation that fewer pairs do not need. The first
    run of a study chooses it, because free memory varies; the other runs keep it, also after a resume.
    """
    rows = per_device_batch_size(config.train, devices)

    def planned(rows: int) -> Plan:
        return plan(config.with_changes({"train.micro_batch_size": rows}))

    if config.train.micro_batch_size is not None or device != "cuda":
        return planned(rows)
    key = _settings_hash(config, devices)
    path = study.folder / CHOICES_FILE
    with FileLock(path.with_suffix(".lock")):
        known = read_json(path, dict[str, int]) if path.exists() else {}
        if key not in known:
            share = config.train.batch_size // devices
            known[key] = _largest_that_fits(share, planned(rows), planned)
            write_json(path, known)
    return planned(known[key])


class MicroBatchTooLarge(Exception):
    """The memory of a GPU ran out in a training."""


def record_fewer_pairs(study: Study, config: StudyConfig, devices: int, rows: int) -> int | None:
    """Choose fewer than ``rows`` pairs per pass for the runs of a study, and record it.

    ``config`` are the settings with which :func:`plan_with_micro_batch` was called.

    Returns:
        The new number, at most half; None if the user has set the number, or if a pass has one pair already.
    """
    if config.train.micro_batch_size is not None or rows == 1:
        return None
    share = config.train.batch_size // devices
    fewer = max(count for count in range(1, rows // 2 + 1) if share % count == 0)
    path = study.folder / CHOICES_FILE
    with FileLock(path.with_suffix(".lock")):
        known = read_json(path, dict[str, int]) if path.exists() else {}
        write_json(path, {**known, _settings_hash(config, devices): fewer})
    return fewer


def _largest_that_fits(share: int, smallest: Plan, planned: Callable[[int], Plan]) -> int:
    rows = smallest.config.train.micro_batch
    recomputing = {arm.checkpointing for arm in smallest.arms}
    for more in (more for more in range(share, rows, -1) if share % more == 0):
        arms = planned(more).arms
        same = {arm.checkpointing for arm in arms} == recomputing
        if same and all(arm.fit == "room" for arm in arms):
            return more
    return rows


def _settings_hash(config: StudyConfig, devices: int) -> str:
    chosen = {
        "model": config.model.model_dump(mode="json"),
        "train": config.train.model_dump(mode="json"),
        "arms": list(config.arms),
        "grounded": config.grounded,
        "devices": devices,
    }
    return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:16]
