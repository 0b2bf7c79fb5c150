"""Figures made up for tests: round numbers of no machine."""

from __future__ import annotations

from evals.capacity.measured import KINDS, Measured, Scheduling, StepFigures


def made_up() -> Measured:
    """A study that holds two processors for 1,200 s of training, 600 s of evaluation, and one for 20 s of the rest."""
    def step(seconds: float, cpus: int, kept: float) -> StepFigures:
        return StepFigures(seconds=seconds, cpus=cpus, gpus=0, peak_memory_bytes=2_000_000_000, kept_seconds=kept)

    return Measured(
        studies=1, device="cpu", cores=2, compute_dtype="bfloat16", base="smollm2-135m-instruct",
        base_bytes=270_000_000, pairs=300, heldout=200, tokens=50_000, optimizer_steps=60, checkpoints=4,
        checkpoints_kept=2,
        steps={"data": step(5, 1, 5), "data-embed": step(10, 1, 10), "train-lora": step(600, 2, 150),
               "train-qlora": step(600, 2, 150), "evaluate": step(600, 2, 60), "report": step(5, 1, 5)},
        bytes={**dict.fromkeys(KINDS, 1_000_000), "adapters": 20_000_000, "checkpoints": 120_000_000},
        watching_seconds=0.01, first_listing_seconds=0.01, listing_seconds=0.001,
        scheduling=Scheduling(steps=24, slots=4, seconds=5.0, start_seconds=1.0, wall_seconds=33.0, excess=0.1,
                              overhead_seconds_a_step=0.5),
    )
