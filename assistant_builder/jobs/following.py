"""How a run follows steps that nodes of a cluster compute in scratch of their own: through the study's store."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection

from assistant_builder.errors import StoreError
from assistant_builder.jobs.mirror import Mirror
from assistant_builder.jobs.stored_files import is_checkpoint, rank
from assistant_builder.jobs.storing import tell_cancel
from assistant_builder.stores import patiently

_FOLLOW_SECONDS = 2.0


class FollowedStore:
    """What a run does with the store; nothing where the nodes share the study's folder.

    Args:
        mirror: The study's folder and its store; None where there is no store.
    """

    def __init__(self, mirror: Mirror | None) -> None:
        self._mirror = mirror
        self._looked = 0.0
        self._told = False

    @property
    def url(self) -> str:
        """URL of the study in the store; empty without one."""
        return self._mirror.store.url if self._mirror is not None else ""

    def push(self) -> None:
        """Bring to the store what this process wrote; a store that does not answer is waited for."""
        if self._mirror is not None:
            patiently(self._mirror.push)

    def ready(self, step: str) -> None:
        """Bring to the store what a step starts from; of a training that begins anew, take what it had kept before."""
        self.push()
        if self._mirror is None or not step.startswith("train-"):
            return
        arm = self._mirror.study.step_folder(step)
        if not (arm / "metrics.jsonl").exists():
            store, folder = self._mirror.store, f"{arm.relative_to(self._mirror.study.folder).as_posix()}/checkpoints/"
            patiently(lambda: store.remove(sorted(
                (name for name in store.marks() if name.startswith(folder)), key=rank, reverse=True)))

    def pull(self, step: str) -> None:
        """Bring here what a step has made, without its checkpoints; a store that does not answer is waited for."""
        if self._mirror is not None:
            mirror = self._mirror
            patiently(lambda: _pull(mirror, [step]))

    def follow(self, steps: Collection[str], *, cancelled: bool) -> None:
        """Bring here now and then how steps stand, and pass on that the user wants them to stop.

        A store that does not answer for a moment is asked again.
        """
        if self._mirror is None:
            return
        with contextlib.suppress(StoreError):
            if cancelled and not self._told:
                tell_cancel(self._mirror.store)
                self._told = True
            if steps and time.monotonic() - self._looked > _FOLLOW_SECONDS:
                _pull(self._mirror, steps)
                self._looked = time.monotonic()


def _pull(mirror: Mirror, steps: Collection[str]) -> None:
    """Bring here what steps have made so far, without their checkpoints."""
    study = mirror.study
    folders = [study.step_folder(step).relative_to(study.folder).as_posix() for step in steps]
    mirror.pull(lambda name: not is_checkpoint(name) and any(
        folder == "." or name.startswith(f"{folder}/") for folder in folders))
