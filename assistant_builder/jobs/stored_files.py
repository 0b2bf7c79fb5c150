"""Which files of a study go into its store, and which of them vouch for others."""

from __future__ import annotations

import json
import os
from pathlib import Path

from assistant_builder.study import CHECKPOINT_MARKER

STEP_LEASE = ".lease.json"
"""How the name of the lease of a step ends; who holds it writes it where all see it, and no copy does."""
Stamp = tuple[int, int]
"""Bytes of a file, and when it was last written, in nanoseconds."""
_LOCAL = ("cancel", "run.json", "run.log.txt")
_LOCAL_FOLDERS = ("exports",)


def is_own(name: str) -> bool:
    """Whether a file is of this machine alone, or an object of the store alone.

    Args:
        name: Its path below the study's folder, as of every file here.
    """
    parts = name.split("/")
    return name in _LOCAL or parts[0] in _LOCAL_FOLDERS or any(part.startswith(".") for part in parts)


def is_status(name: str) -> bool:
    """Whether a file says how a step stands: where it succeeded, it is the step's done-marker."""
    return name.endswith("status.json")


def is_asked(name: str) -> bool:
    """Whether a file is what the user asks for, and no step makes: the settings and the data file."""
    return name == "study.yaml" or name.startswith("data/source.")


def is_checkpoint(name: str) -> bool:
    """Whether a file belongs to a checkpoint."""
    return name.startswith("arms/") and "/checkpoints/" in name


def rank(name: str) -> int:
    """In which order files are put: first what is written about nothing, last what vouches for others."""
    if is_status(name):
        return 3
    if name.endswith(f"/{CHECKPOINT_MARKER}"):
        return 2
    return 1 if name.endswith((".json", ".yaml")) else 0


def is_record(content: bytes) -> bool:
    """Whether a status file is whole."""
    try:
        return isinstance(json.loads(content), dict)
    except ValueError:
        return False


def succeeded(content: bytes) -> bool:
    """Whether a status file says that its step is done."""
    return is_record(content) and json.loads(content).get("state") == "succeeded"


def outputs(content: bytes) -> dict[str, str]:
    """The files that a done-marker vouches for, each with its SHA-256; empty where it is none."""
    return dict(json.loads(content).get("outputs", {})) if succeeded(content) else {}


def files_of(folder: Path) -> dict[str, Stamp]:
    """Every file of a study's folder that goes into a store."""
    found = {}
    for inside, folders, names in os.walk(folder, onerror=_unless_it_went):
        below = Path(inside).relative_to(folder)
        folders[:] = [name for name in folders if not is_own((below / name).as_posix())]
        for name in names:
            file = (below / name).as_posix()
            if not is_own(file):
                try:
                    found[file] = stamp_of(folder / file)
                except FileNotFoundError:  # a temporary file, or a checkpoint that went
                    continue
    return found


def stamp_of(path: Path) -> Stamp:
    """What changes when a file does."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _unless_it_went(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
