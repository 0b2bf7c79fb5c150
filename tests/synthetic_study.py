"""Study folders like those of real runs, generated without a model."""

import json
import math
import os
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from assistant_builder.arms import ARMS
from assistant_builder.atomic_io import append_jsonl, file_hash, read_jsonl, write_json
from assistant_builder.config import StudyConfig, parse_config
from assistant_builder.data import Pair, prepare_dataset
from assistant_builder.study import Study
from assistant_builder.study.addresses import allow_addresses
from assistant_builder.study.steps import Progress, StepRecord
from evals.metrics import METRICS
from tests.measured_study import with_everything, with_what_one_arm_has, write_scored

CARDS = Path(__file__).parents[1] / "datasets_cards"
SMALL = CARDS / "thimble-row-library" / "data.csv"
LARGE = CARDS / "ostrel-sound-ferries" / "data.jsonl"
_LEVELS = {
    "B16": 2.10,
    "B4": 2.34,
    "L16": 0.71,
    "Q4": 0.74,
    "L4": 0.73,
    "Q16": 0.755,
    "QD": 0.741,
    "QR": 0.752,
    "LM": 0.711,
    "LR": 0.736,
    "QT": 0.735,
    "QTM": 0.78,
}
_ONLY_FORCED = ("L4",)
FOUR_BIT = ("B4", "Q4", "L4", "QR", "LR")


def new_study(name: str = "library", source: Path = SMALL, **changes: Any) -> Study:
    """A new study; ``changes`` are dotted keys with ``__`` for the dot."""
    config = StudyConfig().with_changes(
        {
            "approaches": ["memory"],
            "eval.primary_metric": "nll_per_token",
            "eval.margin": 0.03,
            "formats.types": [],
            **{key.replace("__", "."): value for key, value in changes.items()},
        }
    )
    allow_addresses(config.addresses.values())  # whoever makes a study types its addresses
    tree = config.model_dump(mode="json")
    tree["name"] = name
    tree["data"]["source"] = source.name
    return Study.create(parse_config(tree), source)


def with_data(study: Study) -> Study:
    """Add the results of the data steps."""
    assert study.source is not None
    prepare_dataset(study.source, study.config.data, folder=study.folder / "data", title=study.name)
    for step in ("data", "data-embed"):
        done(study, step, 1.4)
    return study


def done(study: Study, step: str, seconds: float) -> None:
    """Mark a step as finished."""
    study.write_step(StepRecord(step, state="succeeded", started=1_700_000_000.0, seconds=seconds))


def running(study: Study, step: str, progress: Progress | None = None) -> None:
    """Mark a step as running in this process."""
    process = psutil.Process()
    study.write_step(
        StepRecord(
            step,
            state="running",
            started=process.create_time(),
            pid=process.pid,
            process_started=process.create_time(),
        )
    )
    if progress is not None:
        study.write_progress(step, progress)
    study.write_run_record("running")


def step_event(step: int, of: int, loss: float, seconds: float, **more: Any) -> dict[str, Any]:
    """The event of an optimizer step that took so many seconds."""
    return {
        "event": "step",
        "step": step,
        "steps": of,
        "loss": loss,
        "learning_rate": 4e-4,
        "grad_norm": 1.1,
        "tokens_per_second": 301.0,
        "memory_bytes": 1_900_000_000,
        "elapsed_seconds": seconds * step,
        "eta_seconds": seconds * (of - step),
        **more,
    }


def validation_event(step: int, of: int, loss: float, seconds: float) -> dict[str, Any]:
    """The event of a validation after a step."""
    event = {"event": "validation", "step": step, "steps": of, "loss": loss}
    return {**event, "best": True, "elapsed_seconds": seconds * step}


def arm_files(study: Study, arm: str, storage: str, **more: Any) -> None:
    """Write ``config.json`` and ``summary.json`` of an arm that was trained for 60 steps."""
    known = {
        "arm": arm,
        "base_storage": storage,
        "compute_dtype": "bfloat16",
        "device": "cpu",
    }
    config = study.config.model_dump(mode="json")
    write_json(
        study.arm_folder(arm) / "config.json",
        {**known, "model": config["model"], "train": config["train"]},
    )
    write_json(
        study.arm_folder(arm) / "summary.json",
        {
            **known,
            "steps": 60,
            "epochs": 3.0,
            "base_bytes": 269_000_000 if storage == "float16" else 110_000_000,
            "adapter_bytes": 19_500_000,
            "trainable_parameters": 4_884_480,
            "total_parameters": 139_400_000,
            "best_step": 60,
            "gradient_checkpointing": False,
            **more,
        },
    )


def with_metrics(study: Study, arm: str, steps: int, of: int = 60) -> Study:
    """Add the events of an arm's first ``steps`` steps."""
    path = study.arm_folder(arm) / "metrics.jsonl"
    floor = 0.6 if arm == "lora" else 0.66
    for step in range(1, steps + 1):
        loss = floor + 1.9 * math.exp(-step / 14) + 0.05 * math.sin(step * 1.7)
        epoch, tokens = 3 * step / of, step * 900
        append_jsonl(path, step_event(step, of, loss, 3.0, epoch=epoch, tokens=tokens))
        if step % 15 == 0:
            append_jsonl(path, validation_event(step, of, loss + 0.15, 3.0))
    return study


def trained(study: Study) -> Study:
    """Add the trained arms of the study."""
    for arm in study.config.arms:
        with_metrics(study, arm, 60)
        arm_files(
            study,
            arm,
            "float16" if arm == "lora" else "nf4",
            train_seconds=186.0 if arm == "lora" else 214.0,
            tokens_per_second=301.0 if arm == "lora" else 276.0,
            tokens=54_000,
            peak_memory_bytes=2_600_000_000,
            total_parameters=139_399_488,
            best_validation_loss=0.79,
            adapter_sha256=f"{arm}0" * 8,
        )
        done(study, f"train-{arm}", 190.0)
    return study


def evaluated(study: Study) -> Study:
    """Add scored cells (tuned ones mostly correct, untuned ones wrong) and the additional measurements."""
    pairs = [
        Pair.from_record(record, "heldout") for record in read_jsonl(study.split_file("heldout"))
    ]
    for cell in study.config.cells:
        level = _LEVELS[cell]
        samples = [_sample(cell, level, place, pair) for place, pair in enumerate(pairs)]
        write_scored(
            study,
            cell,
            samples,
            declining={
                "answerable_items": len(samples),
                "false_declines": 0,
                "unanswerable_items": 0,
                "declined": 0,
            },
            base="4-bit" if cell in FOUR_BIT else "float16",
            adapter={"L": "lora", "Q": "qlora"}.get(cell[0]),
            base_bytes=110_000_000 if cell in FOUR_BIT else 269_000_000,
            compute_dtype="bfloat16",
            seconds={"load": 1.0, "nll": 8.0, "generate": 30.0, "similarity": 2.0},
            batch_size=16,
        )
    if study.config.compares:
        with_everything(study, seeds=study.config.seeds)
    else:
        with_what_one_arm_has(study)
    done(study, "evaluate", 164.0)
    return study


def _sample(cell: str, level: float, place: int, pair: Pair) -> dict[str, Any]:
    arm = cell[0] if cell[0] in "LQ" else None
    right = arm is not None and (place + (3 if arm == "Q" else 0)) % 4 != 0
    answer = pair.answer if right else "That is a question for the front desk."
    tokens = max(3, len(pair.answer.split()))
    per_token = level * (
        1 + 0.25 * math.sin(place * 1.3 + (1 if arm is None else 0.05 * len(cell)))
    )
    scores = {
        "exact_match": float(right),
        **dict.fromkeys(("token_f1", "rouge_l", "chrf", "similarity"), 1.0 if right else 0.3),
    }
    if any(char.isdecimal() for char in pair.answer):
        scores["facts_kept"] = float(right)
    return {
        "item": str(pair.row),
        "row": pair.row,
        "turn": 0,
        "cluster": pair.cluster,
        "answerable": pair.answerable,
        "question": pair.question,
        "prompt": [message.to_record() for message in pair.messages[:-1]],
        "reference": pair.answer,
        "answer": None if cell in _ONLY_FORCED else answer,
        "nll": per_token * tokens,
        "tokens": tokens,
        "declined": None if cell in _ONLY_FORCED else right and not pair.answerable,
        "mean_probability": min(0.99, math.exp(-per_token) * (1.2 if right else 0.8)),
        "metrics": {"nll_per_token": per_token, **({} if cell in _ONLY_FORCED else scores)},
    }


def reported(study: Study) -> Study:
    """Add the report, rendered by the product."""
    from evals.report.build import write_report

    write_report(study)
    done(study, "report", 0.8)
    return study


def finished_study(name: str = "library", source: Path = SMALL, **changes: Any) -> Study:
    """A study with all steps done; ``changes`` as for :func:`new_study`.

    It is made once in a process, with its report by the product, and written again for each test that asks for it.
    """
    asked = json.dumps(
        [name, source.name, file_hash(source), changes, list(METRICS), list(ARMS)], sort_keys=True
    )
    if asked not in _FINISHED:
        study = reported(evaluated(trained(with_data(new_study(name, source, **changes)))))
        assert all(study.step(step).state == "succeeded" for step in study.steps)
        _FINISHED[asked] = {
            path.relative_to(study.folder): (path.read_bytes(), path.stat().st_mtime_ns)
            for path in study.folder.rglob("*")
            if path.is_file()
        }
        return study
    study = Study.create_folder(name, partial(_write_again, _FINISHED[asked]))
    allow_addresses(study.config.addresses.values())
    return study


def at_first_verdict(study: Study) -> Study:
    """Take from a finished study what is scored after its first verdict, whose report is written by the product."""
    from evals.report.build import write_report
    from evals.work_items import first_cells

    for view in study.views:
        first = first_cells(view.config.arms)
        gone = [
            *(view.cell_folder(cell) for cell in view.config.cells if cell not in first),
            *(view.cell_folder(cell) / "tasks" for cell in first),
            *(view.evals_folder / name for name in ("noise", "formats", "baselines/retrieval")),
        ]
        for folder in gone:
            shutil.rmtree(folder, ignore_errors=True)
        for name in ("fidelity.json", "judge.json"):
            (view.evals_folder / name).unlink(missing_ok=True)
    for step in ("formats", "report"):
        study.status_file(step).unlink(missing_ok=True)
    for path in study.folder.glob("report*.*"):
        path.unlink()
    running(study, "evaluate", Progress(30, 100, "%", "QD: scoring", 60.0))
    write_report(study)
    study.record_first_verdict()
    return study


_FINISHED: dict[str, dict[Path, tuple[bytes, int]]] = {}
"""What was asked for → the files of the study, with the times at which they were written."""


def _write_again(files: dict[Path, tuple[bytes, int]], folder: Path) -> None:
    """Write files as if they had been written now, one after the other as they were."""
    later = time.time_ns() - max(written for _, written in files.values())
    for path, (content, written) in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
        os.utime(folder / path, ns=(written + later, written + later))
