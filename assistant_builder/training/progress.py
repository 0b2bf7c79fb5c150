"""The events of a training process, in ``metrics.jsonl``."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from assistant_builder.atomic_io import append_jsonl, read_jsonl, write_jsonl
from assistant_builder.errors import StudyError
from assistant_builder.i18n import m
from assistant_builder.planning.training_time import PaceEstimator, WorkRemaining
from assistant_builder.study.contents import Step


class MetricsLog:
    """The events of one arm's training.

    Args:
        path: ``metrics.jsonl``.
        step: The step that training resumes from; later events are dropped, because their work is lost.
        work: Work of the full run.
        enabled: Whether this process writes the file; with several processes only the main one does.
    """

    def __init__(self, path: Path, *, step: int, work: WorkRemaining, enabled: bool = True) -> None:
        self._path, self._enabled, self._steps = path, enabled, work.steps
        self._pace = PaceEstimator(work)
        kept = [event for event in read_jsonl(path, Step) if event["step"] <= step]
        if enabled and path.exists():
            write_jsonl(path, kept)
        last = kept[-1] if kept else {}
        last_step = next((event for event in reversed(kept) if event["event"] == "step"), {})
        self.tokens = int(last_step.get("tokens", 0))
        self._elapsed_before = float(last.get("elapsed_seconds", 0.0))
        self._busy_before = float(last_step.get("busy_seconds", 0.0))
        self._started = time.monotonic()
        self._busy = 0.0
        self.losses = [float(event["loss"]) for event in kept if event["event"] == "step"]
        self.validation = {
            event["step"]: event["loss"] for event in kept if event["event"] == "validation"
        }
        for event in kept:
            self._pace.add(event)

    @property
    def elapsed(self) -> float:
        """Seconds of training so far, over all attempts."""
        return self._elapsed_before + time.monotonic() - self._started

    @property
    def busy(self) -> float:
        """Seconds spent in training steps, without validation and checkpoints."""
        return self._busy_before + self._busy

    def record_step(
        self, step: int, *, tokens: int, seconds: float, values: dict[str, Any]
    ) -> float | None:
        """Append a 1-based optimizer step with its non-padding tokens; returns the estimated seconds to the end.

        There is no estimate in the first steps, which are slower than the others.

        ``values`` are further fields: loss, learning_rate, grad_norm, memory_bytes, epoch. The norm is None if the step
        was skipped because a float16 gradient overflowed.
        """
        self.tokens += tokens
        self._busy += seconds
        self.losses.append(values["loss"])
        event: dict[str, Any] = {
            "event": "step",
            "step": step,
            "steps": self._steps,
            **values,
            "tokens_per_second": round(tokens / seconds, 2),
            "tokens": self.tokens,
            "busy_seconds": round(self.busy, 3),
            "elapsed_seconds": round(self.elapsed, 3),
        }
        self._pace.add(event)
        eta = self._pace.remaining_seconds()
        if eta is not None:
            event["eta_seconds"] = round(eta, 1)
        self._append(event)
        return eta

    def shorten(self, work: WorkRemaining) -> None:
        """Set the work of a training that ends before its last step."""
        self._steps = work.steps
        self._pace.ahead = work

    def record_validation(self, step: int, loss: float) -> None:
        """Append a validation; ``loss`` is in nats per token."""
        best = not self.validation or loss < min(self.validation.values())
        self.validation[step] = loss
        self._record("validation", step, {"loss": loss, "best": best})

    def record_samples(self, step: int, samples: Iterable[Mapping[str, Any]]) -> None:
        """Append the sample answers after ``step``: one event per question, with its row, reference and answer."""
        for sample in samples:
            self._record("sample", step, sample)

    def _record(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        event = {"event": kind, "step": step, "steps": self._steps, **values}
        event["elapsed_seconds"] = round(self.elapsed, 3)
        self._pace.add(event)
        self._append(event)

    def _append(self, event: Mapping[str, Any]) -> None:
        if not self._enabled:
            return
        if not self._path.parent.is_dir():  # appending would create an incomplete study folder
            raise StudyError(
                m("the folder of the training is missing"),
                where=str(self._path.parent),
                remedy=m(
                    "Restore it, or reconnect its disk, and run the {study} again; it resumes where it stopped"
                ),
            )
        append_jsonl(self._path, event)
