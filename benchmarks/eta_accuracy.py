"""``python -m benchmarks.eta_accuracy``: the training time estimated after five steps compared with the actual time.

Trains the default model with different settings, each run in its own process, or uses finished studies. The time
includes steps, validations, sample answers and checkpoints.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from assistant_builder.arms import TWINS
from assistant_builder.atomic_io import read_json, read_jsonl, write_json
from assistant_builder.child_process import compute_environment
from assistant_builder.config import StudyConfig
from assistant_builder.errors import EvaluationError
from assistant_builder.planning.memory_check import PLAN_FILE
from assistant_builder.planning.training_time import (
    MEASURED_STEPS,
    WorkRemaining,
    extrapolated_seconds,
)
from assistant_builder.runner.step_process import step_command
from assistant_builder.study import Study, home
from benchmarks.doc_tables import PLANNER_PAGE, write_section
from benchmarks.paths import FERRIES, log_end
from evals.report.number_format import count, percent, signed_percent

SHAPES: dict[str, dict[str, Any]] = {
    "as shipped": {"train.max_steps": 16},
    "small batches, many validations": {
        "train.batch_size": 4,
        "train.micro_batch_size": 4,
        "train.max_steps": 32,
        "train.evaluations": 8,
    },
    "rank 64, recomputed, 2 at once": {
        "train.rank": 64,
        "train.gradient_checkpointing": "on",
        "train.micro_batch_size": 2,
        "train.batch_size": 8,
        "train.max_steps": 12,
    },
    "no samples, one validation": {
        "train.batch_size": 8,
        "train.max_steps": 24,
        "train.evaluations": 1,
        "train.sample_answers": 0,
    },
}
"""Changed settings of each run, by its name in the table."""
_KEPT = ("event", "step", "tokens", "busy_seconds", "elapsed_seconds")
"""Recorded keys of each event, with which a changed extrapolation can be evaluated without training again."""


def estimated_seconds(run: Mapping[str, Any]) -> float:
    """Estimate of a run's whole time after five measured steps."""
    seen, steps = [], 0
    for event in run["events"]:
        seen.append(event)
        steps += event["event"] == "step"
        if steps == MEASURED_STEPS:
            break
    estimate = extrapolated_seconds(seen, WorkRemaining(**run["ahead"]))
    assert estimate is not None  # runs of fewer steps are left out
    return estimate


def runs_of(study: Study, shape: str) -> Iterator[dict[str, Any]]:
    """``{"shape", "arm", "ahead", "events", "train_seconds"}`` of each trained arm of a study.

    Runs that an older version planned, that have not finished, or that made no more than five steps are left out.
    """
    for arm in TWINS:
        folder = study.arm_folder(arm)
        plan, summary = folder / PLAN_FILE, folder / "summary.json"
        if not plan.exists() or not summary.exists():
            continue
        ahead = read_json(plan)["ahead"]
        if ahead["steps"] > MEASURED_STEPS:
            events = [
                {key: event[key] for key in _KEPT if key in event}
                for event in read_jsonl(folder / "metrics.jsonl")
            ]
            yield {
                "shape": shape,
                "arm": arm,
                "ahead": ahead,
                "events": events,
                "train_seconds": read_json(summary)["train_seconds"],
            }


def measure(shape: str, data: Path, on_run: Callable[[dict[str, Any]], None]) -> None:
    """Train both arms with one entry of :data:`SHAPES`, in a new home folder that shares the models.

    Raises:
        EvaluationError: A step failed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        (home() / "models").mkdir(parents=True, exist_ok=True)
        (Path(scratch) / "models").symlink_to((home() / "models").resolve())
        environment = {**compute_environment(), "ASSISTANT_BUILDER_HOME": scratch}
        study = Study(Path(scratch) / "studies" / "times")
        config = StudyConfig().with_changes({"name": "times", **SHAPES[shape]})
        (study.folder / "data").mkdir(parents=True)
        study.write_config(config)
        (study.folder / "data" / f"source{data.suffix}").write_bytes(data.read_bytes())
        for step in ("data", *(f"train-{arm}" for arm in TWINS)):
            command = step_command(study, step)
            done = subprocess.run(
                command, capture_output=True, text=True, env=environment, check=False
            )
            if done.returncode:
                log = log_end(done.stdout + done.stderr)
                raise EvaluationError(
                    f"step {step} of {shape!r} failed: {log}",
                    remedy="Run the step alone to see why",
                )
        for run in runs_of(study, shape):
            on_run(run)


def table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Estimated and actual time of each run with the signed error."""
    lines = [
        "| run | arm | steps | tokens | validations | estimated after 5 steps | took | error |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    errors = [estimated_seconds(run) / float(run["train_seconds"]) - 1 for run in runs]
    for run, error in zip(runs, errors, strict=True):
        ahead = run["ahead"]
        lines.append(
            f"| {run['shape']} | {run['arm']} | {ahead['steps']} | {count(ahead['tokens'])} | "
            f"{ahead['validations']} | {estimated_seconds(run):.0f} s | {run['train_seconds']:.0f} s | "
            f"{signed_percent(error)} |"
        )
    worst = max(map(abs, errors), default=0.0)
    return "\n".join([*lines, "", f"The largest error is {percent(worst)} of {len(runs)} runs."])


def main(words: Sequence[str] | None = None) -> None:
    """Measure the shapes, or evaluate finished studies."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.eta_accuracy", description=__doc__)
    parser.add_argument(
        "--shapes",
        nargs="+",
        choices=list(SHAPES),
        default=list(SHAPES),
        metavar="SHAPE",
        help=f"some of: {'; '.join(SHAPES)}",
    )
    parser.add_argument("--data", type=Path, default=FERRIES, help="data file to train on")
    parser.add_argument(
        "--studies",
        nargs="+",
        default=[],
        metavar="NAME",
        help="evaluate these finished studies and train nothing",
    )
    parser.add_argument(
        "--runs",
        type=Path,
        nargs="+",
        default=[],
        help="use these results of --out and train nothing",
    )
    parser.add_argument("--write", action="store_true", help="write the table into docs/planner.md")
    parser.add_argument("--out", type=Path, default=Path("bench-results") / "eta_accuracy.json")
    args = parser.parse_args(words)
    runs: list[dict[str, Any]] = [run for path in args.runs for run in read_json(path)]
    runs += [run for name in args.studies for run in runs_of(Study.open(name), name)]

    def on_run(run: dict[str, Any]) -> None:
        runs.append(run)
        write_json(args.out, runs)
        print(
            f"{run['shape']}, {run['arm']}: {estimated_seconds(run):.0f} s estimated, "
            f"{run['train_seconds']:.0f} s taken",
            flush=True,
        )

    if not args.runs and not args.studies:
        for shape in args.shapes:
            measure(shape, args.data, on_run)
    text = table(runs)
    print(text)
    if args.write:
        write_section("times", text, PLANNER_PAGE)


if __name__ == "__main__":
    main()
