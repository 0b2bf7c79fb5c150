"""Sentences and table rows for a comparison of two studies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from assistant_builder.i18n import Message, capitalized, joined, m
from evals.report.number_format import difference, interval, number, p_value, plural, shown
from evals.report.verdict import harm_interval, harmed_bounds, measured_text, open_bounds

_ASSISTANTS = {
    "Q4": m("the QLoRA assistant (Q4)"),
    "L16": m("the 16-bit LoRA assistant (L16)"),
}
_EVERY_METRIC = ("Q4", "L16")


def verdict_sentence(verdict: Mapping[str, Any], a: str, b: str) -> Message:
    """The verdict on a cell with difference, interval and margin, for baseline ``a`` and candidate ``b``."""
    low, high = harm_interval(verdict)
    margin, how = verdict["margin"], shown(verdict["metric"])
    amount = Message("{value:.10g}", {"value": float(f"{margin * how.factor:.3g}")})
    measured = measured_text(verdict, m("its"))
    values = {
        "a": a,
        "b": b,
        "assistant": _ASSISTANTS[verdict["cell"]],
        "measured": measured,
        "limit": m(
            "the {amount} that {study_name} allows",
            amount=joined([amount, Message(how.unit if how.factor != 1 else "")]),
            study_name=a,
        ),
    }
    if verdict["outcome"] == "worse" and low <= 0:
        return m(
            "In {b}, {assistant} is worse than in {a} in another respect, beyond the margin: {harmed}. {measured}.",
            **values | {"measured": capitalized(measured)},
            harmed=harmed_bounds(verdict),
        )
    if verdict["outcome"] == "worse" and low > margin:
        return m(
            "In {b}, {assistant} is worse than in {a}: {measured}, all of it beyond {limit}.",
            **values,
        )
    if verdict["outcome"] == "worse":
        return m(
            "In {b}, {assistant} is worse than in {a}: {measured}, which may exceed {limit}.",
            **values,
        )
    if verdict["outcome"] == "no worse":
        if verdict["within_margin_but_worse"]:
            return m(
                "In {b}, {assistant} is measurably worse than in {a}, but within {limit}: {measured}.",
                **values,
            )
        if high < 0:
            return m(
                "In {b}, {assistant} is better than in {a}: {measured}, within {limit}.", **values
            )
        return m(
            "In {b}, {assistant} is no worse than in {a}: {measured}, within {limit}.", **values
        )
    if verdict["bounds"][0]["passed"]:
        return m(
            "It is inconclusive whether {assistant} is worse in {b} than in {a}: {measured}, within {limit}, but more "
            "harm than it allows is not ruled out for the {open}.",
            **values,
            open=open_bounds(verdict),
        )
    if high <= margin:
        return m(
            "This metric cannot show whether {assistant} is worse in {b} than in {a}, because nearly all answers in "
            "both are right, or nearly all are wrong: {measured}.",
            **values,
        )
    return m(
        "It is inconclusive whether {assistant} is worse in {b} than in {a}: {measured}, which reaches from no harm "
        "to more than {limit}.",
        **values,
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
