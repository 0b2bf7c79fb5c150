"""The held-out items one by one: what each cell answered, where the two assistants part, and who declined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evals.report.reading import BASELINE, CANDIDATE, Cell

ORDER = ("lost", "gained", "different", "same", "not generated", "alone")
"""How the items are sorted: right under LoRA only, right under QLoRA only, other differences, no difference; alone: the
study trains one arm, so that no answer is compared."""


def item_rows(
    cells: Mapping[str, Cell], metrics: list[str], tuned: Sequence[str] = (BASELINE, CANDIDATE)
) -> list[dict[str, Any]]:
    """One record an item, those on which the two assistants differ first.

    Args:
        cells: The scored cells.
        metrics: The metrics to copy.
        tuned: The cells of the arms' assistants.

    Returns:
        Records with ``item row turn cluster answerable question context reference change`` (one of ``ORDER``) and
        ``answers declined tokens nll metrics``, the latter by cell.
    """
    rows = [_item_row(cells, item, metrics, tuned) for item in cells[tuned[0]].by_item]
    return sorted(rows, key=lambda row: ORDER.index(row["change"]))


def _item_row(cells: Mapping[str, Cell], item: str, metrics: list[str], tuned: Sequence[str]) -> dict[str, Any]:
    sample = cells[tuned[0]].by_item[item]
    samples = {name: cell.by_item[item] for name, cell in cells.items()}
    return {
        "item": item,
        "row": sample.get("row"),
        "turn": sample.get("turn", 0),
        "cluster": sample.get("cluster"),
        "answerable": sample.get("answerable", True),
        "question": sample["question"],
        "context": [message for message in sample["prompt"][:-1] if message["role"] != "system"],
        "reference": sample["reference"],
        "change": change(cells[BASELINE], cells[CANDIDATE], item) if len(tuned) > 1 else "alone",
        "answers": {name: s["answer"] for name, s in samples.items() if s.get("answer") is not None},
        "declined": {name: bool(s["declined"]) for name, s in samples.items() if s.get("declined") is not None},
        "tokens": sample["tokens"],
        "nll": {name: s["nll"] for name, s in samples.items()},
        "metrics": {
            name: {metric: value for metric in metrics if (value := cell.value(item, metric)) is not None}
            for name, cell in cells.items()
        },
    }


def change(baseline: Cell, candidate: Cell, item: str) -> str:
    """How an item's answer differs between two cells: one of ``ORDER``, right and wrong by exact match."""
    before, after = baseline.by_item[item].get("answer"), candidate.by_item[item].get("answer")
    if before is None or after is None:
        return "not generated"
    right, still = baseline.value(item, "exact_match"), candidate.value(item, "exact_match")
    if right is not None and still is not None and right != still:
        return "lost" if right > still else "gained"
    return "same" if before.strip() == after.strip() else "different"


def flips(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Exact-match changes both ways, with both answers; ``None`` where exact match was not scored."""
    if not any("exact_match" in row["metrics"].get(BASELINE, {}) for row in rows):
        return None
    keys = ("item", "row", "question", "reference")
    listed = {
        change: [
            {**{key: row[key] for key in keys}, "answers": {c: row["answers"][c] for c in (BASELINE, CANDIDATE)}}
            for row in rows if row["change"] == change
        ]
        for change in ("lost", "gained")
    }
    return {
        "metric": "exact_match", "items": len(rows), **listed,
        "text_differs": sum(row["change"] in ("lost", "gained", "different") for row in rows),
    }


def declining(cells: Mapping[str, Cell]) -> dict[str, Any] | None:
    """How often each cell declined what it should and what it should not; ``None`` without generated answers."""
    by_cell = {}
    for name, cell in cells.items():
        told = [sample for sample in cell.samples if sample.get("declined") is not None]
        if told:
            should = [sample for sample in told if not sample.get("answerable", True)]
            others = [sample for sample in told if sample.get("answerable", True)]
            by_cell[name] = {
                "unanswerable_items": len(should), "declined": sum(bool(s["declined"]) for s in should),
                "answerable_items": len(others), "false_declines": sum(bool(s["declined"]) for s in others),
            }
    return {"cells": by_cell} if by_cell else None
