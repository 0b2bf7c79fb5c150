"""Versions of a published assistant: ``versions.json`` in the folder of the first study says which one is served.

A version is a study of its own, on the same split as the first one. ``serve NAME`` serves the version that ``NAME``
names, and follows the file while it runs.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import MinLen
from filelock import FileLock

from assistant_builder.atomic_io import read_json, write_json
from assistant_builder.config.study_config import check_name, name_and_title
from assistant_builder.errors import StudyError
from assistant_builder.i18n import m, t
from assistant_builder.study.contents import MadeFrom
from assistant_builder.study.layout import studies_folder
from assistant_builder.study.steps import UnixTime
from assistant_builder.study.study import Study

Action = Literal["created", "published", "rejected", "undone"]
_FILE = "versions.json"
_MADE_FROM = "made_from.json"


@dataclass(frozen=True)
class Event:
    """What happened to a version."""

    time: UnixTime
    action: Action
    version: str  # name of its study
    reason: str = ""


@dataclass(frozen=True)
class Versions:
    """The versions of a study.

    Attributes:
        served: Name of the version that is served.
        names: Names of all versions, the first study first.
        events: What happened to them, oldest first.
        before: Names of the versions that were served before, the last one last, for undoing.
    """

    served: str
    names: Annotated[tuple[str, ...], MinLen(1)]
    events: tuple[Event, ...]
    before: tuple[str, ...]

    def reason(self, version: str) -> str | None:
        """Why a version was rejected; None if it was not, or was published since."""
        last = self._last_event(version)
        return last.reason if last is not None and last.action == "rejected" else None

    @property
    def candidate(self) -> str | None:
        """Name of the newest version if it was neither published nor rejected."""
        last = self._last_event(self.names[-1])
        return last.version if last is not None and last.action == "created" else None

    def _last_event(self, version: str) -> Event | None:
        return next((event for event in reversed(self.events) if event.version == version), None)


def versions_file(root: Study) -> Path:
    """The file with the versions of a study, which exists as soon as there is a second one."""
    return root.folder / _FILE


def root_of(study: Study) -> Study:
    """The first study of the versions that a study belongs to; the study itself if it is no version."""
    # the first one was deleted, or a record is damaged: a study of its own
    with contextlib.suppress(StudyError):
        name = _made_as_version_of(study.folder)
        if name is not None and study.name in read_versions(root := Study.open(name)).names:
            return root
    return study


def read_versions(root: Study, former_name: str | None = None) -> Versions:
    """The versions of a study, without studies that are not made as a version of it; a deleted version stays.

    ``former_name`` is that of a study that was just renamed, which its versions still name.

    Raises:
        StudyError: The file is damaged.
    """
    path = versions_file(root)
    if not path.is_file():
        return Versions(root.name, (root.name,), (), ())

    def own(names: Iterable[str]) -> tuple[str, ...]:
        return tuple(name for name in names if _is_version(name, former_name or root.name))

    versions: Versions = read_json(
        path, Versions, remedy=t("Move it away: the first version is served then")
    )
    return replace(versions, names=own(versions.names), before=own(versions.before))


def _is_version(name: str, root: str) -> bool:
    try:
        folder = studies_folder() / check_name(name)
    except ValueError:
        return False
    return name == root or not folder.exists() or _made_as_version_of(folder) == root


def _made_as_version_of(folder: Path) -> str | None:
    path = folder / _MADE_FROM
    with contextlib.suppress(StudyError):  # a damaged file makes no version
        return read_json(path, MadeFrom).get("version_of") if path.is_file() else None
    return None


def served_version(study: Study) -> Study:
    """The version of a study that is served; a study that is itself a later version, or has none, is returned.

    Raises:
        StudyError: The published version was deleted, or is another study.
    """
    versions = read_versions(study)
    if versions.served not in versions.names:
        raise StudyError(
            m("{version} is no version of {root}", version=versions.served, root=study.name),
            where=str(versions_file(study)),
            remedy=m("Move it away: the first version is served then"),
        )
    return study if versions.served == study.name else Study.open(versions.served)


def add_version(root: Study, version: Study) -> None:
    """Record a new study as a version; ``made_from.json`` of it gets the name of the first one."""
    path = version.folder / _MADE_FROM
    write_json(
        path, {**(read_json(path, MadeFrom) if path.is_file() else {}), "version_of": root.name}
    )
    with _changing(root):
        versions = read_versions(root)
        versions = replace(versions, names=(*versions.names, version.name))
        _write(root, versions, Event(time.time(), "created", version.name))


def next_name(root: Study) -> str:
    """A free name for the study of the next version, or a title if the first one has one."""
    names = (
        f"{root.name}-v{number}"
        if root.title == root.name
        else t("{title} (version {number})", title=root.title, number=number)
        for number in count(len(read_versions(root).names) + 1)
    )
    return next(name for name in names if not (studies_folder() / name_and_title(name)[0]).exists())


def publish(root: Study, version: str, reason: str = "") -> None:
    """Serve this version from now on.

    Raises:
        StudyError: There is no such version, or its study was deleted.
    """
    with _changing(root):
        versions = _with(root, version)
        if version != versions.served:
            Study.open(version)
            published = replace(
                versions, served=version, before=(*versions.before, versions.served)
            )
            _write(root, published, Event(time.time(), "published", version, reason))


def reject(root: Study, version: str, reason: str) -> None:
    """Keep a version without serving it.

    Raises:
        StudyError: There is no such version, or it is served.
    """
    with _changing(root):
        versions = _with(root, version)
        if version == versions.served:
            raise StudyError(
                m("the version {version} is served", version=version),
                where=m("{study} {name}", name=root.name),
                remedy=m("Publish another one first, or undo"),
            )
        _write(root, versions, Event(time.time(), "rejected", version, reason))


def undo(root: Study) -> str:
    """Serve the version again that was served before the present one; returns its name.

    Raises:
        StudyError: No other one was served before, or it was deleted.
    """
    with _changing(root):
        versions = read_versions(root)
        if not versions.before:
            raise StudyError(
                m("no other version was served before"),
                where=m("{study} {name}", name=root.name),
                remedy=m("Publish a version first"),
            )
        *before, last = versions.before
        Study.open(last)
        undone = replace(versions, served=last, before=tuple(before))
        _write(root, undone, Event(time.time(), "undone", versions.served))
    return last


def _changing(root: Study) -> FileLock:
    """A lock, so that of two changes at a time, from the page and from a shell, none is lost."""
    return FileLock(root.folder / ".versions.lock")


def _with(root: Study, version: str) -> Versions:
    versions = read_versions(root)
    if version not in versions.names:
        raise StudyError(
            m("{version} is no version of {root}", version=version, root=root.name),
            where=m("{study} {name}", name=root.name),
            remedy=m("Its versions are {names}", names=", ".join(versions.names)),
        )
    return versions


def _write(root: Study, versions: Versions, *events: Event) -> None:
    entries = [asdict(event) for event in (*versions.events, *events)]
    write_json(
        versions_file(root),
        {
            "served": versions.served,
            "names": versions.names,
            "before": versions.before,
            "events": entries,
        },
    )


def refuse_to_delete(study: Study) -> None:
    """Raise StudyError if other versions need the study: it is the first one, or the one that is served."""
    root = root_of(study)
    versions = read_versions(root)
    if (
        len(versions.names) > 1
        and study.name in (root.name, versions.served)
        and any(
            name != study.name and (studies_folder() / name / "study.yaml").is_file()
            for name in versions.names
        )
    ):
        what = m("the version {name!r} is published", name=study.name)
        remedy = m("Publish another version first")
        if study.name == root.name:
            what = m("the project {name!r} has versions", name=study.name)
            remedy = m("Delete its other versions first")
        raise StudyError(what, where=str(root.folder), remedy=remedy)


def rename_versions(root: Study, old: str, new: str) -> None:
    """Give a version its new name in the file; ``root`` is the first study, with its new name if it was renamed."""
    versions = read_versions(root, old if root.name == new else None)
    if old not in versions.names:
        return

    def renamed(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(new if name == old else name for name in names)

    events = (
        replace(event, version=new) if event.version == old else event for event in versions.events
    )
    (served,) = renamed((versions.served,))
    names, before = renamed(versions.names), renamed(versions.before)
    versions = Versions(served, names, tuple(events), before)
    _write(root, versions)
    if root.name == new:
        for name in versions.names[1:]:
            path = studies_folder() / name / _MADE_FROM
            if path.is_file():
                write_json(path, {**read_json(path, MadeFrom), "version_of": root.name})
