"""``python -m benchmarks.scaling [FILE]``: how time and memory of each step grow with pairs, answer length and rank.

All steps except training must grow at most linearly. Each size is measured in its own process, in CPU seconds, so that
other processes do not count. Without a file the pairs are generated from a few hundred random words; one question in
ten rewords an earlier one.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from assistant_builder.atomic_io import append_jsonl, write_json, write_jsonl
from assistant_builder.child_process import peak_memory_bytes
from assistant_builder.config import StudyConfig
from assistant_builder.data import (
    SplitName,
    check_pairs,
    find_embedding_leaks,
    load_pairs,
    load_split,
    prepare_dataset,
    split_pairs,
)
from assistant_builder.planning.plan import plan_study
from benchmarks.candidates import run_case
from benchmarks.doc_tables import write_section
from evals.compare import paired_comparison
from evals.report.number_format import size

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
ROWS = (100, 1_000, 10_000)
LENGTHS = (1, 4)
"""Repetitions of each answer."""
RANKS = (8, 16, 64, 256)
LENGTH_ROWS = 1_000
_OUTSIDE: tuple[SplitName, ...] = ("train", "validation")
_WORDS = 400


def generated_pairs(rows: int, seed: int = 0) -> Iterator[dict[str, str]]:
    """Generated pairs, the same in every run; one question in ten is an earlier one with another word."""
    rng = random.Random(seed)
    words = [
        "".join(rng.choices("abcdefghijklmnoprstuvw", k=rng.randint(3, 9))) for _ in range(_WORDS)
    ]
    asked: list[str] = []
    for _ in range(rows):
        if asked and rng.random() < 0.1:
            question = f"{rng.choice(asked)} please"
        else:
            question = " ".join(rng.choices(words, k=12))
            asked.append(question)
        yield {"question": question, "answer": " ".join(rng.choices(words, k=30))}


def pairs_of(file: Path | None, rows: int, length: int) -> list[dict[str, Any]]:
    """The first rows of a JSONL file, gzipped or not, repeated if it has too few; answers are repeated."""
    if file is None:
        found: list[dict[str, Any]] = list(generated_pairs(rows))
    else:
        opened = (
            gzip.open(file, "rt", encoding="utf-8")
            if file.suffix == ".gz"
            else file.open(encoding="utf-8")
        )
        with opened as lines:
            found = [json.loads(line) for _, line in zip(range(rows), lines, strict=False)]
        found += [
            {**found[at % len(found)], "question": f"{found[at % len(found)]['question']} ({at})"}
            for at in range(len(found), rows)
        ]
    return [{**pair, "answer": " ".join([str(pair["answer"])] * length)} for pair in found]


def measure(file: Path | None, rows: int, length: int) -> dict[str, Any]:
    """Measure the steps that read all pairs, in this process: CPU seconds, and peak bytes without the libraries."""
    from assistant_builder.models.bundled import ensure_base_model
    from assistant_builder.models.chat_template import ChatTokenizer
    from assistant_builder.models.embedding import Embedder
    from assistant_builder.training.schedule import sample_order

    config = StudyConfig()
    prompter, embedder = ChatTokenizer.load(ensure_base_model()), Embedder.load()
    embedder.encode(["what is loaded only when it is used"])
    seconds: dict[str, float] = {}
    held = psutil.Process().memory_info().rss
    with tempfile.TemporaryDirectory() as scratch:
        source, folder = Path(scratch) / "pairs.jsonl", Path(scratch) / "data"
        write_jsonl(source, pairs_of(file, rows, length))

        def timed(step: str, work: Callable[[], Any]) -> Any:
            started = time.process_time()
            result = work()
            seconds[step] = time.process_time() - started
            return result

        dataset = timed("read", lambda: load_pairs(source))
        findings = timed("check, near-duplicates included", lambda: check_pairs(dataset))
        timed("split", lambda: split_pairs(findings.usable, config.data))
        timed(
            "data step, tokens counted",
            lambda: prepare_dataset(
                source, config.data, tokenizer=prompter, folder=folder, title="rows"
            ),
        )
        examples = timed(
            "tokenise for training",
            lambda: [
                example
                for pair in load_split(folder, "train")
                for example in prompter.examples(pair, 512)
            ],
        )
        timed(
            "order of training",
            lambda: sample_order([len(one.input_ids) for one in examples], config.train),
        )
        heldout = load_split(folder, "heldout")
        outside = [(pair, split) for split in _OUTSIDE for pair in load_split(folder, split)]

        def compare_by_meaning() -> None:
            vectors = embedder.encode(
                [pair.compared_question for pair in (*heldout, *(pair for pair, _ in outside))]
            )
            find_embedding_leaks(
                heldout,
                outside,
                vectors[: len(heldout)],
                vectors[len(heldout) :],
                config.data.embedding_threshold,
            )

        timed("compare questions by meaning", compare_by_meaning)
        rng = random.Random(0)
        before = [rng.gauss(1.0, 0.3) for _ in range(rows)]
        after = [loss + rng.gauss(0.0, 0.1) for loss in before]
        clusters = [item // 3 for item in range(rows)]
        timed(
            "compare two assistants on as many items",
            lambda: paired_comparison(
                before, after, clusters=clusters, margin=0.03, higher_is_better=False
            ),
        )
    return {
        "rows": rows,
        "length": length,
        "seconds": seconds,
        "bytes": max(0, peak_memory_bytes("cpu") - held),
    }


def measure_all(
    file: Path | None,
    rows: Sequence[int],
    lengths: Sequence[int],
    on_run: Callable[[dict[str, Any]], None],
) -> None:
    """Measure every number of rows, and for :data:`LENGTH_ROWS` every length, each in its own process.

    Raises:
        EvaluationError: A process failed.
    """
    cases = [(many, 1) for many in rows] + [
        (LENGTH_ROWS, length) for length in lengths if length > 1
    ]
    for case in cases:
        on_run(
            run_case(
                "benchmarks.scaling",
                *([str(file)] if file else []),
                "--case",
                json.dumps(case),
                remedy="Use fewer rows: --rows 100 1000",
            )
        )


def exponent(few: float, many: float, times: float) -> float:
    """The power with which a quantity grows: 1 is linear, 2 is quadratic."""
    return math.log(max(many, 1e-9) / max(few, 1e-9)) / math.log(times)


def table(runs: Sequence[dict[str, Any]]) -> str:
    """Tables of time and memory by rows and length with the growth exponents, and of the rank."""
    plain = sorted((run for run in runs if run["length"] == 1), key=lambda run: run["rows"])
    wide = [run for run in runs if run["length"] > 1]
    heads = [f"{run['rows']:,} pairs" for run in plain]
    heads += [f"{run['rows']:,}, answers {run['length']} × as long" for run in wide]
    lines = [
        f"| step | {' | '.join(heads)} | grows with the power |",
        "| --- |" + " ---: |" * (len(heads) + 1),
    ]
    times = plain[-1]["rows"] / plain[-2]["rows"] if len(plain) > 1 else 0.0
    for step in plain[0]["seconds"]:
        cells = [f"{run['seconds'][step]:.2f} s" for run in (*plain, *wide)]
        power = (
            exponent(plain[-2]["seconds"][step], plain[-1]["seconds"][step], times)
            if times
            else 0.0
        )
        lines.append(f"| {step} | {' | '.join(cells)} | {power:.2f} |")
    peaks = [size(run["bytes"]) for run in (*plain, *wide)]
    power = exponent(plain[-2]["bytes"], plain[-1]["bytes"], times) if times else 0.0
    lines.append(f"| memory, libraries left out | {' | '.join(peaks)} | {power:.2f} |")
    return "\n".join([*lines, "", *rank_table()])


def rank_table() -> list[str]:
    """Planned effect of the rank: trained values, and bytes of adapters, gradients and optimizer."""
    lines = [
        "| rank | trained values | adapters, gradients, optimizer | work of a training |",
        "| ---: | ---: | ---: | ---: |",
    ]
    plans = {
        rank: plan_study(StudyConfig().with_changes({"train.rank": rank})).lora for rank in RANKS
    }
    least = plans[RANKS[0]].work.flops
    for rank, plan in plans.items():
        held = plan.adapter_bytes + plan.gradient_bytes + plan.optimizer_bytes
        lines.append(
            f"| {rank} | {plan.trained_parameters:,} | {size(held)} | {plan.work.flops / least:.2f} × |"
        )
    return lines


def main(words: Sequence[str] | None = None) -> None:
    """Measure all sizes, or one case in a child process."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument(
        "file", type=Path, nargs="?", help="JSONL of question and answer, gzipped or not"
    )
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument(
        "--write", action="store_true", help="write the tables into docs/benchmarks.md"
    )
    parser.add_argument("--out", type=Path, default=Path("bench-results") / "scaling.jsonl")
    args = parser.parse_args(words)
    if args.case is not None:
        write_json(args.out, measure(args.file, *args.case))
        return
    runs: list[dict[str, Any]] = []

    def on_run(run: dict[str, Any]) -> None:
        runs.append(run)
        append_jsonl(args.out, run)

    args.out.unlink(missing_ok=True)
    measure_all(args.file, args.rows, args.lengths, on_run)
    text = table(runs)
    print(text)
    if args.write:
        write_section("scaling", text, PAGE)


if __name__ == "__main__":
    main()
