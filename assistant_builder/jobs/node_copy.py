"""A study as a step on a node of a cluster sees it: on a path that all nodes share, or brought there from a store."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from assistant_builder.errors import StoreError, StudyError
from assistant_builder.jobs.mirror import Mirror
from assistant_builder.jobs.stored_files import is_checkpoint
from assistant_builder.jobs.storing import Keeping, cancel_told
from assistant_builder.leases import Lease, Place, SharedFile
from assistant_builder.stores import Store, StoredFile, patiently
from assistant_builder.study import Study

_LOOK_SECONDS = 1.0


class NodeCopy:
    """A study's folder at hand on this node.

    Args:
        study: The study there.
        place: Where the lease of the step lies, for all nodes to see.
    """

    def __init__(self, study: Study, place: Place) -> None:
        self.study = study
        self.place = place

    @property
    def cancel_requested(self) -> bool:
        """Whether someone asked the run to stop."""
        return self.study.cancel_requested

    def work(self, lease: Lease) -> contextlib.AbstractContextManager[None]:
        """While the step runs: everybody sees what it writes."""
        return contextlib.nullcontext()


class StoreCopy(NodeCopy):
    """A study that is brought to this node's scratch from a store, and back.

    Args:
        study: The study there, whose folder need not hold anything yet.
        store: The store.
        step: The step that is to run.
    """

    def __init__(self, study: Study, store: Store, step: str) -> None:
        super().__init__(study, StoredFile(store, study.lease_file(step).relative_to(study.folder).as_posix()))
        self._mirror = Mirror(study, store)
        self._own = f"arms/{step.removeprefix('train-')}/"
        self._looked = 0.0

    @property
    def cancel_requested(self) -> bool:
        """Whether someone asked the run to stop, wherever that is."""
        if not self.study.cancel_requested and time.monotonic() - self._looked > _LOOK_SECONDS:
            self._looked = time.monotonic()
            with contextlib.suppress(StoreError):
                if cancel_told(self._mirror.store):
                    self.study.request_cancel()
        return self.study.cancel_requested

    @contextmanager
    def work(self, lease: Lease) -> Iterator[None]:
        """While the step runs: bring what it needs, keep the store up with it, and in the end bring all that it made.

        Raises:
            StoreError: The store does not answer.
            StudyError: Another node has taken the step over.
        """
        patiently(lambda: self._mirror.pull(lambda name: name.startswith(self._own) or not is_checkpoint(name)))
        early = self.study.config.train.early_stopping
        keeping = Keeping(self._mirror, lease, beside=self._look_at_twins if early else lambda: None)
        try:
            yield
        finally:
            keeping.end()
            patiently(self._mirror.push)

    def _look_at_twins(self) -> None:
        """Early stop asks how the other trainings stand."""
        self._mirror.pull(
            lambda name: "/metrics" in name and name.startswith("arms/") and not name.startswith(self._own)
        )


@contextmanager
def at_hand(folder: str, url: str, step: str, node: str) -> Iterator[NodeCopy]:
    """Have a study at hand on this node.

    Args:
        folder: The study's folder, of the machine that runs the study.
        url: URL of the study in its store; empty: the folder lies on a path that all nodes share.
        step: The step that is to run.
        node: Name of this node.

    Raises:
        StoreError: The store's library is missing here.
        StudyError: There is no store, and this node does not see the folder.
    """
    if url:
        with tempfile.TemporaryDirectory(prefix="assistant-builder-", ignore_cleanup_errors=True) as scratch:
            study = Study(Path(scratch) / Path(folder).name)
            study.folder.mkdir()
            yield StoreCopy(study, Store(url), step)
        return
    study = Study(Path(folder))
    if not (study.folder / "study.yaml").is_file():
        raise StudyError(f"node {node} does not see the study's folder", where=folder,
                         remedy="Set ASSISTANT_BUILDER_HOME to a path that all nodes of the cluster share, or "
                         "executor.store to a store that all of them reach")
    study.step_folder(step).mkdir(parents=True, exist_ok=True)
    yield NodeCopy(study, SharedFile(study.lease_file(step)))
