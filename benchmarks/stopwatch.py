"""Time, memory and the CPU share of other processes, recorded at the end of each optimizer step.

It imports little besides transformers, because it also runs in the environments of other trainers.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from assistant_builder.child_process import peak_memory_bytes


@dataclass(frozen=True)
class _Stamp:
    seconds: float
    own_cpu: float
    busy_cpu: float


class Stopwatch(TrainerCallback):
    """Records the clocks at the end of each step; a step includes the loading of its data."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._stamps: list[_Stamp] = []
        self.peak_memory_bytes = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Start the clocks."""
        self._stamp()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Record the clocks and the peak memory of training."""
        self._stamp()
        self.peak_memory_bytes = peak_memory_bytes(self._device)

    def to_record(self) -> dict[str, Any]:
        """Record for :meth:`take` in another process."""
        return {
            "stamps": [asdict(stamp) for stamp in self._stamps],
            "peak_memory_bytes": self.peak_memory_bytes,
        }

    def take(self, record: dict[str, Any]) -> None:
        """Use the record of another process's stopwatch."""
        self._stamps = [_Stamp(**stamp) for stamp in record["stamps"]]
        self.peak_memory_bytes = record["peak_memory_bytes"]

    def _stamp(self) -> None:
        if self._device == "cuda":
            torch.cuda.synchronize()
        own, machine = psutil.Process().cpu_times(), psutil.cpu_times()
        busy = sum(machine) - machine.idle - getattr(machine, "iowait", 0.0)
        self._stamps.append(_Stamp(time.perf_counter(), own.user + own.system, busy))

    @property
    def step_seconds(self) -> list[float]:
        """Wall time of each step."""
        return [
            after.seconds - before.seconds
            for before, after in zip(self._stamps, self._stamps[1:], strict=False)
        ]

    def cpu_seconds(self, first_step: int) -> float:
        """Processor time of this process, all threads together, from a step (0-based) to the last."""
        return self._stamps[-1].own_cpu - self._stamps[first_step].own_cpu

    def others_share(self, first_step: int) -> float:
        """Share of the machine's processors that other processes kept busy from a step (0-based) to the last."""
        first, last = self._stamps[first_step], self._stamps[-1]
        capacity = (last.seconds - first.seconds) * (psutil.cpu_count() or 1)
        others = (last.busy_cpu - first.busy_cpu) - (last.own_cpu - first.own_cpu)
        return min(1.0, max(0.0, others / capacity))
