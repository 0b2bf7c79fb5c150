"""Runs of a study that is kept in a store: one machine at a time, told by a lease, each carrying on from the last."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from assistant_builder.errors import StoreError, StudyError
from assistant_builder.jobs.mirror import Mirror
from assistant_builder.leases import Lease
from assistant_builder.stores import Store, StoredFile
from assistant_builder.study import Study

PUSH_SECONDS = 5.0
"""How often a running study is brought to its store; what is younger is lost with the machine."""
_LOOK_SECONDS = 0.25
_LEASE = ".lease.json"
_NEWEST = ".newest.json"
"""The object that names the copy which may be ahead of the store; without one the store is ahead of them all."""
_LOG = logging.getLogger(__name__)


def study_url(store: str, name: str) -> str:
    """URL of a study in a store: ``s3://bucket/folder/NAME``."""
    return f"{store.rstrip('/')}/{name}"


def catch_up(mirror: Mirror) -> None:
    """Bring what a store has beyond a study's folder here; nothing where this copy was the last to be worked on.

    Raises:
        StoreError: The store does not answer.
        StudyError: The store holds a study of that name and the folder is no copy of it, or a step still writes there.
    """
    study, store = mirror.study, mirror.store
    if store.read("study.yaml") is None:
        return
    if not mirror.known:
        raise StudyError(
            f"the store holds a study {study.name!r} already, and the one here is not a copy of it", where=store.url,
            remedy=f"Rename the one here, then carry on that one with 'assistant-builder run {store.url}'; or choose "
            "another store or name for the one here",
        )
    if _newest(store) == mirror.copy:
        return
    if study.state == "running":
        raise StudyError("a step still runs here, and the study was carried on elsewhere", where=f"study {study.name}",
                         remedy=f"Stop it with 'assistant-builder cancel {study.name}', then run again")
    mirror.pull()


@contextmanager
def kept_in_store(study: Study) -> Iterator[Mirror | None]:
    """Keep a study in its store while it runs; without a store, do nothing.

    Args:
        study: The study, held by this process.

    Yields:
        Folder and store, made the same; None without a store.

    Raises:
        StoreError: The store does not answer.
        StudyError: Another machine runs the study or has taken it over, or the store holds another one of that name.
    """
    executor = study.config.executor
    if executor.store is None:
        yield None
        return
    mirror = Mirror(study, Store(study_url(executor.store, study.name)))
    lease = Lease(StoredFile(mirror.store, _LEASE), mirror.copy, socket.gethostname())
    other = lease.held_by()
    if other:
        raise StudyError(f"{other} runs this study", where=mirror.store.url,
                         remedy="Wait until it is done, or cancel it there; then run again, and it carries on")
    lease.take()
    try:
        catch_up(mirror)
        _say_newest(mirror)
        mirror.push()
        keeping = Keeping(mirror, lease)
        failed = True
        try:
            yield mirror
            failed = False
        finally:
            keeping.end()
            with contextlib.suppress(*((StoreError,) if failed else ())):
                mirror.push()
                mirror.settle()
    finally:
        with contextlib.suppress(StoreError):
            lease.release()


class Keeping:
    """Renews a lease, and brings what changes to the store, until it is ended.

    Args:
        mirror: The folder and the store.
        lease: The lease, taken.
    """

    def __init__(self, mirror: Mirror, lease: Lease) -> None:
        self._mirror = mirror
        self._lease = lease
        self._ended = threading.Event()
        self._lost = False
        mirror.ours = lambda: not self._lost
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._renew, self._push)]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Stop.

        Raises:
            StudyError: Somebody else has taken the lease.
        """
        self._ended.set()
        for thread in self._threads:
            thread.join()
        if self._lost:
            raise _taken_over(self._mirror.study)

    def _renew(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            with contextlib.suppress(StoreError):  # it is told by who pushes
                if not self._lease.renew():
                    self._lost = True
                    self._mirror.study.request_cancel()
                    return

    def _push(self) -> None:
        answers = True
        while not self._ended.wait(PUSH_SECONDS):
            try:
                self._mirror.push()
                answers = True
            except (StoreError, StudyError, OSError) as error:
                if answers:
                    _LOG.warning("the study runs on, and is not kept in its store at the moment: %s", error)
                answers = False


def _taken_over(study: Study) -> StudyError:
    return StudyError("another machine has taken the study over", where=f"study {study.name}",
                      remedy="This one was not heard of for too long; watch it there")


def _newest(store: Store) -> str | None:
    try:
        record = json.loads(store.read(_NEWEST) or b"")
        return str(record["copy"])
    except (ValueError, KeyError, TypeError):
        return None


def _say_newest(mirror: Mirror) -> None:
    mirror.store.write(_NEWEST, json.dumps({"copy": mirror.copy, "node": socket.gethostname()}).encode())
