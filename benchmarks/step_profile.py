"""``python -m benchmarks.step_profile``: what an optimizer step of training on a processor spends its time on.

The product trains pairs of the shipped dataset under ``torch.profiler`` after a step that is not measured. Printed are
the shares of each group of operations, and how fast matrices are multiplied: in the step, and in products of square
matrices, which is what these processors can do. The profiler itself makes Python slower; shares of time that are given
to Python are too large rather than too small.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from assistant_builder.arms import TWINS
from assistant_builder.atomic_io import write_json
from assistant_builder.child_process import configure_libraries
from assistant_builder.config import StudyConfig
from assistant_builder.errors import AssistantBuilderError
from benchmarks.candidates import positive, run_case
from benchmarks.job import Job, make_job
from benchmarks.paths import FERRIES

GROUPS: dict[str, tuple[str, ...]] = {
    "matrix products": ("aten::mm", "aten::addmm"),
    "attention: products and softmax": (
        "aten::bmm",
        "aten::baddbmm",
        "aten::_softmax",
        "aten::_softmax_backward_data",
    ),
    "copies and casts": (
        "aten::copy_",
        "aten::cat",
        "aten::clone",
        "aten::_to_copy",
        "aten::index",
        "aten::gather",
    ),
    "memory": ("aten::empty", "aten::empty_strided", "aten::empty_like", "aten::resize_"),
    "dropout masks": (
        "aten::index_fill_",
        "aten::uniform_",
        "aten::log_",
        "aten::cumsum_",
        "aten::neg_",
        "aten::neg",
    ),
    "optimizer": (
        "Optimizer.step",
        "aten::_fused_adamw_",
        "aten::_foreach_norm",
        "aten::linalg_vector_norm",
    ),
}
"""Group → names of the operations whose time counts for it, up to the ``#`` of a name that has one."""
ELEMENTWISE, PYTHON = "other elementwise operations", "Python and autograd"
_SQUARE = 2048
"""Rows and columns of the matrices whose product shows what the processors can do."""
_REPEATS = 20


def group_of(name: str) -> str:
    """The group of an operation of the profile."""
    for group, names in GROUPS.items():
        if name.partition("#")[0] in names:
            return group
    return ELEMENTWISE if name.startswith("aten::") else PYTHON


def shares(events: Mapping[str, float]) -> dict[str, float]:
    """Share of the time of each group, the largest first; ``events``: time of each operation, without its parts."""
    total, found = sum(events.values()), dict.fromkeys((*GROUPS, ELEMENTWISE, PYTHON), 0.0)
    for name, seconds in events.items():
        found[group_of(name)] += seconds / total
    return dict(sorted(found.items(), key=lambda each: -each[1]))


def measure(job: Job, arm: str) -> dict[str, Any]:
    """Seconds by operation, and the operations (multiplications and additions) of the matrix products, of a training.

    ``speed`` and ``limit``: operations per second of the products of the training, and of square matrices.
    """
    import torch
    from torch.profiler import ProfilerActivity, profile

    from benchmarks.stopwatch import Stopwatch
    from benchmarks.trainers import train_ours

    class Recorder(Stopwatch):
        """Profiles the steps after the first ones."""

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == job.warmup_steps:
                recorded.start()
            elif state.global_step == job.steps:
                recorded.stop()

    recorded = profile(activities=[ProfilerActivity.CPU], with_flops=True)
    with tempfile.TemporaryDirectory() as scratch:
        trained = train_ours(job, arm, Path(scratch), Recorder("cpu"))
    averages = recorded.key_averages()
    seconds = {
        each.key: each.self_cpu_time_total / 1e6 for each in averages if each.self_cpu_time_total
    }
    products = sum(seconds.get(name, 0.0) for name in GROUPS["matrix products"])
    operations = sum(each.flops for each in averages if each.key in GROUPS["matrix products"])
    dtype = trained.model.config.dtype
    left, right = (torch.randn(_SQUARE, _SQUARE).to(dtype) for _ in range(2))
    times = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        left @ right
        times.append(time.perf_counter() - began)
    return {
        "seconds": seconds,
        "dtype": str(dtype).removeprefix("torch."),
        "speed": operations / products,
        "step_speed": operations / sum(seconds.values()),
        "limit": 2 * _SQUARE**3 / min(times),
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }


def report(found: Mapping[str, Any]) -> str:
    """The result as text."""
    lines = [
        f"{found['dtype']}, {found['cpu']}, {found['threads']} threads: shares of the time of a step"
    ]
    lines += [f"  {name:32s} {share:6.1%}" for name, share in shares(found["seconds"]).items()]
    limit = found["limit"]
    for name, key in (("products of the step", "speed"), ("whole step", "step_speed")):
        lines.append(
            f"  {name:32s} {found[key] / 1e9:4.0f} GFLOP/s, {found[key] / limit:.0%} of {limit / 1e9:.0f} "
            "in products of square matrices"
        )
    return "\n".join(lines)


def main() -> int:
    """Profile in a process of the product's environment, and print; exit code 1 with one line if it cannot be done."""
    try:
        profile_step(arguments())
    except AssistantBuilderError as error:
        sys.stderr.write(f"step_profile: {error}\n")
        return 1
    return 0


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_profile", description=__doc__)
    parser.add_argument(
        "--data", type=Path, default=FERRIES, help="data file; its training split is used"
    )
    parser.add_argument("--arm", choices=TWINS, default=TWINS[0])
    parser.add_argument("--steps", type=positive, default=3, help="profiled steps (3)")
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def profile_step(options: argparse.Namespace) -> None:
    """Profile and write the result to ``--out``; without it, do so in another process and print the report."""
    if options.out is None:
        words = ("--data", str(options.data), "--arm", options.arm, "--steps", str(options.steps))
        remedy = "Use a machine without a GPU, and a file with enough pairs"
        print(report(run_case("benchmarks.step_profile", *words, remedy=remedy)))
        return
    configure_libraries()
    job = make_job(
        StudyConfig().with_changes({"data.source": str(options.data)}),
        warmup_steps=1,
        timed_steps=options.steps,
        validation_pairs=1,
    )
    write_json(options.out, measure(job, options.arm))


if __name__ == "__main__":
    sys.exit(main())
