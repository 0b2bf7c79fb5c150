"""Every difference between two cells that the report shows, with its paired interval; the verdict; what could be seen.

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
    Pair("B4", "B16", "storing the untuned base in 4 bits"),
    Pair("L4", "L16", "putting the 16-bit-trained adapter on the 4-bit base"),
    Pair("Q4", "L4", "what training in 4-bit wins back or loses"),
    Pair("Q16", "Q4", "moving QLoRA's adapter to the full base, as most tools export it"),
    Pair("QD", "Q4", "merging QLoRA's adapter into its dequantized base for export"),
    Pair("QR", "QD", "quantizing that export again"),
    Pair("Q4", "LR", "QLoRA against tuning in 16-bit and quantizing afterwards, at the same serving memory"),
    Pair("QR", "LR", "the requantized export against tuning in 16-bit and quantizing afterwards"),
    Pair("L16", "B16", "what tuning changed, 16-bit"),
    Pair("Q4", "B4", "what tuning changed, 4-bit"),
)
"""The contrasts of a report, the headline first; those whose cells are both scored are shown."""


def contrasts(cells: Mapping[str, Cell], usable: Mapping[str, list[str]], config: EvalConfig) -> list[dict[str, Any]]:
    """Compare every pair of ``PAIRS`` on every metric that both cells have.

    Args:
        cells: The scored cells.
        usable: Metric → the items it is figured on.
        config: Primary metric, margin and seed.

    Returns:
        One record a pair and metric. ``delta`` is candidate − baseline in the metric's units and equals the difference
        of the two cells' figures; ``p_value_holm`` is adjusted over the metrics of the same pair.
    """
    rows = []
    for pair in PAIRS:
        family = [
            _contrast(pair, cells, metric, items, config) for metric, items in usable.items()
            if {pair.candidate, pair.baseline} <= cells.keys()
            and all(cells[name].has(metric) for name in (pair.candidate, pair.baseline))
        ]
        adjusted = holm([row["p_value"] for row in family])
        rows += [{**row, "p_value_holm": float(value)} for row, value in zip(family, adjusted, strict=True)]
    return rows


def _contrast(
    pair: Pair, cells: Mapping[str, Cell], metric: str, items: list[str], config: EvalConfig
) -> dict[str, Any]:
    judged = pair.name == PAIRS[0].name and metric == config.primary_metric
    result = compare(cells[pair.baseline], cells[pair.candidate], metric, items, config, judged=judged)
    row = {
        "name": pair.name, "metric": metric, "baseline": pair.baseline, "candidate": pair.candidate,
        "meaning": pair.meaning, "delta": float(result.delta), "ci_low": float(result.ci_low),
        "ci_high": float(result.ci_high), "p_value": float(result.p_value), "n": int(result.n),
        "n_clusters": result.n_clusters, "method": result.method,
        "higher_is_better": METRIC_INFO[metric].higher_is_better,
        "warnings": list(result.warnings),
    }
    if judged:
        row |= {"verdict": result.verdict, "within_margin_but_worse": bool(result.within_margin_but_worse)}
    return row


def compare(
    baseline: Cell, candidate: Cell, metric: str, items: list[str], config: EvalConfig, *, judged: bool
) -> Comparison:
    """Pair two cells item by item and hand them to the statistics; losses are weighted by answer tokens."""
    samples = [baseline.by_item[item] for item in items]
    clusters = [sample.get("cluster") for sample in samples]
    return paired_comparison(
        baseline.values(items, metric),
        candidate.values(items, metric),
        clusters=clusters if any(label is not None for label in clusters) else None,
        weights=[sample["tokens"] for sample in samples] if METRIC_INFO[metric].token_weighted else None,
        margin=config.margin if judged else None,
        higher_is_better=METRIC_INFO[metric].higher_is_better,
        seed=config.seed,
        bounds=METRIC_INFO[metric].bounds,
        resamples=config.bootstrap_resamples,
    )


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
