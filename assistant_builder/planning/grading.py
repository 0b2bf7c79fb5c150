"""The plan of a run that is about to start, from the sequences it will really train on; and its grade afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from assistant_builder.config import StudyConfig
from assistant_builder.files import read_json, read_jsonl, write_json
from assistant_builder.planning.activations import Batch
from assistant_builder.planning.extrapolation import Ahead, extrapolated_seconds
from assistant_builder.planning.history import learn
from assistant_builder.planning.machines import Machine, this_machine
from assistant_builder.planning.plan import Lengths, Plan
from assistant_builder.planning.planner import with_speed
from assistant_builder.planning.sources import from_folder
from assistant_builder.planning.storage import Method

GRADED = ("base_bytes", "adapter_bytes", "peak_memory_bytes", "train_seconds")
"""What is predicted and measured under the same name."""
PLAN_FILE = "plan.json"


def plan_run(
    config: StudyConfig, folder: Path, sequences: Sequence[tuple[int, int]], order: Sequence[int],
    machine: Machine | None = None,
) -> Plan:
    """The plan of a training whose data is known token by token.

    Args:
        config: The study's settings.
        folder: Where the base lies.
        sequences: Tokens, and positions that the loss counts, of each training sequence.
        order: Indices of the sequences in the order they are trained on.
        machine: Where it runs; None: here.
    """
    train = config.train
    rows = min(train.micro_batch_size, train.batch_size)
    batches = [[sequences[index] for index in order[at : at + rows]] for at in range(0, len(order), rows)]
    trained = [sequences[index] for index in order]
    padded = sum(len(batch) * max(length for length, _ in batch) for batch in batches)
    lengths = Lengths(
        padded / len(trained), max(length for length, _ in trained), sum(counted for _, counted in trained)
        / len(trained), max(counted for _, counted in trained),
    )
    architecture = from_folder(folder)
    return Plan(
        config.model.base, architecture, config, with_speed(machine or this_machine()), len(sequences), lengths,
        learn(architecture.parameters), largest=largest_batch(batches),
    )


def largest_batch(batches: Iterable[Sequence[tuple[int, int]]]) -> Batch:
    """The micro-batch that needs most memory, by its positions, of equals by those that the loss counts.

    Args:
        batches: Micro-batches, each sequence as its tokens and how many of them the loss counts; these are its last.
    """
    def shape(batch: Sequence[tuple[int, int]]) -> Batch:
        longest = max(length for length, _ in batch)
        return Batch(
            len(batch), longest, sum(counted for _, counted in batch), max(counted for _, counted in batch),
            padded=any(length != longest for length, _ in batch),
        )

    return max(map(shape, batches), key=lambda batch: (batch.tokens, batch.supervised))


def prediction(plan: Plan, method: Method) -> dict[str, Any]:
    """What a run's ``summary.json`` keeps of the plan: bytes and seconds under the names of what is measured.

    The peak is the formula's, before any correction learnt here, so that corrections are never learnt from themselves.
    """
    planned = plan.methods[method]
    return {
        "base_bytes": planned.weights_bytes, "adapter_bytes": planned.adapter_bytes,
        # a GPU's measured peak is what is allocated, without the context
        "peak_memory_bytes": planned.total_bytes - (planned.overhead_bytes if plan.machine.device == "cuda" else 0),
        "corrected_peak_bytes": planned.expected_bytes, "train_seconds": planned.seconds,
        "flops": planned.work.flops, "parts": planned.parts,
    }


def write_plan(arm_folder: Path, plan: Plan, method: Method, ahead: Ahead) -> None:
    """Keep what was planned beside the run (``plan.json``), so that a run under way can be judged by it."""
    write_json(arm_folder / PLAN_FILE, {"predicted": prediction(plan, method), "ahead": asdict(ahead)})


def measured_seconds(arm_folder: Path) -> float | None:
    """Seconds of an arm's whole training, from the steps it has made so far; None before the fifth.

    Args:
        arm_folder: ``arms/<run>``, with its metrics.jsonl and plan.json.
    """
    path = arm_folder / PLAN_FILE
    if not path.exists():
        return None
    return extrapolated_seconds(read_jsonl(arm_folder / "metrics.jsonl"), Ahead(**read_json(path)["ahead"]))


def grades(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Predicted beside measured with the signed error, of a run that was planned.

    Args:
        summary: ``summary.json`` of a run.

    Returns:
        ``{"quantity", "predicted", "measured", "error"}``; ``error`` is (predicted − measured) / measured.
    """
    predicted = summary.get("predicted") or {}
    return [
        {"quantity": name, "predicted": predicted[name], "measured": summary[name],
         "error": (predicted[name] - summary[name]) / summary[name]}
        for name in GRADED if predicted.get(name) and summary.get(name)
    ]
