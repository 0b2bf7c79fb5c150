"""The verdict, the figures at the top, and the table of the headline: QLoRA against its 16-bit twin."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from evals.metrics import METRIC_INFO
from evals.report import wording
from evals.report.reading import BASELINE, CANDIDATE, TUNED, arms_of, is_compared, lead_pair
from evals.report.sentences import harm_interval, number_of
from evals.report.views.cost import resource_rows
from evals.report.wording import SHOWN, difference, interval, number, signed_percent

Report = Mapping[str, Any]
HEADLINE = f"{CANDIDATE}-{BASELINE}"
MAIN_CELLS = ("B16", "B4", BASELINE, CANDIDATE)
NOT_COMPARED = "Not compared"
OUTCOMES = {"no worse": "No worse", "worse": "Worse", "inconclusive": "Cannot be told"}


def outcome_label(report: Report) -> str:
    """``No worse``, with the addition of a difference that was measured all the same."""
    verdict = report["verdict"]
    if not is_compared(report):
        return NOT_COMPARED
    label = OUTCOMES[verdict["outcome"]]
    if verdict["within_margin_but_worse"]:
        label += ": measurably worse, within the margin"
    return f"{label}; but clearly worse by another measure" if report["objection"] else label


def tone(report: Report) -> str:
    """The colour of the verdict, as a class of the style sheet: that of a warning where something speaks against it."""
    outcome = str(report["verdict"]["outcome"])
    return "mixed" if report["objection"] and outcome == "no worse" else outcome.replace(" ", "-")


def of_contrast(report: Report, name: str, metric: str | None = None) -> list[dict[str, Any]]:
    """The entries of a contrast, of one metric if given."""
    return [row for row in report["contrasts"] if row["name"] == name and metric in (None, row["metric"])]


def reading(row: Mapping[str, Any]) -> str:
    """What a difference that carries no verdict amounts to."""
    low, high = harm_interval({"ci": (row["ci_low"], row["ci_high"]), "higher_is_better": row["higher_is_better"]})
    significant = row["p_value_holm"] <= wording.SIGNIFICANT
    if low <= 0 <= high:
        return "unclear: interval and test disagree" if significant else "no clear difference"
    word = "worse" if low > 0 else "better"
    return word if significant else f"{word}, but not after Holm's adjustment"


def metric_table(report: Report, names: tuple[str, ...] = MAIN_CELLS) -> dict[str, Any]:
    """Cells as columns, metrics as rows, and the difference of the two leading cells with its interval.

    That is the headline's, or where one arm was trained what tuning changed.
    """
    cells = [(name, report["cells"][name]) for name in names if name in report["cells"]]
    rows = []
    for row in of_contrast(report, "-".join(lead_pair(report))):
        metric = row["metric"]
        primary = is_compared(report) and metric == report["primary_metric"]
        rows.append({
            "label": SHOWN[metric].label, "primary": primary,
            "scale": (f"{'nats per token, ' if metric == 'nll_per_token' else ''}"
                      f"{'higher' if row['higher_is_better'] else 'lower'} is better"),
            "figures": [number(cell["metrics"].get(metric), metric) for _, cell in cells],
            "difference": difference(row["delta"], metric, row),
            "interval": interval(row, metric),
            "p": wording.p_value(row["p_value"]), "holm": wording.p_value(row["p_value_holm"]),
            "reading": OUTCOMES[report["verdict"]["outcome"]].lower() + " (the verdict)" if primary else reading(row),
        })
        if metric == "nll_per_token":
            rows.append(_perplexity_row(row, [cell for _, cell in cells]))
    if not rows:  # one arm was trained, and its untuned base is not among eval.cells
        rows = [_row_alone(metric, [cell for _, cell in cells]) for metric in SHOWN
                if any(cell["metrics"].get(metric) is not None for _, cell in cells)]
    return {"cells": [{"name": name, "label": cell["label"]} for name, cell in cells], "rows": rows,
            "difference": _difference_names(report)}


def _row_alone(metric: str, cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"label": SHOWN[metric].label, "primary": False,
            "scale": f"{'higher' if METRIC_INFO[metric].higher_is_better else 'lower'} is better",
            "figures": [number(cell["metrics"].get(metric), metric) for cell in cells],
            "difference": "–", "interval": "–", "p": "", "holm": "", "reading": "the untuned base was not scored"}


def _difference_names(report: Report) -> dict[str, str]:
    """What the difference of the table is called: in its caption, in the signs of the cells, and in words."""
    candidate, baseline = lead_pair(report)
    if is_compared(report):
        return {"caption": "QLoRA minus LoRA", "signs": f"{candidate} − {baseline}", "words": "QLoRA − LoRA"}
    return {"caption": "the assistant minus the untuned base", "signs": f"{candidate} − {baseline}",
            "words": "Tuned − untuned"}


def _perplexity_row(row: Mapping[str, Any], cells: list[Mapping[str, Any]]) -> dict[str, Any]:
    low, high = math.expm1(row["ci_low"]), math.expm1(row["ci_high"])
    return {
        "label": "Perplexity", "primary": False, "scale": "lower is better; difference in percent",
        "figures": [number_of(cell["perplexity"]) for cell in cells],
        "difference": signed_percent(math.expm1(row["delta"])),
        "interval": f"{signed_percent(low)} to {signed_percent(high)}",
        "p": "", "holm": "", "reading": "the loss in other units",
    }


def in_short(report: Report) -> dict[str, str]:
    """What answers each of the three questions of the page, in a line."""
    verdict = report["verdict"]
    if not is_compared(report):
        return {"did": verdict["reason"], "from": ""}
    how = SHOWN[verdict["metric"]]
    row = {"ci_low": verdict["ci"][0], "ci_high": verdict["ci"][1]}
    attribution = report.get("attribution") or {}
    return {
        "did": f"{OUTCOMES[verdict['outcome']]}: {how.label.lower() if how.factor == 1 else how.label} "
               f"{difference(verdict['delta'], verdict['metric'], row)} {how.unit} "
               f"(95% interval {interval(row, verdict['metric'])}), with "
               f"{wording.plain(verdict['margin'] * how.factor)} allowed.",
        "from": str(attribution.get("sentence") or ""),
    }


def tiles(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """The four or five figures at the top: what it is, its value, and what it stands against."""
    verdict = report["verdict"]
    if not is_compared(report):
        return _tiles_alone(report)
    judged = of_contrast(report, verdict["contrast"], verdict["metric"])[0]
    shown = wording.SHOWN[verdict["metric"]]
    found = [{
        "label": f"{shown.label}: QLoRA minus LoRA",
        "value": wording.difference(judged["delta"], verdict["metric"], judged),
        "note": f"95% interval {wording.interval(judged, verdict['metric'])}; allowed: "
                f"{wording.plain(verdict['margin'] * shown.factor)}",
    }]
    for row in of_contrast(report, verdict["contrast"], "exact_match"):
        scores = {name: report["cells"][row[name]]["metrics"]["exact_match"] for name in ("candidate", "baseline")}
        found.append({
            "label": "Exactly right answers, QLoRA", "value": wording.number(scores["candidate"], "exact_match"),
            "note": f"{wording.number(scores['baseline'], 'exact_match')} with 16-bit LoRA",
        })
    names = {"base_bytes": "Base weights as stored, QLoRA", "train_seconds": "Training time, QLoRA"}
    for line in resource_rows(report):
        if line["key"] in names and line["values"].get("qlora") is not None:
            found.append({"label": names[line["key"]], "value": line["texts"]["qlora"],
                          "note": f"{line['texts']['lora']} with 16-bit LoRA ({line['ratio']})"})
    return found


def _tiles_alone(report: Report) -> list[dict[str, str]]:
    """The figures at the top of a report on one arm, each against the untuned base where that was scored."""
    (arm,) = arms_of(report)
    cell = report["cells"][TUNED[arm]]
    rows = {row["metric"]: row for row in of_contrast(report, "-".join(lead_pair(report)))}
    found = []
    for metric in dict.fromkeys((report["primary_metric"], "exact_match")):
        value, row = cell["metrics"].get(metric), rows.get(metric)
        if value is not None:
            found.append({
                "label": "Exactly right answers" if metric == "exact_match" else SHOWN[metric].label,
                "value": number(value, metric),
                "note": f"{difference(row['delta'], metric, row)} by tuning (95% interval {interval(row, metric)})"
                if row else "",
            })
    names = {"base_bytes": "Base weights as stored", "peak_memory_bytes": "Peak memory in training",
             "train_seconds": "Training time"}
    return found + [{"label": names[line["key"]], "value": line["texts"][arm], "note": ""}
                    for line in resource_rows(report) if line["key"] in names and line["values"].get(arm) is not None]
