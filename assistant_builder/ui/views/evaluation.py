"""The scores of every cell, the differences with their intervals, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from assistant_builder.config import METRICS
from assistant_builder.ui.markup import Tone, bar, callout, card, empty, error_callout, fold, items, join, table
from assistant_builder.ui.snapshots import Snapshot
from assistant_builder.ui.views.study import step_title
from evals.metrics import METRIC_INFO
from evals.report.wording import SHOWN, count, difference, duration, interval, number, p_value

MINUS = " \N{MINUS SIGN} "
CELL_MEANINGS = {
    "B16": "16-bit base, untuned",
    "B4": "4-bit base, untuned",
    "L16": "LoRA on the 16-bit base",
    "Q4": "QLoRA on the 4-bit base",
    "L4": "LoRA's adapter on the 4-bit base",
    "Q16": "QLoRA's adapter on the 16-bit base",
    "QD": "QLoRA merged into its dequantized base",
    "QR": "the same, quantized again",
    "LM": "LoRA merged into the 16-bit base",
    "LR": "the same, quantized to 4 bits",
}
_OUTCOMES: dict[str, tuple[Tone, str]] = {
    "no worse": ("good", "4-bit is no worse"),
    "worse": ("bad", "4-bit is worse"),
    "inconclusive": ("warn", "Cannot be told yet"),
}


def evaluation_panel(snapshot: Snapshot) -> Markup:
    """Everything the Evaluate tab shows."""
    return join([
        _state(snapshot),
        verdict_callout(snapshot.report) if snapshot.report else "",
        card("Every cell", cells_table(snapshot)) if snapshot.scores else "",
        card("Differences", contrasts_table(snapshot.report)) if snapshot.report else "",
        _warnings(snapshot.report) if snapshot.report else "",
    ])


def _state(snapshot: Snapshot) -> Markup:
    record = snapshot.step("evaluate")
    if record.state == "running":
        progress = snapshot.progress.get("evaluate")
        if progress is None or not progress.total:
            return callout("info", "Evaluating", "Loading the models.")
        left = f", {duration(progress.eta_seconds)} left" if progress.eta_seconds is not None else ""
        said = f"{progress.message or 'Scoring'}: {progress.done} %{left}"
        return join([callout("info", "Evaluating", said), bar(progress.done / progress.total, step_title("evaluate"))])
    if record.state == "failed":
        return error_callout(record.error or {"what": "the evaluation failed"})
    if record.state in ("cancelled", "lost"):
        return callout("warn", "The evaluation did not finish", remedy="Press “Carry on” on the Train tab.")
    if record.state == "queued" and not snapshot.scores:
        if snapshot.trained:
            return empty("Trained, not evaluated", "Press “Evaluate now”: both assistants answer the held-out "
                         "questions, and their untuned bases too.")
        return empty("Nothing to evaluate yet", "Train both assistants on the Train tab; the evaluation follows by "
                     "itself.")
    return Markup("")


def verdict_callout(report: Mapping[str, Any]) -> Markup:
    """The verdict in one sentence, and what else a reader asks first."""
    tone, title = _OUTCOMES[report["verdict"]["outcome"]]
    summary = report.get("summary") or []
    return Markup('<div class="ab-callout ab-verdict ab-{}" role="status"><strong>{}</strong><p>{}</p>{}</div>').format(
        tone, title, report.get("sentence") or "", items(summary) if summary else ""
    )


def cells_table(snapshot: Snapshot) -> Markup:
    """One row a cell, one column a metric that any of them has."""
    shown = [metric for metric in METRICS if any(_figure(scores, metric) is not None for scores in _cells(snapshot))]
    headers = ["Cell", "What it is", "Items", "Perplexity", *(SHOWN[metric].label for metric in shown)]
    rows = [
        (
            Markup('<b class="ab-cell">{}</b>').format(cell),
            CELL_MEANINGS.get(cell, ""),
            str(scores["items"]),
            f"{scores['perplexity']:.2f}",
            *(number(_figure(scores, metric), metric) for metric in shown),
        )
        for cell, scores in snapshot.scores.items()
    ]
    meanings = (METRIC_INFO[metric] for metric in shown)
    legend = fold("What the columns mean", items(f"{m.label}: {m.meaning} {m.blind_spots}" for m in meanings))
    return join([table(headers, rows, numeric=range(2, len(headers))), legend])


def _cells(snapshot: Snapshot) -> list[dict[str, Any]]:
    return list(snapshot.scores.values())


def _figure(scores: Mapping[str, Any], metric: str) -> float | None:
    return scores["nll_per_token"] if metric == "nll_per_token" else scores["metrics"].get(metric)


def contrasts_table(report: Mapping[str, Any]) -> Markup:
    """Every difference with its 95 % interval: the headline open, the others to be opened."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in report["contrasts"]:
        groups.setdefault(row["name"], []).append(row)
    parts = []
    for place, (name, rows) in enumerate(groups.items()):
        title = f"{name.replace('-', MINUS)}: {rows[0].get('meaning', '')}"
        parts.append(fold(title, _contrast_rows(rows), opened=place == 0))
    return join(parts)


def _contrast_rows(rows: list[Mapping[str, Any]]) -> Markup:
    cells = [
        (
            SHOWN[row["metric"]].label,
            difference(row["delta"], row["metric"], row),
            interval(row, row["metric"]),
            p_value(row.get("p_value_holm", row["p_value"])),
            count(row["n"]),
        )
        for row in rows
    ]
    return table(("Metric", "Difference", "95 % interval", "p (Holm)", "n"), cells, numeric=(1, 2, 3, 4))


def _warnings(report: Mapping[str, Any]) -> Markup:
    said = [entry if isinstance(entry, str) else str(entry.get("text", "")) for entry in report.get("warnings", [])]
    return card("What to keep in mind", items(said)) if said else Markup("")
