"""``python -m benchmarks.training_process JOB CANDIDATE SEED RESULT``: one run of one candidate.

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

from assistant_builder.atomic_io import read_json, write_json
from assistant_builder.child_process import configure_libraries
from assistant_builder.models.chat_template import ChatTokenizer
from benchmarks.candidates import BY_NAME, Candidate
from benchmarks.job import Job
from benchmarks.paths import log_end

if TYPE_CHECKING:
    from benchmarks.stopwatch import Stopwatch


def main() -> None:
    """Train, measure, write the record of :func:`measure`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training_process", description=__doc__
    )
    parser.add_argument("job", type=Path, help="file that Job.write wrote")
    parser.add_argument("candidate", choices=list(BY_NAME))
    parser.add_argument("seed", type=int)
    parser.add_argument("result", type=Path, help="JSON file to write")
    parser.add_argument(
        "--long-rows",
        action="store_true",
        help="the tuned TRL script packs rows, as gpu.py compares",
    )
    parser.add_argument("--unsloth", default=sys.executable, help="Python of Unsloth's environment")
    args = parser.parse_args()
    configure_libraries()
    job = Job.read(args.job).with_seed(args.seed)
    write_json(
        args.result,
        measure(job, BY_NAME[args.candidate], long_rows=args.long_rows, unsloth=args.unsloth),
    )


def measure(
    job: Job, candidate: Candidate, *, long_rows: bool = False, unsloth: str = sys.executable
) -> dict[str, Any]:
    """Run one candidate; ``unsloth`` is the Python of the environment in which Unsloth is installed.

    ``long_rows``: the tuned TRL script packs rows and uses liger-kernel, instead of batching by length.
    """
    import torch

    from assistant_builder.models.loading import pick_device
    from benchmarks import llama_factory, trainers
    from benchmarks.stopwatch import Stopwatch

    device = pick_device()
    watch = Stopwatch(device)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if candidate.family == "ours":
            trained = trainers.train_ours(job, candidate.arm, folder, watch)
        elif candidate.family == "factory":
            trained = llama_factory.train(job, candidate.arm, folder, watch)
        elif candidate.family == "unsloth":
            trained = trainers.Trained(None, *_unsloth(job, candidate, folder, watch, unsloth))
        else:
            tuned = candidate.family == "tuned"
            trained = trainers.train_trl(
                job,
                candidate.arm,
                folder,
                watch,
                device,
                tuned=tuned and not long_rows,
                more=_packing(job, candidate) if tuned and long_rows else None,
            )
    first = job.warmup_steps
    tokens = [
        after - before for before, after in zip([0, *trained.tokens], trained.tokens, strict=False)
    ]
    return {
        "candidate": candidate.name,
        "seed": job.train.seed,
        "step_seconds": watch.step_seconds,
        "step_losses": trained.losses,
        "step_tokens": tokens,
        "tokens_per_second": sum(tokens[first:]) / sum(watch.step_seconds[first:]),
        "cpu_seconds_per_1000_tokens": 1000 * watch.cpu_seconds(first) / sum(tokens[first:]),
        "peak_memory_bytes": watch.peak_memory_bytes,
        "validation_loss": _validation_loss(job, trained.model, device) if job.validation else None,
        "others_share": watch.others_share(first),
        "device": device,
        "device_name": torch.cuda.get_device_name()
        if device == "cuda"
        else torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def _validation_loss(job: Job, model: Any, device: str) -> float:
    from benchmarks.trainers import validation_loss

    prompter = ChatTokenizer.load(job.folder)
    examples = [example for pair in job.validation for example in prompter.examples(pair)]
    return validation_loss(model, examples, prompter.pad_id, device)


def _packing(job: Job, candidate: Candidate) -> dict[str, Any]:
    """What a user who knows TRL adds to ``SFTConfig``; activations are recomputed only if the product's plan does."""
    import torch

    from benchmarks.trainers import planned

    return {
        "packing": True,
        "gradient_checkpointing": planned(job, candidate.arm).checkpointing,
        "use_liger_kernel": torch.cuda.is_available()
        and importlib.util.find_spec("liger_kernel") is not None,
    }


def _unsloth(
    job: Job, candidate: Candidate, scratch: Path, watch: Stopwatch, python: str
) -> tuple[list[float], list[int]]:
    job.write(scratch / "job.json")
    script = Path(__file__).with_name("unsloth_script.py")
    done = subprocess.run(
        [python, str(script), str(scratch / "job.json"), candidate.arm, str(scratch)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"Unsloth failed: {log_end(done.stdout + done.stderr, ' | ')}")
    record = read_json(scratch / "trained.json")
    watch.take(record["watch"])
    return record["losses"], record["tokens"]


if __name__ == "__main__":
    main()
