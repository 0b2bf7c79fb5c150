"""Administration of study folders: rename, duplicate, delete and restore."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from assistant_builder.atomic_io import read_json, write_json, write_text
from assistant_builder.config import StudyConfig
from assistant_builder.errors import StudyError
from assistant_builder.i18n import m
from assistant_builder.study.layout import studies_folder
from assistant_builder.study.study import Study
from assistant_builder.study.versions import refuse_to_delete, rename_versions, root_of

KEPT_DAYS = 7
"""Days for which a deleted study can be restored."""
_DELETED = re.compile(r"(\d{13})-(.+)")


@dataclass(frozen=True)
class DeletedStudy:
    """A deleted study that can still be restored."""

    folder: Path  # its present folder
    name: str  # its former name
    when: float  # Unix time of its deletion

    @property
    def title(self) -> str:
        """What people call it."""
        title = Study(self.folder).title
        return self.name if title == self.folder.name else title


def rename_study(study: Study, name: str) -> Study:
    """Rename a study that does not run (else StudyError); its report shows the old name until it is rendered again."""
    config = _renamed(study.config, name)
    if config.name == study.name:
        study.write_config(config)
        return study
    target, root = _free_folder(config.name), root_of(study)
    with _locked_and_idle(study, "renamed"):
        rename_tasks(study.folder, study.name, config.name)
        study.write_config(config)
        os.rename(study.folder, target)
    rename_versions(Study(target) if root.name == study.name else root, study.name, config.name)
    return Study(target)


def rename_tasks(folder: Path, old: str, new: str) -> None:
    """Rename the lm-eval tasks in the folder of a study."""
    for path in sorted((folder / "evals" / "tasks").glob("*.yaml")):
        text = path.read_text(encoding="utf-8").replace(f"task: {old}_", f"task: {new}_", 1)
        write_text(path.with_name(new + path.name.removeprefix(old)), text)
        path.unlink()


def duplicate_study(study: Study, name: str, config: StudyConfig | None = None) -> Study:
    """Create a study with the same data file, without results; ``config`` replaces the settings of ``study``."""
    return Study.create(_renamed(config or study.config, name), study.source)


def _renamed(config: StudyConfig, given: str) -> StudyConfig:
    if not given.strip():
        raise StudyError(m("the {study} has no name"), remedy=m("Write one"))
    return config.named(given)


def delete_study(study: Study) -> DeletedStudy:
    """Delete a study, unless it runs or is published; :func:`restore_study` restores it within :data:`KEPT_DAYS`."""
    now = time.time()
    refuse_to_delete(study)
    target = _trash() / f"{int(now * 1000)}-{study.name}"
    with _locked_and_idle(study, "deleted"):
        target.parent.mkdir(exist_ok=True)
        os.rename(study.folder, target)
    return DeletedStudy(target, study.name, now)


def restore_study(deleted: DeletedStudy) -> Study:
    """Restore a deleted study; raises StudyError if it was purged, or another study has its name."""
    if not deleted.folder.is_dir():
        raise StudyError(
            m("the {study} {name!r} was permanently deleted", name=deleted.name),
            where=str(deleted.folder),
            remedy=m("Start a new one from its data file"),
        )
    target = _free_folder(deleted.name)
    os.rename(deleted.folder, target)
    return Study(target)


def deleted_studies() -> list[DeletedStudy]:
    """The studies that can be restored, the last deleted first."""
    studies = []
    for folder in _trash().glob("*"):
        match = _DELETED.fullmatch(folder.name)
        if match:
            studies.append(DeletedStudy(folder, match[2], int(match[1]) / 1000))
    return sorted(studies, key=lambda deleted: -deleted.when)


CONFIRMING_DAYS = 3
"""Days, on each of which the program ran, that something must be too old on before it is deleted for its age."""
_DAY = 86_400.0


def confirmed_time(days: Iterable[int], now: float) -> tuple[list[int], float | None]:
    """The time by which ages are judged, so that a clock that was ahead for a while deletes nothing.

    Args:
        days: The days on which the program ran before, as Unix time in days; those after ``now`` do not count, because
            the clock was ahead.
        now: Unix time.

    Returns:
        The last :data:`CONFIRMING_DAYS` of the days with the present one, and the Unix time at which the first of them
        began; None as long as there are fewer.
    """
    today = int(now // _DAY)
    last = sorted({*(day for day in days if day < today), today})[-CONFIRMING_DAYS:]
    return last, last[0] * _DAY if len(last) == CONFIRMING_DAYS else None


def purge_deleted() -> None:
    """Permanently delete the studies that were deleted more than :data:`KEPT_DAYS` ago by :func:`confirmed_time`."""
    found, path = deleted_studies(), _trash() / ".days.json"
    if not found:
        return
    try:
        days = read_json(path, list[int]) if path.is_file() else []
    except StudyError:
        days = []
    days, confirmed = confirmed_time(days, time.time())
    with contextlib.suppress(OSError):  # a folder that is read-only
        write_json(path, days)
    for deleted in found:
        if confirmed is not None and confirmed - deleted.when > KEPT_DAYS * _DAY:
            shutil.rmtree(deleted.folder, ignore_errors=True)


def _trash() -> Path:
    return studies_folder() / ".deleted"


def _free_folder(name: str) -> Path:
    folder = studies_folder() / name
    if folder.exists():
        raise StudyError(
            m("a {study} named {name!r} already exists", name=name),
            where=str(folder),
            remedy=m("Choose another name, or rename that {study} first"),
        )
    return folder


@contextmanager
def _locked_and_idle(study: Study, done: str) -> Iterator[None]:
    running = StudyError(
        m("the {study} {name!r} is running and cannot be {done}", name=study.name, done=done),
        remedy=m("Wait until it is done, or cancel it first"),
    )
    with study.lock(running):
        if study.state == "running":  # a step can outlive the run that held the lock
            raise running
        yield
