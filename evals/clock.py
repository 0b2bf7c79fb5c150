"""How far an evaluation is, in seconds rather than in counts: kinds of work differ ten-fold in what one item takes."""

from __future__ import annotations

import time
from collections.abc import Mapping

from assistant_builder.steps import Progress
from assistant_builder.study import Study

PRIORS: Mapping[str, float] = {
    "likelihood": 1.0, "answers": 5.0, "similarity": 0.1, "documents": 1.0, "fidelity": 6.0,
    "long likelihood": 4.0, "long answers": 10.0, "judgements": 20.0,
}
"""Rough cost of one item of each kind of work, relative to scoring the likelihood of one reference answer; used until
the kind has been timed in this run."""


class Clock:
    """Tells how far the evaluation is, and stops it between two batches when asked.

    Args:
        study: The study; its progress is written and its request to cancel is heeded.
        planned: Items of each kind of work that are to be done.
        step: The step that does it.
    """

    def __init__(self, study: Study, planned: Mapping[str, int], step: str = "evaluate") -> None:
        self._study = study
        self._step = step
        self._left = {kind: float(items) for kind, items in planned.items()}
        self._done = dict.fromkeys(planned, 0.0)
        self._seconds = dict.fromkeys(planned, 0.0)
        self._last = time.monotonic()
        self.say("Loading the base model")

    def say(self, message: str) -> None:
        """Say what comes next; the time since the last word belongs to no kind of work."""
        self._last = time.monotonic()
        self._message = message
        self._write()

    def tick(self, kind: str, items: float) -> None:
        """Count ``items`` more of a kind as done.

        Raises:
            Cancelled: The user asked for it.
        """
        now = time.monotonic()
        self._seconds[kind] += now - self._last
        self._last = now
        self._done[kind] += items
        self._left[kind] = max(0.0, self._left[kind] - items)
        self._write()
        self._study.raise_if_cancelled()

    def left(self) -> float | None:
        """Seconds to the end; None before anything was timed."""
        spent = sum(self._seconds.values())
        weighed = sum(PRIORS[kind] * done for kind, done in self._done.items())
        if not weighed:
            return None
        unit = spent / weighed
        return sum(
            left * (self._seconds[kind] / self._done[kind] if self._done[kind] else unit * PRIORS[kind])
            for kind, left in self._left.items()
        )

    def _write(self) -> None:
        left = self.left()
        spent = sum(self._seconds.values())
        done = int(100 * spent / (spent + left)) if left is not None and spent + left else 0
        self._study.write_progress(self._step, Progress(done, 100, "%", self._message, left))
