"""Which answers change when nothing but the arithmetic of scoring does: the floor under every flip."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from assistant_builder.config import EvalConfig
from assistant_builder.study import Study
from evals.report.contrasts import compare
from evals.report.items import change
from evals.report.reading import BASELINE, CANDIDATE, Cell, read_again
from evals.report.wording import plural, shown, signed


def noise_floor(
    study: Study, cells: Mapping[str, Cell], usable: Mapping[str, list[str]], flips: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Each assistant against itself scored in batches of another size; ``None`` where that was not done.

    Args:
        study: The study.
        cells: The scored cells.
        usable: Metric → the items it is figured on.
        flips: The flips between the two assistants, for the sentence.

    Returns:
        Flips by cell; the difference between the assistants and the verdict as they would be with the other batches.

    Raises:
        EvaluationError: The second scoring has other items.
    """
    config = study.config.eval
    again = read_again(study, cells[BASELINE]) if config.noise_floor else {}
    if not again:
        return None
    found: dict[str, Any] = {"cells": {name: _cell(cells[name], again[name]) for name in (BASELINE, CANDIDATE)}}
    primary = config.primary_metric
    items = [item for item in usable[primary] if all(cell.value(item, primary) is not None for cell in again.values())]
    if len(items) == len(usable[primary]):
        result = compare(again[BASELINE], again[CANDIDATE], primary, items, config)
        found |= {"delta": result.delta, "ci": [result.ci_low, result.ci_high], "verdict": result.verdict}
    else:
        found |= {"delta": None, "ci": None, "verdict": None}
    return {**found, "sentence": _sentence(found, flips, config)}


def _cell(cell: Cell, again: Cell) -> dict[str, Any]:
    changes = [change(cell, again, item) for item in cell.by_item]
    shifts = [abs(after - before) for item in cell.by_item
              if (before := cell.value(item, "nll_per_token")) is not None
              and (after := again.value(item, "nll_per_token")) is not None]
    return {
        "batch_size": cell.scores.get("batch_size"), "other_batch_size": again.scores.get("batch_size"),
        "lost": changes.count("lost"), "gained": changes.count("gained"),
        "text_differs": sum(kind in ("lost", "gained", "different") for kind in changes),
        "largest_nll_per_token_shift": max(shifts, default=None), "items": len(changes),
    }


def _sentence(found: Mapping[str, Any], flips: Mapping[str, Any], config: EvalConfig) -> str:
    records = found["cells"]
    sizes = {record["other_batch_size"] for record in records.values()}
    batches = f"in batches of {sizes.pop()} " if len(sizes) == 1 and None not in sizes else ""
    lora, qlora = (record["lost"] + record["gained"] for record in records.values())
    between = len(flips["lost"]) + len(flips["gained"])
    text = (f"Scored again {batches}with the library's own kernels, which changes the arithmetic and nothing else, "
            f"right and wrong change places on {lora:,} of {plural(flips['items'], 'item')} for 16-bit LoRA and on "
            f"{qlora:,} for QLoRA; between the two assistants on {between:,}.")
    if found["delta"] is None:
        return text
    how = shown(config.primary_metric)
    moved = signed(found["delta"] * how.factor, how.decimals + 1)
    return f"{text} The difference between them is then {moved} {how.unit}, the verdict “{found['verdict']}”."
