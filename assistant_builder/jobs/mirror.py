"""A study's folder on this machine, and the same study in a store: each can be made from the other at any moment.

What vouches for other files (a done-marker, a checkpoint's marker) is put after them and taken away before them, both
ways, so that a copy that was broken off is taken for unfinished, and never for finished.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assistant_builder.atomic_io import file_hash, read_json, write_bytes, write_json
from assistant_builder.errors import StudyError
from assistant_builder.jobs.log_parts import Part, is_log, joined, next_part, parts_of
from assistant_builder.jobs.stored_files import (
    STEP_LEASE,
    Stamp,
    files_of,
    is_asked,
    is_checkpoint,
    is_own,
    is_record,
    is_status,
    outputs,
    rank,
    stamp_of,
    succeeded,
)
from assistant_builder.stores import Store
from assistant_builder.study import CHECKPOINT_MARKER, Study

_RECORD = ".store.json"
_NEVER: Stamp = (-1, -1)
"""That of no file: what the store holds under its name is to be replaced, or removed."""


@dataclass
class _Log:
    """A file that is appended to, as the store has it."""

    content: bytes = b""
    parts: list[Part] = field(default_factory=list)


class Mirror:
    """A study's folder, and its objects in a store.

    Args:
        study: The study; its folder need not hold anything yet.
        store: The store.

    Attributes:
        copy: What tells this folder from every other copy of the study.
        known: Whether the folder is known to be a copy of what is in the store.
        ours: Asked before anything is put: whether the study is still this copy's to write.
    """

    def __init__(self, study: Study, store: Store) -> None:
        self.study = study
        self.store = store
        self._same: dict[str, tuple[Stamp, str]] = {}
        self._logs: dict[str, _Log] | None = None
        self.ours: Callable[[], bool] = lambda: True
        record = self._recorded()
        self.known = record is not None
        self.copy = str(record["copy"]) if record else uuid.uuid4().hex
        for name, (size, written, mark) in (record["files"] if record else {}).items():
            self._same[name] = ((size, written), mark)

    def pull(self, wanted: Callable[[str], bool] = lambda name: True) -> None:
        """Make the folder what the store holds.

        Args:
            wanted: Which files are looked at; others stay as they are here.

        Raises:
            StoreError: The store does not answer.
        """
        marks = {name: mark for name, mark in self.store.marks().items() if not is_own(name) and wanted(name)}
        logs = parts_of(marks)
        self._logs = self._logs or {}
        objects = {name: mark for name, mark in marks.items() if not _is_part(name)}
        here = {name: stamp for name, stamp in files_of(self.study.folder).items() if wanted(name)}
        stale = [name for name, mark in objects.items()
                 if self._same.get(name) != (here.get(name), mark) and not self._asked_here(name, here, mark)]
        for name in filter(is_status, here):
            if name not in objects or (name in stale and succeeded(self._read(name))):
                self._drop(name)
        for name in here.keys() - objects.keys() - logs.keys():
            if name != "votes.jsonl" and not self._asked_here(name, here, None):
                self._drop(name)
        for log, parts in logs.items():
            self._pull_log(log, parts)
        for name in sorted(stale, key=rank):
            if self._fetch(name):
                self._same[name] = (stamp_of(self._path(name)), objects[name])
        self._write_record()

    def push(self) -> None:
        """Bring to the store what has changed in the folder since it was the same there.

        Raises:
            StoreError: The store does not answer.
            StudyError: The study is no longer ours, or its folder is gone.
        """
        here = {name: stamp for name, stamp in files_of(self.study.folder).items() if not name.endswith(STEP_LEASE)}
        if "study.yaml" not in here:  # a store must not become as empty as a disk that is not there
            raise StudyError("the study's folder is gone", where=str(self.study.folder),
                             remedy="Put it back where it was, or connect its disk again; then run again")
        if not self.known:
            self._write_record()
        if self._logs is None:
            self._learn()
        changed = [name for name, stamp in here.items() if name not in self._same or self._same[name][0] != stamp]
        statuses = {name: self._read(name) for name in changed if is_status(name)}
        self._remove(name for name in self._same if is_status(name) and name not in here)
        for name, content in statuses.items():
            if content and not succeeded(content):  # its files are about to change, or have changed
                self._put_status(name, content, here[name])
        put = [name for name in changed if not is_status(name) and self._counts(name, here)]
        whole = all([self._put(name) for name in sorted(put, key=lambda name: (rank(name), here[name][1]))])
        for name, content in statuses.items():
            if succeeded(content) and self._vouched(content, put=True):
                self._put_status(name, content, here[name])
        if whole:  # else one of them went while we looked, and another may have come that is not there yet
            gone = {*self._same, *(self._logs or ())} - here.keys()
            self._remove(name for name in gone if not name.endswith(STEP_LEASE))  # whoever holds one writes it there
        if changed:
            self._write_record()

    def leave_checkpoints(self) -> None:
        """Leave checkpoints to the store alone, because the trainings go on elsewhere."""
        for name in {*files_of(self.study.folder), *self._same}:
            if is_checkpoint(name):
                self._drop(name)
        self._write_record()

    def settle(self) -> None:
        """Note what the store says of the objects that were put, so that nothing of it is fetched again."""
        marks = self.store.marks()
        self._same = {name: (stamp, marks.get(name, "")) for name, (stamp, _) in self._same.items()}
        self._write_record()

    # one way

    def _asked_here(self, name: str, here: Mapping[str, Stamp], mark: str | None) -> bool:
        """Whether it is settings or data that the user changed here, and nobody elsewhere since the two were the same.

        Args:
            name: The file.
            here: The files here.
            mark: That of the object; None where there is none.
        """
        stamp, known = self._same.get(name, (None, None))
        return is_asked(name) and known == mark and stamp != here.get(name)

    def _put_status(self, name: str, content: bytes, stamp: Stamp) -> None:
        """Put a status file as it was read: by now it may promise more than is there."""
        self._require_ours()
        self.store.write(name, content)
        self._same[name] = (stamp, "")

    def _put(self, name: str) -> bool:
        """Put a file; returns whether it is still there."""
        self._require_ours()
        path = self._path(name)
        try:
            stamp = stamp_of(path)
            if is_log(name):
                self._put_log(name, path.read_bytes())
            else:
                self.store.upload(name, path)
        except FileNotFoundError:
            return False
        self._same[name] = (stamp, "")
        return True

    def _put_log(self, name: str, content: bytes) -> None:
        assert self._logs is not None
        log = self._logs.setdefault(name, _Log())
        number = log.parts[-1].number + 1 if log.parts else 1
        new = next_part(name, number, log.content, content)
        if new is None:
            return
        part, tail = new
        self.store.write(part.name, tail)
        if part.start == 0:
            self.store.remove(old.name for old in log.parts)
            log.parts = []
        log.parts.append(part)
        log.content = joined(log.content, [(part, tail)])

    def _counts(self, name: str, here: Iterable[str]) -> bool:
        """Whether a file is worth putting: those of a checkpoint are once it is whole."""
        folder = name.rpartition("/")[0]
        return not is_checkpoint(name) or f"{folder}/{CHECKPOINT_MARKER}" in here

    def _remove(self, names: Iterable[str]) -> None:
        """Remove objects, those that vouch for others first."""
        self._require_ours()
        for name in sorted(names, key=rank, reverse=True):
            if self._logs and name in self._logs:
                self.store.remove(part.name for part in reversed(self._logs.pop(name).parts))
            else:
                self.store.remove([name])
            self._same.pop(name, None)

    def _require_ours(self) -> None:
        if not self.ours():
            raise StudyError("another machine has taken the study over", where=f"study {self.study.name}")

    # the other way

    def _fetch(self, name: str) -> bool:
        """Fetch an object; returns whether the file is now as the store has it."""
        if not is_status(name):
            return self.store.download(name, self._path(name))
        content = self.store.read(name)
        if content is None or not self._vouched(content, put=False):
            return False  # half of it is on its way, or was when its machine was lost
        write_bytes(self._path(name), content)
        return True

    def _pull_log(self, name: str, parts: list[Part]) -> None:
        assert self._logs is not None
        log = self._read_log(parts, self._logs.get(name, _Log()))
        self._logs[name] = log
        path = self._path(name)
        here = path.read_bytes() if path.exists() else None
        if here == log.content or (name == "votes.jsonl" and here is not None and here.startswith(log.content)):
            return
        write_bytes(path, log.content)
        self._same[name] = (stamp_of(path), "")

    def _read_log(self, parts: list[Part], before: _Log) -> _Log:
        """A log as its parts say, of which those that are known are not read again."""
        new = [part for part in parts if part not in before.parts]
        if before.parts and new and new[0].number <= before.parts[-1].number:
            before, new = _Log(), parts
        read = [(part, self.store.read(part.name)) for part in new]
        return _Log(
            joined(before.content, [(part, content) for part, content in read if content is not None]), parts
        )

    def _learn(self) -> None:
        """Look what the store holds: a process of before may have put more than it came to write down."""
        marks = {name: mark for name, mark in self.store.marks().items() if not is_own(name)}
        self._logs = {name: self._read_log(found, _Log()) for name, found in parts_of(marks).items()}
        for name, mark in marks.items():
            if not _is_part(name) and self._same.get(name, (_NEVER, "?"))[1] not in (mark, ""):
                self._same[name] = (_NEVER, mark)

    # what is here

    def _vouched(self, content: bytes, *, put: bool) -> bool:
        """Whether a status is whole, and every file it names is as it says: here and, where ``put``, in the store."""
        for name, digest in outputs(content).items():
            path = self._path(name)
            try:
                if put and self._same.get(name, (_NEVER, ""))[0] != stamp_of(path):
                    return False
                if file_hash(path) != digest:
                    return False
            except OSError:
                return False
        return is_record(content)

    def _path(self, name: str) -> Path:
        return self.study.folder / name

    def _read(self, name: str) -> bytes:
        try:
            return self._path(name).read_bytes()
        except FileNotFoundError:
            return b""

    def _drop(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)
        self._same.pop(name, None)

    # what is remembered

    def _recorded(self) -> dict[str, Any] | None:
        try:
            record: dict[str, Any] = read_json(self.study.folder / _RECORD)
            return record if record["url"] == self.store.url else None
        except (OSError, StudyError, KeyError, TypeError):
            return None

    def _write_record(self) -> None:
        write_json(self.study.folder / _RECORD, {
            "url": self.store.url, "copy": self.copy,
            "files": {name: (*stamp, mark) for name, (stamp, mark) in self._same.items()},
        })
        self.known = True


def _is_part(name: str) -> bool:
    return bool(parts_of([name]))
