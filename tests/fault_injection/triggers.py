"""Moments of fault injection, defined by the files that a step has written and not by the clock."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from assistant_builder.atomic_io import read_json
from assistant_builder.study import Study

_POLL_SECONDS = 0.003


@dataclass(frozen=True)
class Trigger:
    """A moment in the life of a step.

    Attributes:
        name: Description for the log.
        reached: Whether the moment has been reached.
        delay: Seconds to wait once it has.
        poll: Polling interval in seconds.
    """

    name: str
    reached: Callable[[], bool]
    delay: float = 0.0
    poll: float = _POLL_SECONDS

    def wait(self, alive: Callable[[], bool]) -> bool:
        """Wait for it; False if the process ended first."""
        while not self.reached():
            if not alive():
                return False
            time.sleep(self.poll)
        time.sleep(self.delay)
        return alive()


def training_trigger(study: Study, run: str, draw: random.Random) -> Trigger:
    """A random moment of a training: while loading, in a step, while a checkpoint or the adapter is written."""
    folder = study.arm_folder(run)
    kind = draw.choice(["loading", "step", "step", "step", "checkpoint", "checkpoint", "adapter"])
    if kind == "loading":
        return Trigger("loading", (folder / "log.txt").exists, draw.uniform(0.0, 8.0))
    if kind == "adapter":
        return Trigger(
            "publishing the adapter",
            lambda: any(folder.glob(".adapter-*")) or (folder / "adapter").exists(),
            draw.uniform(0.0, 0.01),
        )
    lines = _lines(folder / "metrics.jsonl")
    if kind == "step":
        more = draw.randint(1, 3)
        return Trigger(
            f"{more} events on",
            lambda: _lines(folder / "metrics.jsonl") >= lines + more,
            draw.uniform(0.0, 1.5),
        )
    nth = draw.randint(1, 8)
    before = {path for path in folder.glob("checkpoints/*/*")}
    return Trigger(
        f"file {nth} of a checkpoint",
        lambda: len({*folder.glob("checkpoints/*/*")} - before) >= nth,
        draw.uniform(0.0, 0.02),
    )


def step_trigger(study: Study, step: str, draw: random.Random) -> Trigger:
    """A moment in the middle of any step."""
    if step.startswith("train-"):
        metrics = study.arm_folder(step.removeprefix("train-")) / "metrics.jsonl"
        return Trigger(
            "past the first checkpoint", lambda: _lines(metrics) >= 4, draw.uniform(0.0, 0.5)
        )
    written = {
        "data": lambda: (study.folder / "data" / "data.progress.json").exists(),
        "data-embed": lambda: _progressed(study, "data-embed"),
        "evaluate": lambda: (study.cell_folder("L16") / "scores.json").exists(),
        "report": lambda: study.step("report").state == "running",
    }[step]
    return Trigger("in the middle", written, draw.uniform(0.0, 0.3))


def _progressed(study: Study, step: str) -> bool:
    path: Path = study.step_folder(step) / f"{step}.progress.json"
    return path.exists() and read_json(path)["done"] >= 0


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0
