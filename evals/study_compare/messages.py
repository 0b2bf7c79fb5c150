"""Sentences and table rows for a comparison of two studies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from assistant_builder.i18n import m
from evals.report.format import difference, interval, number, p_value, plain, plural, shown
from evals.report.verdict import harm_interval, harmed_bounds, measured_text, open_bounds

_ASSISTANTS = {"Q4": "the QLoRA assistant (Q4)", "L16": "the 16-bit LoRA assistant (L16)"}
_EVERY_METRIC = ("Q4", "L16")


def verdict_sentence(verdict: Mapping[str, Any], a: str, b: str) -> str:
    """The verdict on a cell with difference, interval and margin, for baseline ``a`` and candidate ``b``."""
    low, high = harm_interval(verdict)
    margin, how, who = verdict["margin"], shown(verdict["metric"]), _ASSISTANTS[verdict["cell"]]
    unit = f" {how.unit}" if how.factor != 1 else ""
    limit = f"the {plain(float(f'{margin * how.factor:.3g}'))}{unit} that {a} allows"
    measured = str(measured_text(verdict, m("its")))
    if verdict["outcome"] == "worse" and low <= 0:
        return (
            f"In {b}, {who} is worse than in {a} in another respect, beyond the margin: {harmed_bounds(verdict)}. "
            f"{measured[0].upper()}{measured[1:]}."
        )
    if verdict["outcome"] == "worse":
        beyond = "all of it beyond" if low > margin else "which may exceed"
        return f"In {b}, {who} is worse than in {a}: {measured}, {beyond} {limit}."
    if verdict["outcome"] == "no worse":
        if verdict["within_margin_but_worse"]:
            return f"In {b}, {who} is measurably worse than in {a}, but within {limit}: {measured}."
        return f"In {b}, {who} is {'better' if high < 0 else 'no worse'} than in {a}: {measured}, within {limit}."
    if verdict["bounds"][0]["passed"]:
        return (
            f"It is inconclusive whether {who} is worse in {b} than in {a}: {measured}, within {limit}, but "
            f"more harm than it allows is not ruled out for the {open_bounds(verdict)}."
        )
    if high <= margin:
        return (
            f"This metric cannot show whether {who} is worse in {b} than in {a}, because nearly all answers in "
            f"both are right, or nearly all are wrong: {measured}."
        )
    return (
        f"It is inconclusive whether {who} is worse in {b} than in {a}: {measured}, which reaches from no harm to "
        f"more than {limit}."
    )


def summary(record: Mapping[str, Any]) -> str:
    """The number of compared items and the verdicts in one paragraph."""
    verdicts = " ".join(verdict["sentence"] for verdict in record["verdicts"])
    return f"{plural(record['shared_items'], 'held-out item')} in both studies. {verdicts or 'There is no verdict.'}"


def difference_rows(record: Mapping[str, Any]) -> list[list[str]]:
    """Table of the differing settings: setting, A, B."""
    return [
        [row["setting"], *("–" if row[side] is None else str(row[side]) for side in ("a", "b"))]
        for row in record["differences"]
    ]


def contrast_rows(record: Mapping[str, Any]) -> list[list[str]]:
    """Table of a comparison: cell, metric, A, B, difference, interval, adjusted p-value.

    Q4 and L16 have every metric, the other cells the loss alone.
    """
    rows = []
    for row in record["contrasts"]:
        if row["cell"] not in _EVERY_METRIC and row["metric"] != record["loss"]:
            continue
        metric, how = row["metric"], shown(row["metric"])
        rows.append(
            [
                row["cell"],
                f"{how.label}, {how.unit}" if how.factor == 1 else how.label,
                number(row["a"], metric),
                number(row["b"], metric),
                difference(row["delta"], metric, row),
                interval(row, metric),
                p_value(row["p_value_holm"]),
            ]
        )
    order = {cell: place for place, cell in enumerate(_EVERY_METRIC)}
    return sorted(rows, key=lambda row: order.get(row[0], len(order)))
