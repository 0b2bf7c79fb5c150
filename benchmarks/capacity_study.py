"""``python -m benchmarks.capacity_study STUDY``: what a finished study took, for :mod:`benchmarks.capacity`.

It writes ``benchmarks/capacity.json`` from the study's records and files, the time in which the home screen lists
copies of it, and the overhead that ``python -m benchmarks.ray_scheduling`` printed (``--scheduling FILE``; without it
the overhead that is in the file is kept).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assistant_builder import __version__
from assistant_builder.atomic_io import read_json, write_json
from assistant_builder.errors import AssistantBuilderError, StudyError
from assistant_builder.study import Study, studies_folder
from benchmarks.paths import temporary_home

FILE = Path(__file__).with_name("capacity.json")
_ONE_CORE = ("data", "data-embed", "report")
"""Steps that ask a cluster for one core; the others get all cores of the machine."""
_KINDS = {
    "adapter": "adapters",
    "checkpoints": "checkpoints",
    "formats": "GGUF files",
    "data": "data",
    "retrieval": "index",
    "embedder": "index",
}
"""Folder → kind of the files in it."""


def kind_of(path: Path) -> str:
    """The kind of a file, by its path in the study."""
    if path.name.endswith(".log.txt") or path.name in ("log.txt", "metrics.jsonl"):
        return "logs"
    if path.suffix == ".jsonl" and path.parts[0].startswith("evals"):
        return "samples"
    if path.name.startswith("report"):
        return "reports"
    return next((_KINDS[part] for part in path.parts[:-1] if part in _KINDS), "other")


def bytes_by_kind(folder: Path) -> dict[str, int]:
    """Bytes of the files of a study by kind, the largest first."""
    found: Counter[str] = Counter()
    for path in folder.rglob("*"):
        if path.is_file():
            found[kind_of(path.relative_to(folder))] += path.stat().st_size
    return dict(found.most_common())


def listing_seconds(study: Study, copies: int) -> tuple[float, float]:
    """Seconds a study in which the home screen lists copies for the first time, and again."""
    from assistant_builder.ui.home.view import list_studies

    with temporary_home():
        for number in range(copies):
            copy = studies_folder() / f"copy-{number}"
            shutil.copytree(study.folder, copy, copy_function=os.symlink)
        seconds = []
        for _ in range(2):
            began = time.perf_counter()
            listed = len(list_studies().entries)
            seconds.append((time.perf_counter() - began) / copies)
    if listed != copies:
        raise StudyError(
            f"the home screen lists {listed} of {copies} copies", where=str(study.folder)
        )
    return seconds[0], seconds[1]


def measure(study: Study, scheduling: dict[str, Any], copies: int) -> dict[str, Any]:
    """The content of ``capacity.json``.

    Raises:
        StudyError: The study is not finished.
    """
    if study.state != "succeeded":
        raise StudyError(
            f"the study is not finished ({study.state})",
            where=f"study {study.name}",
            remedy=f"Finish it with 'assistant-builder run {study.name}'",
        )
    cores, steps = os.cpu_count() or 1, {}
    for name in study.steps:
        record = study.step(name)
        steps[name] = {
            "seconds": round(record.seconds or 0.0, 3),
            "cpus": 1 if name in _ONE_CORE else cores,
        }
        if name not in _ONE_CORE and record.peak_memory_bytes:
            steps[name]["memory_bytes"] = record.peak_memory_bytes
    split = read_json(study.folder / "data" / "split.json")["counts"]
    trained = read_json(study.arm_folder(study.config.arms[0]) / "summary.json")
    first, again = listing_seconds(study, copies)
    return {
        "release": __version__,
        "cores": cores,
        "compute_dtype": trained["compute_dtype"],
        "base": study.config.model.base,
        "pairs": split["train"],
        "heldout": split["heldout"],
        "tokens": trained["tokens"],
        "steps": steps,
        "bytes": bytes_by_kind(study.folder),
        "first_listing_seconds": round(first, 7),
        "listing_seconds": round(again, 7),
        "scheduling": scheduling,
    }


def main(words: Sequence[str] | None = None) -> int:
    """Measure, and write the file."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.capacity_study", description=__doc__
    )
    parser.add_argument("study", help="name of a finished study")
    parser.add_argument(
        "--scheduling", type=Path, help="what benchmarks.ray_scheduling printed, as a file"
    )
    parser.add_argument(
        "--copies", type=int, default=100, help="number of copies that the home screen lists"
    )
    parser.add_argument("--to", type=Path, default=FILE, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    kept = json.loads(FILE.read_text(encoding="utf-8"))["scheduling"]
    try:
        scheduling = read_json(options.scheduling) if options.scheduling else kept
        write_json(options.to, measure(Study.open(options.study), scheduling, options.copies))
    except AssistantBuilderError as error:
        print(f"capacity_study: {error}", file=sys.stderr)
        return 1
    print(options.to)
    return 0


if __name__ == "__main__":
    sys.exit(main())
