"""The study folder on the nodes of a cluster: on a shared path, or a temporary copy that is synced through a store.

A node works in a :class:`Workspace` or :class:`StoreWorkspace`; the run syncs its own folder by :class:`StoreSync`.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from assistant_builder.errors import StoreError, StudyError
from assistant_builder.i18n import m
from assistant_builder.store.lease import Lease, LeaseBackend, SharedLeaseFile, StoreLeaseFile
from assistant_builder.store.mirror import Mirror
from assistant_builder.store.object_layout import is_checkpoint, upload_order
from assistant_builder.store.object_store import ObjectStore, retry_until_timeout
from assistant_builder.store.sync import BackgroundSync, is_cancel_requested, write_cancel_flag
from assistant_builder.study import Study

_CANCEL_CHECK_SECONDS = 1.0
_PULL_SECONDS = 2.0


class Workspace:
    """The study on a node that shares its folder, and the storage of the lease of the step that will run."""

    def __init__(self, study: Study, lease_backend: LeaseBackend) -> None:
        self.study = study
        self.lease_backend = lease_backend

    @property
    def cancel_requested(self) -> bool:
        """Whether the run was cancelled."""
        return self.study.cancel_requested

    def sync(self, lease: Lease) -> contextlib.AbstractContextManager[None]:
        """Sync the folder with other machines while the step runs."""
        return contextlib.nullcontext()


class StoreWorkspace(Workspace):
    """A temporary copy of a study on a node, in a folder that may be empty, synced with a store for one step."""

    def __init__(self, study: Study, store: ObjectStore, step: str) -> None:
        super().__init__(
            study,
            StoreLeaseFile(store, study.lease_file(step).relative_to(study.folder).as_posix()),
        )
        self._mirror = Mirror(study, store)
        self._own = f"arms/{step.removeprefix('train-')}/"
        self._checked = 0.0

    @property
    def cancel_requested(self) -> bool:
        """Whether the run was cancelled on any machine."""
        due = time.monotonic() - self._checked > _CANCEL_CHECK_SECONDS
        if due and not self.study.cancel_requested:
            self._checked = time.monotonic()
            with contextlib.suppress(StoreError):
                if is_cancel_requested(self._mirror.store):
                    self.study.request_cancel()
        return self.study.cancel_requested

    @contextmanager
    def sync(self, lease: Lease) -> Iterator[None]:
        """Download the inputs of the step, upload changes while it runs, and upload all results at the end."""

        def needed(name: str) -> bool:
            return name.startswith(self._own) or not is_checkpoint(name)

        retry_until_timeout(lambda: self._mirror.pull(needed))
        sync = BackgroundSync(self._mirror, lease)
        try:
            yield
        finally:
            sync.stop()
            retry_until_timeout(self._mirror.push)


@contextmanager
def open_workspace(folder: str, url: str, step: str, node: str) -> Iterator[Workspace]:
    """Make a study available on this node: a copy from the store at ``url``, or the shared folder without a URL."""
    if url:
        with tempfile.TemporaryDirectory(
            prefix="assistant-builder-", ignore_cleanup_errors=True
        ) as scratch:
            study = Study(Path(scratch) / Path(folder).name)
            study.folder.mkdir()
            yield StoreWorkspace(study, ObjectStore(url), step)
        return
    study = Study(Path(folder))
    if not (study.folder / "study.yaml").is_file():
        raise StudyError(
            m("the {study}'s folder does not exist on node {node}", node=node),
            where=folder,
            remedy=m(
                "Set ASSISTANT_BUILDER_HOME to a path that all nodes of the cluster share, or executor.store to a "
                "store that all of them can reach"
            ),
        )
    study.step_folder(step).mkdir(parents=True, exist_ok=True)
    yield Workspace(study, SharedLeaseFile(study.lease_file(step)))


class StoreSync:
    """Sync of the run's folder with the nodes through the store; does nothing without a store (None)."""

    def __init__(self, mirror: Mirror | None) -> None:
        self._mirror = mirror
        self._pulled = 0.0
        self._cancel_written = False

    @property
    def url(self) -> str:
        """URL of the study in the store; empty without one."""
        return self._mirror.store.url if self._mirror is not None else ""

    def push(self) -> None:
        """Upload changes, with retries."""
        if self._mirror is not None:
            retry_until_timeout(self._mirror.push)

    def prepare(self, step: str) -> None:
        """Upload the inputs of a step, and remove old checkpoints if a training starts from the beginning."""
        self.push()
        if self._mirror is None or not step.startswith("train-"):
            return
        arm = self._mirror.study.step_folder(step)
        if not (arm / "metrics.jsonl").exists():
            store = self._mirror.store
            folder = f"{arm.relative_to(self._mirror.study.folder).as_posix()}/checkpoints/"

            def remove() -> None:
                names = [name for name in store.versions() if name.startswith(folder)]
                store.remove(sorted(names, key=upload_order, reverse=True))

            retry_until_timeout(remove)

    def pull(self, step: str) -> None:
        """Download the files of a step, except its checkpoints, with retries."""
        if self._mirror is not None:
            mirror = self._mirror
            retry_until_timeout(lambda: _pull_steps(mirror, [step]))

    def poll(self, steps: Collection[str], *, cancelled: bool) -> None:
        """Download the records of running steps every few seconds, and pass on a cancellation.

        Errors of the store are ignored until the next poll.
        """
        if self._mirror is None:
            return
        with contextlib.suppress(StoreError):
            if cancelled and not self._cancel_written:
                write_cancel_flag(self._mirror.store)
                self._cancel_written = True
            if steps and time.monotonic() - self._pulled > _PULL_SECONDS:
                _pull_steps(self._mirror, steps)
                self._pulled = time.monotonic()


def _pull_steps(mirror: Mirror, steps: Collection[str]) -> None:
    study = mirror.study
    folders = [study.step_folder(step).relative_to(study.folder).as_posix() for step in steps]
    mirror.pull(
        lambda name: (
            not is_checkpoint(name)
            and any(folder == "." or name.startswith(f"{folder}/") for folder in folders)
        )
    )
