"""The shelf of studies: rename, duplicate, throw away and take back. A study is one folder, so each is one rename."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from assistant_builder.atomic_io import write_text
from assistant_builder.config import StudyConfig, parse_config
from assistant_builder.errors import StudyError
from assistant_builder.study import Study, studies_folder

KEPT_DAYS = 7
"""How long a deleted study can be taken back."""
_DELETED = re.compile(r"(\d{13})-(.+)")


@dataclass(frozen=True)
class Deleted:
    """A study that was thrown away and is still there.

    Attributes:
        folder: Where it lies now.
        name: What it was called.
        when: Unix time of its deletion.
    """

    folder: Path
    name: str
    when: float


def rename_study(study: Study, name: str) -> Study:
    """Give a study another name; its results stay, and its report speaks of the old one until it is written again.

    Raises:
        ConfigError: The name cannot name a study.
        StudyError: There is one of that name, or the study is running.
    """
    config = parse_config({**study.config.model_dump(mode="json"), "name": name.strip()}, where="settings")
    if config.name == study.name:
        return study
    target = _free(config.name)
    with _at_rest(study, "renamed"):
        old = study.name
        for path in sorted((study.folder / "evals" / "tasks").glob("*.yaml")):
            text = path.read_text(encoding="utf-8").replace(f"task: {old}_", f"task: {config.name}_", 1)
            write_text(path.with_name(config.name + path.name.removeprefix(old)), text)
            path.unlink()
        study.write_config(config)
        os.rename(study.folder, target)
    return Study(target)


def duplicate_study(study: Study, name: str, config: StudyConfig | None = None) -> Study:
    """A new study with the same data file and settings, and no results.

    Args:
        study: Where they come from.
        name: The new study's name.
        config: Other settings for it.

    Raises:
        ConfigError: The name cannot name a study.
        StudyError: There is one of that name.
    """
    tree = {**(config or study.config).model_dump(mode="json"), "name": name.strip()}
    return Study.create(parse_config(tree, where="settings"), study.source)


def delete_study(study: Study) -> Deleted:
    """Take a study off the shelf; :func:`restore_study` puts it back.

    Raises:
        StudyError: The study is running.
    """
    now = time.time()
    target = _bin() / f"{int(now * 1000)}-{study.name}"
    with _at_rest(study, "deleted"):
        target.parent.mkdir(exist_ok=True)
        os.rename(study.folder, target)
    return Deleted(target, study.name, now)


def restore_study(deleted: Deleted) -> Study:
    """Put a deleted study back.

    Raises:
        StudyError: It is gone for good, or another study has taken its name.
    """
    if not deleted.folder.is_dir():
        raise StudyError(f"the study {deleted.name!r} is gone for good", where=str(deleted.folder),
                         remedy="Start a new one from its data file")
    target = _free(deleted.name)
    os.rename(deleted.folder, target)
    return Study(target)


def deleted_studies() -> list[Deleted]:
    """What can be taken back, the last deleted first."""
    found = []
    for folder in _bin().glob("*"):
        named = _DELETED.fullmatch(folder.name)
        if named:
            found.append(Deleted(folder, named[2], int(named[1]) / 1000))
    return sorted(found, key=lambda deleted: -deleted.when)


def empty_bin(older_than_days: float = KEPT_DAYS) -> None:
    """Remove for good what was deleted longer ago."""
    for deleted in deleted_studies():
        if time.time() - deleted.when > older_than_days * 86_400:
            shutil.rmtree(deleted.folder, ignore_errors=True)


def _bin() -> Path:
    return studies_folder() / ".deleted"


def _free(name: str) -> Path:
    folder = studies_folder() / name
    if folder.exists():
        raise StudyError(f"there is a study named {name!r} already", where=str(folder),
                         remedy="Choose another name, or rename that one first")
    return folder


@contextmanager
def _at_rest(study: Study, done: str) -> Iterator[None]:
    """Hold the study's lock, so that no run starts while its folder moves."""
    lock = FileLock(study.folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise _running(study, done) from None
    try:
        if study.state == "running":  # a step can outlive the runner that held the lock
            raise _running(study, done)
        yield
    finally:
        lock.release()


def _running(study: Study, done: str) -> StudyError:
    return StudyError(f"the study {study.name!r} is running and cannot be {done}",
                      remedy="Wait until it is done, or cancel it first")
