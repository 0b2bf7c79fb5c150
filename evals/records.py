"""The records of scoring: one line per item, and the figures of a cell."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assistant_builder.atomic_io import write_json, write_jsonl
from evals.metrics import Context, score_answer
from evals.metrics.refusal import is_refusal

if TYPE_CHECKING:
    from evals.lm_eval_model import ReferenceScore


def sample_record(
    item: Mapping[str, Any],
    *,
    answer: str,
    target: ReferenceScore | None,
    scores: Mapping[str, float],
    taught: Collection[str],
    finish: str | None = None,
) -> dict[str, Any]:
    """One line of ``samples.jsonl`` for an item of :func:`evals.tasks.held_out.build_items`.

    ``target`` is None without a model; ``scores`` are those of metrics that need one; ``taught`` are the refusals in
    the data; ``finish`` is ``length`` if the answer stopped at the limit of tokens.
    """
    metrics = {} if target is None else {"nll_per_token": target.nll / target.tokens}
    context = Context(item["question"], item["answerable"], item["messages"])
    metrics |= {**score_answer(answer, item["reference"], context), **scores}
    return {
        **{key: item[key] for key in ("item", "row", "turn", "cluster", "answerable", "question")},
        "prompt": item["messages"],
        **{key: item[key] for key in ("sources",) if key in item},
        "reference": item["reference"],
        "answer": answer,
        **({"finish": finish} if finish else {}),
        "nll": None if target is None else target.nll,
        "tokens": item["tokens"],
        "mean_probability": None if target is None else target.mean_probability,
        "metrics": metrics,
        "declined": is_refusal(answer, taught),
    }


def figures(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of ``scores.json``: items, tokens, loss, and the mean of each metric over the items that have it."""
    tokens = sum(sample["tokens"] for sample in samples)
    scored = all(sample["nll"] is not None for sample in samples)
    nll = sum(sample["nll"] for sample in samples) / tokens if scored else None
    values: dict[str, list[float]] = {}
    for sample in samples:
        for name, value in sample["metrics"].items():
            values.setdefault(name, []).append(value)
    means = {name: sum(found) / len(found) for name, found in values.items()}
    answerable = [sample for sample in samples if sample["answerable"]]
    unanswerable = [sample for sample in samples if not sample["answerable"]]
    return {
        "items": len(samples),
        "tokens": tokens,
        "nll_per_token": nll,
        "cut_answers": sum(sample.get("finish") == "length" for sample in samples),
        "perplexity": None if nll is None else math.exp(min(nll, 700.0)),  # exp(710) overflows
        "metrics": means if nll is None else {**means, "nll_per_token": nll},
        "declining": {
            "answerable_items": len(answerable),
            "false_declines": sum(sample["declined"] for sample in answerable),
            "unanswerable_items": len(unanswerable),
            "declined": sum(sample["declined"] for sample in unanswerable),
        },
    }


def write_scores(
    folder: Path,
    samples: Sequence[Mapping[str, Any]],
    record: Mapping[str, Any],
    inputs: Mapping[str, Any],
) -> None:
    """Write ``samples.jsonl`` and then ``scores.json``, which marks the folder as complete."""
    write_jsonl(folder / "samples.jsonl", samples)
    write_json(folder / "scores.json", {**record, **figures(samples), "inputs": dict(inputs)})
