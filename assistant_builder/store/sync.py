"""Studies in a store: download, sync during a run, and the lease that lets only one machine run a study."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from assistant_builder.atomic_io import parse_json
from assistant_builder.config import check_name
from assistant_builder.errors import ConfigError, StoreError, StudyError
from assistant_builder.i18n import m
from assistant_builder.store.lease import Lease, StoreLeaseFile
from assistant_builder.store.mirror import Mirror
from assistant_builder.store.object_layout import STEP_LEASE, is_checkpoint
from assistant_builder.store.object_store import ObjectStore
from assistant_builder.study import Study, studies_folder
from assistant_builder.study.addresses import require_allowed

PUSH_SECONDS = 5.0
"""Interval of uploads while a study runs; later work is lost with the machine."""
_RENEW_INTERVAL_SECONDS = 0.25
_LEASE = ".lease.json"
_NEWEST = ".newest.json"
"""Object with the id of the copy that may be newer than the store; without it the store is newer than all copies."""
_CANCEL = ".cancel"
_LOG = logging.getLogger(__name__)


def study_url(store: str, name: str) -> str:
    """URL of a study in a store: ``s3://bucket/folder/NAME``."""
    return f"{store.rstrip('/')}/{name}"


def _store_of(store_url: str, name: str) -> ObjectStore:
    """The objects of a study; raises ConfigError unless the user has allowed the store."""
    require_allowed({"executor.store": store_url})
    return ObjectStore(study_url(store_url, name))


def fetch_study(url: str) -> Study:
    """Download a study atomically, or update its local copy; ``url`` is ``executor.store``, a slash, and its name.

    Raises:
        ConfigError: The URL names no study, contains a secret, or is of a store that the user has not allowed.
        StoreError: The store does not answer, or has no such study.
        StudyError: The local study of that name is not a copy of it, or is running.
    """
    store_url, _, name = url.rstrip("/").rpartition("/")
    try:
        folder = studies_folder() / check_name(name)
    except ValueError as error:
        raise ConfigError(
            m("{name!r} is not the name of a {study}: {error}", name=name, error=error),
            where=m("the URL"),
        ) from error
    if folder.exists():
        pull_updates(Study(folder), store_url)
        return Study(folder)
    store = _store_of(store_url, name)
    if "study.yaml" not in store.versions():
        raise StoreError(
            m("there is no {study} there"),
            where=store.url,
            remedy=m("Check the URL: the value of executor.store, a slash, and the {study}'s name"),
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".new-"))
    try:
        Mirror(Study(scratch), store).pull()
        os.chmod(scratch, 0o755)
        os.rename(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Study(folder)


def pull_updates(study: Study, store_url: str) -> None:
    """Download the changes of other machines; raises the errors of :func:`pull_if_behind`."""
    with study.lock():
        pull_if_behind(Mirror(study, _store_of(store_url, study.name)))


def pull_if_behind(mirror: Mirror) -> None:
    """Download the changes in a store, unless this copy was the last one to run.

    Raises:
        StoreError: The store does not answer.
        StudyError: The folder is not a copy of the study of that name in the store, or a step is running in it.
    """
    study, store = mirror.study, mirror.store
    if store.read("study.yaml") is None:
        return
    if not mirror.is_copy:
        raise StudyError(
            m(
                "the store contains a {study} {name!r}, and the local {study} is not a copy of it",
                name=study.name,
            ),
            where=store.url,
            remedy=m(
                "Rename the local {study}, then run the other one with 'assistant-builder run {url}'; or choose "
                "another store or name for the local one",
                url=store.url,
            ),
        )
    if _newest_copy(store) == mirror.copy_id:
        return
    if any(
        record.state == "running" and record.node is None for record in map(study.step, study.steps)
    ):
        raise StudyError(
            m("a step is still running here, and the {study} was resumed elsewhere"),
            where=m("{study} {name}", name=study.name),
            remedy=m(
                "Stop it with 'assistant-builder cancel {name}', then run again", name=study.name
            ),
        )
    is_local = study.config.executor.kind == "local"
    # cluster nodes download their checkpoints themselves
    mirror.pull(lambda name: is_local or not is_checkpoint(name))


@contextmanager
def synced_with_store(study: Study) -> Iterator[Mirror]:
    """Hold the lease of a study in its store, and sync the study, locked by this process, while it runs.

    Raises:
        StoreError: The store does not answer.
        StudyError: Another machine runs the study or has taken it over, or the store has another study of that name.
    """
    store_url = study.config.executor.store
    assert store_url is not None
    mirror = Mirror(study, _store_of(store_url, study.name))
    lease = Lease(StoreLeaseFile(mirror.store, _LEASE), mirror.copy_id, socket.gethostname())
    other = lease.held_by()
    if other:
        raise StudyError(
            m("{other} is running this {study}", other=other),
            where=mirror.store.url,
            remedy=m("Wait until it is done, or cancel it there; then run again to resume"),
        )
    lease.acquire()
    try:
        pull_if_behind(mirror)
        is_local = study.config.executor.kind == "local"
        node = _active_node(mirror.store) if is_local else ""
        if node:
            raise StudyError(
                m("node {node} is still running a step of it", node=node),
                where=mirror.store.url,
                remedy=m("Run it with executor.kind=ray, which waits for that step, or cancels it"),
            )
        mirror.store.write(
            _NEWEST, json.dumps({"copy": mirror.copy_id, "node": socket.gethostname()}).encode()
        )
        mirror.push()
        if not is_local:
            mirror.refresh_versions()
            mirror.drop_local_checkpoints()
            mirror.store.remove([_NEWEST, _CANCEL])
        sync = BackgroundSync(mirror, lease, pushes=is_local)
        failed = True
        try:
            yield mirror
            failed = False
        finally:
            sync.stop()
            with contextlib.suppress(*((StoreError,) if failed else ())):
                mirror.push()
                mirror.refresh_versions()
    finally:
        with contextlib.suppress(StoreError):
            lease.release()


class BackgroundSync:
    """Threads that renew the lease of this process and, with ``pushes``, upload changes until :meth:`stop`."""

    def __init__(
        self,
        mirror: Mirror,
        lease: Lease,
        *,
        pushes: bool = True,
    ) -> None:
        self._mirror = mirror
        self._lease = lease
        self._ended = threading.Event()
        self._lost = False
        mirror.may_write = lambda: not self._lost
        work = [self._renew, *([self._push] if pushes else [])]
        self._threads = [threading.Thread(target=each, daemon=True) for each in work]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop the threads; raises StudyError if another machine has taken the lease."""
        self._ended.set()
        for thread in self._threads:
            thread.join()
        if self._lost:
            raise StudyError(
                m("another machine has taken the {study} over"),
                where=m("{study} {name}", name=self._mirror.study.name),
                remedy=m(
                    "This machine could not renew its lease in time; follow the {study} on the other machine"
                ),
            )

    def _renew(self) -> None:
        while not self._ended.wait(_RENEW_INTERVAL_SECONDS):
            with contextlib.suppress(StoreError):  # uploads report it
                if not self._lease.renew():
                    self._lost = True
                    self._mirror.study.request_cancel()
                    return

    def _push(self) -> None:
        failing = False
        while not self._ended.wait(PUSH_SECONDS):
            try:
                self._mirror.push()
                failing = False
            except (StoreError, StudyError, OSError) as error:
                if not failing:
                    _LOG.warning(
                        "the study cannot be uploaded to its store and continues locally: %s", error
                    )
                failing = True


def write_cancel_flag(store: ObjectStore) -> None:
    """Ask the steps of a study to stop, on all machines."""
    store.write(_CANCEL, b"")


def is_cancel_requested(store: ObjectStore) -> bool:
    """Whether the steps of a study were asked to stop."""
    return store.read(_CANCEL) is not None


def cancel_nodes(study: Study) -> bool:
    """Ask cluster nodes to stop that still run steps after their run has ended; returns whether there are any."""
    assert study.config.executor.store is not None
    store = _store_of(study.config.executor.store, study.name)
    if not _active_node(store):
        return False
    write_cancel_flag(store)
    return True


def _active_node(store: ObjectStore) -> str:
    """Name of a cluster node that runs a step of the study; empty without one."""
    names = (name for name in store.versions() if name.endswith(STEP_LEASE))
    return next(
        filter(None, (Lease(StoreLeaseFile(store, name), "", "").held_by() for name in names)), ""
    )


def _newest_copy(store: ObjectStore) -> str | None:
    try:
        return str(parse_json(store.read(_NEWEST) or b"", dict[str, str], _NEWEST)["copy"])
    except (ValueError, KeyError, RecursionError):
        return None
