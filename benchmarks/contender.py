"""``contender.py JOB CONTENDER SEED RESULT``: one run of one contender of ``benchmarks/gpu.py``, in its own process.

Imports torch inside functions.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # it is started as a file

from assistant_builder.atomic_io import read_json, write_json  # noqa: E402
from assistant_builder.worker import prepare_libraries  # noqa: E402
from benchmarks.contenders import CONTENDERS, Contender  # noqa: E402
from evals.bench.job import Job  # noqa: E402

if TYPE_CHECKING:
    from evals.bench.ruler import Trained
    from evals.bench.stopwatch import Stopwatch

_LOG_LINES = 5


def main() -> None:
    """Train, measure, write the record of :func:`measure`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", type=Path, help="file that Job.write wrote")
    parser.add_argument("contender", choices=[contender.name for contender in CONTENDERS])
    parser.add_argument("seed", type=int)
    parser.add_argument("result", type=Path, help="JSON file to write")
    parser.add_argument("--unsloth", help="Python of Unsloth's environment")
    given = parser.parse_args()
    prepare_libraries()
    contender = next(contender for contender in CONTENDERS if contender.name == given.contender)
    job = Job.read(given.job).with_seed(given.seed)
    write_json(given.result, measure(job, contender, given.unsloth))


def measure(job: Job, contender: Contender, unsloth: str | None = None) -> dict[str, Any]:
    """Run one contender.

    Args:
        job: What to train.
        contender: How.
        unsloth: Python of the environment in which Unsloth is installed.

    Returns:
        ``contender``, ``seed``, ``tokens_per_second`` of the timed steps, ``peak_memory_bytes``; ``step_seconds``,
        ``step_losses`` and ``step_tokens`` of every step.
    """
    from assistant_builder.models.loading import pick_device
    from evals.bench import ours, trl_scripts
    from evals.bench.stopwatch import Stopwatch

    device = pick_device()
    watch = Stopwatch(device)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if contender.family == "ours":
            losses, tokens = _told(ours.train(job, contender.arm, folder, watch))
        elif contender.family == "unsloth":
            losses, tokens = _unsloth(job, contender, folder, watch, unsloth or sys.executable)
        else:
            more = tuned_settings(job, contender) if contender.family == "tuned" else {}
            losses, tokens = _told(trl_scripts.train(
                job, contender.arm, folder, watch, device, tuned=False, more=more
            ))
    first = job.warmup_steps
    a_step = [after - before for before, after in zip([0, *tokens], tokens, strict=False)]
    return {
        "contender": contender.name, "seed": job.train.seed, "device": device, "step_seconds": watch.step_seconds,
        "step_losses": losses, "step_tokens": a_step, "peak_memory_bytes": watch.peak_memory_bytes,
        "tokens_per_second": sum(a_step[first:]) / sum(watch.step_seconds[first:]),
    }


def _told(trained: Trained) -> tuple[list[float], list[int]]:
    return trained.losses, trained.tokens


def tuned_settings(job: Job, contender: Contender) -> dict[str, Any]:
    """What a user who knows TRL adds to ``SFTConfig``; recomputing is left out where memory allows it."""
    import torch

    from assistant_builder.config import StudyConfig
    from assistant_builder.models.chat_template import ChatTokenizer
    from assistant_builder.planning.memory_check import plan_run
    from assistant_builder.training.schedule import sample_order

    examples = job.examples(ChatTokenizer.load(job.folder))
    sequences = [(len(example.input_ids), sum(example.supervised)) for example in examples]
    order = sample_order([length for length, _ in sequences], job.train)
    plan = plan_run(StudyConfig(model=job.model, train=job.train), job.folder, sequences, order)
    return {
        "packing": True, "gradient_checkpointing": plan.methods[contender.arm].checkpointing,
        "use_liger_kernel": torch.cuda.is_available() and importlib.util.find_spec("liger_kernel") is not None,
    }


def _unsloth(
    job: Job, contender: Contender, scratch: Path, watch: Stopwatch, python: str
) -> tuple[list[float], list[int]]:
    job.write(scratch / "job.json")
    script = Path(__file__).with_name("unsloth_script.py")
    done = subprocess.run([python, str(script), str(scratch / "job.json"), contender.arm, str(scratch)],
                          capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"Unsloth failed: {' | '.join((done.stdout + done.stderr).splitlines()[-_LOG_LINES:])}")
    record = read_json(scratch / "trained.json")
    watch.take(record["watch"])
    return record["losses"], record["tokens"]


if __name__ == "__main__":
    main()
