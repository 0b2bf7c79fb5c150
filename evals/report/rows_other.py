"""Texts for the page that its templates do not write: the items that lost most, and what the test can detect."""

from __future__ import annotations

from typing import Any

from assistant_builder.arms import LORA, QLORA
from assistant_builder.i18n import t, tn
from evals.report import format as fmt
from evals.report.format import (
    count,
    percent,
    plain,
    shown,
    signed,
)
from evals.report.items import cut, marked
from evals.report.load import BASELINE, CANDIDATE
from evals.report.schema import Report


def worst_items(report: Report) -> list[dict[str, Any]]:
    """The items with the largest increase of loss from LoRA to QLoRA, with both answers."""
    found = []
    for row in report.worst:
        first, second = row["answers"][BASELINE], row["answers"][CANDIDATE]
        runs = (None, None) if first is None or second is None else marked(cut(first), cut(second))
        found.append(
            {
                "row": row["row"],
                "question": cut(row["question"]),
                "reference": cut(row["reference"]),
                "harm": tn(
                    "{loss} nats over {count} token, {per_token} per token",
                    "{loss} nats over {count} tokens, {per_token} per token",
                    row["tokens"],
                    loss=signed(row["delta_nll"], 2),
                    per_token=signed(row["delta_nll_per_token"], 3),
                ),
                "divergence": "" if row["kl_mean"] is None else fmt.nats(row["kl_mean"]),
                "sides": [
                    {"arm": arm.name, "label": t(arm.label), "runs": run}
                    for arm, run in zip((LORA, QLORA), runs, strict=True)
                ],
            }
        )
    return found


def counted(number: int, unit: str) -> str:
    """A number of clusters or items, the units of a comparison."""
    if unit == "clusters":
        return tn("{count} cluster", "{count} clusters", number)
    return tn("{count} item", "{count} items", number)


def power_sentences(report: Report) -> list[str]:
    """The differences that a held-out set of this size can detect."""
    lines = []
    for entry in report.power:
        how = shown(entry["metric"])
        line = t(
            "{metric}: with {units}, 80 of 100 such studies would detect a true difference of {difference}.",
            metric=how.label,
            units=counted(entry["units"], entry["unit"]),
            difference=f"{fmt.two_significant_digits(entry['detectable'] * how.factor)} {how.unit}",
        )
        if entry["needed"]:
            values = {
                "target": f"{plain(entry['target'] * how.factor)} {how.unit}",
                "units": counted(entry["needed"], entry["unit"]),
            }
            primary = entry["metric"] == report.primary_metric
            if entry["needed"] <= entry["units"]:
                more = (
                    t("That is smaller than the margin ({target}).", **values)
                    if primary
                    else t("That is smaller than a difference ({target}).", **values)
                )
            elif primary:
                more = t(
                    "To detect the margin ({target}) as reliably, about {units} like these are needed.",
                    **values,
                )
            else:
                more = t(
                    "To detect a difference ({target}) as reliably, about {units} like these are needed.",
                    **values,
                )
            line = f"{line} {more}"
        lines.append(line)
    return lines


def planned_sentence(report: Report) -> str:
    """The estimate made before the run, and the measured values of its assumptions; empty if not on record."""
    entry = next((entry for entry in report.power if entry["planned"]), None)
    if entry is None:
        return ""
    plan, seen = entry["planned"], entry["seen"]
    text = t(
        "Estimate before the run, assuming that {rate} of the answers flip: {items}, worth about {effective} "
        "independent ones, detect {difference} points in right answers; {target} points would need {needed} items.",
        rate=percent(plan["flip_rate"], 0),
        items=counted(plan["items"], "items"),
        effective=count(plan["effective_items"]),
        difference=fmt.two_significant_digits(100 * plan["minimum_detectable"]),
        target=plain(100 * plan["target"]),
        needed=count(plan["items_needed"]),
    )
    values = {"rate": percent(seen["flip_rate"]), "icc": seen["icc"], "assumed": plan["icc"]}
    flipped = (
        t("In the run {rate} flipped.", **values)
        if plan["clusters"] == plan["items"]
        else t(
            "In the run {rate} flipped, and flips within a cluster had an intraclass correlation of {icc:.2f} "
            "(assumed: {assumed:.2f}).",
            **values,
        )
    )
    return f"{text} {flipped}"
