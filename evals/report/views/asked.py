"""What else was asked of the cells: other tasks, declining, calibration, training seeds, a judge, people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evals.report.reading import is_compared
from evals.report.views.headline import OUTCOMES, reading
from evals.report.wording import count, difference, duration, interval, number, p_value, percent, plural, shown, signed
from evals.retention import TASK as RETENTION

Report = Mapping[str, Any]
_UNKNOWN = "not told"
_QUESTION = ("question", "query", "ctx", "goal", "sentence", "text")


def task_sections(report: Report) -> list[dict[str, Any]]:
    """Every task with its figures by cell and the differences; the retention task first."""
    tasks = report.get("tasks") or {}
    order = sorted(tasks, key=lambda name: name != RETENTION)
    return [_task(report, name, tasks[name]) for name in order]


def _task(report: Report, name: str, task: Mapping[str, Any]) -> dict[str, Any]:
    metric = task["metric"] or ""
    rows = []
    for row in task["contrasts"]:
        flips = task["flips"].get(row["name"])
        rows.append({
            "title": f"{row['candidate']} − {row['baseline']}", "meaning": row.get("meaning") or "",
            "difference": difference(row["delta"], metric, row), "interval": interval(row, metric),
            "p": p_value(row["p_value"]), "holm": p_value(row.get("p_value_holm")), "reading": reading(row),
            "lost": count(len(flips["lost"])) if flips else "–",
            "gained": count(len(flips["gained"])) if flips else "–",
        })
    return {
        "name": name, "retention": name == RETENTION, "label": task["label"], "about": task["about"],
        "metric": shown(metric).label, "items": count(task["items"]), "sentence": task.get("sentence") or "",
        "error": task.get("error") or "",
        "cells": [{"name": cell, "label": report["cells"][cell]["label"], "value": number(value, metric)}
                  for cell, value in task["cells"].items()],
        "contrasts": rows, "listed": [_document(entry) for entry in task.get("listed") or []],
    }


def _document(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A forgotten document: the question, its choices with the right one marked, and which cells forgot it."""
    document = entry["document"] if isinstance(entry["document"], Mapping) else {"text": entry["document"]}
    question = next((str(document[key]) for key in _QUESTION if document.get(key)), "")
    choices = document.get("choices")
    texts = choices.get("text") if isinstance(choices, Mapping) else choices
    texts = [str(text) for text in texts] if isinstance(texts, list) else []
    answer = next((document[key] for key in ("answer", "gold", "label") if key in document), None)
    said = [f"{cell}: {texts[place]}" for cell, place in (entry.get("chosen") or {}).items()
            if isinstance(place, int) and place < len(texts)]
    return {
        "question": question or ", ".join(f"{key}: {value}" for key, value in document.items()),
        "choices": [{"text": text, "right": answer in (place, text)} for place, text in enumerate(texts)],
        "said": "; ".join(said),
    }


def declining_rows(report: Report) -> list[dict[str, str]]:
    """How each cell declined; empty where nothing was generated."""
    rows = []
    for name, record in (report["declining"] or {"cells": {}})["cells"].items():
        rows.append({
            "name": name, "label": report["cells"][name]["label"] if name in report["cells"] else name,
            "should": _share(record["declined"], record["unanswerable_items"]),
            "should_not": _share(record["false_declines"], record["answerable_items"]),
        })
    return rows


def _share(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,} ({percent(part / whole)})" if whole else "no such items"


def reliability_rows(report: Report) -> list[dict[str, Any]]:
    """Calibration of each cell: its two summary figures and its bins in numbers."""
    reliability = report.get("reliability")
    rows = []
    for name, cell in (reliability or {"cells": {}})["cells"].items():
        rows.append({
            "name": name, "label": report["cells"][name]["label"], "ece": f"{cell['ece']:.3f}",
            "brier": f"{cell['brier']:.3f}", "n": count(cell["n"]),
            "bins": [{
                "range": f"{percent(one['low'], 0)} to {percent(one['high'], 0)}", "n": count(one["n"]),
                "probability": percent(one["mean_probability"]), "correct": percent(one["correct"]),
                "interval": " to ".join(percent(end) for end in one["ci"]),
            } for one in cell["bins"] if one["n"]],
        })
    return rows


def seed_rows(report: Report) -> list[dict[str, str]]:
    """Each training run of both arms with the difference between them; empty with a single run."""
    seeds = report.get("seeds")
    if not seeds or seeds["count"] < 2 or not is_compared(report):
        return []
    metric, rows = seeds["metric"], []
    for run in seeds["runs"]:
        row = {"ci_low": run["ci"][0], "ci_high": run["ci"][1]}
        rows.append({
            "seed": f"Seed {run['seed']}", "L16": number(run["L16"], metric), "Q4": number(run["Q4"], metric),
            "difference": difference(run["delta"], metric, row), "interval": interval(row, metric),
            "reading": OUTCOMES[run["verdict"]].lower() + (", but not twins" if run.get("twins") is False else ""),
        })
    return rows


def spread_row(report: Report) -> dict[str, str] | None:
    """Mean and spread over the training runs, and the interval of the mean difference; ``None`` with a single run."""
    seeds = report.get("seeds")
    if not seeds or not seeds.get("spread") or not is_compared(report):
        return None
    metric, spread = seeds["metric"], seeds["spread"]
    how, delta = shown(metric), spread["delta"]
    row = {"ci_low": delta["ci"][0], "ci_high": delta["ci"][1]}

    def arm(name: str) -> str:
        return f"{number(spread[name]['mean'], metric)} (sd {spread[name]['sd'] * how.factor:.{how.decimals}f})"

    return {
        "L16": arm("L16"), "Q4": arm("Q4"), "difference": difference(delta["mean"], metric, row),
        "sd": signed(delta["sd"] * how.factor, how.decimals).lstrip("+"), "interval": interval(row, metric),
    }


def judge_rows(report: Report) -> list[tuple[str, str]]:
    """What the judge said, in numbers; empty without a judge."""
    judge = report.get("judge")
    if not judge:
        return []
    asked = judge["items"]
    low, high = judge.get("ci") or (None, None)
    preference = judge.get("preference")
    first = judge.get("first_preferred")
    return [
        ("Judge", f"{judge['model']} at {judge['url_host']}"),
        ("Items, each shown in both orders", count(asked)),
        ("QLoRA preferred", _share(judge["wins"], asked)),
        ("LoRA preferred", _share(judge["losses"], asked)),
        ("Ties", f"{_share(judge['ties'], asked)}, {count(judge['disagreements'])} of them because the two orders "
                 "disagreed"),
        ("Failed, and left out", _share(judge["failures"], asked)),
        ("Preference for QLoRA (win 1, tie ½)",
         _UNKNOWN if preference is None or low is None or high is None else
         f"{percent(preference)} (95% interval {percent(low)} to {percent(high)}), "
         f"p = {p_value(judge.get('p_value'))}"),
        ("Chose the answer shown first", _UNKNOWN if first is None else f"{percent(first)} of single judgements"),
        ("Time", duration(judge.get("seconds"))),
    ]


def vote_rows(report: Report) -> list[tuple[str, str]]:
    """What people voted, in numbers; empty without votes."""
    votes = report.get("votes")
    if not votes:
        return []
    whole = votes["votes"]
    rows = [
        ("Votes", f"{count(whole)} on {plural(votes['questions'], 'question')}, sides at random, who is who hidden"),
        ("QLoRA preferred", _share(votes["qlora"], whole)),
        ("LoRA preferred", _share(votes["lora"], whole)),
        ("Ties", _share(votes["ties"], whole)),
        ("Both bad", _share(votes["both_bad"], whole)),
        ("Sign test", f"p = {p_value(votes['p_value'])}; ties and both bad are no part of it"),
        ("Chose the answer on the left", _share(votes["left"], votes["qlora"] + votes["lora"])),
        ("When", " to ".join(dict.fromkeys(votes[end][:10] for end in ("first", "last")))),
    ]
    left_out = [(votes["outdated"], "on adapters trained before"),
                (votes["repeated"], "on answers that had been voted on already")]
    told = [f"{count(number)} {what}" for number, what in left_out if number]
    return [*rows, *([("Not counted", ", ".join(told))] if told else [])]
