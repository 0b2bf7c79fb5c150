"""What this machine's finished runs teach: how far predictions of memory were off, and how fast training really is.

Each trained arm leaves in its ``summary.json`` what was predicted beside what was measured; the studies' folders are
the memory, and nothing else is kept.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assistant_builder.errors import StudyError
from assistant_builder.files import read_json
from assistant_builder.study import studies_folder

if TYPE_CHECKING:
    from assistant_builder.planning.machines import Machine

_MOST_RUNS = 40
"""Only the latest runs count, so that a change of library or hardware is soon learnt."""
_SIZES = 4.0
_LONG_ENOUGH = 60.0
"""Seconds of training below which start-up tells more of the time than the machine's speed does."""
_BOUNDS = (0.5, 2.0)
"""A correction beyond these says that something else is wrong than the constants; it is cut to them."""


@dataclass(frozen=True)
class Experience:
    """Medians over this machine's finished runs.

    Attributes:
        memory: (device, method) → measured peak over predicted peak.
        speed: (device, method) → floating-point operations a second that training achieved.
        runs: How many runs that rests on.
    """

    memory: Mapping[tuple[str, str], float] = field(default_factory=dict)
    speed: Mapping[tuple[str, str], float] = field(default_factory=dict)
    runs: int = 0

    def memory_factor(self, machine: Machine, method: str) -> float:
        """What predictions of memory are multiplied by; 1 elsewhere than here, and without finished runs."""
        return self._of(self.memory, machine, method) or 1.0

    def flops(self, machine: Machine, method: str) -> float | None:
        """Operations a second that training achieves here; None elsewhere, and without finished runs."""
        return self._of(self.speed, machine, method)

    @staticmethod
    def _of(known: Mapping[tuple[str, str], float], machine: Machine, method: str) -> float | None:
        if not machine.here:
            return None
        # All weights are trained by the same kernels as the 16-bit arm
        return known.get((machine.device, "lora" if method == "full" else method))


def learn(parameters: int, folders: Iterable[Path] | None = None) -> Experience:
    """Read the runs of all studies on this machine with a model of about this size.

    Args:
        parameters: Parameters of the model that is planned; a model of another size has other constants and another
            speed, so that runs count only within a factor of :data:`_SIZES` of it.
        folders: Folders of studies; None: all in the home folder.
    """
    all_runs = _runs(folders if folders is not None else _all_studies())
    found = [run for run in all_runs if 1 / _SIZES <= run["total_parameters"] / parameters <= _SIZES]
    memory: dict[tuple[str, str], list[float]] = {}
    speed: dict[tuple[str, str], list[float]] = {}
    for run in found:
        key, predicted = (str(run["device"]), str(run["arm"])), run["predicted"]
        if predicted.get("peak_memory_bytes"):
            ratio = run["peak_memory_bytes"] / predicted["peak_memory_bytes"]
            memory.setdefault(key, []).append(min(max(ratio, _BOUNDS[0]), _BOUNDS[1]))
        if predicted.get("flops") and run["train_seconds"] >= _LONG_ENOUGH:
            speed.setdefault(key, []).append(predicted["flops"] / run["train_seconds"])
    return Experience(
        {key: statistics.median(values) for key, values in memory.items()},
        {key: statistics.median(values) for key, values in speed.items()}, len(found),
    )


def _all_studies() -> list[Path]:
    return [path.parent for path in studies_folder().glob("[!.]*/study.yaml")]


def _runs(folders: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """``summary.json`` of the latest runs that hold a prediction."""
    paths = [path for folder in folders for path in folder.glob("arms/*/summary.json")]
    needed = {"device", "arm", "peak_memory_bytes", "train_seconds", "total_parameters"}
    for path in sorted(paths, key=lambda path: -path.stat().st_mtime)[:_MOST_RUNS]:
        try:
            record = read_json(path)
        except (StudyError, OSError):
            continue
        if isinstance(record.get("predicted"), dict) and needed <= record.keys():
            yield record
