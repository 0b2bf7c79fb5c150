"""Rows and texts for the page that its templates do not write: bounds, differences, exports, cost, power."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from assistant_builder.arms import LORA, QLORA
from assistant_builder.i18n import N_, t, tn
from assistant_builder.study.contents import Entries
from assistant_builder.study.steps import evaluates
from evals.metrics import METRICS, metric_of
from evals.report import number_format as fmt
from evals.report.contrasts import clearly_better, clearly_worse
from evals.report.number_format import (
    count,
    difference,
    interval,
    number,
    shown,
    signed_percent,
)
from evals.report.other_words import decided_outcome, is_respelled, own_wordings_asked
from evals.report.schema import Difference, Report
from evals.report.verdict import as_row, harm_interval


def resource_rows(report: Report) -> list[dict[str, Any]]:
    """Time and memory: label, values and printed values by arm, and QLoRA's value relative to LoRA's."""
    price = report.config["eval"]["price_per_hour"]
    listed: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
        (t("Base weights as stored"), "base_bytes", fmt.size),
        (t("Peak memory in training"), "peak_memory_bytes", fmt.size),
        (t("Training time"), "train_seconds", fmt.duration),
        (
            t("Training time of each run"),
            "train_seconds_all",
            lambda runs: ", ".join(map(fmt.duration, runs)),
        ),
        (t("Training speed"), "tokens_per_second", fmt.rate),
        (
            t("Time of an optimizer step"),
            "seconds_per_step",
            lambda seconds: t("{value:.3g} s", value=seconds),
        ),
        (
            t("Cost of training")
            if price is None
            else t("Cost of training, at {price} an hour", price=fmt.plain(price)),
            "cost",
            fmt.money,
        ),
        (t("Adapter"), "adapter_bytes", fmt.size),
        (t("Trained weights"), "trainable_parameters", count),
        (t("Optimizer steps"), "steps", count),
        (t("Steps planned, before the loss reached its floor"), "planned_steps", count),
        (t("Checkpoint used (step)"), "best_step", count),
        (
            t("Its validation loss"),
            "best_validation_loss",
            lambda value: number(value, "nll_per_token"),
        ),
    )
    rows = []
    for label, key, text_of in listed:
        values = {arm: record.get(key) for arm, record in report.resources.items()}
        if key == "train_seconds_all" and all(len(runs or []) < 2 for runs in values.values()):
            continue  # the time of a single run is listed already
        if any(value is not None for value in values.values()):
            lora, qlora, ratio = values.get(LORA.name), values.get(QLORA.name), "–"
            if lora and qlora is not None and not isinstance(lora, list):
                ratio = t("same") if lora == qlora else signed_percent(qlora / lora - 1, 0)
            texts = {
                arm: "–" if values.get(arm) is None else text_of(values[arm])
                for arm in report.trained_arms
            }
            rows.append(
                {"label": label, "key": key, "values": values, "texts": texts, "ratio": ratio}
            )
    return rows


def scored_at(report: Report) -> str | None:
    """The start of scoring, such as ``2026-03-01 14:05 UTC``; ``None`` if it is not on record."""
    started = min(
        (step["started"] for step in report.steps if evaluates(step["name"]) and step["started"]),
        default=None,
    )
    return None if started is None else f"{datetime.fromtimestamp(started, UTC):%Y-%m-%d %H:%M} UTC"


def validation_rows(report: Report) -> list[dict[str, Any]]:
    """Validation loss of the arms at each step at which one was validated."""
    losses = {
        arm: {row["step"]: row["loss"] for row in curve["validation"]}
        for arm, curve in report.curves.items()
    }
    steps = sorted({step for found in losses.values() for step in found})
    return [
        {
            "step": step,
            **{
                arm: number(losses.get(arm, {}).get(step), "nll_per_token")
                for arm in report.trained_arms
            },
        }
        for step in steps
    ]


NOT_COMPARED = N_("Not compared")
OUTCOMES = {"no worse": N_("No worse"), "worse": N_("Worse"), "inconclusive": N_("Inconclusive")}


def outcome_label(report: Report) -> str:
    """The verdict as a label, such as ``No worse``, with contrary findings added."""
    verdict = report.verdict
    if not report.compares:
        return t(NOT_COMPARED)
    if is_respelled(report):
        if own_wordings_asked(report):
            return t(OUTCOMES["inconclusive"])
        return t("Not tested in other words")
    label = t(OUTCOMES[verdict.outcome])
    if verdict.within_margin_but_worse:
        label = t("{outcome}: measurably worse, within the margin", outcome=label)
    if report.objection:
        return t("{outcome}; but possible harm by another measure", outcome=label)
    return label


def tone(report: Report) -> str:
    """The CSS class of the verdict; a verdict with counter-evidence gets the class of a warning."""
    outcome = decided_outcome(report)
    return "mixed" if report.objection and outcome == "no worse" else outcome.replace(" ", "-")


def bound_rows(report: Report) -> list[dict[str, str]]:
    """Each bound of the verdict: metric, difference, interval, margin, and whether it was shown; empty without them."""
    rows = []
    for bound in report.verdict.bounds or []:
        metric, row = bound["metric"], as_row(bound)
        how, unit = shown(metric), shown(metric).unit
        result, mood = (
            (t("shown"), "yes") if bound["passed"] else (t("not shown"), "cannot-be-told")
        )
        if harm_interval(bound)[0] > bound["margin"]:
            result, mood = t("not shown: beyond the margin"), "no"
        rows.append(
            {
                "label": how.label,
                "difference": difference(bound["delta"], metric, row),
                "scale": scale(unit, higher=bound["higher_is_better"]),
                "interval": interval(row, metric),
                "margin": fmt.two_significant_digits(bound["margin"] * how.factor),
                "result": result,
                "tone": mood,
            }
        )
    return rows


def scale(unit: str, *, higher: bool) -> str:
    """The unit of a metric, if it has one, and which direction is better."""
    better = t("higher is better") if higher else t("lower is better")
    return f"{unit}, {better}" if unit else better


def of_contrast(report: Report, name: str, metric: str | None = None) -> list[Difference]:
    """The entries of a contrast, optionally of one metric."""
    return [
        row for row in report.contrasts if row["name"] == name and metric in (None, row["metric"])
    ]


def reading_of(row: Entries) -> str:
    """The interpretation of a difference without a verdict, in English."""
    significant = row["p_value_holm"] <= fmt.SIGNIFICANT
    if clearly_worse(row):
        return N_("worse") if significant else N_("possibly worse")
    if clearly_better(row):
        if row["p_value"] > fmt.SIGNIFICANT:
            return N_("better by its interval, not by its test")
        return N_("better") if significant else N_("better, but not after Holm's adjustment")
    if significant:
        return N_("unclear: interval and test disagree")
    return N_("no clear difference")


def reading(row: Entries) -> str:
    """:func:`reading_of` in the current language."""
    return t(reading_of(row))


def unit_note(metric: str) -> str:
    """The unit of a metric; empty if it is displayed as a share of 0 to 100."""
    info = metric_of(metric)
    return t(info.unit) if info.format == "number" else ""


def scored_metrics(records: Mapping[str, Entries]) -> list[str]:
    """The metrics of which any of the cells or baselines has a figure, in order."""
    return [
        name
        for name in METRICS
        if any(record["metrics"].get(name) is not None for record in records.values())
    ]


def every_difference(report: Report) -> dict[str, Any]:
    """The contrasts by name and metric, and their metrics."""
    rows: dict[str, dict[str, Any]] = {}
    for row in report.contrasts:
        rows.setdefault(row.name, {})[row.metric] = row
    return {"metrics": metrics_in(rows.values()), "rows": rows}


def metrics_in(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """The metrics that any of the records has, in order."""
    names = set().union(*records)
    return [name for name in METRICS if name in names]


def export_table(report: Report) -> dict[str, Any] | None:
    """The exports with their size and whether they keep the measured quality; ``None`` if no export was compared."""
    exports = report.exports
    if all(row["keeps"] == "measured" for row in exports):
        return None
    metric = exports[0]["metric"]
    how = shown(metric)
    kept = {
        "yes": t("yes"),
        "cannot be told": t("inconclusive"),
        "measured": t("this is what was measured"),
    }
    rows = []
    for row in exports:
        compared = row["delta"] is not None
        rows.append(
            {
                "cell": row["cell"],
                "arm": row["arm"],
                "measured": row["measured"],
                "how": fmt.export_description(row),
                "size": fmt.size(row["bytes"]),
                "figure": number(row["figure"], metric),
                "difference": difference(row["delta"], metric, row) if compared else "",
                "interval": interval(row, metric) if compared else "",
                "exact": "–"
                if row["exact_match"] is None
                else number(row["exact_match"], "exact_match"),
                "keeps": row["keeps"],
                "verdict": kept.get(row["keeps"])
                or t("no, it loses {share}", share=fmt.share_lost(row)),
            }
        )
    return {
        "rows": rows,
        "metric": how.label,
        "exact": metric != "exact_match",
        "margin": f"{fmt.plain(exports[0]['margin'] * how.factor)} {how.unit}".rstrip(),
    }


def counted(number: int, unit: str) -> str:
    """A number of clusters or items, the units of a comparison."""
    if unit == "clusters":
        return tn("{count} cluster", "{count} clusters", number)
    return tn("{count} item", "{count} items", number)
