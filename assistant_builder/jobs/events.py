"""What a run tells whoever watches it."""

from __future__ import annotations

from dataclasses import dataclass

from assistant_builder.steps import Progress, State

WAITING = "queue"
"""The step that events name while a run waits for its turn."""


@dataclass(frozen=True)
class Event:
    """What happened in a run.

    Attributes:
        step: The step it happened in.
        state: State of the step now.
        progress: How far the step is, if it says so.
        kept: The step was done before and is not run again.
    """

    step: str
    state: State
    progress: Progress | None = None
    kept: bool = False


def waiting_sentence(before: list[str]) -> str:
    """``waits for study rivers and 2 more``.

    Args:
        before: Names of the studies before, the one that runs first.
    """
    more = f" and {len(before) - 1} more" if len(before) > 1 else ""
    return f"waits for study {before[0]}{more}" if before else ""
