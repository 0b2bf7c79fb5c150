"""Tasks beside the held-out set: general knowledge that tuning may have cost, and lm-eval tasks that were asked for.

Each is compared document by document: one that the untuned base got right and the tuned one gets wrong was forgotten.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from assistant_builder.config import EvalConfig
from assistant_builder.files import read_jsonl
from assistant_builder.study import Study
from evals.compare import holm, paired_comparison
from evals.report.contrasts import HEADLINE, PAIRS, clearly_better, clearly_worse, figures_of
from evals.report.reading import BASELINE, CANDIDATE, Cell
from evals.report.wording import difference, interval, number, plural, shown
from evals.retention import TASK as RETENTION

CELLS = ("B16", "B4", BASELINE, CANDIDATE)
"""The cells on which tasks are run."""
_LISTED = 12
_PREFERRED = ("acc", "acc_norm", "exact_match", "f1")
_LOWER_IS_BETTER = ("perplexity", "bits_per_byte", "brier_score", "mse", "ter", "wer")
_TEXTS = {
    RETENTION: ("General knowledge", "Multiple-choice questions of general knowledge that have nothing to do with the "
                "training data and come with assistant-builder: what tuning makes the model forget. Guessing gives "
                "25%."),
}
_MEANINGS = {pair.name: pair.meaning for pair in PAIRS}
_TUNING = (
    (BASELINE, "B16", "16-bit LoRA", "the untuned 16-bit base"),
    (CANDIDATE, "B4", "QLoRA", "the untuned 4-bit base"),
)

DocId = int | str
Documents = dict[DocId, dict[str, Any]]


def task_records(study: Study, cells: Mapping[str, Cell]) -> dict[str, dict[str, Any]]:
    """Every task that was run on the study's cells.

    Args:
        study: The study.
        cells: The scored cells.

    Returns:
        Task → ``label about metric items cells contrasts flips listed sentence error``. A task without figures
        has an ``error`` that says why. ``p_value_holm`` is adjusted over the tasks of the same contrast.
    """
    config = study.config.eval
    wanted = dict.fromkeys([RETENTION] * config.retention + config.tasks)
    records = {}
    for task in wanted:
        found: dict[str, Documents] = {}
        for name in CELLS:
            lines = read_jsonl(study.cell_folder(name) / "tasks" / f"{task}.jsonl") if name in cells else []
            if lines:
                found[name] = {line["doc_id"]: line for line in lines}
        if found:
            records[task] = _record(task, found, config)
    _adjust(records)
    for task, record in records.items():
        record["sentence"] = _sentence(task, record)
    return records


def _base(task: str) -> dict[str, Any]:
    label, about = _TEXTS.get(task, (task, f"The task {task} of lm-eval."))
    return {"label": label, "about": about, "metric": None, "items": 0, "cells": {}, "contrasts": [], "flips": {},
            "listed": [], "sentence": "", "error": None}


def _record(task: str, found: Mapping[str, Documents], config: EvalConfig) -> dict[str, Any]:
    metric = _metric(found)
    if metric is None:
        return {**_base(task), "error": "none of its scores is a number for each document"}
    common = set.intersection(*(
        {doc_id for doc_id, document in documents.items() if _value(document, metric) is not None}
        for documents in found.values()
    ))
    ids = sorted(common)
    values = {cell: [float(documents[doc_id]["metrics"][metric]) for doc_id in ids]
              for cell, documents in found.items()}
    record = {
        **_base(task), "metric": metric, "items": len(ids),
        "cells": {cell: math.fsum(scores) / len(scores) for cell, scores in values.items() if scores},
    }
    for candidate, baseline in (("L16", "B16"), ("Q4", "B4"), (CANDIDATE, BASELINE)):
        if candidate in values and baseline in values and len(ids) > 1:
            name = f"{candidate}-{baseline}"
            result = paired_comparison(
                values[baseline], values[candidate], higher_is_better=_higher_is_better(metric), seed=config.seed,
                resamples=config.bootstrap_resamples,
            )
            record["contrasts"].append({"name": name, "metric": metric, "baseline": baseline, "candidate": candidate,
                                        "meaning": _MEANINGS[name], **figures_of(result)})
            if set(values[baseline]) | set(values[candidate]) <= {0.0, 1.0}:
                both = list(zip(ids, values[baseline], values[candidate], strict=True))
                record["flips"][name] = {"lost": [doc_id for doc_id, before, after in both if before > after],
                                         "gained": [doc_id for doc_id, before, after in both if after > before]}
    record["listed"] = _forgotten(record["flips"], found) if task == RETENTION else []
    return record


def _metric(found: Mapping[str, Documents]) -> str | None:
    """The metric a task is shown by: accuracy where there is one, else the first number there is."""
    first: Mapping[str, Any] = next(iter(next(iter(found.values())).values()), {"metrics": {}})
    names = [name for name in first["metrics"] if _value(first, name) is not None]
    return next((name for name in (*_PREFERRED, *names) if name in names), None)


def _value(document: Mapping[str, Any], metric: str) -> float | None:
    value = document["metrics"].get(metric)
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _higher_is_better(metric: str) -> bool:
    return not any(metric.endswith(name) for name in _LOWER_IS_BETTER)


def _adjust(records: Mapping[str, dict[str, Any]]) -> None:
    rows = [row for record in records.values() for row in record["contrasts"]]
    for name in {row["name"] for row in rows}:
        family = [row for row in rows if row["name"] == name]
        for row, adjusted in zip(family, holm([row["p_value"] for row in family]), strict=True):
            row["p_value_holm"] = float(adjusted)


def _forgotten(flips: Mapping[str, Mapping[str, list[DocId]]], found: Mapping[str, Documents]) -> list[dict[str, Any]]:
    """Documents that the untuned base got right and a tuned one gets wrong, those forgotten by both first."""
    lost_in: dict[DocId, list[str]] = {}
    for candidate, baseline, _, _ in _TUNING:
        name = f"{candidate}-{baseline}"
        for doc_id in flips.get(name, {}).get("lost", []):
            lost_in.setdefault(doc_id, []).append(name)
    order = sorted(lost_in, key=lambda doc_id: (-len(lost_in[doc_id]), doc_id))
    return [{
        "doc_id": doc_id, "lost_in": lost_in[doc_id],
        "document": next(docs[doc_id] for docs in found.values() if doc_id in docs).get("document", {}),
        "chosen": {cell: _chosen(docs[doc_id]) for cell, docs in found.items() if doc_id in docs},
    } for doc_id in order[:_LISTED]]


def _chosen(document: Mapping[str, Any]) -> int | None:
    """The choice the model finds likeliest, by its place."""
    likelihoods = document.get("likelihoods") or []
    return max(range(len(likelihoods)), key=likelihoods.__getitem__) if likelihoods else None


def _sentence(task: str, record: Mapping[str, Any]) -> str:
    if record["error"]:
        return f"{record['label']} cannot be shown: {record['error'].rstrip('.')}."
    metric, rows = record["metric"], {row["name"]: row for row in record["contrasts"]}
    parts = []
    for candidate, baseline, name, untuned in _TUNING:
        row = rows.get(f"{candidate}-{baseline}")
        if row:
            parts.append(f"{name} {number(record['cells'][candidate], metric)}, {untuned} "
                         f"{number(record['cells'][baseline], metric)} ({_difference(row, record)}): "
                         f"{_reading(row, task == RETENTION)}")
    text = "; ".join(parts)
    if HEADLINE in rows:
        text += f"{'. ' if text else ''}QLoRA against 16-bit LoRA: {_difference(rows[HEADLINE], record)}, "
        text += _between(rows[HEADLINE])
    if not text:
        return ""
    return f"On {plural(record['items'], 'question' if task == RETENTION else 'document')}: {text}."


def _difference(row: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    how, flips = shown(row["metric"]), record["flips"].get(row["name"])
    text = (f"{difference(row['delta'], row['metric'], row)} {how.unit}".rstrip()
            + f", 95% interval {interval(row, row['metric'], plus=False)}")
    return f"{text}, {len(flips['lost']):,} lost and {len(flips['gained']):,} gained" if flips else text


def _reading(row: Mapping[str, Any], retention: bool) -> str:
    if clearly_worse(row):
        return "tuning made it forget" if retention else "worse after tuning"
    return "better after tuning" if clearly_better(row) else "no clear change"


def _between(row: Mapping[str, Any]) -> str:
    if clearly_worse(row):
        return "clearly worse"
    return "clearly better" if clearly_better(row) else "no clear difference"
