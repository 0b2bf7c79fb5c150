"""Every difference between two cells that the report shows, with its paired interval; the verdict.

The arithmetic is that of ``evals.compare``; this module says which cells, items and weights go into it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from assistant_builder.config import EvalConfig
from evals.compare import Comparison, holm, paired_comparison
from evals.metrics import METRIC_INFO
from evals.report.reading import BASELINE, CANDIDATE, Cell


@dataclass(frozen=True)
class Pair:
    """Two cells to compare: ``candidate`` minus ``baseline``."""

    candidate: str
    baseline: str
    meaning: str

    @property
    def name(self) -> str:
        """``Q4-L16``."""
        return f"{self.candidate}-{self.baseline}"


PAIRS = (
    Pair(CANDIDATE, BASELINE, "QLoRA as served, against its 16-bit twin"),
    Pair("L4", "L16", "putting the 16-bit-trained adapter on the 4-bit base"),
    Pair("Q4", "L4", "what training in 4-bit wins back or loses"),
    Pair("B4", "B16", "storing the untuned base in 4 bits"),
    Pair("Q16", "Q4", "moving QLoRA's adapter to the full base, as most tools export it"),
    Pair("QD", "Q4", "merging QLoRA's adapter into its dequantized base for export"),
    Pair("QR", "QD", "quantizing that export again"),
    Pair("QR", "Q4", "that export, merged and quantized again, against QLoRA as served"),
    Pair("LM", "L16", "merging the 16-bit adapter into the full base for export"),
    Pair("LR", "LM", "quantizing that export"),
    Pair("LR", "L16", "tuning in 16-bit and quantizing afterwards, against the 16-bit twin"),
    Pair("Q4", "LR", "QLoRA against tuning in 16-bit and quantizing afterwards, at the same serving memory"),
    Pair("QR", "LR", "the requantized export against tuning in 16-bit and quantizing afterwards"),
    Pair("L16", "B16", "what tuning changed, 16-bit"),
    Pair("Q4", "B4", "what tuning changed, 4-bit"),
    Pair("L16", "copy", "16-bit LoRA against copying the answer of the nearest training question"),
    Pair("Q4", "copy", "QLoRA against copying the answer of the nearest training question"),
    Pair("L16", "retrieval", "16-bit LoRA against the untuned base shown three retrieved pairs"),
    Pair("Q4", "retrieval", "QLoRA against the untuned base shown three retrieved pairs"),
)
"""The contrasts of a report, the headline first; those whose cells are both scored are shown."""
HEADLINE = PAIRS[0].name

Comparisons = dict[tuple[str, str], Comparison]
"""By name of the pair and metric."""


def comparisons(cells: Mapping[str, Cell], usable: Mapping[str, list[str]], config: EvalConfig) -> Comparisons:
    """Compare every pair of ``PAIRS`` on every metric that both cells have.

    Args:
        cells: The scored cells, the untuned baselines among them.
        usable: Metric → the items it is figured on.
        config: Primary metric, margin, seed and resamples.

    Returns:
        In the order of ``PAIRS``, and of ``usable`` within a pair. The verdict of each is by the study's margin where
        the metric is the primary one.
    """
    return {
        (pair.name, metric): compare(cells[pair.baseline], cells[pair.candidate], metric, items, config)
        for pair in PAIRS if {pair.candidate, pair.baseline} <= cells.keys()
        for metric, items in usable.items() if cells[pair.candidate].has(metric) and cells[pair.baseline].has(metric)
    }


def contrasts(compared: Comparisons, primary: str) -> list[dict[str, Any]]:
    """The comparisons as records.

    Args:
        compared: What :func:`comparisons` returns.
        primary: Metric of the verdict.

    Returns:
        One record a pair and metric. ``delta`` is candidate − baseline in the metric's units and equals the difference
        of the two cells' figures; ``p_value_holm`` is adjusted over the metrics of the same pair. The headline's
        record of the primary metric carries the verdict.
    """
    rows = []
    for pair in PAIRS:
        family = [_record(pair, metric, result) for (name, metric), result in compared.items() if name == pair.name]
        adjusted = holm([row["p_value"] for row in family])
        rows += [{**row, "p_value_holm": float(value)} for row, value in zip(family, adjusted, strict=True)]
    for row in rows:
        if row["name"] == HEADLINE and row["metric"] == primary:
            result = compared[(HEADLINE, primary)]
            row |= {"verdict": result.verdict, "within_margin_but_worse": bool(result.within_margin_but_worse)}
    return rows


def _record(pair: Pair, metric: str, result: Comparison) -> dict[str, Any]:
    return {
        "name": pair.name, "metric": metric, "baseline": pair.baseline, "candidate": pair.candidate,
        "meaning": pair.meaning, **figures_of(result),
    }


def figures_of(result: Comparison) -> dict[str, Any]:
    """The numbers of a comparison as every row of the report has them."""
    return {
        "delta": float(result.delta), "ci_low": float(result.ci_low), "ci_high": float(result.ci_high),
        "p_value": float(result.p_value), "n": int(result.n), "n_clusters": result.n_clusters,
        "method": result.method, "higher_is_better": result.higher_is_better, "warnings": list(result.warnings),
    }


def compare(baseline: Cell, candidate: Cell, metric: str, items: list[str], config: EvalConfig) -> Comparison:
    """Pair two cells item by item and hand them to the statistics; losses are weighted by answer tokens."""
    samples = [baseline.by_item[item] for item in items]
    info = METRIC_INFO[metric]
    return paired_comparison(
        baseline.values(items, metric),
        candidate.values(items, metric),
        clusters=clusters_of(samples),
        weights=[sample["tokens"] for sample in samples] if info.token_weighted else None,
        margin=config.margin if metric == config.primary_metric else None,
        higher_is_better=info.higher_is_better,
        seed=config.seed,
        bounds=info.bounds,
        resamples=config.bootstrap_resamples,
    )


def clusters_of(samples: list[dict[str, Any]]) -> list[Any] | None:
    """The samples' cluster labels; ``None`` where none has one."""
    labels = [sample.get("cluster") for sample in samples]
    return labels if any(label is not None for label in labels) else None


def clearly_worse(row: Mapping[str, Any]) -> bool:
    """Whether the whole interval of a row lies on the harmful side of zero."""
    return bool(row["ci_high"] < 0 if row["higher_is_better"] else row["ci_low"] > 0)


def clearly_better(row: Mapping[str, Any]) -> bool:
    """Whether the whole interval of a row lies on the good side of zero."""
    return bool(row["ci_low"] > 0 if row["higher_is_better"] else row["ci_high"] < 0)


def verdict(row: Mapping[str, Any], margin: float) -> dict[str, Any]:
    """The verdict on the primary metric, with what is needed to word it."""
    return {
        "outcome": row["verdict"], "metric": row["metric"], "margin": margin, "delta": row["delta"],
        "ci": [row["ci_low"], row["ci_high"]], "p_value": row["p_value"], "n": row["n"],
        "n_clusters": row["n_clusters"], "contrast": row["name"], "higher_is_better": row["higher_is_better"],
        "within_margin_but_worse": row["within_margin_but_worse"], "warnings": row["warnings"],
        "perplexity_change": None if row["metric"] != "nll_per_token" else {
            "share": math.expm1(row["delta"]), "ci": [math.expm1(row["ci_low"]), math.expm1(row["ci_high"])],
        },
    }
