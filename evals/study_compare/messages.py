"""A comparison of two studies in sentences and in rows of text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from evals.report.format import MetricFormat, decimals, difference, interval, number, p_value, plain, plural, shown
from evals.report.verdict import harm_interval

_ASSISTANTS = {"Q4": "the QLoRA assistant (Q4)", "L16": "the 16-bit LoRA assistant (L16)"}
_EVERY_METRIC = ("Q4", "L16")


def _like(metric: str) -> str:
    """The metric whose digits and factor a metric is shown with."""
    return "nll_per_token" if metric == "nll_per_byte" else metric


def metric_shown(metric: str) -> MetricFormat:
    """How a metric is called; the loss per byte like the loss, in its own unit."""
    how = shown(_like(metric))
    return replace(how, unit="nats per byte") if metric == "nll_per_byte" else how


def verdict_sentence(verdict: Mapping[str, Any], a: str, b: str) -> str:
    """One cell's verdict, with difference, interval and margin.

    Args:
        verdict: One of the comparison's ``verdicts``.
        a: Name of the baseline study.
        b: Name of the candidate study.
    """
    low, high = harm_interval(verdict)
    margin, how, who = verdict["margin"], metric_shown(verdict["metric"]), _ASSISTANTS[verdict["cell"]]
    unit = f" {how.unit}" if how.factor != 1 else ""
    limit = f"the {plain(float(f'{margin * how.factor:.3g}'))}{unit} that {a} allows"
    measured = _measured(verdict)
    if verdict["outcome"] == "worse":
        beyond = "all of it beyond" if low > margin else "which may be more than"
        return f"In {b}, {who} is worse than in {a}: {measured}, {beyond} {limit}."
    if verdict["outcome"] == "no worse":
        claim = "is better than" if high < 0 else "is no worse than"
        if verdict["within_margin_but_worse"]:
            claim = "is measurably worse, and by no more than is allowed, than"
        return f"In {b}, {who} {claim} in {a}: {measured}, within {limit}."
    if high <= margin:
        return (f"This metric cannot tell whether {who} is worse in {b} than in {a}, because nearly all answers are "
                f"right, or nearly all wrong, in both: {measured}.")
    return (f"It cannot be told whether {who} is worse in {b} than in {a}: {measured}, which reaches from no harm to "
            f"more than {limit}.")


def _measured(verdict: Mapping[str, Any]) -> str:
    metric, how = _like(verdict["metric"]), metric_shown(verdict["metric"])
    row = {"ci_low": verdict["ci"][0], "ci_high": verdict["ci"][1]}
    amount = f"{abs(verdict['delta']) * how.factor:.{decimals(metric, row)}f}"
    if float(amount) == 0:
        compared = "the same"
    else:
        compared = f"{amount} {how.unit} {'higher' if verdict['delta'] > 0 else 'lower'}"
    return f"its {how.phrase} is {compared} (95% interval {interval(row, metric, plus=False)})"


def summary(record: Mapping[str, Any]) -> str:
    """The verdicts in one paragraph, with the items they stand on."""
    asked = plural(record["shared_items"], "held-out item")
    said = " ".join(verdict["sentence"] for verdict in record["verdicts"])
    return f"{asked} in both studies. {said or 'There is no verdict.'}"


def difference_rows(record: Mapping[str, Any]) -> list[list[str]]:
    """What differs: setting, A, B."""
    return [[row["setting"], *("–" if row[side] is None else str(row[side]) for side in ("a", "b"))]
            for row in record["differences"]]


def contrast_rows(record: Mapping[str, Any]) -> list[list[str]]:
    """The table of a comparison: cell, metric, A, B, difference, interval, adjusted p-value.

    Q4 and L16 with every metric, the other cells with the loss.
    """
    rows = []
    for row in record["contrasts"]:
        if row["cell"] not in _EVERY_METRIC and row["metric"] != record["loss"]:
            continue
        metric, how = _like(row["metric"]), metric_shown(row["metric"])
        rows.append([
            row["cell"], f"{how.label}, {how.unit}" if how.factor == 1 else how.label,
            number(row["a"], metric), number(row["b"], metric), difference(row["delta"], metric, row),
            interval(row, metric), p_value(row["p_value_holm"]),
        ])
    order = {cell: place for place, cell in enumerate(_EVERY_METRIC)}
    return sorted(rows, key=lambda row: order.get(row[0], len(order)))
