"""The report's numbers as rows of text, shared by the page and the Markdown; both read ``report.json`` alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from evals.metrics import METRIC_INFO
from evals.report import wording
from evals.report.reading import BASELINE, CANDIDATE
from evals.report.sentences import harm_interval, number_of
from evals.report.wording import SHOWN, count, difference, interval, number, percent, plain, plural, signed_percent

Report = Mapping[str, Any]
HEADLINE = f"{CANDIDATE}-{BASELINE}"
MAIN_CELLS = ("B16", "B4", BASELINE, CANDIDATE)
OUTCOMES = {"no worse": "No worse", "worse": "Worse", "inconclusive": "Cannot be told"}
ARM_NAMES = {"lora": "LoRA, 16-bit", "qlora": "QLoRA, 4-bit"}


def outcome_label(report: Report) -> str:
    """``No worse``, with the addition of a difference that was measured all the same."""
    verdict = report["verdict"]
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
    """Cells as columns, metrics as rows, and the headline's difference with its interval."""
    cells = [(name, report["cells"][name]) for name in names if name in report["cells"]]
    rows = []
    for row in of_contrast(report, HEADLINE):
        metric = row["metric"]
        primary = metric == report["primary_metric"]
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
    return {"cells": [{"name": name, "label": cell["label"]} for name, cell in cells], "rows": rows}


def _perplexity_row(row: Mapping[str, Any], cells: list[Mapping[str, Any]]) -> dict[str, Any]:
    low, high = math.expm1(row["ci_low"]), math.expm1(row["ci_high"])
    return {
        "label": "Perplexity", "primary": False, "scale": "lower is better; difference in percent",
        "figures": [number_of(cell["perplexity"]) for cell in cells],
        "difference": signed_percent(math.expm1(row["delta"])),
        "interval": f"{signed_percent(low)} to {signed_percent(high)}",
        "p": "", "holm": "", "reading": "the loss in other units",
    }


def contrast_table(report: Report, metric: str) -> list[dict[str, str]]:
    """Every contrast but the headline on one metric."""
    return [
        {"name": f"{row['candidate']} − {row['baseline']}", "meaning": row["meaning"],
         "from": number(report["cells"][row["baseline"]]["metrics"][metric], metric),
         "to": number(report["cells"][row["candidate"]]["metrics"][metric], metric),
         "difference": difference(row["delta"], metric, row), "interval": interval(row, metric),
         "reading": reading(row)}
        for row in report["contrasts"] if row["metric"] == metric and row["name"] != HEADLINE
    ]


def decomposition(report: Report) -> str | None:
    """Q4 − L16 as the sum of its two parts, where cell L4 was scored."""
    metric = report["primary_metric"]
    parts = [next(iter(of_contrast(report, name, metric)), None) for name in (HEADLINE, "L4-L16", "Q4-L4")]
    whole, stored, trained = parts
    if whole is None or stored is None or trained is None:
        return None
    texts = [difference(row["delta"], metric, whole) for row in (whole, stored, trained)]
    return (f"Q4 − L16 = (L4 − L16) + (Q4 − L4): {texts[0]} = {texts[1]} from storing the base in 4 bits, {texts[2]} "
            "from training over it.")


def resource_rows(report: Report) -> list[dict[str, Any]]:
    """Time and memory: label, value by arm, how to print it, printed values and QLoRA's relative to LoRA's."""
    listed = (
        ("Base weights as stored", "base_bytes", wording.size),
        ("Peak memory in training", "peak_memory_bytes", wording.size),
        ("Training time", "train_seconds", wording.duration), ("Training speed", "tokens_per_second", wording.rate),
        ("Adapter", "adapter_bytes", wording.size), ("Trained weights", "trainable_parameters", count),
        ("Optimizer steps", "steps", count), ("Checkpoint used (step)", "best_step", count),
        ("Its validation loss", "best_validation_loss", lambda value: number(value, "nll_per_token")),
    )
    rows = []
    for label, key, say in listed:
        values = {arm: record.get(key) for arm, record in report["resources"].items()}
        if any(value is not None for value in values.values()):
            lora, qlora = values.get("lora"), values.get("qlora")
            rows.append({
                "label": label, "key": key, "values": values,
                "texts": {arm: "–" if values.get(arm) is None else say(values[arm]) for arm in ARM_NAMES},
                "ratio": _ratio(lora, qlora),
            })
    return rows


def _ratio(lora: float | None, qlora: float | None) -> str:
    if not lora or qlora is None:
        return "–"
    return "same" if lora == qlora else signed_percent(qlora / lora - 1, 0)


def step_rows(report: Report) -> list[dict[str, str]]:
    """How long each finished step of the study took, and the most memory its process held."""
    return [{"name": step["name"], "seconds": wording.duration(step["seconds"]),
             "memory": wording.size(step["peak_memory_bytes"])}
            for step in report["steps"]]


def scored_at(report: Report) -> str | None:
    """When scoring began, in UTC: ``2026-03-01 14:05 UTC``; ``None`` where that is not on record."""
    step = next((step for step in report["steps"] if step["name"] == "evaluate" and step["started"]), None)
    return None if step is None else f"{datetime.fromtimestamp(step['started'], UTC):%Y-%m-%d %H:%M} UTC"


def power_sentences(report: Report) -> list[str]:
    """What a held-out set of this size can and cannot show."""
    lines = []
    for entry in report["power"]:
        metric = entry["metric"]
        shown = SHOWN[metric]
        unit = plural(entry["units"], entry["unit"].rstrip("s"))
        seen = f"{wording.rough(entry['detectable'] * shown.factor)} {shown.unit}"
        line = f"{shown.label}: with {unit}, a true difference of {seen} would be found in 80 of 100 such studies."
        if entry["needed"]:
            target = f"{plain(entry['target'] * shown.factor)} {shown.unit}"
            what = "the margin you set" if metric == report["primary_metric"] else "a difference"
            if entry["needed"] > entry["units"]:
                line += (f" To see {what} ({target}) that reliably would take about {count(entry['needed'])} "
                         f"{entry['unit']} like these.")
            else:
                line += f" That is finer than {what} ({target})."
        lines.append(line)
    return lines


def data_rows(report: Report) -> list[tuple[str, str]]:
    """Where the questions came from and what became of them."""
    data = report["data"]
    split, leaks = data["split"], data["leaks"]
    rows = [("File", str(data["source"] or "not on record")), ("Format", str(data["format"] or "not on record"))]
    if data["columns"]:
        rows.append(("Columns", ", ".join(f"{role} = {name}" for role, name in data["columns"].items())))
    if data["rows"] is not None:
        rows.append(("Rows", f"{count(data['rows'])} in the file, {count(data['usable'])} usable, "
                             f"{count(data['rejected'])} rejected"))
    names = {"one_word_answers": "one-word answers", "over_long": "too long and cut",
             "answers_shared": "answers shared between splits", "conflicts": "conflicting answers"}
    if data["findings"]:
        rows.append(("Found", ", ".join(f"{count(value)} {names.get(key, key.replace('_', ' '))}"
                                        for key, value in data["findings"].items())))
    if split["counts"]:
        how = "as the file gives it" if split["given"] else f"drawn with seed {split['seed']}"
        rows.append(("Split", f"{_by_split(split['counts'])}, {how}"))
    units = split["units"] or {}
    for label, counts in ((f"Units ({units.get('kind')})", units.get("counts")), ("Clusters", split["clusters"])):
        if counts and any(counts.values()):
            rows.append((label, _by_split(counts)))
    known = [f"{count(leaks[kind])} by {name}" for kind, name in (("text", "text"), ("embedding", "embedding"))
             if leaks[kind] is not None]
    done = f"; {count(leaks['removed'])} taken out, {count(leaks['left'])} left in" if leaks["listed"] else ""
    rows.append(("Leaks into held-out", ", ".join(known) + done if known else "not looked for, or not on record"))
    rows += [(f"SHA-256 of {_split(name)}", value) for name, value in (split["hashes"] or {}).items()]
    return rows


def _split(name: str) -> str:
    return "held-out" if name == "heldout" else name


def _by_split(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count(value)} {_split(name)}" for name, value in counts.items())


def declining_rows(report: Report) -> list[dict[str, str]]:
    """How each cell declined; empty where nothing was generated."""
    rows = []
    for name, record in (report["declining"] or {"cells": {}})["cells"].items():
        rows.append({
            "name": name, "label": report["cells"][name]["label"],
            "should": _share(record["declined"], record["unanswerable_items"]),
            "should_not": _share(record["false_declines"], record["answerable_items"]),
        })
    return rows


def _share(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,} ({percent(part / whole)})" if whole else "no such items"


def validation_rows(report: Report) -> list[dict[str, Any]]:
    """Validation loss of both arms at each step at which either was validated."""
    losses = {arm: {row["step"]: row["loss"] for row in curve["validation"]}
              for arm, curve in report["curves"].items()}
    steps = sorted({step for found in losses.values() for step in found})
    return [{"step": step, **{arm: number(losses.get(arm, {}).get(step), "nll_per_token") for arm in ARM_NAMES}}
            for step in steps]


def method_rows(report: Report) -> list[tuple[str, str, str, str]]:
    """What each metric of the headline is, what it does not see, and which interval and test it got."""
    rows = of_contrast(report, HEADLINE)
    infos = [METRIC_INFO[row["metric"]] for row in rows]
    return [(info.label, info.meaning, info.blind_spots, row["method"]) for info, row in zip(infos, rows, strict=True)]
