"""Rows of text for the page: verdict, headline figures, cells, differences, exports, untuned baselines and cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from assistant_builder.arms import LORA, QLORA, main_cells
from assistant_builder.arms import label as label_of
from assistant_builder.i18n import N_
from assistant_builder.planning.memory_check import plan_accuracy
from assistant_builder.study.contents import Entries
from assistant_builder.study.steps import evaluates
from evals.metrics import METRICS, metric_of
from evals.report import format as fmt
from evals.report.contrasts import clearly_better, clearly_worse
from evals.report.format import count, difference, interval, number, shown, signed_percent
from evals.report.load import lead_arm, lead_pair
from evals.report.other_words import is_respelled
from evals.report.schema import Difference, Report
from evals.report.verdict import as_row, harm_interval, level_of, number_of


def resource_rows(report: Report) -> list[dict[str, Any]]:
    """Time and memory: label, values and printed values by arm, and QLoRA's value relative to LoRA's."""
    price = report.config["eval"]["price_per_hour"]
    listed: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
        ("Base weights as stored", "base_bytes", fmt.size),
        ("Peak memory in training", "peak_memory_bytes", fmt.size),
        ("Training time", "train_seconds", fmt.duration),
        (
            "Training time of each run",
            "train_seconds_all",
            lambda runs: ", ".join(map(fmt.duration, runs)),
        ),
        ("Training speed", "tokens_per_second", fmt.rate),
        ("Time of an optimizer step", "seconds_per_step", lambda seconds: f"{seconds:.3g} s"),
        (
            f"Cost of training{'' if price is None else f', at {fmt.plain(price)} an hour'}",
            "cost",
            fmt.money,
        ),
        ("Adapter", "adapter_bytes", fmt.size),
        ("Trained weights", "trainable_parameters", count),
        ("Optimizer steps", "steps", count),
        ("Checkpoint used (step)", "best_step", count),
        (
            "Its validation loss",
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
                ratio = "same" if lora == qlora else signed_percent(qlora / lora - 1, 0)
            texts = {
                arm: "–" if values.get(arm) is None else text_of(values[arm])
                for arm in report.trained_arms
            }
            rows.append(
                {"label": label, "key": key, "values": values, "texts": texts, "ratio": ratio}
            )
    return rows


_GRADED = {
    "base_bytes": ("Base weights", fmt.size),
    "adapter_bytes": ("Adapter", fmt.size),
    "peak_memory_bytes": ("Peak memory in training", fmt.size),
    "train_seconds": ("Training time", fmt.duration),
}


def graded_rows(report: Report) -> list[dict[str, str]]:
    """The predictions of the plan compared with the measurements, with the error in percent of the measured."""
    rows = []
    for arm in report.trained_arms:
        for grade in plan_accuracy(
            report.resources[arm].model_dump() if arm in report.resources else {}
        ):
            label, text_of = _GRADED[grade["quantity"]]
            rows.append(
                {
                    "quantity": label,
                    "arm": label_of(arm),
                    "predicted": text_of(grade["predicted"]),
                    "measured": text_of(grade["measured"]),
                    "error": signed_percent(grade["error"]),
                }
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
OUTCOMES = {"no worse": "No worse", "worse": "Worse", "inconclusive": "Inconclusive"}


def outcome_label(report: Report) -> str:
    """The verdict as a label, such as ``No worse``, with contrary findings added."""
    verdict = report.verdict
    if not report.compares:
        return NOT_COMPARED
    if is_respelled(report):
        return "Not tested in other words"
    label = OUTCOMES[verdict.outcome]
    if verdict.within_margin_but_worse:
        label += ": measurably worse, within the margin"
    return f"{label}; but possible harm by another measure" if report.objection else label


def tone(report: Report) -> str:
    """The CSS class of the verdict; a verdict with counter-evidence gets the class of a warning."""
    outcome = "inconclusive" if is_respelled(report) else str(report.verdict.outcome)
    return "mixed" if report.objection and outcome == "no worse" else outcome.replace(" ", "-")


def bound_rows(report: Report) -> list[dict[str, str]]:
    """Each bound of the verdict: metric, difference, interval, margin, and whether it was shown; empty without them."""
    rows = []
    for bound in report.verdict.bounds or []:
        metric, row = bound["metric"], as_row(bound)
        how, unit = shown(metric), shown(metric).unit
        result, mood = ("shown", "yes") if bound["passed"] else ("not shown", "cannot-be-told")
        if harm_interval(bound)[0] > bound["margin"]:
            result, mood = "not shown: beyond the margin", "no"
        rows.append(
            {
                "label": how.label,
                "difference": difference(bound["delta"], metric, row),
                "scale": f"{unit}{', ' if unit else ''}{'higher' if bound['higher_is_better'] else 'lower'} is better",
                "interval": interval(row, metric),
                "margin": fmt.two_significant_digits(bound["margin"] * how.factor),
                "result": result,
                "tone": mood,
            }
        )
    return rows


def of_contrast(report: Report, name: str, metric: str | None = None) -> list[Difference]:
    """The entries of a contrast, optionally of one metric."""
    return [
        row for row in report.contrasts if row["name"] == name and metric in (None, row["metric"])
    ]


def reading(row: Entries) -> str:
    """The interpretation of a difference without a verdict."""
    significant = row["p_value_holm"] <= fmt.SIGNIFICANT
    if clearly_worse(row):
        return "worse" if significant else "possibly worse"
    if clearly_better(row):
        if row["p_value"] > fmt.SIGNIFICANT:
            return "better by its interval, not by its test"
        return "better" if significant else "better, but not after Holm's adjustment"
    return "unclear: interval and test disagree" if significant else "no clear difference"


def unit_note(metric: str) -> str:
    """The unit of a metric; empty if it is displayed as a share of 0 to 100."""
    info = metric_of(metric)
    return info.unit if info.format == "number" else ""


def metric_table(report: Report) -> dict[str, Any]:
    """Cells as columns, metrics as rows, and the difference between the cells of :func:`lead_pair`."""
    compared, pair = report.compares, lead_pair(report)
    cells = {
        name: report.cells[name] for name in main_cells(report.trained_arms) if name in report.cells
    }
    rows: list[dict[str, Any]] = []
    for row in of_contrast(report, "-".join(pair)):
        metric = row["metric"]
        primary, unit = compared and metric == report.primary_metric, unit_note(metric)
        rows.append(
            {
                "label": shown(metric).label,
                "primary": primary,
                "scale": (
                    f"{unit}{', ' if unit else ''}{'higher' if row['higher_is_better'] else 'lower'} is better"
                ),
                "figures": [number(cell["metrics"].get(metric), metric) for cell in cells.values()],
                "difference": difference(row["delta"], metric, row),
                "interval": interval(row, metric),
                "p": fmt.p_value(row["p_value"]),
                "holm": fmt.p_value(row["p_value_holm"]),
                "reading": f"{OUTCOMES[row['verdict']].lower()}, by this metric"
                if primary
                else reading(row),
            }
        )
        if metric == "nll_per_token":
            low, high = (signed_percent(math.expm1(row[end])) for end in ("ci_low", "ci_high"))
            rows.append(
                {
                    "label": "Perplexity",
                    "primary": False,
                    "scale": "lower is better; difference in percent",
                    "figures": [number_of(cell["perplexity"]) for cell in cells.values()],
                    "difference": signed_percent(math.expm1(row["delta"])),
                    "interval": f"{low} to {high}",
                    "p": "",
                    "holm": "",
                    "reading": "the loss in other units",
                }
            )
    if not rows:  # a single arm, whose untuned base is not among eval.cells
        rows = [
            {
                "label": shown(name).label,
                "primary": False,
                "scale": f"{'higher' if metric_of(name).higher_is_better else 'lower'} is better",
                "figures": [number(cell["metrics"].get(name), name) for cell in cells.values()],
                "difference": "–",
                "interval": "–",
                "p": "",
                "holm": "",
                "reading": "the untuned base was not scored",
            }
            for name in METRICS
            if any(cell["metrics"].get(name) is not None for cell in cells.values())
        ]
    cut = [cell.get("cut_answers") for cell in cells.values()]
    if any(cut):
        rows.append(
            {
                "label": "Answers cut at the limit",
                "primary": False,
                "scale": f"of {report['answer_limit']:,} tokens; lower is better",
                "figures": ["–" if number is None else f"{number:,}" for number in cut],
                "difference": "",
                "interval": "",
                "p": "",
                "holm": "",
                "reading": "scored without their end",
            }
        )
    caption, words = (
        ("QLoRA minus LoRA", "QLoRA − LoRA")
        if compared
        else ("the assistant minus the untuned base", "Tuned − untuned")
    )
    return {
        "cells": [{"name": name, "label": cell["label"]} for name, cell in cells.items()],
        "rows": rows,
        "difference": {"caption": caption, "signs": " − ".join(pair), "words": words},
    }


def in_short(report: Report) -> dict[str, str]:
    """One line each on what 4-bit cost and where the difference comes from."""
    verdict = report.verdict
    if not report.compares:
        return {"did": verdict.reason, "from": ""}
    how = shown(verdict.metric)
    row = {"ci_low": verdict.ci[0], "ci_high": verdict.ci[1]}
    failed = [
        fmt.in_sentence(shown(bound["metric"]).label)
        for bound in verdict.bounds
        if not bound["passed"]
    ]
    margin = fmt.two_significant_digits(verdict.margin * how.factor)
    return {
        "did": f"{OUTCOMES[verdict['outcome']]}: {fmt.in_sentence(how.label)} "
        f"{difference(verdict['delta'], verdict['metric'], row)} {how.unit} "
        f"({level_of(verdict)} interval {interval(row, verdict['metric'])}), with {margin} allowed."
        + (f" Not shown to be within the margin: {fmt.enumerated(failed)}." if failed else ""),
        "from": report.attribution.sentence if report.attribution else "",
    }


def tiles(report: Report) -> list[dict[str, str]]:
    """The four or five figures at the top: label, value and the value it is compared with."""
    verdict = report.verdict
    if not report.compares:
        return _tiles_alone(report)
    how, judged = shown(verdict.metric), as_row(verdict)
    found = [
        {
            "label": f"{how.label}: QLoRA minus LoRA",
            "value": difference(judged["delta"], verdict.metric, judged),
            "note": f"{level_of(verdict)} interval {interval(judged, verdict['metric'])}; allowed: "
            f"{fmt.two_significant_digits(verdict['margin'] * how.factor)}",
        }
    ]
    for row in of_contrast(report, verdict.contrast or "", "exact_match"):
        qlora, lora = (
            number(report.cells[row[name]]["metrics"]["exact_match"], "exact_match")
            for name in ("candidate", "baseline")
        )
        found.append(
            {
                "label": "Exactly right answers, QLoRA",
                "value": qlora,
                "note": f"{lora} with 16-bit LoRA",
            }
        )
    return found + [
        {
            "label": f"{line['label']}, QLoRA",
            "value": line["texts"][QLORA.name],
            "note": f"{line['texts'][LORA.name]} with 16-bit LoRA ({line['ratio']})",
        }
        for line in resource_rows(report)
        if line["key"] in ("base_bytes", "peak_memory_bytes")
        and line["values"].get(QLORA.name) is not None
    ]


def _tiles_alone(report: Report) -> list[dict[str, str]]:
    """The figures at the top of a report on one arm, compared with the untuned base if that was scored."""
    arm = lead_arm(report.trained_arms)
    rows = {row["metric"]: row for row in of_contrast(report, "-".join(lead_pair(report)))}
    found = []
    for metric in dict.fromkeys((report.primary_metric, "exact_match")):
        value, row = report.cells[arm.cell].metrics.get(metric), rows.get(metric)
        if value is not None:
            found.append(
                {
                    "label": "Exactly right answers"
                    if metric == "exact_match"
                    else shown(metric).label,
                    "value": number(value, metric),
                    "note": f"{difference(row['delta'], metric, row)} by tuning (95% interval {interval(row, metric)})"
                    if row
                    else "",
                }
            )
    return found + [
        {"label": line["label"], "value": line["texts"][arm.name], "note": ""}
        for line in resource_rows(report)
        if line["values"].get(arm.name) is not None
        and line["key"] in ("base_bytes", "peak_memory_bytes")
    ]


_LARGE = 10  # differences beyond this multiple of the margin, or of the headline's interval, get a separate axis


def cell_table(report: Report) -> dict[str, Any]:
    """Every cell and untuned baseline as a row, every metric as a column, with a dash for a missing figure."""
    records = {**report.cells, **report.baselines}
    metrics = [
        name
        for name in METRICS
        if any(found["metrics"].get(name) is not None for found in records.values())
    ]
    weighed = any(record.get("base_bytes") for record in records.values())
    columns = [{"label": shown(metric).label, "note": unit_note(metric)} for metric in metrics]
    if "nll_per_token" in metrics:
        columns.insert(metrics.index("nll_per_token") + 1, {"label": "Perplexity", "note": ""})
    if weighed:
        columns.insert(0, {"label": "Weights", "note": "as served"})
    rows = []
    for name, record in records.items():
        figures = [fmt.size(record.get("base_bytes"))] if weighed else []
        for metric in metrics:
            value = record["metrics"].get(metric)
            figures.append("–" if value is None else number(value, metric))
            if metric == "nll_per_token":
                perplexity = record.get("perplexity")
                figures.append("–" if perplexity is None else number_of(perplexity))
        rows.append(
            {
                "name": name,
                "label": record["label"],
                "about": record["about"],
                "figures": figures,
                "baseline": name not in report.cells,
            }
        )
    return {"columns": columns, "rows": rows, "baselines": bool(report.baselines)}


def contrast_rows(report: Report) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Every difference on the metric of the verdict, in two groups for two axes.

    The first has the differences of the margin's order of magnitude, the headline first, the second those more than ten
    times as large.
    """
    metric, records = report.primary_metric, {**report.cells, **report.baselines}
    rows = [
        {
            **row,
            "title": f"{row['candidate']} − {row['baseline']}",
            "from": number(records[row["baseline"]]["metrics"].get(metric), metric),
            "to": number(records[row["candidate"]]["metrics"].get(metric), metric),
            "text": difference(row["delta"], metric, row),
            "interval": interval(row, metric),
            "reading": reading(row),
        }
        for row in report.contrasts
        if row["metric"] == metric
    ]
    reach = [max(abs(row["ci_low"]), abs(row["ci_high"])) for row in rows]
    limit = _LARGE * max(
        report.verdict.margin, reach[0] if report.compares else max(reach, default=0.0)
    )
    near = [row for row, far in zip(rows, reach, strict=True) if far <= limit]
    return near, [row for row, far in zip(rows, reach, strict=True) if far > limit]


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


def identity_line(report: Report) -> str:
    """Which identities hold, on how many metrics, and with what error; empty without identities."""
    found = report.identities
    if not found:
        return ""
    texts = list(dict.fromkeys(entry["text"] for entry in found))
    metrics = {entry["metric"] for entry in found}
    largest = max(abs(entry["error"]) for entry in found)
    error = (
        "exactly"
        if largest == 0
        else f"with an error of {largest:.0e} at most".replace("-", "\N{MINUS SIGN}")
    )
    return (
        f"{'; '.join(texts)}: checked on {fmt.plural(len(metrics), 'metric')}, they hold {error}."
    )


def export_table(report: Report) -> dict[str, Any] | None:
    """The exports with their size and whether they keep the measured quality; ``None`` if no export was compared."""
    exports = report.exports
    if all(row["keeps"] == "measured" for row in exports):
        return None
    metric = exports[0]["metric"]
    how = shown(metric)
    kept = {"yes": "yes", "cannot be told": "inconclusive", "measured": "this is what was measured"}
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
                "verdict": kept.get(row["keeps"]) or f"no, it loses {fmt.share_lost(row)}",
            }
        )
    return {
        "rows": rows,
        "metric": how.label,
        "exact": metric != "exact_match",
        "margin": f"{fmt.plain(exports[0]['margin'] * how.factor)} {how.unit}".rstrip(),
    }
