"""What was measured of finished studies: the input of the plan, as ``measured.json`` holds it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from assistant_builder.atomic_io import read_json, write_json
from assistant_builder.errors import EvaluationError, StudyError

MEASURED = Path(__file__).with_name("measured.json")
STEPS = ("data", "data-embed", "train-lora", "train-qlora", "evaluate", "report")
KINDS = ("adapters", "checkpoints", "samples", "logs", "data", "reports", "other")
"""Kinds of files in a study's folder."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StepFigures(_Record):
    """One step, in the middle of the studies.

    Attributes:
        seconds: Wall time.
        cpus: Processors that it had.
        gpus: GPUs that it had.
        peak_memory_bytes: Highest resident set, or allocation on the GPU.
        kept_seconds: Work between two moments from which it carries on after a loss.
    """

    seconds: float = Field(ge=0)
    cpus: int = Field(ge=1)
    gpus: int = Field(ge=0)
    peak_memory_bytes: int = Field(ge=0)
    kept_seconds: float = Field(gt=0)


class Scheduling(_Record):
    """What ``python -m evals.bench.scheduling`` printed."""

    steps: int = Field(ge=1)
    slots: int = Field(ge=1)
    seconds: float
    start_seconds: float
    wall_seconds: float = Field(gt=0)
    excess: float
    overhead_seconds_a_step: float


class Measured(_Record):
    """Figures of finished studies, and of what watches and lists them.

    Attributes:
        studies: How many studies; every figure is the middle one of theirs.
        device: ``cpu`` or ``cuda``.
        cores: Processors of the machine.
        compute_dtype: Arithmetic of both arms.
        base: Name of the base model.
        base_bytes: Bytes of its folder, which every training and the evaluation read.
        pairs: Training pairs.
        heldout: Held-out pairs.
        tokens: Tokens that one training saw.
        optimizer_steps: Of one training.
        checkpoints: Checkpoints that one training wrote.
        checkpoints_kept: Those of them that are still there.
        steps: By step; the seeds of an arm together.
        bytes: What the folder of a study holds, by kind; adapters and checkpoints of one training.
        watching_seconds: Processor time of one look of a run at a study of which both arms are trained.
        first_listing_seconds: What a study adds to the first look of the home screen.
        listing_seconds: What a study that has not changed adds to every later look.
        scheduling: What Ray's scheduling costs; None where it was not measured.
    """

    studies: int = Field(ge=1)
    device: Literal["cpu", "cuda"]
    cores: int = Field(ge=1)
    compute_dtype: str
    base: str
    base_bytes: int = Field(ge=0)
    pairs: int = Field(ge=0)
    heldout: int = Field(ge=0)
    tokens: int = Field(ge=0)
    optimizer_steps: int = Field(ge=0)
    checkpoints: int = Field(ge=0)
    checkpoints_kept: int = Field(ge=0)
    steps: dict[str, StepFigures]
    bytes: dict[str, int]
    watching_seconds: float = Field(gt=0)
    first_listing_seconds: float = Field(gt=0)
    listing_seconds: float = Field(gt=0)
    scheduling: Scheduling | None = None

    @property
    def overhead_seconds(self) -> float:
        """Time of a slot that a step takes besides its own."""
        return self.scheduling.overhead_seconds_a_step if self.scheduling else 0.0

    def study_bytes(self, seeds: int) -> dict[str, int]:
        """What the folder of a study holds, by kind."""
        trainings = 2 * seeds
        return {kind: self.bytes[kind] * (trainings if kind in ("adapters", "checkpoints") else 1) for kind in KINDS}


def read_measured(path: Path = MEASURED) -> Measured | None:
    """The figures, None where nothing has been measured yet.

    Raises:
        EvaluationError: The file is damaged.
    """
    if not path.is_file():
        return None
    try:
        found = Measured.model_validate(read_json(path))
        if set(found.steps) != set(STEPS) or set(found.bytes) != set(KINDS):
            raise ValueError("steps or kinds of files are missing")
        return found
    except (ValidationError, ValueError, StudyError) as error:
        raise EvaluationError("the measured figures are damaged", where=str(path),
                              remedy="Measure again with python -m evals.capacity measure STUDY") from error


def write_measured(found: Measured, path: Path = MEASURED) -> None:
    """Write the figures."""
    write_json(path, found.model_dump(mode="json"))
