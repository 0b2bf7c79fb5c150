"""The cells beside each other, and every difference between two of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evals.report import wording
from evals.report.reading import is_compared
from evals.report.sentences import number_of
from evals.report.views.headline import HEADLINE, of_contrast, reading
from evals.report.wording import SHOWN, difference, interval, number

Report = Mapping[str, Any]
_LARGE = 10
"""How many times the margin, or the reach of the headline's interval, a difference may be to share its axis."""


def cell_table(report: Report) -> dict[str, Any]:
    """Every cell and untuned baseline as a row, every metric as a column.

    Returns:
        ``columns``, and ``rows`` with ``name label about figures baseline``, figures in the order of the columns, a
        dash where a cell has none; ``baselines``, whether there are any.
    """
    records = {**report["cells"], **(report.get("baselines") or {})}
    metrics = [metric for metric in SHOWN if any(record["metrics"].get(metric) is not None
                                                 for record in records.values())]
    weighed = any(record.get("base_bytes") for record in records.values())
    columns = [{"label": SHOWN[metric].label, "note": "nats per token" if metric == "nll_per_token" else ""}
               for metric in metrics]
    if "nll_per_token" in metrics:
        columns.insert(metrics.index("nll_per_token") + 1, {"label": "Perplexity", "note": ""})
    if weighed:
        columns.insert(0, {"label": "Weights", "note": "as served"})
    rows = []
    for name, record in records.items():
        figures = [wording.size(record.get("base_bytes"))] if weighed else []
        for metric in metrics:
            value = record["metrics"].get(metric)
            figures.append("–" if value is None else number(value, metric))
            if metric == "nll_per_token":
                perplexity = record.get("perplexity")
                figures.append("–" if perplexity is None else number_of(perplexity))
        rows.append({"name": name, "label": record["label"], "about": record["about"], "figures": figures,
                     "baseline": name not in report["cells"]})
    return {"columns": columns, "rows": rows, "baselines": bool(report.get("baselines"))}


def figure_of(report: Report, name: str, metric: str) -> float | None:
    """A cell's or a baseline's figure."""
    record = report["cells"].get(name) or (report.get("baselines") or {}).get(name)
    value = record["metrics"].get(metric) if record else None
    return None if value is None else float(value)


def contrast_rows(report: Report) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Every difference on the metric of the verdict, in two groups, as one axis cannot show both.

    Returns:
        Differences of the margin's order of size, the headline first, and those more than ten times as large: the
        report's own rows with ``title from to text interval reading`` added.
    """
    metric = report["primary_metric"]
    rows = [
        {**row, "title": f"{row['candidate']} − {row['baseline']}",
         "from": number(figure_of(report, row["baseline"], metric), metric),
         "to": number(figure_of(report, row["candidate"], metric), metric),
         "text": difference(row["delta"], metric, row), "interval": interval(row, metric), "reading": reading(row)}
        for row in report["contrasts"] if row["metric"] == metric
    ]
    reach = [max(abs(row["ci_low"]), abs(row["ci_high"])) for row in rows]
    limit = _LARGE * max(report["verdict"]["margin"], reach[0] if is_compared(report) else max(reach, default=0.0))
    near = [row for row, far in zip(rows, reach, strict=True) if far <= limit]
    return near, [row for row, far in zip(rows, reach, strict=True) if far > limit]


def every_difference(report: Report) -> dict[str, Any]:
    """All contrasts on all metrics: contrasts as rows, metrics as columns, the difference with its interval in each."""
    metrics = [metric for metric in SHOWN if any(row["metric"] == metric for row in report["contrasts"])]
    names = list(dict.fromkeys(row["name"] for row in report["contrasts"]))
    rows = []
    for name in names:
        found = {row["metric"]: row for row in of_contrast(report, name)}
        first = next(iter(found.values()))
        rows.append({
            "title": f"{first['candidate']} − {first['baseline']}", "meaning": first["meaning"],
            "headline": name == HEADLINE,
            "figures": [
                {"text": difference(row["delta"], metric, row), "interval": interval(row, metric),
                 "p": wording.p_value(row["p_value_holm"])}
                if (row := found.get(metric)) else None for metric in metrics
            ],
        })
    return {"metrics": [SHOWN[metric].label for metric in metrics], "rows": rows}
