"""Take the figures of finished studies: their records, their files, and what watching and listing them costs."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from assistant_builder.atomic_io import read_json, read_jsonl
from assistant_builder.errors import EvaluationError
from assistant_builder.models.catalog import resolve
from assistant_builder.models.download import fetch
from assistant_builder.models.remote_code import allows_code
from assistant_builder.steps import arm_runs, split_run
from assistant_builder.study import Study
from assistant_builder.ui.home.study_list import KEPT_ENTRIES, read_shelf
from evals.capacity.measured import KINDS, Measured, Scheduling, StepFigures

LISTED = 200
"""Studies of the home screen whose listing is timed."""
_LOOKS = 100


def measure(names: Sequence[str], scheduling: Path | None = None) -> Measured:
    """Take the figures of finished studies that ran on machines alike.

    Args:
        names: The studies.
        scheduling: What ``python -m evals.bench.scheduling`` printed, as a file.

    Raises:
        AssistantBuilderError: A study is missing, not finished or damaged, or they ran on machines that differ.
    """
    studies = [Study.open(name) for name in names]
    for study in studies:
        if study.state != "succeeded":
            raise EvaluationError(f"it is {study.state}, and only finished studies tell what they took",
                                  where=f"study {study.name}", remedy=f"Run 'assistant-builder run {study.name}' first")
    first = studies[0]
    kinds = {_machine(study) for study in studies}
    if len(kinds) != 1:
        raise EvaluationError(f"they ran on machines that differ: {sorted(kinds)}", where=f"studies {', '.join(names)}",
                              remedy="Measure those of one kind of machine")
    ((device, cores, compute_dtype, base),) = kinds
    summaries = [summary for study in studies for summary in _summaries(study)]
    trainings = [(study, run) for study in studies for run in arm_runs(study.config.seeds)]
    splits = [read_json(study.folder / "data" / "split.json")["counts"] for study in studies]
    first_look, later_look = listing_seconds(first)
    return Measured(
        studies=len(studies), device=device, cores=cores, compute_dtype=compute_dtype, base=base,
        base_bytes=_base_bytes(first), pairs=_middle(split["train"] for split in splits),
        heldout=_middle(split["heldout"] for split in splits),
        tokens=_middle(summary["tokens"] for summary in summaries),
        optimizer_steps=_middle(summary["steps"] for summary in summaries),
        checkpoints=_middle(_validations(study, run) for study, run in trainings),
        checkpoints_kept=_middle(_kept(study, run) for study, run in trainings),
        steps=_steps(studies), bytes=_bytes(studies), watching_seconds=watching_seconds(first),
        first_listing_seconds=first_look, listing_seconds=later_look, scheduling=_scheduling(scheduling),
    )


def _machine(study: Study) -> tuple[Any, ...]:
    """Device, processors, arithmetic and base model."""
    summary = _summaries(study)[0]
    cores = read_json(study.folder / "provenance.json")["hardware"]["cores"]
    return summary["device"], cores, summary["compute_dtype"], study.config.model.base


def _summaries(study: Study) -> list[dict[str, Any]]:
    return [read_json(study.arm_folder(run) / "summary.json") for run in arm_runs(study.config.seeds)]


def _middle(values: Iterable[float]) -> int:
    return round(statistics.median(values))


def _base_bytes(study: Study) -> int:
    model = study.config.model
    ref = resolve(model.base, trust_remote_code=allows_code(model))
    folder = fetch(ref, revision=model.revision, trust_remote_code=allows_code(model))
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# the steps


def _validations(study: Study, run: str) -> int:
    events = read_jsonl(study.arm_folder(run) / "metrics.jsonl")
    return max(1, sum(event["event"] == "validation" for event in events))


def _kept(study: Study, run: str) -> int:
    return sum(1 for _ in (study.arm_folder(run) / "checkpoints").glob("checkpoint-*"))


def _steps(studies: Sequence[Study]) -> dict[str, StepFigures]:
    found = sorted((figures for study in studies for figures in _records(study)), key=lambda pair: pair[0])
    return {
        name: StepFigures(
            seconds=round(statistics.median(each.seconds for each in group), 3), cpus=group[0].cpus, gpus=group[0].gpus,
            peak_memory_bytes=_middle(each.peak_memory_bytes for each in group),
            kept_seconds=round(statistics.median(each.kept_seconds for each in group), 3),
        )
        for name, pairs in groupby(found, key=lambda pair: pair[0]) for group in [[figures for _, figures in pairs]]
    }


def _records(study: Study) -> Iterator[tuple[str, StepFigures]]:
    for step in study.steps:
        record, run = study.step(step), step.removeprefix("train-")
        name, parts = step, 1
        if step.startswith("train-"):
            name, parts = f"train-{split_run(run)[0]}", _validations(study, run)
        elif step == "evaluate":
            parts = len(study.config.eval.cells)  # a scored cell is kept
        cpus, gpus = _share(study, step)
        records = [record, *(study.step(part) for part in study.parts if step == "evaluate")]
        seconds = sum(each.seconds for each in records)
        yield name, StepFigures(
            seconds=seconds, cpus=cpus, gpus=gpus, kept_seconds=max(seconds / parts, 0.001),
            peak_memory_bytes=max(each.peak_memory_bytes or 0 for each in records),
        )


def _share(study: Study, step: str) -> tuple[int, int]:
    """Processors and GPUs that a step had: what it would ask a node of a cluster for."""
    if not step.startswith("train-") and step != "evaluate":
        return 1, 0
    device, cores, *_ = _machine(study)
    executor = study.config.executor
    if executor.kind == "local":
        return (1, 1) if device == "cuda" else (cores, 0)
    cpus, gpus = (
        (executor.evaluate_cpus, executor.evaluate_gpus) if step == "evaluate"
        else (executor.train_cpus, executor.train_gpus)
    )
    return max(1, int(cpus)), round(gpus or 0)


# the files


def _bytes(studies: Sequence[Study]) -> dict[str, int]:
    counted = [_counted(study) for study in studies]
    return {kind: _middle(each[kind] for each in counted) for kind in KINDS}


def _counted(study: Study) -> dict[str, float]:
    found: Counter[str] = Counter()
    for path in study.folder.rglob("*"):
        if path.is_file():
            found[kind_of(path.relative_to(study.folder))] += path.stat().st_size
    trainings = len(arm_runs(study.config.seeds))
    return {kind: found[kind] / (trainings if kind in ("adapters", "checkpoints") else 1) for kind in KINDS}


def kind_of(path: Path) -> str:
    """The kind of a file, by its path inside the study's folder."""
    top, name = path.parts[0], path.name
    if name.endswith("log.txt") or name == "metrics.jsonl" or name.endswith(".progress.json"):
        return "logs"
    if top == "arms":
        inside = path.parts[2] if len(path.parts) > 3 else ""
        return {"adapter": "adapters", "checkpoints": "checkpoints"}.get(inside, "other")
    return {"evals": "samples", "data": "data"}.get(top, "reports" if top.startswith("report") else "other")


# what watches and lists


def watching_seconds(study: Study) -> float:
    """Processor time of one look of a run at its study while both arms train, as ``jobs.cluster`` looks."""
    began = time.process_time()
    for _ in range(_LOOKS):
        for step in ("train-lora", "train-qlora"):
            study.step(step)
            study.progress(step)
    return (time.process_time() - began) / _LOOKS


def listing_seconds(study: Study) -> tuple[float, float]:
    """What a study adds to the first look of the home screen, and to every later one."""
    count = min(LISTED, KEPT_ENTRIES)
    with _shelf_of(study, count):
        began = time.perf_counter()
        read_shelf()
        first = time.perf_counter()
        read_shelf()
        return (first - began) / count, (time.perf_counter() - first) / count


@contextmanager
def _shelf_of(study: Study, count: int) -> Iterator[None]:
    """A home in which a study stands many times, as links."""
    before = os.environ.get("ASSISTANT_BUILDER_HOME")
    with tempfile.TemporaryDirectory() as home:
        (Path(home) / "studies").mkdir()
        for number in range(count):
            (Path(home) / "studies" / f"study-{number}").symlink_to(study.folder.resolve())
        os.environ["ASSISTANT_BUILDER_HOME"] = home
        try:
            yield
        finally:
            if before is None:
                del os.environ["ASSISTANT_BUILDER_HOME"]
            else:
                os.environ["ASSISTANT_BUILDER_HOME"] = before


def _scheduling(path: Path | None) -> Scheduling | None:
    if path is None:
        return None
    try:
        return Scheduling.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        raise EvaluationError("it is not what evals.bench.scheduling prints", where=str(path),
                              remedy="python -m evals.bench.scheduling > FILE makes one") from error
