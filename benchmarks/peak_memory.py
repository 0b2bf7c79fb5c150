"""``python -m benchmarks.peak_memory``: measured peak memory of training over a grid of settings against the plan.

Each run has its own process, because memory is counted per process. It trains for a few steps as the product does, on
sequences of maximum length whose second half is supervised.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from assistant_builder.arms import TWINS
from assistant_builder.atomic_io import read_jsonl, write_json
from assistant_builder.child_process import configure_libraries
from assistant_builder.config import StudyConfig
from assistant_builder.planning.hardware import this_machine
from assistant_builder.planning.load_architecture import load_architecture
from assistant_builder.planning.memory import Batch
from assistant_builder.planning.memory_check import prediction
from assistant_builder.planning.plan import Lengths, Plan
from benchmarks.candidates import run_case
from benchmarks.doc_tables import PLANNER_PAGE, write_section
from evals.report.number_format import percent, signed_percent, size

BATCHES = (1, 4, 8)
LENGTHS = (128, 512)
_STEPS = 2
"""Optimizer states exist from the second step on."""


def grid(
    batches: Sequence[int] = BATCHES, lengths: Sequence[int] = LENGTHS
) -> Iterator[dict[str, Any]]:
    """Every combination of arm, micro-batch, length and checkpointing."""
    for batch, length, recompute, arm in itertools.product(batches, lengths, ("off", "on"), TWINS):
        yield {"arm": arm, "batch": batch, "length": length, "checkpointing": recompute}


def config_of(case: dict[str, Any], changes: dict[str, Any]) -> StudyConfig:
    """The study settings of one combination."""
    return StudyConfig().with_changes(
        {
            "train.batch_size": case["batch"],
            "train.micro_batch_size": case["batch"],
            "train.max_length": case["length"],
            "train.max_steps": _STEPS,
            "train.evaluations": 1,
            "train.gradient_checkpointing": case["checkpointing"],
            **changes,
        }
    )


def measure_all(
    cases: Sequence[dict[str, Any]],
    changes: dict[str, Any],
    on_run: Callable[[dict[str, Any]], None],
) -> None:
    """Run every combination of ``cases`` in a process of its own; ``on_run`` is called with each record.

    Raises:
        EvaluationError: A run failed.
    """
    for case in cases:
        on_run(
            run_case(
                "benchmarks.peak_memory",
                "--case",
                json.dumps(case),
                "--changes",
                json.dumps(changes),
                remedy="Use a smaller grid: --batches 1 --lengths 128",
            )
        )


def measure(case: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Train one combination for a few steps in this process.

    The record has ``imports_bytes`` (resident once all libraries are imported) and ``ready_bytes`` (resident when
    training starts) beside the case, peaks and sizes.
    """
    from assistant_builder.child_process import memory_bytes, peak_memory_bytes
    from assistant_builder.models import loading
    from assistant_builder.models.catalog import resolve
    from assistant_builder.models.chat_template import ChatTokenizer, Example
    from assistant_builder.models.fetch import fetch
    from assistant_builder.training.sft_config import TrainingRun, twin
    from assistant_builder.training.trainer import TwinTrainer

    imports_bytes = memory_bytes("cpu")
    config = config_of(case, changes)
    settings = twin(config)[case["arm"]]
    folder = fetch(resolve(config.model.base))
    prompter = ChatTokenizer.load(folder)
    spec = loading.base_spec(config.model, folder, settings.base_storage)
    base = loading.load_base(spec)
    base_bytes, parameters = loading.model_bytes(base), loading.count_parameters(base)
    model = loading.add_adapter(base, settings.train, settings.train.seed)
    adapters = [value for value in model.parameters() if value.requires_grad]
    length = case["length"]
    example = Example(
        tuple(range(1000, 1000 + length)), tuple(place >= length // 2 for place in range(length))
    )
    with tempfile.TemporaryDirectory() as scratch:
        trainer = TwinTrainer(
            model,
            TrainingRun(
                train=settings.train,
                train_examples=[example] * case["batch"] * _STEPS,
                validation_examples=[example],
                folder=Path(scratch),
                device=spec.device,
                gradient_checkpointing=case["checkpointing"] == "on",
                dequantize=spec.device == "cpu",
                cancelled=lambda: False,
                on_step=lambda step, steps, eta: None,
            ),
            prompter,
        )
        ready_bytes, load_peak = memory_bytes(spec.device), peak_memory_bytes(spec.device)
        trainer.run()
        events = [
            event
            for event in read_jsonl(Path(scratch) / "metrics.jsonl")
            if event["event"] == "step"
        ]
    busy = [event["busy_seconds"] for event in events]
    return {
        **case,
        "imports_bytes": imports_bytes,
        "ready_bytes": ready_bytes,
        "load_peak_bytes": load_peak,
        "peak_memory_bytes": peak_memory_bytes(spec.device),
        "base_bytes": base_bytes,
        "adapter_bytes": sum(value.nbytes for value in adapters),
        "parameters": parameters,
        "trainable_parameters": sum(value.numel() for value in adapters),
        "step_seconds": [after - before for before, after in zip([0.0, *busy], busy, strict=False)],
        "tokens_per_step": case["batch"] * length,
        "device": spec.device,
        "compute_dtype": spec.compute_dtype,
    }


def predicted_bytes(run: dict[str, Any], changes: dict[str, Any]) -> int:
    """Planned peak of one combination, without corrections from measured runs."""
    config, length = config_of(run, changes), run["length"]
    answer = length - length // 2
    name, architecture = load_architecture(config.model.base)
    largest = Batch(run["batch"], length, run["batch"] * answer, answer)
    plan = Plan(
        name,
        architecture,
        config,
        this_machine(),
        run["batch"] * _STEPS,
        Lengths(length, length, answer, answer),
        largest=largest,
    )
    return int(prediction(plan, run["arm"])["peak_memory_bytes"])


def table(runs: Sequence[dict[str, Any]], changes: dict[str, Any]) -> str:
    """Predicted and measured peak of each combination with the signed error."""
    lines = [
        "| arm | rows | tokens | checkpointing | predicted | measured | error |",
        "| --- | ---: | ---: | --- | ---: | ---: | ---: |",
    ]
    worst = 0.0
    for run in runs:
        predicted, measured = predicted_bytes(run, changes), run["peak_memory_bytes"]
        error = predicted / measured - 1
        worst = max(worst, abs(error))
        lines.append(
            f"| {run['arm']} | {run['batch']} | {run['length']} | {run['checkpointing']} | "
            f"{size(predicted)} | {size(measured)} | {signed_percent(error)} |"
        )
    return "\n".join([*lines, "", f"The largest error is {percent(worst)} of {len(runs)} runs."])


def main(words: Sequence[str] | None = None) -> None:
    """Measure the grid, or one case in a child process."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peak_memory", description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--changes", type=json.loads, default={}, help=argparse.SUPPRESS)
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true", help="write the table into docs/planner.md")
    parser.add_argument("--out", type=Path, default=Path("bench-results") / "peak_memory.json")
    args = parser.parse_args(words)
    configure_libraries()
    if args.case is not None:
        write_json(args.out, measure(args.case, args.changes))
        return
    runs: list[dict[str, Any]] = []

    def on_run(run: dict[str, Any]) -> None:
        runs.append(run)
        write_json(args.out, runs)
        print(json.dumps(run), flush=True)

    measure_all(list(grid(args.batches, args.lengths)), args.changes, on_run)
    text = table(runs, args.changes)
    print(text)
    if args.write:
        write_section("peaks", text, PLANNER_PAGE)


if __name__ == "__main__":
    main()
