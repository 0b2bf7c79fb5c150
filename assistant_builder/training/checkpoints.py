"""Checkpoints on disk: completeness, choice of the one to resume from, and pruning.

A checkpoint is valid only with its marker, which is written last and lists the files with their sizes and hashes.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from assistant_builder.atomic_io import file_hash, read_json, read_jsonl, write_json
from assistant_builder.errors import StudyError
from assistant_builder.study import CHECKPOINT_MARKER
from assistant_builder.study.containment import path_inside
from assistant_builder.study.contents import Step
from assistant_builder.training.schedule import best_step


def checkpoint_folder(root: Path, step: int) -> Path:
    """Folder of the checkpoint of a step."""
    return root / f"checkpoint-{step}"


def mark_complete(folder: Path) -> None:
    """Write the marker of a checkpoint after all its files: name → [bytes, SHA-256]."""
    files = {
        path.name: [path.stat().st_size, file_hash(path)]
        for path in sorted(folder.iterdir())
        if path.name != CHECKPOINT_MARKER
    }
    write_json(folder / CHECKPOINT_MARKER, files)


def _is_complete(folder: Path) -> bool:
    # the marker exists and all files that it lists are unchanged
    try:
        files = read_json(folder / CHECKPOINT_MARKER)
        return all(
            (file := path_inside(folder, name)).stat().st_size == size and file_hash(file) == digest
            for name, (size, digest) in files.items()
        )
    except (OSError, StudyError, AttributeError, TypeError, ValueError):
        return False


def complete_steps(root: Path) -> list[int]:
    """Steps with a complete checkpoint, in ascending order."""
    complete = [folder.name for folder in root.glob("checkpoint-*") if _is_complete(folder)]
    numbers = [name.removeprefix("checkpoint-") for name in complete]
    return sorted(int(number) for number in numbers if number.isdecimal())


def resume_step(root: Path, metrics: Path) -> int:
    """The step to resume from: 0 without a usable checkpoint; ``metrics`` is the arm's ``metrics.jsonl``.

    The checkpoint with the best validation loss becomes the adapter, so that a later checkpoint is usable only if the
    best one before it is complete and the metrics cover both.
    """
    events = read_jsonl(metrics, Step)
    recorded = max((event["step"] for event in events if event["event"] == "step"), default=0)
    losses = {event["step"]: event["loss"] for event in events if event["event"] == "validation"}
    complete = complete_steps(root)
    for step in (step for step in reversed(complete) if step <= recorded):
        best = best_step({at: loss for at, loss in losses.items() if at <= step})
        if best is None or best in complete:
            return step
    return 0


def prune_checkpoints(root: Path, keep: set[int]) -> None:
    """Remove all checkpoints, complete or not, except those of the steps in ``keep``."""
    for folder in root.glob("checkpoint-*"):
        if folder.name not in {f"checkpoint-{step}" for step in keep}:
            shutil.rmtree(folder, ignore_errors=True)
