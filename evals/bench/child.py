"""``python -m evals.bench.child JOB CONTENDER SEED RESULT``: one run of one contender, in a process of its own.

Imports torch inside functions.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from assistant_builder.atomic_io import write_json
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.worker import prepare_libraries
from evals.bench.contenders import EVERYONE, Contender
from evals.bench.job import Job


def main() -> None:
    """Train, measure, write the record of :func:`measure`."""
    parser = argparse.ArgumentParser(prog="python -m evals.bench.child", description=__doc__)
    parser.add_argument("job", type=Path, help="file that Job.write wrote")
    parser.add_argument("contender", choices=[contender.name for contender in EVERYONE])
    parser.add_argument("seed", type=int)
    parser.add_argument("result", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    prepare_libraries()
    contender = next(contender for contender in EVERYONE if contender.name == arguments.contender)
    write_json(arguments.result, measure(Job.read(arguments.job).with_seed(arguments.seed), contender))


def measure(job: Job, contender: Contender) -> dict[str, Any]:
    """Run one contender.

    Returns:
        ``step_seconds``, ``step_losses`` and ``step_tokens`` of every step; ``tokens_per_second`` and
        ``cpu_seconds_per_1000_tokens`` of the timed ones; ``peak_memory_bytes``, ``validation_loss``,
        ``others_share`` (see the stopwatch), ``device``, ``device_name``, ``threads``.
    """
    import torch

    from assistant_builder.models.loading import pick_device
    from evals.bench import factory, ours, trl_scripts
    from evals.bench.ruler import validation_loss
    from evals.bench.stopwatch import Stopwatch

    device = pick_device()
    watch = Stopwatch(device)
    with tempfile.TemporaryDirectory() as scratch:
        if contender.family == "ours":
            trained = ours.train(job, contender.arm, Path(scratch), watch)
        elif contender.family == "factory":
            trained = factory.train(job, contender.arm, Path(scratch), watch)
        else:
            tuned = contender.family == "tuned"
            trained = trl_scripts.train(job, contender.arm, Path(scratch), watch, device, tuned=tuned)
    prompter = ChatTokenizer.load(job.folder)
    held = [example for pair in job.validation for example in prompter.examples(pair, job.train.max_length)]
    first = job.warmup_steps
    tokens = [after - before for before, after in zip([0, *trained.tokens], trained.tokens, strict=False)]
    return {
        "contender": contender.name,
        "seed": job.train.seed,
        "step_seconds": watch.step_seconds,
        "step_losses": trained.losses,
        "step_tokens": tokens,
        "tokens_per_second": sum(tokens[first:]) / sum(watch.step_seconds[first:]),
        "cpu_seconds_per_1000_tokens": 1000 * watch.cpu_seconds(first) / sum(tokens[first:]),
        "peak_memory_bytes": watch.peak_memory_bytes,
        "validation_loss": validation_loss(trained.model, held, prompter.pad_id, device),
        "others_share": watch.others_share(first),
        "device": device,
        "device_name": torch.cuda.get_device_name() if device == "cuda" else torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    main()
