"""``python benchmarks/gpu.py``: speed, memory and loss of both arms on a GPU, compared with TRL and Unsloth.

Trains a model with the shape of Llama 3.1 8B and random weights, or any model folder. Every candidate runs in its own
process, interleaved with the others for several rounds. Prints a Markdown table for the documentation.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # `python benchmarks/gpu.py` has this file's folder there

from assistant_builder.atomic_io import read_json, read_jsonl  # noqa: E402
from assistant_builder.config import ModelConfig, TrainConfig  # noqa: E402
from assistant_builder.data import Message, Pair  # noqa: E402
from assistant_builder.errors import AssistantBuilderError, ConfigError  # noqa: E402
from assistant_builder.models import bundled  # noqa: E402
from assistant_builder.models.chat_template import ChatTokenizer  # noqa: E402
from assistant_builder.planning.hardware import Machine, this_machine  # noqa: E402
from benchmarks.candidates import (  # noqa: E402
    BASES,
    GPU_CANDIDATES,
    Candidate,
    Run,
    Spread,
    candidates_option,
    interleaved,
    positive,
    spread_text,
    start_worker,
)
from benchmarks.job import Job  # noqa: E402
from benchmarks.paths import FERRIES, log_end  # noqa: E402
from benchmarks.random_model import SHAPES, write_model  # noqa: E402

PACKAGES = "torch transformers peft bitsandbytes trl liger-kernel unsloth flash-attn".split()
LENGTHS = (128, 2048)
_SHORTEST = 0.5
"""Minimum length of a row as a share of the longest; lengths are uniform, because real pairs differ in length."""
NO_GPU = (
    "benchmark: there is no CUDA device; measure speed on a CPU by `make bench`, or test this script with "
    "`--device cpu --shape tiny`"
)
DIFFERENCES: tuple[str, ...] = (
    "Same for all: base, rows (each trained on once), rank, alpha, no dropout, all linear layers adapted, rows a step "
    "and a micro-batch, peak learning rate, AdamW, gradient clipping, 16-bit arithmetic, seed of the round. Tokens are "
    "those of the rows, without padding. The peak is what PyTorch's allocator gave out on the GPU (on a CPU: resident "
    "memory), loading included.",
    "Assistant Builder: the trainer of `assistant-builder run`, with `train.kernels` as given by `--kernels`.",
    "TRL, plain: `SFTTrainer` as its documentation shows it; gradient checkpointing is its default.",
    "TRL, tuned: `packing=True`, liger-kernel where it is installed, gradient checkpointing only where Assistant "
    "Builder's plan has it too. Without flash-attn packed rows go through PyTorch's own attention.",
    "Unsloth: `FastLanguageModel` and its own gradient checkpointing, by TRL's `SFTTrainer` over plain text: its loss "
    "counts questions too, and a step's tokens are the mean of all rows.",
)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python benchmarks/gpu.py", description=__doc__)
    parser.add_argument(
        "--shape", choices=sorted(SHAPES), default="8b", help="of the random model (8b)"
    )
    parser.add_argument(
        "--model", type=Path, metavar="DIR", help="train this model instead, from its folder"
    )
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="DIR",
        help="folder of a model whose tokenizer the random model gets (the bundled model's)",
    )
    parser.add_argument(
        "--scratch",
        type=Path,
        metavar="DIR",
        help="folder for the random model, kept and used again (8b: 16 GB; a temporary folder)",
    )
    parser.add_argument(
        "--tokens", type=positive, nargs="+", default=list(LENGTHS), help="longest rows (128 2048)"
    )
    parser.add_argument(
        "--candidates",
        type=candidates_option(GPU_CANDIDATES),
        default=GPU_CANDIDATES,
        metavar="NAMES",
        help=f"comma-separated, of {', '.join(candidate.name for candidate in GPU_CANDIDATES)} (all)",
    )
    parser.add_argument("--rounds", type=positive, default=3, help="runs of each candidate (3)")
    parser.add_argument(
        "--steps", type=positive, default=8, help="timed optimizer steps of a run (8)"
    )
    parser.add_argument(
        "--warmup", type=positive, default=2, help="steps before them that are not timed (2)"
    )
    parser.add_argument("--batch", type=positive, default=16, help="rows a step (16)")
    parser.add_argument("--micro-batch", type=positive, default=4, help="rows computed at once (4)")
    parser.add_argument("--rank", type=positive, default=16, help="of the adapters (16)")
    parser.add_argument(
        "--kernels",
        choices=["fused", "plain"],
        default="fused",
        help="train.kernels of Assistant Builder (fused)",
    )
    parser.add_argument(
        "--unsloth", metavar="PYTHON", help="Python of an environment in which Unsloth is installed"
    )
    parser.add_argument(
        "--device",
        choices=["cuda", "cpu"],
        default="cuda",
        help="cpu tries the script itself (cuda)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON document instead of the table"
    )
    args = parser.parse_args(words)
    if args.batch % min(args.batch, args.micro_batch):
        parser.error(f"--batch {args.batch} is not a multiple of --micro-batch {args.micro_batch}")
    if args.unsloth is not None and shutil.which(args.unsloth) is None:
        parser.error(f"--unsloth: {args.unsloth} is not a program")
    return args


def available(args: argparse.Namespace) -> tuple[tuple[Candidate, ...], list[str]]:
    """The candidates that can run here, and notes on the others."""
    notes = []
    here = list(args.candidates)
    why = ""
    if args.device == "cpu":
        why = "does not run on a CPU"
    elif args.unsloth is None and importlib.util.find_spec("unsloth") is None:
        why = "is not installed (--unsloth names the Python of another environment)"
    if why and any(candidate.family == "unsloth" for candidate in here):
        notes.append(f"Unsloth {why}: left out.")
        here = [candidate for candidate in here if candidate.family != "unsloth"]
    liger = importlib.util.find_spec("liger_kernel") is not None and args.device == "cuda"
    if not liger and any(candidate.family == "tuned" for candidate in here):
        notes.append(
            "liger-kernel is not installed (pip install liger-kernel) or has no GPU: TRL, tuned "
            "trains without it."
        )
    return tuple(here), notes


def rows(count: int, tokens: int, prompter: ChatTokenizer, *, seed: int = 0) -> tuple[Pair, ...]:
    """Pairs of words of a shipped dataset, half question, half answer, between half and all of ``tokens`` long.

    ``tokens`` includes one token for the line break that some trainers add.

    Raises:
        ConfigError: The template alone is longer.
    """
    words = [
        word
        for record in read_jsonl(FERRIES)
        for key in ("question", "answer")
        for word in str(record[key]).split()
    ]
    luck = random.Random(seed)
    return tuple(
        _pair(number, luck.randint(round(_SHORTEST * tokens), tokens - 1), words, luck, prompter)
        for number in range(1, count + 1)
    )


def _pair(
    number: int, wanted: int, words: Sequence[str], luck: random.Random, prompter: ChatTokenizer
) -> Pair:
    start = luck.randrange(len(words))

    def pair(length: int) -> Pair:
        taken = [words[(start + place) % len(words)] for place in range(length)]
        half = length // 2
        return Pair(
            number,
            (Message("user", " ".join(taken[:half])), Message("assistant", " ".join(taken[half:]))),
        )

    low, high = 2, wanted  # a word has at least one token
    if prompter.count_tokens(pair(low)) > wanted:
        raise ConfigError(
            f"a row of {wanted} tokens is shorter than the model's chat template",
            where="--tokens",
            remedy="Use longer rows",
        )
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (
            (middle, high) if prompter.count_tokens(pair(middle)) <= wanted else (low, middle - 1)
        )
    return pair(low)


def job_of(args: argparse.Namespace, folder: Path, tokens: int, machine: Machine) -> Job:
    """The task of every candidate for rows of one length."""
    steps = args.warmup + args.steps
    train = TrainConfig(
        preset="custom",
        rank=args.rank,
        alpha=2 * args.rank,
        dropout=0.0,
        epochs=1.0,
        max_steps=steps,
        batch_size=args.batch,
        micro_batch_size=min(args.batch, args.micro_batch),
        max_length=tokens,
        evaluations=1,
        sample_answers=0,
        learning_rate=2e-4,
        kernels=args.kernels,
        allow_low_memory=True,
    )
    model = ModelConfig(
        base=str(folder), compute_dtype=machine.compute_dtype, allow_float32_compute=True
    )
    pairs = rows(steps * args.batch, tokens, ChatTokenizer.load(folder))
    return Job(model, train, folder, args.warmup, pairs, ())


def run_all(
    jobs: dict[int, Job],
    candidates: Sequence[Candidate],
    args: argparse.Namespace,
    on_run: Callable[[dict[str, Any]], None],
) -> list[dict[str, Any]]:
    """Run every candidate once per round and length, interleaved; candidates that fail are not run again."""
    found: list[dict[str, Any]] = []
    failed: set[tuple[int, Candidate]] = set()
    with tempfile.TemporaryDirectory() as scratch:
        for tokens, job in jobs.items():
            path = Path(scratch) / f"job-{tokens}.json"
            job.write(path)
            for number, candidate in interleaved(candidates, args.rounds):
                if (tokens, candidate) in failed:
                    continue
                run = {"round": number, "tokens": tokens, **_run(path, candidate, number, args)}
                if run.get("failed"):
                    failed.add((tokens, candidate))
                found.append(run)
                on_run(run)
    return found


def _run(job: Path, candidate: Candidate, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    options = ["--long-rows", *(["--unsloth", args.unsloth] if args.unsloth else [])]
    # one card: of several, transformers makes DataParallel, which TRL refuses
    card = (
        os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
        if args.device == "cuda"
        else ""
    )
    environment = {"CUDA_VISIBLE_DEVICES": card}
    code, log = start_worker(job, candidate, seed, *options, environment=environment)
    result = job.with_name("result.json")
    if code == 0 and result.is_file():
        record: dict[str, Any] = read_json(result)
        return record
    if "OutOfMemoryError" in log or code == -9:
        return {"candidate": candidate.name, "failed": "out of memory"}
    last = next(
        (line.strip() for line in reversed(log.splitlines()) if line.strip()), f"exit code {code}"
    )
    sys.stderr.write(log_end(log, "\n") + "\n")
    return {"candidate": candidate.name, "failed": last[:120]}


def hardware(device: str) -> dict[str, Any]:
    """Card, driver and versions."""
    found: dict[str, Any] = {"device": device, "versions": {}}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found["versions"][name] = importlib.metadata.version(name)
    if device == "cuda":
        import torch

        properties = torch.cuda.get_device_properties(0)
        found |= {
            "name": properties.name,
            "memory_bytes": properties.total_memory,
            "cuda": torch.version.cuda,
            "driver": _driver(),
        }
    else:
        found |= {"name": this_machine().name}
    return found


def _driver() -> str:
    try:
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(
            asked, capture_output=True, text=True, timeout=10, check=True
        ).stdout.splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"


def caption(
    args: argparse.Namespace, found: dict[str, Any], job: Job, notes: Sequence[str]
) -> list[str]:
    """Lines with the settings and the hardware of the measurement."""
    card = found["name"]
    if found["device"] == "cuda":
        card += f" ({found['memory_bytes'] / 1e9:.0f} GB), driver {found['driver']}, CUDA {found['cuda']}"
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    model = f"{args.model.name}" if args.model else f"random weights of shape {args.shape}"
    return [
        f"{model} in {job.model.compute_dtype}, rank {args.rank}, {args.batch} rows a step, "
        f"{job.train.micro_batch} at once, {args.steps} timed steps after {args.warmup}, {args.rounds} "
        f"round{'s' if args.rounds > 1 else ''}, kernels {args.kernels}.",
        f"{card}; {versions}.",
        *notes,
    ]


@dataclass(frozen=True)
class Row:
    """One candidate at one length over all rounds."""

    candidate: Candidate
    tokens: int  # maximum tokens of a row
    rounds: int  # number of successful runs
    tokens_per_second: Spread | None  # speed of the timed steps
    versus_plain: (
        Spread | None
    )  # speed relative to the plain TRL script, round by round; None without it
    peak_memory_bytes: int  # highest peak of all runs
    losses: tuple[float, ...]  # loss of each step of the first round, in nats per supervised token
    failed: str = ""  # reason of a failure; empty without one

    def to_record(self) -> dict[str, Any]:
        """The row in the JSON output."""
        return {**asdict(self), "candidate": self.candidate.name}


def summarize(runs: Sequence[Run]) -> list[Row]:
    """One row for each candidate and length that was tried, in the order of the table."""
    lengths = sorted({run["tokens"] for run in runs})
    return [
        _row(candidate, tokens, runs)
        for tokens in lengths
        for candidate in GPU_CANDIDATES
        if any(run["candidate"] == candidate.name and run["tokens"] == tokens for run in runs)
    ]


def _of(runs: Sequence[Run], candidate: Candidate, tokens: int) -> dict[int, Run]:
    return {
        run["round"]: run
        for run in runs
        if run["candidate"] == candidate.name and run["tokens"] == tokens and not run.get("failed")
    }


def _row(candidate: Candidate, tokens: int, runs: Sequence[Run]) -> Row:
    own, plain = _of(runs, candidate, tokens), _of(runs, Candidate("plain", candidate.arm), tokens)
    if not own:
        failed = next(
            run["failed"]
            for run in runs
            if run["candidate"] == candidate.name and run["tokens"] == tokens
        )
        return Row(candidate, tokens, 0, None, None, 0, (), failed)
    ratios = [
        own[at]["tokens_per_second"] / plain[at]["tokens_per_second"]
        for at in own.keys() & plain.keys()
    ]
    first = own[min(own)]
    return Row(
        candidate,
        tokens,
        len(own),
        Spread.of([run["tokens_per_second"] for run in own.values()]),
        Spread.of(ratios) if ratios and candidate.family != "plain" else None,
        max(run["peak_memory_bytes"] for run in own.values()),
        tuple(first["step_losses"]),
    )


def markdown(rows: Sequence[Row], caption: Sequence[str]) -> str:
    """The table and the loss curves as Markdown for the documentation."""
    lines = [
        *caption,
        "",
        "| longest row | base | trained by | tokens/s | × plain TRL | peak memory | loss, first → "
        "last step |",
        "| ---: | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row.tokens:,} | {BASES[row.candidate.arm]} | {row.candidate.title} | {_cells(row)} |"
        for row in rows
    ]
    lines += [
        "",
        "Median of the rounds, lowest to highest in brackets. Loss of each step of the first round, in nats "
        "a supervised token:",
        "",
    ]
    lines += [
        f"- {row.tokens:,} tokens, {BASES[row.candidate.arm]}, {row.candidate.title}: "
        + " ".join(f"{loss:.3f}" for loss in row.losses)
        for row in rows
        if row.losses
    ]
    return "\n".join([*lines, "", *DIFFERENCES])


def _cells(row: Row) -> str:
    if row.failed:
        return f"{row.failed.replace('|', '/')} | – | – | –"
    return " | ".join(
        [
            spread_text(row.tokens_per_second, 0),
            spread_text(row.versus_plain, 2),
            f"{row.peak_memory_bytes / 1e9:.2f} GB",
            f"{row.losses[0]:.2f} → {row.losses[-1]:.2f}",
        ]
    )


def benchmark(args: argparse.Namespace) -> str:
    """Measure, and return the table or the JSON document."""
    if args.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    candidates, notes = available(args)
    found = hardware(args.device)
    with contextlib.ExitStack() as stack:
        folder = args.model
        if folder is None:
            scratch = args.scratch or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            print(f"writing random weights of shape {args.shape} to {scratch}", file=sys.stderr)
            tokenizer = args.tokenizer or bundled.ensure_base_model()
            folder = write_model(scratch / args.shape, args.shape, tokenizer, device=args.device)
        elif not (folder / "config.json").is_file():
            raise ConfigError(
                f"{folder} has no config.json", where="--model", remedy="Name the folder of a model"
            )
        machine = this_machine()
        jobs = {tokens: job_of(args, folder.resolve(), tokens, machine) for tokens in args.tokens}
        runs = run_all(jobs, candidates, args, _report)
    table = summarize(runs)
    job = jobs[args.tokens[0]]
    if not args.json:
        return markdown(table, caption(args, found, job, notes))
    return json.dumps(
        {
            "version": 1,
            "hardware": found,
            "model": str(args.model or args.shape),
            "notes": notes,
            "train": job.train.model_dump(mode="json", exclude={"seed", "max_length"}),
            "compute_dtype": job.model.compute_dtype,
            "rows": [row.to_record() for row in table],
            "runs": runs,
        },
        indent=2,
    )


def _report(run: Run) -> None:
    text = (
        run.get("failed")
        or f"{run['tokens_per_second']:.0f} tokens/s, {run['peak_memory_bytes'] / 1e9:.2f} GB"
    )
    print(
        f"round {run['round']}, {run['tokens']} tokens, {run['candidate']}: {text}",
        file=sys.stderr,
        flush=True,
    )


def main(words: Sequence[str] | None = None) -> int:
    """Run the benchmark; exit code 1 with an error message if it fails."""
    args = parse(sys.argv[1:] if words is None else words)
    try:
        if args.device == "cuda" and this_machine().device != "cuda":
            print(NO_GPU, file=sys.stderr)
            return 1
        print(benchmark(args))
    except AssistantBuilderError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
