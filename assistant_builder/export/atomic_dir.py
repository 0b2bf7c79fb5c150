"""The folder of an export: written to a temporary folder, then moved atomically, without loss of the user's files."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from typing_extensions import TypedDict

from assistant_builder.atomic_io import read_json, require_disk_space
from assistant_builder.errors import AssistantBuilderError, ConfigError, ResourceError, StudyError
from assistant_builder.i18n import m
from assistant_builder.study.containment import path_inside

RECORD = "export.json"
"""Record of an export; written last, so that a folder without it is not an export, or not a complete one."""
_OTHER_DISK = m("Free disk space, or name a folder on another disk")
_SCRATCH = ".assistant-builder-"


def check_target(target: Path, *, force: bool) -> None:
    """Refuse a target that an export must not be written to.

    Raises:
        ConfigError: It is a file, or a folder with something in it and ``force`` is off.
    """
    if target.exists() and not target.is_dir():
        raise ConfigError(
            m("{target} is a file", target=target), remedy=m("Name a folder, new or empty")
        )
    found = sorted(path for path in target.glob("*") if not path.name.startswith(_SCRATCH))
    if found and not force:
        raise ConfigError(
            m("the folder {target} holds an earlier export; nothing was written", target=target)
            if (target / RECORD) in found
            else m(
                "the folder {target} is not empty ({name}, …); nothing was written",
                target=target,
                name=found[0].name,
            ),
            remedy=m(
                "Name a new or empty folder, or pass --force: files of the same name are replaced, all others stay"
            ),
        )


@contextmanager
def atomic_directory(target: Path, *, force: bool, needed: int) -> Iterator[Path]:
    """Yield an empty folder; its files are moved to ``target`` if the block succeeds, and removed if it fails.

    With ``force``, files of the same name are replaced; files of an earlier export that this one does not have are
    removed, and all other files stay. ``needed`` bytes must be free.

    Raises:
        ConfigError: As :func:`check_target`.
        ResourceError: The disk is too full.
        StudyError: The folder cannot be written to.
    """
    check_target(target, force=force)
    scratch: Path | None = None
    try:
        # an existing folder may be a mount point, which cannot be replaced by rename
        inside = target.is_dir()
        parent = target if inside else target.parent
        parent.mkdir(parents=True, exist_ok=True)
        for path in parent.glob(f"{_SCRATCH}*"):  # of exports that were killed
            pid = path.name.removeprefix(_SCRATCH).partition("-")[0]
            if pid.isdecimal() and not psutil.pid_exists(int(pid)):
                shutil.rmtree(path, ignore_errors=True)
        require_disk_space(parent, needed, "the export", _OTHER_DISK)
        scratch = Path(tempfile.mkdtemp(dir=parent, prefix=f"{_SCRATCH}{os.getpid()}-"))
        yield scratch
        for path in scratch.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)  # safetensors writes for the owner only
        if inside:
            _move_into(scratch, target)
        else:
            scratch.chmod(0o755)
            os.rename(scratch, target)
    except OSError as error:
        raise _translate(error, target) from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def _move_into(scratch: Path, target: Path) -> None:
    """Replace file by file; the record is removed first and written last: a mixture is never taken for an export."""
    names = [path.relative_to(scratch).as_posix() for path in scratch.rglob("*") if path.is_file()]
    paths = {name: path_inside(target, name) for name in names}  # raises for links in the folder
    stale = _listed(target / RECORD) - set(names)
    (target / RECORD).unlink(missing_ok=True)
    for name in stale:  # first, so that pairs of an earlier export do not stay if this one fails
        (target / name).unlink(missing_ok=True)
    for folder in {(target / name).parent for name in stale} - {target}:
        with suppress(OSError):  # the user's files are in it
            folder.rmdir()
    for name in sorted(names, key=lambda name: name == RECORD):
        paths[name].parent.mkdir(exist_ok=True)
        os.replace(scratch / name, paths[name])


class _File(TypedDict):
    name: str


class _Files(TypedDict):
    files: list[_File]


def _listed(record: Path) -> set[str]:
    """Names of the files of an earlier export that are located in its folder, or in a folder directly in it."""
    try:
        names = [entry["name"] for entry in read_json(record, _Files)["files"]]
    except (OSError, StudyError):
        return set()
    inside = {name: name.split("/") for name in names}
    return {
        name
        for name, parts in inside.items()
        if len(parts) <= 2
        and not (record.parent / parts[0]).is_symlink()
        and all(part not in ("", "..") and Path(part).name == part for part in parts)
    }


def _translate(error: OSError, target: Path) -> AssistantBuilderError:
    if error.errno == errno.ENOSPC:
        return ResourceError(
            m("the disk is full; nothing was written"),
            where=str(target),
            remedy=_OTHER_DISK,
        )
    return StudyError(
        m("the export cannot be written: {value}", value=error.strerror or error),
        where=str(target),
        remedy=m("Name a folder that you may write to"),
    )


def describe_files(folder: Path) -> list[dict[str, Any]]:
    """Name and bytes of every file, largest first; a name is the path in the folder."""
    files = [
        {"name": path.relative_to(folder).as_posix(), "bytes": path.stat().st_size}
        for path in folder.rglob("*")
        if path.is_file()
    ]
    return sorted(files, key=lambda entry: (-int(str(entry["bytes"])), str(entry["name"])))
