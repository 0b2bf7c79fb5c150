"""Where the marks of the pictures beside the headline go: contrasts, waterfall, calibration, seeds, the judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evals.metrics import METRIC_INFO
from evals.report import wording
from evals.report.charts import Scale, axis, interval_panel
from evals.report.wording import count, difference, interval, number, percent, plural, shown

_ARMS = {"L16": "lora", "Q4": "qlora"}


def contrast_panel(rows: Sequence[dict[str, Any]], margin: float | None) -> dict[str, Any] | None:
    """Differences between cells on the metric of the verdict, each with the margin drawn in; ``None`` without any.

    Args:
        rows: What :func:`evals.report.views.cells.contrast_rows` returns.
        margin: Largest harm that counts as no worse; None where there is no verdict.
    """
    if not rows:
        return None
    drawn = [
        {**row, "label": row["title"], "about": row["meaning"], "primary": "verdict" in row, "margin": margin,
         "note": f"{row['from']} → {row['to']}; {row['reading']}"}
        for row in rows
    ]
    return interval_panel(drawn, "← the first is better", "the first is worse →", "Difference (95% interval)")


def task_panel(task: Mapping[str, Any]) -> dict[str, Any] | None:
    """The differences of an lm-eval task with their intervals; ``None`` where there are none."""
    rows = [
        {**row, "label": f"{row['candidate']} − {row['baseline']}", "about": row.get("meaning") or "", "note": "",
         "primary": False, "margin": None}
        for row in task["contrasts"]
    ]
    return interval_panel(rows, "← the first knows more", "knows less →", "Difference (95% interval)") if rows else None


def waterfall(attribution: Mapping[str, Any] | None, labels: Mapping[str, str]) -> dict[str, Any] | None:
    """The way from L16 to Q4: each step floats from where the one before it ended; right is worse.

    Args:
        attribution: ``report["attribution"]``.
        labels: What the cells are called.

    Returns:
        ``rows`` with ``kind label name text interval`` and positions in percent: ``at`` of a level; ``start``, ``end``,
        ``low`` and ``high`` of a step, and whether it did ``harm``; ``from_`` where the row above ended.
    """
    if not attribution:
        return None
    metric = attribution["metric"]
    how = shown(metric)
    spans: list[tuple[dict[str, Any], float, float, float, float]] = []
    level = 0.0
    for step in attribution["steps"]:
        start = level
        level = step["value"] if step["kind"] == "level" else start + step["delta"]
        ends = (start + step["ci_low"], start + step["ci_high"]) if step["kind"] == "step" else (level, level)
        spans.append((step, start, level, *ends))
    values = [value * how.factor for _, _, *marks in spans for value in marks]
    pad = 0.08 * (max(values) - min(values)) or 10.0 ** -how.decimals
    mirrored = METRIC_INFO[metric].higher_is_better
    scale = Scale(min(values) - pad, max(values) + pad, mirrored)
    rows = []
    for place, (step, start, end, low, high) in enumerate(spans):
        is_level = step["kind"] == "level"
        at = [scale(value * how.factor) for value in (start if place else end, end, low, high)]
        rows.append({
            "kind": step["kind"], "name": step["key"].replace("-", " − "),
            "label": labels[step["key"]] if is_level else wording.capitalised(step["label"]),
            "from_": at[0], "end": at[1], "low": min(at[2:]), "high": max(at[2:]), "harm": at[1] > at[0],
            "text": number(end, metric) if is_level else difference(step["delta"], metric, step),
            "interval": "" if is_level else interval(step, metric),
        })
    return {"rows": rows, "unit": how.unit if how.factor == 1 else how.label,
            "ticks": axis(scale)}


def reliability_chart(reliability: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Share of right answers over mean token probability, a point a bin with its Wilson interval, per cell."""
    if not reliability:
        return None
    across, up = Scale(0, 1), Scale(0, 1, mirrored=True)
    lines = []
    for name, cell in reliability["cells"].items():
        bins = [one for one in cell["bins"] if one["n"]]
        points = [{
            "x": across(one["mean_probability"]), "y": up(one["correct"]), "low": up(one["ci"][0]),
            "high": up(one["ci"][1]),
            "text": f"{plural(one['n'], 'item')}: mean probability {percent(one['mean_probability'])}, "
                    f"{percent(one['correct'])} right",
        } for one in bins]
        if points:
            lines.append({"arm": _ARMS[name], "name": name, "points": points, "ece": f"{cell['ece']:.3f}",
                          "brier": f"{cell['brier']:.3f}", "n": count(cell["n"])})
    marks = (0, 0.25, 0.5, 0.75, 1)
    return None if not lines else {
        "lines": lines, "x": [{"at": across(tick), "text": percent(tick, 0)} for tick in marks],
        "y": [{"at": up(tick), "text": percent(tick, 0)} for tick in marks],
    }


def seed_dots(seeds: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Each training run of each arm as a dot on one axis, with the arm's mean; ``None`` with a single run."""
    if not seeds or seeds["count"] < 2:
        return None
    metric = seeds["metric"]
    how = shown(metric)
    arms = {cell: arm for cell, arm in _ARMS.items() if cell in seeds["runs"][0]}
    values = [run[cell] * how.factor for run in seeds["runs"] for cell in arms]
    pad = 0.12 * (max(values) - min(values)) or 10.0 ** -how.decimals
    scale = Scale(min(values) - pad, max(values) + pad, METRIC_INFO[metric].higher_is_better)
    spread = seeds.get("spread") or {}
    rows = [{
        "arm": arm, "name": cell,
        "mean": scale(spread[cell]["mean"] * how.factor) if cell in spread else None,
        "dots": [{"at": scale(run[cell] * how.factor), "text": f"seed {run['seed']}: {number(run[cell], metric)}"}
                 for run in seeds["runs"]],
        "text": f"{number(min(run[cell] for run in seeds['runs']), metric)} to "
                f"{number(max(run[cell] for run in seeds['runs']), metric)}",
    } for cell, arm in arms.items()]
    return {"rows": rows, "unit": how.unit if how.factor == 1 else how.label,
            "ticks": axis(scale)}


def seed_panel(seeds: Mapping[str, Any] | None, margin: float) -> dict[str, Any] | None:
    """The difference of each training run over the items, and of all runs together over the seeds."""
    if not seeds or seeds["count"] < 2 or "delta" not in seeds["runs"][0]:
        return None
    metric = seeds["metric"]
    shared = {"metric": metric, "higher_is_better": METRIC_INFO[metric].higher_is_better, "primary": False,
              "margin": margin, "note": ""}
    rows = [{**shared, "label": f"Seed {run['seed']}", "about": "interval over the items", "delta": run["delta"],
             "ci_low": run["ci"][0], "ci_high": run["ci"][1]} for run in seeds["runs"]]
    if seeds.get("spread"):
        mean = seeds["spread"]["delta"]
        rows.append({**shared, "label": "Mean of the runs", "about": "t interval over the seeds", "delta": mean["mean"],
                     "ci_low": mean["ci"][0], "ci_high": mean["ci"][1]})
    return interval_panel(rows, "← QLoRA better", "QLoRA worse →", "QLoRA − LoRA (95% interval)")


def preference_bar(judge: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The judge's preference on an axis from always LoRA to always QLoRA; ``None`` where it could not be figured."""
    if not judge or judge.get("preference") is None or not judge.get("ci"):
        return None
    scale = Scale(0, 1)
    low, high = judge["ci"]
    return {"at": scale(judge["preference"]), "low": scale(low), "high": scale(high),
            "text": percent(judge["preference"]), "interval": f"{percent(low)} to {percent(high)}"}
