"""Two-way sync of a study folder with its objects in a store.

In both directions, a file that marks others as complete (a done-marker, the marker of a checkpoint) is written after
them and removed before them. After an interrupted sync, nothing incomplete is therefore marked as complete.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Len
from typing_extensions import TypedDict

from assistant_builder.atomic_io import file_hash, read_json, write_bytes, write_json
from assistant_builder.errors import StudyError
from assistant_builder.i18n import m
from assistant_builder.store import object_layout as layout
from assistant_builder.store.object_layout import LogChunk, Stamp
from assistant_builder.store.object_store import ObjectStore
from assistant_builder.study import CHECKPOINT_MARKER, Study
from assistant_builder.study.containment import is_plain_name, path_inside

_RECORD = ".store.json"
_NO_FILE: Stamp = (-1, -1)
"""Stamp of no file, so that the object is replaced or removed."""


class _SyncRecord(TypedDict):
    url: str
    copy: str
    files: dict[str, Annotated[list[int | str | None], Len(3, 3)]]


@dataclass
class _Log:
    content: bytes = b""
    chunks: list[LogChunk] = field(default_factory=list)


class Mirror:
    """A study folder, which may be empty, and its objects in a store.

    ``copy_id`` is the unique id of this copy of the study, and ``is_copy`` whether the folder is known to be a copy of
    the study in the store. ``may_write`` is called before every upload and returns whether this copy still holds the
    lease.
    """

    def __init__(self, study: Study, store: ObjectStore) -> None:
        self.study = study
        self.store = store
        self._synced: dict[str, tuple[Stamp, str]] = {}
        """File → its stamp and the version of its object at the last sync."""
        self._logs: dict[str, _Log] | None = None
        self.may_write: Callable[[], bool] = lambda: True
        record = self._read_record()
        self.is_copy = record is not None
        self.copy_id = str(record["copy"]) if record else uuid.uuid4().hex
        for name, (size, modified, version) in (record["files"] if record else {}).items():
            self._synced[name] = ((size, modified), version)

    def pull(self, wanted: Callable[[str], bool] = lambda name: True) -> None:
        """Make the files that ``wanted`` selects equal to the store, by default all."""
        remote = self._remote_versions().items()
        versions = {name: version for name, version in remote if wanted(name)}
        logs = layout.chunks_of(versions)
        self._logs = self._logs or {}
        objects = {name: version for name, version in versions.items() if not _is_chunk(name)}
        files = layout.files_of(self.study.folder).items()
        local = {name: stamp for name, stamp in files if wanted(name)}
        stale = [
            name
            for name, version in objects.items()
            if self._synced.get(name) != (local.get(name), version)
            and not self._changed_by_user(name, local, version)
        ]
        for name in filter(layout.is_status, local):
            if name not in objects or (name in stale and layout.succeeded(self._read(name))):
                self._delete_local(name)
        for name in local.keys() - objects.keys() - logs.keys():
            if name != "votes.jsonl" and not self._changed_by_user(name, local, None):
                self._delete_local(name)
        for log, chunks in logs.items():
            self._pull_log(log, chunks)
        for name in sorted(stale, key=layout.upload_order):
            if self._download(name):
                self._synced[name] = (layout.stamp_of(self._path(name)), objects[name])
        self._write_record()

    def push(self) -> None:
        """Upload the changes in the folder since the last sync.

        Raises:
            StudyError: Another machine has taken the study over, or its folder is missing.
        """
        files = layout.files_of(self.study.folder).items()
        local = {name: stamp for name, stamp in files if not name.endswith(layout.STEP_LEASE)}
        if "study.yaml" not in local:  # a disk that was disconnected must not empty the store
            raise StudyError(
                m("the {study}'s folder is missing"),
                where=str(self.study.folder),
                remedy=m("Restore it or connect its disk, then run again"),
            )
        if not self.is_copy:
            self._write_record()
        if self._logs is None:
            self._load_remote_state()
        synced = {name: stamp for name, (stamp, _) in self._synced.items()}
        changed = [name for name, stamp in local.items() if synced.get(name) != stamp]
        statuses = {name: self._read(name) for name in changed if layout.is_status(name)}
        self._remove_objects(
            name for name in self._synced if layout.is_status(name) and name not in local
        )
        for name, content in statuses.items():
            if content and not layout.succeeded(content):  # the files of the step change
                self._upload_status(name, content, local[name])
        ready = [
            name for name in changed if name not in statuses and self._is_complete(name, local)
        ]
        ready.sort(key=lambda name: (layout.upload_order(name), local[name][1]))
        uploaded = [self._upload(name) for name in ready]
        for name, content in statuses.items():
            if layout.succeeded(content) and self._outputs_match(content, in_store=True):
                self._upload_status(name, content, local[name])
        # else a file was replaced during the upload, and the new one is not in the store yet
        if all(uploaded):
            removed = {*self._synced, *(self._logs or ())} - local.keys()
            self._remove_objects(name for name in removed if not name.endswith(layout.STEP_LEASE))
        if changed:
            self._write_record()

    def drop_local_checkpoints(self) -> None:
        """Delete the local checkpoints but not those in the store, because trainings continue elsewhere."""
        for name in {*layout.files_of(self.study.folder), *self._synced}:
            if layout.is_checkpoint(name):
                self._delete_local(name)
        self._write_record()

    def refresh_versions(self) -> None:
        """Record the versions of the uploaded objects, so that no later pull downloads them."""
        versions = self.store.versions()
        self._synced = {
            name: (stamp, versions.get(name, "")) for name, (stamp, _) in self._synced.items()
        }
        self._write_record()

    # uploads

    def _changed_by_user(self, name: str, local: Mapping[str, Stamp], version: str | None) -> bool:
        """Whether the user changed settings or data here while the object stayed at ``version`` (None: no object)."""
        stamp, known = self._synced.get(name, (None, None))
        return layout.is_user_input(name) and known == version and stamp != local.get(name)

    def _upload_status(self, name: str, content: bytes, stamp: Stamp) -> None:
        """Upload a status file as read earlier; its present content may list files that are not in the store."""
        self._require_lease()
        self.store.write(name, content)
        self._synced[name] = (stamp, "")

    def _upload(self, name: str) -> bool:
        self._require_lease()
        path = self._path(name)
        try:
            stamp = layout.stamp_of(path)
            if layout.is_append_only(name):
                self._upload_log(name, path.read_bytes())
            else:
                self.store.upload(name, path)
        except FileNotFoundError:
            return False
        self._synced[name] = (stamp, "")
        return True

    def _upload_log(self, name: str, content: bytes) -> None:
        assert self._logs is not None
        log = self._logs.setdefault(name, _Log())
        number = log.chunks[-1].number + 1 if log.chunks else 1
        new = layout.next_chunk(name, number, log.content, content)
        if new is None:
            return
        chunk, tail = new
        self.store.write(chunk.name, tail)
        if chunk.start == 0:
            self.store.remove(old.name for old in log.chunks)
            log.chunks = []
        log.chunks.append(chunk)
        log.content = layout.apply_chunks(log.content, [(chunk, tail)])

    def _is_complete(self, name: str, local: Iterable[str]) -> bool:
        """Whether a file can be uploaded; checkpoint files are uploaded only after their marker exists."""
        folder = name.rpartition("/")[0]
        return not layout.is_checkpoint(name) or f"{folder}/{CHECKPOINT_MARKER}" in local

    def _remove_objects(self, names: Iterable[str]) -> None:
        """Remove objects, beginning with those that mark others as complete."""
        self._require_lease()
        for name in sorted(names, key=layout.upload_order, reverse=True):
            if self._logs and name in self._logs:
                self.store.remove(chunk.name for chunk in reversed(self._logs.pop(name).chunks))
            else:
                self.store.remove([name])
            self._synced.pop(name, None)

    def _require_lease(self) -> None:
        if not self.may_write():
            raise StudyError(
                m("another machine has taken the {study} over"),
                where=m("{study} {name}", name=self.study.name),
            )

    # downloads

    def _download(self, name: str) -> bool:
        if not layout.is_status(name):
            return self.store.download(name, self._path(name))
        content = self.store.read(name)
        if content is None or not self._outputs_match(content, in_store=False):
            return False  # its files are not completely uploaded
        write_bytes(self._path(name), content)
        return True

    def _pull_log(self, name: str, chunks: list[LogChunk]) -> None:
        assert self._logs is not None
        log = self._read_log(chunks, self._logs.get(name, _Log()))
        self._logs[name] = log
        path = self._path(name)
        local = path.read_bytes() if path.exists() else None
        if local == log.content or (
            name == "votes.jsonl" and local is not None and local.startswith(log.content)
        ):
            return
        write_bytes(path, log.content)
        self._synced[name] = (layout.stamp_of(path), "")

    def _read_log(self, chunks: list[LogChunk], before: _Log) -> _Log:
        """The log that the chunks form; only new chunks are read."""
        new = [chunk for chunk in chunks if chunk not in before.chunks]
        if before.chunks and new and new[0].number <= before.chunks[-1].number:
            before, new = _Log(), chunks
        read = [(chunk, self.store.read(chunk.name)) for chunk in new]
        known = [(chunk, content) for chunk, content in read if content is not None]
        return _Log(layout.apply_chunks(before.content, known), chunks)

    def _load_remote_state(self) -> None:
        """List the store, because an earlier process may have uploaded more than it recorded."""
        versions = self._remote_versions()
        logs = layout.chunks_of(versions)
        self._logs = {name: self._read_log(chunks, _Log()) for name, chunks in logs.items()}
        for name, version in versions.items():
            _, known = self._synced.get(name, (_NO_FILE, "?"))
            if not _is_chunk(name) and known not in (version, ""):
                self._synced[name] = (_NO_FILE, version)

    def _remote_versions(self) -> dict[str, str]:
        versions = self.store.versions().items()
        return {name: version for name, version in versions if not layout.is_local_only(name)}

    # local files

    def _outputs_match(self, content: bytes, *, in_store: bool) -> bool:
        """Whether a status is complete and the files that it lists have their hashes (``in_store``: also there)."""
        for name, digest in layout.outputs(content).items():
            try:
                path = self._path(name)
                if in_store and self._synced.get(name, (_NO_FILE, ""))[0] != layout.stamp_of(path):
                    return False
                if file_hash(path) != digest:
                    return False
            except (OSError, StudyError):
                return False
        return layout.is_record(content)

    def _path(self, name: str) -> Path:
        return path_inside(self.study.folder, name)

    def _read(self, name: str) -> bytes:
        try:
            return self._path(name).read_bytes()
        except FileNotFoundError:
            return b""

    def _delete_local(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)
        self._synced.pop(name, None)

    def _read_record(self) -> dict[str, Any] | None:
        try:
            record: dict[str, Any] = read_json(self.study.folder / _RECORD, _SyncRecord)
        except (OSError, StudyError):
            return None
        plain = all(map(is_plain_name, record["files"]))
        return record if plain and record["url"] == self.store.url else None

    def _write_record(self) -> None:
        files = {name: (*stamp, version) for name, (stamp, version) in self._synced.items()}
        record = {"url": self.store.url, "copy": self.copy_id, "files": files}
        write_json(self.study.folder / _RECORD, record)
        self.is_copy = True


def _is_chunk(name: str) -> bool:
    return bool(layout.chunks_of([name]))
