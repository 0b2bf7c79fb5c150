"""Rows of text for the page: tasks, refusals, calibration, seeds, judge, votes, fidelity, power, data and method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from assistant_builder.arms import LORA, QLORA
from evals.metrics import metric_of
from evals.report import format as report_format
from evals.report.format import (
    count, difference, duration, interval, nats, number, p_value, percent, plain, plural, shown, signed,
)
from evals.report.items import cut, marked
from evals.report.load import BASELINE, CANDIDATE, is_compared, lead_pair
from evals.report.rows_headline import HEADLINE, OUTCOMES, of_contrast, reading
from evals.tasks.general_knowledge import TASK as RETENTION

Report = Mapping[str, Any]
_UNKNOWN = "not on record"
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
    chosen = [f"{cell}: {texts[place]}" for cell, place in (entry.get("chosen") or {}).items()
              if isinstance(place, int) and place < len(texts)]
    return {
        "question": question or ", ".join(f"{key}: {value}" for key, value in document.items()),
        "choices": [{"text": text, "right": answer in (place, text)} for place, text in enumerate(texts)],
        "chosen": "; ".join(chosen),
    }


def declining_rows(report: Report) -> list[dict[str, str]]:
    """The refusals of each cell; empty without generated answers."""
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
    """Calibration of each cell: the summary figures and the bins."""
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
    """Each training run of both arms with their difference; empty for a single run."""
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
    """Mean and spread over the training runs, and the interval of the mean difference; ``None`` for a single run."""
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
    """The judge's verdicts in numbers; empty without a judge."""
    judge = report.get("judge")
    if not judge:
        return []
    asked = judge["items"]
    low, high = judge.get("ci") or (None, None)
    preference = judge.get("preference")
    first = judge.get("first_preferred")
    return [
        ("Judge", f"{judge['model']} at {judge['url_host']}"), ("Items, each shown in both orders", count(asked)),
        ("QLoRA preferred", _share(judge["wins"], asked)), ("LoRA preferred", _share(judge["losses"], asked)),
        ("Ties", f"{_share(judge['ties'], asked)}, {count(judge['disagreements'])} of them because the two orders "
                 "disagreed"),
        ("Failed and not counted", _share(judge["failures"], asked)),
        ("Preference for QLoRA (win 1, tie ½)",
         _UNKNOWN if preference is None or low is None or high is None else
         f"{percent(preference)} (95% interval {percent(low)} to {percent(high)}), "
         f"p = {p_value(judge.get('p_value'))}"),
        ("Chose the answer shown first", _UNKNOWN if first is None else f"{percent(first)} of all judgements"),
        ("Time", duration(judge.get("seconds"))),
    ]


def vote_rows(report: Report) -> list[tuple[str, str]]:
    """The blind votes in numbers; empty without votes."""
    votes = report.get("votes")
    if not votes:
        return []
    whole = votes["votes"]
    rows = [
        ("Votes", f"{count(whole)} on {plural(votes['questions'], 'question')}, blind and with random sides"),
        ("QLoRA preferred", _share(votes[QLORA.name], whole)), ("LoRA preferred", _share(votes[LORA.name], whole)),
        ("Ties", _share(votes["ties"], whole)), ("Both bad", _share(votes["both_bad"], whole)),
        ("Sign test", f"p = {p_value(votes['p_value'])}, without ties and both bad"),
        ("Chose the answer on the left", _share(votes["left"], votes[QLORA.name] + votes[LORA.name])),
        ("When", " to ".join(dict.fromkeys(votes[end][:10] for end in ("first", "last")))),
    ]
    left_out = ", ".join(f"{count(votes[key])} {what}" for key, what in (
        ("outdated", "on adapters of an earlier training"), ("repeated", "on answers with an earlier vote"),
    ) if votes[key])
    return [*rows, *([("Not counted", left_out)] if left_out else [])]


def fidelity_rows(report: Report) -> list[dict[str, Any]]:
    """The divergence of each pair of models, same adapter first; empty if it was not measured."""
    pairs = (report.get("fidelity") or {}).get("pairs") or []
    return [
        {"name": f"{pair['reference']} → {pair['candidate']}", "label": pair.get("label") or "",
         "trained": pair["name"] == HEADLINE, "tokens": count(pair["tokens"]),
         "mean": nats(pair["kl_mean"]), "median": nats(pair["kl_median"]), "p99": nats(pair["kl_p99"]),
         "max": nats(pair["kl_max"]), "agreement": percent(pair["top1_agreement"]),
         "loss": signed(pair["delta_nll"], 4)}
        for pair in pairs
    ]


def fidelity_note(report: Report) -> str:
    """A summary of the divergences, or the reason why there are none; empty if nothing is on record."""
    fidelity = report.get("fidelity") or {}
    return str(fidelity.get("sentence") or fidelity.get("skipped") or "")


def worst_items(report: Report) -> list[dict[str, Any]]:
    """The items with the largest increase of loss from LoRA to QLoRA, with both answers."""
    shown = []
    for row in report.get("worst") or []:
        answers = row["answers"]
        both = answers.get(BASELINE) is not None and answers.get(CANDIDATE) is not None
        runs = marked(cut(answers[BASELINE]), cut(answers[CANDIDATE])) if both else (None, None)
        divergence = row.get("kl_mean")
        shown.append({
            "row": row["row"], "question": cut(row["question"]), "reference": cut(row["reference"]),
            "harm": f"{signed(row['delta_nll'], 2)} nats over {plural(row['tokens'], 'token')}, "
                    f"{signed(row['delta_nll_per_token'], 3)} per token",
            "divergence": "" if divergence is None else nats(divergence),
            "sides": [{"arm": arm, "label": label, "runs": run}
                      for arm, label, run in ((LORA.name, LORA.label, runs[0]), (QLORA.name, QLORA.label, runs[1]))],
        })
    return shown


def flip_rows(report: Report) -> list[dict[str, Any]]:
    """Answers that change between the arms, and those that change with the scoring batch size alone."""
    flips = report["flips"]
    if flips is None:
        return []
    rows = [{
        "what": "QLoRA against LoRA", "about": "Q4 against L16", "floor": False, "lost": count(len(flips["lost"])),
        "gained": count(len(flips["gained"])), "differs": count(flips["text_differs"]), "asked": count(flips["items"]),
        "shift": "",
    }]
    for name, cell in ((flips.get("noise_floor") or {}).get("cells") or {}).items():
        sizes = [count(cell[key]) for key in ("batch_size", "other_batch_size")]
        rows.append({
            "what": f"{report['cells'][name]['label']} against itself", "floor": True,
            "about": f"{name}, scored with batch sizes {sizes[0]} and {sizes[1]}",
            "lost": count(cell["lost"]), "gained": count(cell["gained"]), "differs": count(cell["text_differs"]),
            "asked": count(cell["items"]), "shift": nats(cell["largest_nll_per_token_shift"]),
        })
    return rows


def noise_sentence(report: Report) -> str:
    """The effect of another scoring batch size; empty if it was not measured."""
    return str(((report["flips"] or {}).get("noise_floor") or {}).get("sentence") or "")


def power_sentences(report: Report) -> list[str]:
    """The differences that a held-out set of this size can detect."""
    lines = []
    for entry in report["power"]:
        metric = entry["metric"]
        how = shown(metric)
        unit = plural(entry["units"], entry["unit"].rstrip("s"))
        seen = f"{report_format.two_significant_digits(entry['detectable'] * how.factor)} {how.unit}"
        line = f"{how.label}: with {unit}, 80 of 100 such studies would detect a true difference of {seen}."
        if entry["needed"]:
            target = f"{plain(entry['target'] * how.factor)} {how.unit}"
            what = "the margin you set" if metric == report["primary_metric"] else "a difference"
            if entry["needed"] > entry["units"]:
                line += (f" To detect {what} ({target}) as reliably, about {count(entry['needed'])} {entry['unit']} "
                         "like these are needed.")
            else:
                line += f" That is smaller than {what} ({target})."
        lines.append(line)
    return lines


def power_rows(report: Report) -> list[dict[str, str]]:
    """The same in numbers: standard error, detectable difference, target, and the units needed for it."""
    rows = []
    for entry in report["power"]:
        how = shown(entry["metric"])
        target = entry["target"]
        rows.append({
            "label": how.label, "unit": how.unit, "units": f"{count(entry['units'])} {entry['unit']}",
            "error": report_format.two_significant_digits(entry["standard_error"] * how.factor),
            "detectable": report_format.two_significant_digits(entry["detectable"] * how.factor),
            "target": plain(target * how.factor) if target else "–",
            "needed": f"{count(entry['needed'])} {entry['unit']}" if entry["needed"] else "–",
        })
    return rows


def planned_sentence(report: Report) -> str:
    """The estimate made before the run, and the measured values of its assumptions; empty if not on record."""
    entry = next((entry for entry in report["power"] if entry.get("planned")), None)
    if entry is None:
        return ""
    plan = entry["planned"]
    text = (f"Estimate before the run, assuming that {report_format.percent(plan['flip_rate'], 0)} of the answers "
            f"flip: {plural(plan['items'], 'item')}, worth about {count(plan['effective_items'])} independent ones, "
            f"detect {report_format.two_significant_digits(100 * plan['minimum_detectable'])} points in right answers; "
            f"{plain(100 * plan['target'])} points would need {count(plan['items_needed'])} items.")
    seen = entry.get("seen")
    if not seen:
        return text
    alike = ("" if plan["clusters"] == plan["items"] else
             f", and flips within a cluster had an intraclass correlation of {seen['icc']:.2f} (assumed: "
             f"{plan['icc']:.2f})")
    return f"{text} In the run {report_format.percent(seen['flip_rate'])} flipped{alike}."


def data_rows(report: Report) -> list[tuple[str, str]]:
    """Source, split and leaks of the data."""
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
        how = "defined by the file" if split["given"] else f"drawn with seed {split['seed']}"
        rows.append(("Split", f"{_by_split(split['counts'])}, {how}"))
    units = split["units"] or {}
    for label, counts in ((f"Units ({units.get('kind')})", units.get("counts")), ("Clusters", split["clusters"])):
        if counts and any(counts.values()):
            rows.append((label, _by_split(counts)))
    known = [f"{count(leaks[kind])} by {name}" for kind, name in (("text", "text"), ("embedding", "embedding"))
             if leaks[kind] is not None]
    done = f"; {count(leaks['removed'])} removed, {count(leaks['left'])} kept" if leaks["listed"] else ""
    rows.append(("Leaks into held-out", ", ".join(known) + done if known else "no search on record"))
    rows += [(f"SHA-256 of {_split(name)}", value) for name, value in (split["hashes"] or {}).items()]
    return rows


def _split(name: str) -> str:
    return "held-out" if name == "heldout" else name


def _by_split(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count(value)} {_split(name)}" for name, value in counts.items())


def method_rows(report: Report) -> list[tuple[str, str, str, str]]:
    """Explanation, blind spots, and interval and test of each metric of the headline."""
    rows = of_contrast(report, "-".join(lead_pair(report)))
    infos = [metric_of(row["metric"]) for row in rows]
    return [(info.label, info.explanation, info.blind_spots, row["method"])
            for info, row in zip(infos, rows, strict=True)]
