"""``python -m benchmarks.training_speed``: training speed compared with plain and tuned TRL scripts, at equal results.

Every candidate trains the same pairs on the same base with the same adapters in its own process, interleaved with the
others for several rounds. There are three cases: pairs as they are, and the demo's, with facts in their prompts, in
batches of 8 and of 16. One function computes the loss of all candidates after training on pairs that none trained
on, to check that their results are equal. Prints a table and writes files.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from assistant_builder.atomic_io import read_json, write_json
from assistant_builder.config import StudyConfig
from assistant_builder.errors import AssistantBuilderError, EvaluationError
from assistant_builder.planning.hardware import this_machine
from assistant_builder.provenance import PACKAGES
from benchmarks import llama_factory
from benchmarks.candidates import (
    CPU_CANDIDATES,
    Candidate,
    Run,
    candidates_option,
    factory_candidates,
    interleaved,
    positive,
    spread_text,
    start_worker,
)
from benchmarks.job import Job, make_job
from benchmarks.paths import FERRIES, log_end
from benchmarks.summary import Row, arms_ratio, caveats, render, summarize

_SMALLEST_CONSOLE = 130
"""Columns of the table if the output is not a terminal."""

DIFFERENCES: tuple[str, ...] = (
    "Same for all: base model, pairs (each trained on once), rank, alpha, dropout, adapted layers, pairs a step and a "
    "micro-batch, peak learning rate, AdamW, gradient clipping, arithmetic, seed of the round, threads. The "
    "loss of a step is the mean over its answer tokens.",
    "Assistant Builder: base read as float16 or NF4, float32 adapters, left padding, pairs sorted by length within "
    "eight steps, the head on answer positions only, cosine schedule. On a CPU the base is held in the compute dtype "
    "while it trains (counted in the peak, where NF4 therefore saves nothing), and layers with one input share its "
    "dropout.",
    "TRL, plain: SFTTrainer as its documentation shows it, every setting at its default that is not named above: "
    "gradient checkpointing, autocast where 16 bits are computed in, random order, linear schedule; on a CPU the head "
    "on every position.",
    "TRL, tuned: the same without gradient checkpointing, all pairs sorted by length into batches.",
    "LLaMA-Factory, if it is compared (--llama-factory): its defaults for LoRA, gradient checkpointing among them; "
    "its own chatml template and its own, older libraries. On a CPU over the 16-bit base alone.",
    "TRL stores the 16-bit base in the compute dtype, keeps adapters over a 4-bit base in bfloat16 (float32 over a "
    "16-bit one), and also trains on the line break that the chat template puts after an answer: one token more a "
    "pair, counted in its tokens and in its training loss, not in the validation loss.",
    "Switched off for all: checkpoints and evaluations during the timed steps. On: a log line a step.",
)
"""Differences between the candidates, printed below the table."""


@dataclass(frozen=True)
class Case:
    """What is trained.

    Attributes:
        title: Name in the output.
        facts: Whether prompts have facts.
        changes: Settings that differ from the defaults.
    """

    title: str
    facts: bool
    changes: Mapping[str, str]


CASES = {
    "pairs": Case("Pairs as they are", facts=False, changes={}),
    "facts-8": Case("With facts, batches of 8", facts=True, changes={"train.batch_size": "8"}),
    "facts-16": Case("With facts, batches of 16", facts=True, changes={"train.batch_size": "16"}),
}
"""Name on the command line → case; the second is the demo's (datasets_cards/ostrel-sound-ferries/study.yaml)."""
FILES = {name: f"bench-{name}.json" if name != "pairs" else "bench.json" for name in CASES}


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Read the command line; ``--quick`` has smaller defaults."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training_speed", description=__doc__
    )
    parser.add_argument(
        "--data", type=Path, default=FERRIES, help="data file; its training split is used"
    )
    parser.add_argument(
        "--cases", nargs="+", choices=CASES, help=f"of {', '.join(CASES)} (all; quick: the first)"
    )
    parser.add_argument("--rounds", type=positive, help="runs of each candidate (5; quick: 1)")
    parser.add_argument(
        "--steps", type=positive, help="timed optimizer steps of a run (2; quick: 1)"
    )
    parser.add_argument(
        "--warmup", type=positive, default=1, help="steps before them that are not timed (1)"
    )
    parser.add_argument(
        "--candidates",
        type=candidates_option(CPU_CANDIDATES),
        default=CPU_CANDIDATES,
        help=f"comma-separated, of {', '.join(candidate.name for candidate in CPU_CANDIDATES)} (all)",
    )
    parser.add_argument(
        "--llama-factory",
        type=_program,
        metavar="PYTHON",
        help="also LLaMA-Factory, by the Python of an environment in which it is installed",
    )
    parser.add_argument(
        "--set",
        action="append",
        type=_change,
        default=[],
        metavar="KEY=VALUE",
        dest="changes",
        help="change a setting for all candidates, for example train.rank=8",
    )
    parser.add_argument(
        "--quick", action="store_true", help="a trial of under three minutes on two cores"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("bench-results"), help="folder for the results"
    )
    args = parser.parse_args(words)
    args.cases = args.cases or [*CASES][: 1 if args.quick else None]
    args.rounds = args.rounds or (1 if args.quick else 5)
    args.steps = args.steps or (1 if args.quick else 2)
    args.changes = dict(args.changes)
    if args.llama_factory:
        args.candidates += factory_candidates(this_machine().device)
    return args


def _program(text: str) -> Path:
    found = shutil.which(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text} is not a program")
    return Path(found).absolute()


def _change(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key.strip(), value


def run_all(
    job: Job, candidates: Sequence[Candidate], rounds: int, on_run: Callable[[dict[str, Any]], None]
) -> list[dict[str, Any]]:
    """Run every candidate once a round, interleaved; the seed is the number of the round."""
    runs = []
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "job.json"
        job.write(path)
        for number, candidate in interleaved(candidates, rounds):
            run = {"round": number, **_run(path, candidate, number)}
            runs.append(run)
            on_run(run)
    return runs


def _run(job: Path, candidate: Candidate, seed: int) -> dict[str, Any]:
    code, log = start_worker(job, candidate, seed)
    result = job.with_name("result.json")
    if code != 0 or not result.is_file():
        raise EvaluationError(
            f"the run of {candidate.name} ended with code {code}: {log_end(log, ' | ')}",
            remedy="Exclude it with --candidates, or free memory if the code is -9",
        )
    record: dict[str, Any] = read_json(result)
    return record


def machine() -> dict[str, Any]:
    """The machine and the library versions of a measurement."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "platform": platform.platform(),
        "processors": psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "packages": versions,
    }


def bench(options: argparse.Namespace, console: Console) -> None:
    """Measure, print, write, case by case."""
    if options.llama_factory is not None:
        os.environ[llama_factory.VARIABLE] = str(options.llama_factory)
    began = time.monotonic()
    for name in options.cases:
        _bench_case(name, options, console)
    console.print("", *DIFFERENCES, sep="\n", highlight=False)
    seconds = time.monotonic() - began
    console.print(f"\n{seconds:.0f} s. Written to {options.out}", highlight=False)


def _bench_case(name: str, options: argparse.Namespace, console: Console) -> None:
    case = CASES[name]
    changes = {"data.source": str(options.data), **case.changes, **options.changes}
    job = make_job(
        StudyConfig().with_changes(changes),
        warmup_steps=options.warmup,
        timed_steps=options.steps,
        validation_pairs=8 if options.quick else 32,
        facts=case.facts,
    )
    count = options.rounds * len(options.candidates)
    console.print(
        f"\n{case.title}: {count} runs of {job.steps} steps of {job.train.batch_size} pairs, {options.warmup} of them "
        "not timed",
        highlight=False,
    )
    runs = run_all(job, options.candidates, options.rounds, lambda run: _report_run(run, console))
    rows = summarize(runs)
    write(options.out, job, runs, rows, FILES[name])
    device = runs[0]["device"]
    console.print(f"\n{_caption(job, runs)}", highlight=False)
    console.print(render(rows, device=device))
    ratio = arms_ratio(runs)
    if ratio is not None:
        console.print(f"NF4 arm over 16-bit arm, ours: {spread_text(ratio, 2)}", highlight=False)
    for line in caveats(rows):
        console.print(line, highlight=False)


def _report_run(run: Run, console: Console) -> None:
    console.print(
        f"round {run['round']}  {run['candidate']:<12} {run['tokens_per_second']:6.0f} tokens/s   "
        f"others used {run['others_share']:.0%} of the processors",
        highlight=False,
    )


def write(
    out: Path, job: Job, runs: Sequence[Run], rows: Sequence[Row], file: str = "bench.json"
) -> None:
    """Write a file with all runs and the summary into a folder, made if missing."""
    out.mkdir(parents=True, exist_ok=True)
    ratio = arms_ratio(runs)
    record: dict[str, Any] = {
        "version": 1,
        "machine": machine(),
        "model": job.model.model_dump(mode="json"),
        "train": job.train.model_dump(mode="json", exclude={"seed"}),
        "pairs": len(job.pairs),
        "warmup_steps": job.warmup_steps,
        "differences": list(DIFFERENCES),
        "caveats": caveats(rows),
        "summary": [row.to_record() for row in rows],
        "nf4_over_16bit": None if ratio is None else asdict(ratio),
        "runs": list(runs),
    }
    write_json(out / file, record)


def _caption(job: Job, runs: Sequence[Run]) -> str:
    run, batch = runs[0], job.train.batch_size
    return (
        f"{job.model.base} in {job.model.compute_dtype}, rank {job.train.rank}, {batch} pairs a step in "
        f"micro-batches of {min(job.train.micro_batch, batch)}, {len(runs)} runs, {run['device_name']}, "
        f"{run['threads']} threads"
    )


def main() -> int:
    """Run the comparison; exit code 1 with one line if it cannot be made."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_SMALLEST_CONSOLE)
    try:
        bench(parse(sys.argv[1:]), console)
    except AssistantBuilderError as error:
        sys.stderr.write(f"bench: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
