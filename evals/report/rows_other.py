"""Rows of text for the page: tasks, refusals, calibration, seeds, judge, votes, fidelity, power, data and method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from assistant_builder.arms import LORA, QLORA
from assistant_builder.i18n import t
from evals.report import charts
from evals.report import format as fmt
from evals.report.format import (
    count,
    difference,
    interval,
    number,
    p_value,
    percent,
    plain,
    plural,
    shown,
    signed,
)
from evals.report.items import cut, marked
from evals.report.load import BASELINE, CANDIDATE
from evals.report.rows_headline import OUTCOMES, reading
from evals.report.schema import Report
from evals.tasks.general_knowledge import TASK as RETENTION


def task_sections(report: Report) -> list[dict[str, Any]]:
    """Every task with its figures by cell and the differences; the retention task first."""
    found = []
    for name, task in sorted(report.tasks.items(), key=lambda item: item[0] != RETENTION):
        metric = task["metric"] or ""
        rows = []
        for row in task["contrasts"]:
            flips = task["flips"].get(row["name"])
            rows.append(
                {
                    "title": f"{row['candidate']} − {row['baseline']}",
                    "meaning": row["meaning"],
                    "difference": difference(row["delta"], metric, row),
                    "interval": interval(row, metric),
                    "p": p_value(row["p_value"]),
                    "holm": p_value(row["p_value_holm"]),
                    "reading": reading(row),
                    "lost": count(len(flips["lost"])) if flips else "–",
                    "gained": count(len(flips["gained"])) if flips else "–",
                }
            )
        found.append(
            {
                "name": name,
                "retention": name == RETENTION,
                "metric": shown(metric).label,
                "items": count(task["items"]),
                **{key: task[key] or "" for key in ("label", "about", "sentence", "error")},
                "cells": [
                    {
                        "name": cell,
                        "label": report.cells[cell].label,
                        "value": number(value, metric),
                    }
                    for cell, value in task["cells"].items()
                ],
                "contrasts": rows,
                "listed": [_document(entry) for entry in task["listed"]],
                "panel": charts.task_panel(task),
            }
        )
    return found


def _document(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A forgotten question, its choices with the right one marked, and what each cell chose."""
    document = entry["document"]
    texts = document["choices"]
    chosen = [
        f"{cell}: {texts[place]}" for cell, place in entry["chosen"].items() if place is not None
    ]
    return {
        "question": document["question"],
        "chosen": "; ".join(chosen),
        "choices": [
            {"text": text, "right": place == document["answer"]} for place, text in enumerate(texts)
        ],
    }


def seed_rows(report: Report) -> tuple[list[dict[str, str]], dict[str, str] | None]:
    """Each training run of both arms with their difference, and mean and spread over them; nothing for a single run."""
    seeds = report.seeds
    if not seeds["spread"] or not report.compares:
        return [], None
    metric, spread, rows = seeds["metric"], seeds["spread"], []
    for run in seeds["runs"]:
        row = dict(zip(("ci_low", "ci_high"), run["ci"], strict=True))
        rows.append(
            {
                "seed": f"Seed {run['seed']}",
                "L16": number(run["L16"], metric),
                "Q4": number(run["Q4"], metric),
                "difference": difference(run["delta"], metric, row),
                "interval": interval(row, metric),
                "reading": OUTCOMES[run["verdict"]].lower()
                + (", but not twins" if run["twins"] is False else ""),
            }
        )
    how, delta = shown(metric), spread["delta"]
    row = dict(zip(("ci_low", "ci_high"), delta["ci"], strict=True))
    arms = {
        name: f"{number(spread[name]['mean'], metric)} (sd {spread[name]['sd'] * how.factor:.{how.decimals}f})"
        for name in (BASELINE, CANDIDATE)
    }
    return rows, {
        **arms,
        "difference": difference(delta["mean"], metric, row),
        "interval": interval(row, metric),
        "sd": signed(delta["sd"] * how.factor, how.decimals).lstrip("+"),
    }


def worst_items(report: Report) -> list[dict[str, Any]]:
    """The items with the largest increase of loss from LoRA to QLoRA, with both answers."""
    found = []
    for row in report.worst:
        first, second = row["answers"][BASELINE], row["answers"][CANDIDATE]
        runs = (None, None) if first is None or second is None else marked(cut(first), cut(second))
        found.append(
            {
                "row": row["row"],
                "question": cut(row["question"]),
                "reference": cut(row["reference"]),
                "harm": f"{signed(row['delta_nll'], 2)} nats over {plural(row['tokens'], 'token')}, "
                f"{signed(row['delta_nll_per_token'], 3)} per token",
                "divergence": "" if row["kl_mean"] is None else fmt.nats(row["kl_mean"]),
                "sides": [
                    {"arm": arm.name, "label": t(arm.label), "runs": run}
                    for arm, run in zip((LORA, QLORA), runs, strict=True)
                ],
            }
        )
    return found


def power_sentences(report: Report) -> list[str]:
    """The differences that a held-out set of this size can detect."""
    lines = []
    for entry in report.power:
        how = shown(entry["metric"])
        seen = f"{fmt.two_significant_digits(entry['detectable'] * how.factor)} {how.unit}"
        line = (
            f"{how.label}: with {plural(entry['units'], entry['unit'].rstrip('s'))}, 80 of 100 such studies would "
            f"detect a true difference of {seen}."
        )
        if entry["needed"]:
            target = f"{plain(entry['target'] * how.factor)} {how.unit}"
            what = "the margin" if entry["metric"] == report.primary_metric else "a difference"
            if entry["needed"] > entry["units"]:
                line += (
                    f" To detect {what} ({target}) as reliably, about {count(entry['needed'])} {entry['unit']} "
                    "like these are needed."
                )
            else:
                line += f" That is smaller than {what} ({target})."
        lines.append(line)
    return lines


def planned_sentence(report: Report) -> str:
    """The estimate made before the run, and the measured values of its assumptions; empty if not on record."""
    entry = next((entry for entry in report.power if entry["planned"]), None)
    if entry is None:
        return ""
    plan = entry["planned"]
    text = (
        f"Estimate before the run, assuming that {percent(plan['flip_rate'], 0)} of the answers "
        f"flip: {plural(plan['items'], 'item')}, worth about {count(plan['effective_items'])} independent ones, "
        f"detect {fmt.two_significant_digits(100 * plan['minimum_detectable'])} points in right answers; "
        f"{plain(100 * plan['target'])} points would need {count(plan['items_needed'])} items."
    )
    seen = entry["seen"]
    alike = (
        ""
        if plan["clusters"] == plan["items"]
        else f", and flips within a cluster had an intraclass correlation of {seen['icc']:.2f} (assumed: "
        f"{plan['icc']:.2f})"
    )
    return f"{text} In the run {percent(seen['flip_rate'])} flipped{alike}."


def data_rows(report: Report) -> list[tuple[str, str]]:
    """Source, split and leaks of the data."""
    data = report.data
    split, leaks = data["split"], data["leaks"]
    rows = [
        ("File", str(data["source"] or "not on record")),
        ("Format", str(data["format"] or "not on record")),
    ]
    if data["columns"]:
        rows.append(
            ("Columns", ", ".join(f"{role} = {name}" for role, name in data["columns"].items()))
        )
    if data["rows"] is not None:
        rows.append(
            (
                "Rows",
                f"{count(data['rows'])} in the file, {count(data['usable'])} usable, "
                f"{count(data['rejected'])} rejected",
            )
        )
    names = {
        "one_word_answers": "one-word answers",
        "over_long": "too long and cut",
        "answers_shared": "answers shared between splits",
        "conflicts": "conflicting answers",
    }
    if data["findings"]:
        rows.append(
            (
                "Found",
                ", ".join(
                    f"{count(value)} {names.get(key, key.replace('_', ' '))}"
                    for key, value in data["findings"].items()
                ),
            )
        )
    if split["counts"]:
        how = "defined by the file" if split["given"] else f"drawn with seed {split['seed']}"
        rows.append(("Split", f"{_by_split(split['counts'])}, {how}"))
    units = split["units"] or {}
    for label, counts in (
        (f"Units ({units.get('kind')})", units.get("counts")),
        ("Clusters", split["clusters"]),
    ):
        if counts and any(counts.values()):
            rows.append((label, _by_split(counts)))
    known = [
        f"{count(leaks[kind])} by {name}"
        for kind, name in (("text", "text"), ("embedding", "embedding"))
        if leaks[kind] is not None
    ]
    done = (
        f"; {count(leaks['removed'])} removed, {count(leaks['left'])} kept"
        if leaks["listed"]
        else ""
    )
    rows.append(
        ("Leaks into held-out", ", ".join(known) + done if known else "no search on record")
    )
    rows += [
        (f"SHA-256 of {_split(name)}", value) for name, value in (split["hashes"] or {}).items()
    ]
    return rows


def _split(name: str) -> str:
    return "held-out" if name == "heldout" else name


def _by_split(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count(value)} {_split(name)}" for name, value in counts.items())
