"""The data, the method and what the held-out set could show, as rows of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evals.metrics import METRIC_INFO
from evals.report import wording
from evals.report.reading import lead_pair
from evals.report.views.headline import of_contrast
from evals.report.wording import SHOWN, count, plain, plural

Report = Mapping[str, Any]


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


def power_rows(report: Report) -> list[dict[str, str]]:
    """The same in numbers: standard error, what can be detected, what was wished for, and what that takes."""
    rows = []
    for entry in report["power"]:
        how = SHOWN[entry["metric"]]
        target = entry["target"]
        rows.append({
            "label": how.label, "unit": how.unit, "units": f"{count(entry['units'])} {entry['unit']}",
            "error": wording.rough(entry["standard_error"] * how.factor),
            "detectable": wording.rough(entry["detectable"] * how.factor),
            "target": plain(target * how.factor) if target else "–",
            "needed": f"{count(entry['needed'])} {entry['unit']}" if entry["needed"] else "–",
        })
    return rows


def planned_sentence(report: Report) -> str:
    """What could be told before the run, and how its assumptions came out; empty where that is not on record."""
    entry = next((entry for entry in report["power"] if entry.get("planned")), None)
    if entry is None:
        return ""
    plan = entry["planned"]
    text = (f"Before the run, with {wording.percent(plan['flip_rate'], 0)} of the answers taken to flip: "
            f"{plural(plan['items'], 'item')}, worth about {count(plan['effective_items'])} independent ones, detect "
            f"{wording.rough(100 * plan['minimum_detectable'])} points in right answers; "
            f"{plain(100 * plan['target'])} points would take {count(plan['items_needed'])} items.")
    seen = entry.get("seen")
    if not seen:
        return text
    alike = ("" if plan["clusters"] == plan["items"] else
             f", and flips within a cluster were alike with an intraclass correlation of {seen['icc']:.2f} (taken: "
             f"{plan['icc']:.2f})")
    return f"{text} In the run {wording.percent(seen['flip_rate'])} flipped{alike}."


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


def method_rows(report: Report) -> list[tuple[str, str, str, str]]:
    """What each metric of the headline is, what it does not see, and which interval and test it got."""
    rows = of_contrast(report, "-".join(lead_pair(report)))
    infos = [METRIC_INFO[row["metric"]] for row in rows]
    return [(info.label, info.meaning, info.blind_spots, row["method"]) for info, row in zip(infos, rows, strict=True)]
