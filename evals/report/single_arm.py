"""The report of a study that trains one arm: what was not compared, and what to do to have it compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from assistant_builder.config import ARMS, Arm
from assistant_builder.planning.fitting import where_both_fit
from assistant_builder.study import Study
from evals.metrics import METRIC_INFO

ARM_NAMES: dict[Arm, str] = {"lora": "16-bit LoRA", "qlora": "QLoRA"}
_MISSING: dict[Arm, str] = {"lora": "its 16-bit twin", "qlora": "QLoRA on the same data"}
_NOT_COMPARED: dict[Arm, tuple[str, ...]] = {
    "lora": (
        "What 4-bit cost: QLoRA against 16-bit LoRA trained on the same pairs, in quality, answer by answer.",
        "How far storing the base in 4 bits moves the predictions: the untuned 16-bit base was not loaded either.",
        "Where a loss would come from, storing the base or training on it.",
        "QLoRA's adapter on the 16-bit base, or merged into a 16-bit model.",
        "What a judge, or people voting blind, would prefer.",
    ),
    "qlora": (
        "What 4-bit would cost: QLoRA trained on the same pairs, in quality, answer by answer.",
        "What a judge, or people voting blind, would prefer.",
    ),
}
"""What a study does not compare, by the arm that it does not train."""


def verdict_alone(study: Study, row: Mapping[str, Any] | None, items: int) -> dict[str, Any]:
    """The verdict where there is nothing to compare with.

    Args:
        study: A study that trains one arm.
        row: The contrast of its assistant with the untuned base on the primary metric; None: that is not scored.
        items: Items that the primary metric is figured on.

    Returns:
        What :func:`evals.report.contrasts.verdict` returns, without figures; ``reason`` says what was not compared,
        ``action`` what to do about it.
    """
    config = study.config
    metric = config.eval.primary_metric
    (arm,) = config.arms
    missing = _missing(arm)
    return {
        "outcome": "inconclusive", "metric": metric, "margin": config.eval.margin, "delta": None, "ci": [None, None],
        "p_value": None, "n": items, "n_clusters": row["n_clusters"] if row else None, "contrast": None,
        "higher_is_better": METRIC_INFO[metric].higher_is_better, "within_margin_but_worse": False, "warnings": [],
        "perplexity_change": None,
        "reason": f"This study trains {ARM_NAMES[arm]} alone: without {_MISSING[missing]} it cannot say what 4-bit "
                  f"{'cost' if arm == 'qlora' else 'would cost'}.",
        "action": _action(study, missing),
    }


def not_compared(arm: Arm) -> list[str]:
    """What the study of one arm leaves open, one sentence each."""
    return list(_NOT_COMPARED[_missing(arm)])


def _missing(arm: Arm) -> Arm:
    """The arm that a study of ``arm`` alone would be compared with."""
    return "lora" if arm == "qlora" else "qlora"


def _action(study: Study, missing: Arm) -> str:
    """How to add the missing arm, and where it fits."""
    config = study.config
    (arm,) = config.arms
    together = config.train.early_stopping
    command = f"'assistant-builder run {study.name} --set arms={','.join(ARMS)}{' --redo' if together else ''}'"
    kept = ("Both are trained then, because with early stop they end at the same step." if together else
            f"{ARM_NAMES[arm]} as it is trained here is kept.")
    place = where_both_fit(study)
    if place == "here":
        return f"Add {_MISSING[missing]}, which fits this machine: {command}. {kept}"
    if place:
        return (f"Add {_MISSING[missing]} on a machine that holds both, such as one with one {place}: copy the study's "
                f"folder there and run {command}. {kept}")
    return (f"Add {_MISSING[missing]} on a machine whose GPUs hold it together (executor.spread=fsdp): copy the "
            f"study's folder there and run {command}. {kept}")
