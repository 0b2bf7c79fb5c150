"""Checkpoints on disk: which are whole, which is the last, which may go.

A checkpoint counts only with its marker, which is written last and names the files and their sizes.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from assistant_builder.errors import StudyError
from assistant_builder.files import read_json, write_json

MARKER = "complete.json"


def checkpoint_folder(root: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return root / f"checkpoint-{step}"


def mark_complete(folder: Path) -> None:
    """Write the marker of a checkpoint whose files are all written."""
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.name != MARKER}
    write_json(folder / MARKER, files)


def is_complete(folder: Path) -> bool:
    """Whether the marker is there and every file it names has its size."""
    try:
        files = read_json(folder / MARKER)
        return all((folder / name).stat().st_size == size for name, size in files.items())
    except (OSError, StudyError):
        return False


def complete_steps(root: Path) -> list[int]:
    """Steps with a whole checkpoint, in order."""
    steps = []
    for folder in root.glob("checkpoint-*"):
        number = folder.name.removeprefix("checkpoint-")
        if number.isdecimal() and is_complete(folder):
            steps.append(int(number))
    return sorted(steps)


def remove_all_but(root: Path, keep: set[int]) -> None:
    """Remove every checkpoint, whole or not, whose step is not in ``keep``."""
    for folder in root.glob("checkpoint-*"):
        if folder.name not in {f"checkpoint-{step}" for step in keep}:
            shutil.rmtree(folder, ignore_errors=True)
