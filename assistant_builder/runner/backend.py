"""The interface of runners, and the runner of a study, which is synced with its store while it runs.

Modules of clusters and stores are imported only for studies that use them.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from assistant_builder.i18n import Text, m
from assistant_builder.study import Study
from assistant_builder.study.steps import Progress, State

QUEUE = "queue"
"""The step that events name while a run waits for other studies."""
RUNNERS = {
    "local": "assistant_builder.runner.local_runner:LocalRunner",
    "ray": "assistant_builder.cluster.ray_runner:RayRunner",
}
"""``executor.kind`` → class of the runner, constructed from the executor's settings and the synced store."""


@dataclass(frozen=True)
class Event:
    """A change that a run reports to its ``on_event`` callback."""

    step: str  # the step that changed, or :data:`QUEUE`
    state: State
    progress: Progress | None = None
    reused: bool = False  # whether the step was already done and is not run again


def waiting_message(queued_behind: list[str]) -> Text:
    """``waits for study rivers and 2 more``; empty if no study runs before."""
    if more := len(queued_behind[1:]):
        return m("waits for {study} {name} and {more} more", name=queued_behind[0], more=more)
    return m("waits for {study} {name}", name=queued_behind[0]) if queued_behind else ""


class Runner(Protocol):
    """Runs the steps of a study; the commands and the status files are the same for all runners."""

    @property
    def dashboard(self) -> str:
        """URL of a dashboard of the machines, known after :meth:`check_resources`; empty without one."""

    def check_resources(self, study: Study) -> None:
        """Raise AssistantBuilderError if the study needs more resources than are available."""

    def acquire(
        self, study: Study, *, now: bool, waiting: Callable[[list[str]], None]
    ) -> AbstractContextManager[None]:
        """Acquire resources that only one study can use at a time; see ``local_runner.machine_lock``."""

    def run_steps(self, study: Study, on_event: Callable[[Event], None]) -> None:
        """Run every step that is not done; raises the error of a step that failed, or Cancelled."""


@contextmanager
def open_runner(study: Study) -> Iterator[Runner]:
    """Sync the study with its store, if it has one, and yield the runner of its steps."""
    if study.config.executor.store is None:
        syncing: AbstractContextManager[object] = nullcontext()
    else:
        from assistant_builder.store.sync import synced_with_store

        syncing = synced_with_store(study)
    with syncing as synced:
        executor = study.config.executor  # read after the sync, which may have changed the settings
        yield pkgutil.resolve_name(RUNNERS[executor.kind])(executor, synced)
