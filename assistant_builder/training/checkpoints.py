"""Checkpoints on disk: which are whole, which is the last, which may go.

A checkpoint counts only with its marker, which is written last and names the files with their sizes and hashes.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from assistant_builder.atomic_io import file_hash, read_json, read_jsonl, write_json
from assistant_builder.errors import StudyError
from assistant_builder.study import CHECKPOINT_MARKER
from assistant_builder.training.schedule import best_step


def checkpoint_folder(root: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return root / f"checkpoint-{step}"


def mark_complete(folder: Path) -> None:
    """Write the marker of a checkpoint whose files are all written: name → [bytes, SHA-256]."""
    files = {path.name: [path.stat().st_size, file_hash(path)]
             for path in sorted(folder.iterdir()) if path.name != CHECKPOINT_MARKER}
    write_json(folder / CHECKPOINT_MARKER, files)


def is_complete(folder: Path) -> bool:
    """Whether the marker is there, and every file that it names is as it was when the marker was written."""
    try:
        files = read_json(folder / CHECKPOINT_MARKER)
        return all((folder / name).stat().st_size == size and file_hash(folder / name) == digest
                   for name, (size, digest) in files.items())
    except (OSError, StudyError, AttributeError, TypeError, ValueError):
        return False


def complete_steps(root: Path) -> list[int]:
    """Steps with a whole checkpoint, in order."""
    steps = []
    for folder in root.glob("checkpoint-*"):
        number = folder.name.removeprefix("checkpoint-")
        if number.isdecimal() and is_complete(folder):
            steps.append(int(number))
    return sorted(steps)


def resume_step(root: Path, metrics: Path) -> int:
    """The step that training carries on from: 0 without a checkpoint that can be trusted.

    The best checkpoint so far becomes the adapter in the end, so that one behind a damaged best is of no use; nor is
    one that the metrics do not reach, for they tell which is the best.

    Args:
        root: The folder of the checkpoints.
        metrics: The arm's ``metrics.jsonl``.
    """
    events = read_jsonl(metrics)
    reached = max((event["step"] for event in events if event["event"] == "step"), default=0)
    losses = {event["step"]: event["loss"] for event in events if event["event"] == "validation"}
    whole = complete_steps(root)
    for step in (step for step in reversed(whole) if step <= reached):
        best = best_step({at: loss for at, loss in losses.items() if at <= step})
        if best is None or best in whole:
            return step
    return 0


def prune_checkpoints(root: Path, keep: set[int]) -> None:
    """Remove every checkpoint, whole or not, whose step is not in ``keep``."""
    for folder in root.glob("checkpoint-*"):
        if folder.name not in {f"checkpoint-{step}" for step in keep}:
            shutil.rmtree(folder, ignore_errors=True)
