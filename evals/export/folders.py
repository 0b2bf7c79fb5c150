"""The folder of an export: written beside its place and put there whole, and nothing of the user's is lost."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from assistant_builder.atomic_io import read_json
from assistant_builder.errors import AssistantBuilderError, ConfigError, ResourceError, StudyError

RECORD = "export.json"
"""What the folder is; written last, so that a folder without it is none of ours, or not whole."""
_SCRATCH = ".assistant-builder-"


def check_target(target: Path, *, force: bool) -> None:
    """Refuse a place that an export must not be written to.

    Raises:
        ConfigError: It is a file, or a folder with something in it and ``force`` is off.
    """
    if target.exists() and not target.is_dir():
        raise ConfigError(f"{target} is a file", remedy="Name a folder, new or empty")
    found = _content(target)
    if found and not force:
        kind = "holds an earlier export" if (target / RECORD) in found else f"is not empty ({found[0].name}, …)"
        raise ConfigError(f"the folder {target} {kind}; nothing was written",
                          remedy="Name a new or empty folder, or pass --force: files of the same name are replaced, "
                          "all others stay")


@contextmanager
def put_whole(target: Path, *, force: bool, needed: int) -> Iterator[Path]:
    """An empty folder to fill; what it holds when the block ends well is moved to ``target``, else it is removed.

    Args:
        target: Where the export goes.
        force: Whether files of the same name may be replaced. Those that an earlier export put there and this one does
            not have are removed; files of others are never touched.
        needed: Bytes that must be free.

    Yields:
        The folder to fill.

    Raises:
        ConfigError: As :func:`check_target`.
        ResourceError: The disk is too full.
        StudyError: The place cannot be written to.
    """
    check_target(target, force=force)
    scratch: Path | None = None
    try:
        inside = target.is_dir()  # a folder that exists may be a disk of its own, which nothing can be renamed to
        parent = target if inside else target.parent
        parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(parent)
        _check_disk(parent, needed)
        scratch = Path(tempfile.mkdtemp(dir=parent, prefix=f"{_SCRATCH}{os.getpid()}-"))
        yield scratch
        for path in scratch.iterdir():
            path.chmod(0o644)  # safetensors writes for the owner only
        if inside:
            _move_into(scratch, target)
        else:
            scratch.chmod(0o755)
            os.rename(scratch, target)
    except OSError as error:
        raise _explained(error, target) from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def _content(target: Path) -> list[Path]:
    if not target.is_dir():
        return []
    return [path for path in sorted(target.iterdir()) if not path.name.startswith(_SCRATCH)]


def _move_into(scratch: Path, target: Path) -> None:
    """Replace file by file; the record goes first and comes last, so that a mixture never passes for an export."""
    stale = _listed(target / RECORD) - {path.name for path in scratch.iterdir()}
    (target / RECORD).unlink(missing_ok=True)
    for path in sorted(scratch.iterdir(), key=lambda path: path.name == RECORD):
        os.replace(path, target / path.name)
    for name in stale:
        (target / name).unlink(missing_ok=True)


def _listed(record: Path) -> set[str]:
    """Names of the files of an earlier export, as far as they name files of that very folder."""
    try:
        names = [entry["name"] for entry in read_json(record)["files"]]
    except (OSError, StudyError, KeyError, TypeError):
        return set()
    return {name for name in names if isinstance(name, str) and Path(name).name == name}


def _remove_abandoned(parent: Path) -> None:
    """What an export left that was killed."""
    for path in parent.glob(f"{_SCRATCH}*"):
        pid = path.name.removeprefix(_SCRATCH).partition("-")[0]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def _check_disk(parent: Path, needed: int) -> None:
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise ResourceError(f"the export needs {needed / 1e6:,.0f} MB of disk; {free / 1e6:,.0f} MB are free",
                            where=str(parent), remedy="Free disk space, or name a folder on another disk")


def _explained(error: OSError, target: Path) -> AssistantBuilderError:
    if error.errno == errno.ENOSPC:
        return ResourceError("the disk is full; nothing was written", where=str(target),
                             remedy="Free disk space, or name a folder on another disk")
    return StudyError(f"the export cannot be written: {error.strerror or error}", where=str(target),
                      remedy="Name a folder that you may write to")


def describe_files(folder: Path) -> list[dict[str, Any]]:
    """Name and bytes of every file, largest first."""
    found = [{"name": path.name, "bytes": path.stat().st_size} for path in folder.iterdir() if path.is_file()]
    return sorted(found, key=lambda entry: (-int(str(entry["bytes"])), str(entry["name"])))
