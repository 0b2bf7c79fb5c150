"""Results of lm-eval tasks, compared document by document.

A document that the untuned base gets right and the tuned model gets wrong was forgotten.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from typing_extensions import TypedDict

from assistant_builder.arms import ARMS, LORA, QLORA, Arm, further_arms, main_cells
from assistant_builder.atomic_io import read_jsonl
from assistant_builder.config import EvalConfig
from assistant_builder.i18n import Message, Text, joined, m, mn
from assistant_builder.study import Study
from evals.compare import holm, paired_comparison
from evals.report.contrasts import HEADLINE, all_pairs, figures_of, in_words
from evals.report.load import BASELINE, CANDIDATE, Cell
from evals.report.number_format import measured, value_of
from evals.tasks.general_knowledge import TASK as RETENTION

_PREFERRED = ("acc", "acc_norm", "exact_match", "f1")
_LOWER_IS_BETTER = ("perplexity", "bits_per_byte", "brier_score", "mse", "ter", "wer")
_TEXTS = {
    RETENTION: (
        m("General knowledge"),
        m(
            "Multiple-choice questions on general knowledge, supplied with assistant-builder and unrelated to the "
            "training data. They show what tuning makes the model forget. Guessing gives 25%."
        ),
    ),
}


Documents = dict[Any, dict[str, Any]]


def _tuned(cells: Mapping[str, Any]) -> list[Arm]:
    """The arms of which a task was run on the assistant and on its untuned base."""
    return [arm for arm in ARMS.values() if {arm.cell, arm.untuned_cell} <= cells.keys()]


class _DocumentLine(TypedDict):
    doc_id: int | str
    metrics: dict[str, Any]


def task_records(study: Study, cells: Mapping[str, Cell]) -> dict[str, dict[str, Any]]:
    """The results of every task that was run on the study's cells.

    A task without figures has an ``error`` with the reason. ``p_value_holm`` is adjusted over the tasks of the same
    contrast.
    """
    config = study.config.eval
    records = {}
    for task in dict.fromkeys([RETENTION] * config.retention + config.tasks):
        found: dict[str, Documents] = {}
        for name in main_cells(study.config.arms):
            path = study.cell_folder(name) / "tasks" / f"{task}.jsonl"
            lines = read_jsonl(path, _DocumentLine) if name in cells else []
            if lines:
                found[name] = {line["doc_id"]: line for line in lines}
        if found:
            records[task] = _record(task, found, config)
    rows = [row for record in records.values() for row in record["contrasts"]]
    for name in {row["name"] for row in rows}:
        family = [row for row in rows if row["name"] == name]
        for row, adjusted in zip(family, holm([row["p_value"] for row in family]), strict=True):
            row["p_value_holm"] = float(adjusted)
    for task, record in records.items():
        record["sentence"] = _sentence(task, record)
    return records


def _record(task: str, found: Mapping[str, Documents], config: EvalConfig) -> dict[str, Any]:
    label, about = _TEXTS.get(task, (task, m("The task {task} of lm-eval.", task=task)))
    record: dict[str, Any] = {
        "label": label,
        "about": about,
        "metric": None,
        "items": 0,
        "cells": {},
        "contrasts": [],
        "flips": {},
        "sentence": "",
        "error": None,
    }
    first = next(iter(next(iter(found.values())).values()))
    names = [name for name in first["metrics"] if _value(first, name) is not None]
    metric = next((name for name in (*_PREFERRED, *names) if name in names), None)
    if metric is None:
        return {**record, "error": m("it has no score that is a number for each document")}
    ids = sorted(
        set.intersection(
            *(
                {
                    doc_id
                    for doc_id, document in documents.items()
                    if _value(document, metric) is not None
                }
                for documents in found.values()
            )
        )
    )
    values = {
        cell: [float(documents[doc_id]["metrics"][metric]) for doc_id in ids]
        for cell, documents in found.items()
    }
    record |= {
        "metric": metric,
        "items": len(ids),
        "cells": {
            cell: math.fsum(scores) / len(scores) for cell, scores in values.items() if scores
        },
    }
    meanings = {pair.name: pair.meaning for pair in all_pairs()}
    further = [(ARMS[arm].cell, BASELINE) for arm in further_arms(ARMS)]
    pairs = [
        *((arm.cell, arm.untuned_cell) for arm in ARMS.values()),
        (CANDIDATE, BASELINE),
        (QLORA.untuned_cell, LORA.untuned_cell),
        *further,
    ]
    for candidate, baseline in pairs:
        if candidate in values and baseline in values and len(ids) > 1:
            name = f"{candidate}-{baseline}"
            result = paired_comparison(
                values[baseline],
                values[candidate],
                higher_is_better=not metric.endswith(_LOWER_IS_BETTER),
                seed=config.seed,
                resamples=config.bootstrap_resamples,
            )
            record["contrasts"].append(
                {
                    "name": name,
                    "metric": metric,
                    "baseline": baseline,
                    "candidate": candidate,
                    "meaning": meanings[name],
                    **figures_of(result),
                }
            )
            if set(values[baseline]) | set(values[candidate]) <= {0.0, 1.0}:
                both = list(zip(ids, values[baseline], values[candidate], strict=True))
                record["flips"][name] = {
                    "lost": [doc_id for doc_id, before, after in both if before > after],
                    "gained": [doc_id for doc_id, before, after in both if after > before],
                }
    return record


def _value(document: Mapping[str, Any], metric: str) -> float | None:
    value = document["metrics"].get(metric)
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _sentence(task: str, record: Mapping[str, Any]) -> Text:
    if record["error"]:
        return m(
            "{label} cannot be shown: {reason}.", label=record["label"], reason=record["error"]
        )
    metric, rows = record["metric"], {row["name"]: row for row in record["contrasts"]}
    worse = m("tuning made it forget") if task == RETENTION else m("worse after tuning")
    better, unchanged = m("better after tuning"), m("no clear change")
    parts = [
        m(
            "{arm} {tuned}, the untuned {base} base {untuned} ({difference}): {outcome}",
            arm=arm.short,
            tuned=value_of(record["cells"][arm.cell], metric),
            base=arm.base_label,
            untuned=value_of(record["cells"][arm.untuned_cell], metric),
            difference=_difference(row, record),
            outcome=in_words(row, worse, better, unchanged),
        )
        for arm in _tuned(record["cells"])
        if (row := rows.get(f"{arm.cell}-{arm.untuned_cell}"))
    ]
    asked = (
        mn("{count} question", "{count} questions", record["items"])
        if task == RETENTION
        else mn("{count} document", "{count} documents", record["items"])
    )
    found = [m("On {asked}: {results}.", asked=asked, results=joined(parts, "; "))] if parts else []
    if HEADLINE in rows:
        values = {
            "difference": _difference(rows[HEADLINE], record),
            "outcome": in_words(
                rows[HEADLINE],
                m("clearly worse"),
                m("clearly better"),
                m("no clear difference"),
            ),
        }
        found.append(
            m("QLoRA against 16-bit LoRA: {difference}, {outcome}.", **values)
            if parts
            else m(
                "On {asked}: QLoRA against 16-bit LoRA: {difference}, {outcome}.",
                asked=asked,
                **values,
            )
        )
    return joined(found)


def _difference(row: Mapping[str, Any], record: Mapping[str, Any]) -> Message:
    flips = record["flips"].get(row["name"])
    if not flips:
        return measured(row)
    return m(
        "{measured}, {lost:,} lost and {gained:,} gained",
        measured=measured(row),
        lost=len(flips["lost"]),
        gained=len(flips["gained"]),
    )
