"""Time, memory and money: what each arm took, and each step of the study."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from assistant_builder.planning.grading import grades
from assistant_builder.steps import evaluates
from evals.report import wording
from evals.report.wording import count, number, signed_percent

Report = Mapping[str, Any]
ARM_NAMES = {"lora": "LoRA, 16-bit", "qlora": "QLoRA, 4-bit"}


def resource_rows(report: Report) -> list[dict[str, Any]]:
    """Time and memory: label, value by arm, how to print it, printed values and QLoRA's relative to LoRA's."""
    listed = (
        ("Base weights as stored", "base_bytes", wording.size),
        ("Peak memory in training", "peak_memory_bytes", wording.size),
        ("Training time", "train_seconds", wording.duration),
        ("Training time of each run", "train_seconds_all", _durations),
        ("Training speed", "tokens_per_second", wording.rate),
        ("Time of an optimizer step", "seconds_per_step", _step_time),
        (f"Cost of training{_priced(report)}", "cost", wording.money),
        ("Adapter", "adapter_bytes", wording.size), ("Trained weights", "trainable_parameters", count),
        ("Optimizer steps", "steps", count), ("Checkpoint used (step)", "best_step", count),
        ("Its validation loss", "best_validation_loss", lambda value: number(value, "nll_per_token")),
    )
    rows = []
    for label, key, say in listed:
        values = {arm: record.get(key) for arm, record in report["resources"].items()}
        if key == "train_seconds_all" and all(len(runs or []) < 2 for runs in values.values()):
            continue  # a single run: its time stands above
        if any(value is not None for value in values.values()):
            lora, qlora = values.get("lora"), values.get("qlora")
            rows.append({
                "label": label, "key": key, "values": values,
                "texts": {arm: "–" if values.get(arm) is None else say(values[arm]) for arm in ARM_NAMES},
                "ratio": _ratio(lora, qlora),
            })
    return rows


_GRADED = {
    "base_bytes": ("Base weights", wording.size), "adapter_bytes": ("Adapter", wording.size),
    "peak_memory_bytes": ("Peak memory in training", wording.size),
    "train_seconds": ("Training time", wording.duration),
}


def graded_rows(report: Report) -> list[dict[str, str]]:
    """What the plan said before each arm was trained, beside what was measured; empty for runs that were not planned.

    Returns:
        ``quantity``, ``arm``, ``predicted``, ``measured`` and ``error``, the signed error in percent of the measured.
    """
    rows = []
    for arm in ARM_NAMES:
        for grade in grades(report["resources"].get(arm, {})):
            label, say = _GRADED[grade["quantity"]]
            rows.append({
                "quantity": label, "arm": ARM_NAMES[arm], "predicted": say(grade["predicted"]),
                "measured": say(grade["measured"]), "error": signed_percent(grade["error"]),
            })
    return rows


def _durations(runs: list[float | None]) -> str:
    return ", ".join(map(wording.duration, runs))


def _step_time(seconds: float) -> str:
    return f"{seconds:.3g} s"


def _priced(report: Report) -> str:
    price = report["config"]["eval"].get("price_per_hour")
    return "" if price is None else f", at {wording.plain(price)} an hour"


def _ratio(lora: Any, qlora: Any) -> str:
    if not lora or qlora is None or isinstance(lora, list):
        return "–"
    return "same" if lora == qlora else signed_percent(qlora / lora - 1, 0)


def step_rows(report: Report) -> list[dict[str, str]]:
    """How long each finished step of the study took, and the most memory its process held."""
    return [{"name": step["name"], "seconds": wording.duration(step["seconds"]),
             "memory": wording.size(step["peak_memory_bytes"])}
            for step in report["steps"]]


def scored_at(report: Report) -> str | None:
    """When scoring began, in UTC: ``2026-03-01 14:05 UTC``; ``None`` where that is not on record."""
    started = min((step["started"] for step in report["steps"] if evaluates(step["name"]) and step["started"]),
                  default=None)
    return None if started is None else f"{datetime.fromtimestamp(started, UTC):%Y-%m-%d %H:%M} UTC"


def validation_rows(report: Report) -> list[dict[str, Any]]:
    """Validation loss of both arms at each step at which either was validated."""
    losses = {arm: {row["step"]: row["loss"] for row in curve["validation"]}
              for arm, curve in report["curves"].items()}
    steps = sorted({step for found in losses.values() for step in found})
    return [{"step": step, **{arm: number(losses.get(arm, {}).get(step), "nll_per_token") for arm in ARM_NAMES}}
            for step in steps]


