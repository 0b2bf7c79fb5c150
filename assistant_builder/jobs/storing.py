"""Runs of a study that is kept in a store: one machine at a time, told by a lease, each carrying on from the last."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from assistant_builder.errors import StoreError, StudyError
from assistant_builder.jobs.mirror import Mirror
from assistant_builder.jobs.stored_files import STEP_LEASE, is_checkpoint
from assistant_builder.leases import Lease
from assistant_builder.stores import Store, StoredFile
from assistant_builder.study import Study

PUSH_SECONDS = 5.0
"""How often a running study is brought to its store; what is younger is lost with the machine."""
_LOOK_SECONDS = 0.25
_LEASE = ".lease.json"
_NEWEST = ".newest.json"
"""The object that names the copy which may be ahead of the store; without one the store is ahead of them all."""
_CANCEL = ".cancel"
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
    if any(record.state == "running" and record.node is None for record in map(study.step, study.steps)):
        raise StudyError("a step still runs here, and the study was carried on elsewhere", where=f"study {study.name}",
                         remedy=f"Stop it with 'assistant-builder cancel {study.name}', then run again")
    alone = study.config.executor.kind == "local"
    mirror.pull(lambda name: alone or not is_checkpoint(name))  # nodes of a cluster bring them where they are needed


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
    store_url = study.config.executor.store
    if store_url is None:
        yield None
        return
    mirror = Mirror(study, Store(study_url(store_url, study.name)))
    lease = Lease(StoredFile(mirror.store, _LEASE), mirror.copy, socket.gethostname())
    other = lease.held_by()
    if other:
        raise StudyError(f"{other} runs this study", where=mirror.store.url,
                         remedy="Wait until it is done, or cancel it there; then run again, and it carries on")
    lease.take()
    try:
        catch_up(mirror)
        here = study.config.executor.kind == "local"
        if here:
            _require_no_node(mirror.store)
        _say_newest(mirror)
        mirror.push()
        if not here:
            mirror.settle()
            mirror.leave_checkpoints()
            mirror.store.remove([_NEWEST, _CANCEL])
        keeping = Keeping(mirror, lease, pushes=here)
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
        pushes: Whether it brings anything to the store; else it renews the lease alone.
        beside: What else to do as often as that.
    """

    def __init__(
        self, mirror: Mirror, lease: Lease, *, pushes: bool = True, beside: Callable[[], None] = lambda: None
    ) -> None:
        self._mirror = mirror
        self._beside = beside
        self._lease = lease
        self._ended = threading.Event()
        self._lost = False
        mirror.ours = lambda: not self._lost
        work = [self._renew, *([self._push] if pushes else [])]
        self._threads = [threading.Thread(target=each, daemon=True) for each in work]
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
                self._beside()
                answers = True
            except (StoreError, StudyError, OSError) as error:
                if answers:
                    _LOG.warning("the study runs on, and is not kept in its store at the moment: %s", error)
                answers = False


def tell_cancel(store: Store) -> None:
    """Ask the steps of a study to stop, on whatever machine they run."""
    store.write(_CANCEL, b"")


def cancel_told(store: Store) -> bool:
    """Whether someone asked the steps of a study to stop."""
    return store.read(_CANCEL) is not None


def cancel_nodes(study: Study) -> bool:
    """Ask nodes to stop that compute steps for a run that is gone, and that only the study's store tells of.

    Returns:
        Whether there is such a node.

    Raises:
        StoreError: The store does not answer.
    """
    executor = study.config.executor
    if executor.kind == "local" or executor.store is None:
        return False
    store = Store(study_url(executor.store, study.name))
    if not _node_at_work(store):
        return False
    tell_cancel(store)
    return True


def _node_at_work(store: Store) -> str:
    """A node of a cluster that computes a step of the study; empty without one."""
    leases = (Lease(StoredFile(store, name), "", "").held_by() for name in store.marks() if name.endswith(STEP_LEASE))
    return next(filter(None, leases), "")


def _require_no_node(store: Store) -> None:
    """Refuse to run beside steps that nodes of a cluster still compute, for a run of before."""
    node = _node_at_work(store)
    if node:
        raise StudyError(f"node {node} still runs a step of it", where=store.url,
                         remedy="Run it with executor.kind=ray, which waits for that step, or cancels it")


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
