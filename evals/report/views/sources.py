"""Where a loss comes from: the identities, the steps from L16 to Q4, the exports, and what no tuning gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evals.report import wording
from evals.report.views.headline import of_contrast, reading
from evals.report.wording import SHOWN, difference, interval, number

Report = Mapping[str, Any]
KEEPS = {"yes": "yes", "cannot be told": "cannot be told", "measured": "this is what you measured"}


def attribution_rows(report: Report) -> list[dict[str, str]]:
    """The waterfall in numbers: the two levels and the steps between them; empty where L4 was not scored."""
    attribution = report.get("attribution")
    if not attribution:
        return []
    metric = attribution["metric"]
    rows = []
    for step in attribution["steps"]:
        if step["kind"] == "level":
            rows.append({"kind": "level", "name": step["key"], "label": report["cells"][step["key"]]["label"],
                         "text": number(step["value"], metric), "interval": ""})
        else:
            rows.append({"kind": "step", "name": step["key"].replace("-", " − "),
                         "label": wording.capitalised(step["label"]),
                         "text": difference(step["delta"], metric, step), "interval": interval(step, metric)})
    return rows


def identity_line(report: Report) -> str:
    """Which sums hold, on how many metrics, and to what error; empty where no sum could be formed."""
    found = report.get("identities") or []
    if not found:
        return ""
    texts = list(dict.fromkeys(entry["text"] for entry in found))
    metrics = {entry["metric"] for entry in found}
    largest = max(abs(entry["error"]) for entry in found)
    error = "exactly" if largest == 0 else f"with an error of {largest:.0e} at most".replace("-", "\N{MINUS SIGN}")
    return f"{'; '.join(texts)}: checked on {wording.plural(len(metrics), 'metric')}, they hold {error}."


def export_table(report: Report) -> dict[str, Any] | None:
    """What can be exported of each arm, what it weighs, and whether it keeps the quality that was measured."""
    exports = report.get("exports") or []
    if all(row["keeps"] == "measured" for row in exports):
        return None
    metric = exports[0]["metric"]
    how = SHOWN[metric]
    rows = []
    for row in exports:
        compared = row["delta"] is not None
        rows.append({
            "cell": row["cell"], "arm": row["arm"], "measured": row["measured"], "how": row["how"],
            "size": wording.size(row["bytes"]), "figure": number(row["figure"], metric),
            "difference": difference(row["delta"], metric, row) if compared else "",
            "interval": interval(row, metric) if compared else "",
            "exact": "–" if row["exact_match"] is None else number(row["exact_match"], "exact_match"),
            "keeps": row["keeps"], "verdict": KEEPS.get(row["keeps"]) or f"no, it loses {wording.share_lost(row)}",
        })
    unit = f" {how.unit}" if metric != "nll_per_token" else " nats per token"
    return {"rows": rows, "metric": how.label, "exact": metric != "exact_match",
            "margin": wording.plain(exports[0]["margin"] * how.factor) + unit}


def baseline_rows(report: Report) -> list[dict[str, str]]:
    """What tuning gained over each untuned baseline on each metric."""
    rows = []
    for name, record in (report.get("baselines") or {}).items():
        for cell in ("L16", "Q4"):
            for row in of_contrast(report, f"{cell}-{name}"):
                metric = row["metric"]
                rows.append({
                    "against": record["label"], "cell": cell, "arm": report["cells"][cell]["label"],
                    "metric": SHOWN[metric].label, "from": number(record["metrics"].get(metric), metric),
                    "to": number(report["cells"][cell]["metrics"].get(metric), metric),
                    "difference": difference(row["delta"], metric, row), "interval": interval(row, metric),
                    "reading": reading(row),
                })
    return rows


def baseline_texts(report: Report) -> list[tuple[str, str]]:
    """What each untuned baseline is."""
    return [(record["label"], record["about"]) for record in (report.get("baselines") or {}).values()]


def untuned_sentences(report: Report) -> list[dict[str, Any]]:
    """Whether tuning beats its untuned baselines, one sentence an arm and baseline; those where it does not, first."""
    found = report.get("beats_untuned") or []
    lines = [{"text": entry["sentence"], "beaten": not entry["not_beaten"] and not entry["worse"]} for entry in found]
    return sorted(lines, key=lambda line: bool(line["beaten"]))
