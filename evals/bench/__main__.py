"""``python -m evals.bench``: compare training speed with plain and tuned TRL scripts; prints a table, writes files."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from assistant_builder.atomic_io import write_json, write_text
from assistant_builder.config import StudyConfig
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.planning.hardware import this_machine
from evals.bench import factory, picture, table
from evals.bench.contenders import CONTENDERS, DIFFERENCES, NAMES, Contender
from evals.bench.job import Job, make_job
from evals.bench.results import Row, Run, arms_ratio, remarks, summarize
from evals.bench.running import machine, run_all

SHIPPED = Path(__file__).resolve().parents[2] / "datasets_cards" / "ostrel-sound-ferries" / "data.jsonl"
_SMALLEST_CONSOLE = 130
"""Columns of the table where the output is no terminal."""


@dataclass(frozen=True)
class Options:
    """What was asked for.

    Attributes:
        data: Data file.
        rounds: How often each contender runs.
        steps: Timed optimizer steps of a run.
        warmup: Steps before them, not timed.
        validation: Pairs for the loss after training.
        contenders: Who takes part.
        llama_factory: Python of LLaMA-Factory's environment; None: it takes no part.
        changes: Settings to change, ``{"train.rank": "8"}``.
        out: Folder for ``bench.json`` and ``bench.svg``.
    """

    data: Path
    rounds: int
    steps: int
    warmup: int
    validation: int
    contenders: tuple[Contender, ...]
    llama_factory: Path | None
    changes: dict[str, str]
    out: Path


def parse(words: Sequence[str]) -> Options:
    """Read the command line; ``--quick`` sets what is not given to a trial's size."""
    parser = argparse.ArgumentParser(prog="python -m evals.bench", description=__doc__)
    parser.add_argument("--data", type=Path, default=SHIPPED, help="data file; its training split is used")
    parser.add_argument("--rounds", type=_positive, help="runs of each contender (5; quick: 1)")
    parser.add_argument("--steps", type=_positive, help="timed optimizer steps of a run (2; quick: 1)")
    parser.add_argument("--warmup", type=_positive, default=1, help="steps before them that are not timed (1)")
    parser.add_argument("--contenders", type=_contenders, default=CONTENDERS,
                        help=f"comma-separated, of {', '.join(NAMES)} (all)")
    parser.add_argument("--llama-factory", type=_program, metavar="PYTHON",
                        help="also LLaMA-Factory, by the Python of an environment in which it is installed")
    parser.add_argument("--set", action="append", type=_change, default=[], metavar="KEY=VALUE", dest="changes",
                        help="change a setting for all contenders, for example train.rank=8")
    parser.add_argument("--quick", action="store_true", help="a trial of under three minutes on two cores")
    parser.add_argument("--out", type=Path, default=Path("bench-results"), help="folder for the results")
    given = parser.parse_args(words)
    return Options(
        data=given.data,
        rounds=given.rounds or (1 if given.quick else 5),
        steps=given.steps or (1 if given.quick else 2),
        warmup=given.warmup,
        validation=8 if given.quick else 32,
        contenders=given.contenders + (factory.taking_part(this_machine().device) if given.llama_factory else ()),
        llama_factory=given.llama_factory,
        changes=dict(given.changes),
        out=given.out,
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


def _program(text: str) -> Path:
    found = shutil.which(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text} is no program")
    return Path(found).absolute()


def _contenders(text: str) -> tuple[Contender, ...]:
    wanted = [name.strip() for name in text.split(",")]
    unknown = [name for name in wanted if name not in NAMES]
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: choose from {', '.join(NAMES)}")
    return tuple(contender for contender in CONTENDERS if contender.name in wanted)


def _change(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key.strip(), value


def bench(options: Options, console: Console) -> None:
    """Measure, print, write.

    Raises:
        AssistantBuilderError: The data, the base or a contender cannot be used.
    """
    config = StudyConfig().with_changes({"data.source": str(options.data), **options.changes})
    job = make_job(
        config, warmup_steps=options.warmup, timed_steps=options.steps, validation_pairs=options.validation
    )
    if options.llama_factory is not None:
        os.environ[factory.VARIABLE] = str(options.llama_factory)
    count = options.rounds * len(options.contenders)
    console.print(
        f"{count} runs of {job.steps} steps of {job.train.batch_size} pairs, {options.warmup} of them not timed",
        highlight=False,
    )
    began = time.monotonic()
    runs = run_all(job, options.contenders, options.rounds, lambda run: _report_run(run, console))
    rows = summarize(runs)
    write(options.out, job, runs, rows)
    device = runs[0]["device"]
    console.print(f"\n{_caption(job, runs)}", highlight=False)
    console.print(table.render(rows, device=device))
    ratio = arms_ratio(runs)
    if ratio is not None:
        console.print(f"NF4 arm over 16-bit arm, ours: {table.spread(ratio, 2)}", highlight=False)
    for line in (*remarks(rows), "", *DIFFERENCES):
        console.print(line, highlight=False)
    seconds = time.monotonic() - began
    console.print(f"\n{seconds:.0f} s. Written to {options.out}: bench.json, bench.svg", highlight=False)


def _report_run(run: Run, console: Console) -> None:
    console.print(
        f"round {run['round']}  {run['contender']:<12} {run['tokens_per_second']:6.0f} tokens/s   "
        f"others used {run['others_share']:.0%} of the processors", highlight=False,
    )


def write(out: Path, job: Job, runs: Sequence[Run], rows: Sequence[Row]) -> None:
    """Write ``bench.json`` (all runs and the summary) and ``bench.svg`` into a folder, made if missing."""
    out.mkdir(parents=True, exist_ok=True)
    ratio = arms_ratio(runs)
    record: dict[str, Any] = {
        "version": 1, "machine": machine(), "model": job.model.model_dump(mode="json"),
        "train": job.train.model_dump(mode="json", exclude={"seed"}), "pairs": len(job.pairs),
        "warmup_steps": job.warmup_steps, "differences": list(DIFFERENCES), "remarks": remarks(rows),
        "summary": [row.to_record() for row in rows],
        "nf4_over_16bit": None if ratio is None else asdict(ratio),
        "runs": list(runs),
    }
    write_json(out / "bench.json", record)
    speeds: dict[str, list[float]] = {}
    for run in runs:
        speeds.setdefault(run["contender"], []).append(run["tokens_per_second"])
    write_text(out / "bench.svg", picture.draw(rows, speeds, _caption(job, runs)))


def _caption(job: Job, runs: Sequence[Run]) -> str:
    run, batch = runs[0], job.train.batch_size
    return (f"{job.model.base} in {job.model.compute_dtype}, rank {job.train.rank}, {batch} pairs a step in "
            f"micro-batches of {min(job.train.micro_batch_size, batch)}, {len(runs)} runs, {run['device_name']}, "
            f"{run['threads']} threads")


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
