"""Rows of text for the page: tasks, refusals, calibration, seeds, judge, votes, fidelity, power, data and method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from assistant_builder.arms import LORA, QLORA
from assistant_builder.i18n import N_, t, tn
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
    shown,
    signed,
)
from evals.report.items import cut, marked
from evals.report.load import BASELINE, CANDIDATE
from evals.report.rows_headline import reading
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
                    "meaning": row.message("meaning"),
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
                **{
                    key: task.message(key) if task[key] else ""
                    for key in ("label", "about", "sentence", "error")
                },
                "cells": [
                    {
                        "name": cell,
                        "label": report.cells[cell].message("label"),
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
                "seed": t("Seed {number}", number=run["seed"]),
                "L16": number(run["L16"], metric),
                "Q4": number(run["Q4"], metric),
                "difference": difference(run["delta"], metric, row),
                "interval": interval(row, metric),
                "reading": t("{outcome}, but not twins", outcome=t(run["verdict"]))
                if run["twins"] is False
                else t(run["verdict"]),
            }
        )
    how, delta = shown(metric), spread["delta"]
    row = dict(zip(("ci_low", "ci_high"), delta["ci"], strict=True))
    arms = {
        name: t(
            "{mean} (sd {sd})",
            mean=number(spread[name]["mean"], metric),
            sd=fmt.figure(spread[name]["sd"] * how.factor, how.decimals),
        )
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
                "harm": tn(
                    "{loss} nats over {count} token, {per_token} per token",
                    "{loss} nats over {count} tokens, {per_token} per token",
                    row["tokens"],
                    loss=signed(row["delta_nll"], 2),
                    per_token=signed(row["delta_nll_per_token"], 3),
                ),
                "divergence": "" if row["kl_mean"] is None else fmt.nats(row["kl_mean"]),
                "sides": [
                    {"arm": arm.name, "label": t(arm.label), "runs": run}
                    for arm, run in zip((LORA, QLORA), runs, strict=True)
                ],
            }
        )
    return found


def counted(number: int, unit: str) -> str:
    """A number of clusters or items, the units of a comparison."""
    if unit == "clusters":
        return tn("{count} cluster", "{count} clusters", number)
    return tn("{count} item", "{count} items", number)


def power_sentences(report: Report) -> list[str]:
    """The differences that a held-out set of this size can detect."""
    lines = []
    for entry in report.power:
        how = shown(entry["metric"])
        line = t(
            "{metric}: with {units}, 80 of 100 such studies would detect a true difference of {difference}.",
            metric=how.label,
            units=counted(entry["units"], entry["unit"]),
            difference=f"{fmt.two_significant_digits(entry['detectable'] * how.factor)} {how.unit}",
        )
        if entry["needed"]:
            values = {
                "target": f"{plain(entry['target'] * how.factor)} {how.unit}",
                "units": counted(entry["needed"], entry["unit"]),
            }
            primary = entry["metric"] == report.primary_metric
            if entry["needed"] <= entry["units"]:
                more = (
                    t("That is smaller than the margin ({target}).", **values)
                    if primary
                    else t("That is smaller than a difference ({target}).", **values)
                )
            elif primary:
                more = t(
                    "To detect the margin ({target}) as reliably, about {units} like these are needed.",
                    **values,
                )
            else:
                more = t(
                    "To detect a difference ({target}) as reliably, about {units} like these are needed.",
                    **values,
                )
            line = f"{line} {more}"
        lines.append(line)
    return lines


def planned_sentence(report: Report) -> str:
    """The estimate made before the run, and the measured values of its assumptions; empty if not on record."""
    entry = next((entry for entry in report.power if entry["planned"]), None)
    if entry is None:
        return ""
    plan, seen = entry["planned"], entry["seen"]
    text = t(
        "Estimate before the run, assuming that {rate} of the answers flip: {items}, worth about {effective} "
        "independent ones, detect {difference} points in right answers; {target} points would need {needed} items.",
        rate=percent(plan["flip_rate"], 0),
        items=counted(plan["items"], "items"),
        effective=count(plan["effective_items"]),
        difference=fmt.two_significant_digits(100 * plan["minimum_detectable"]),
        target=plain(100 * plan["target"]),
        needed=count(plan["items_needed"]),
    )
    values = {"rate": percent(seen["flip_rate"]), "icc": seen["icc"], "assumed": plan["icc"]}
    flipped = (
        t("In the run {rate} flipped.", **values)
        if plan["clusters"] == plan["items"]
        else t(
            "In the run {rate} flipped, and flips within a cluster had an intraclass correlation of {icc:.2f} "
            "(assumed: {assumed:.2f}).",
            **values,
        )
    )
    return f"{text} {flipped}"


_FOUND = {
    "exact_duplicates": N_("exact duplicates"),
    "near_duplicates": N_("near duplicates"),
    "conflicts": N_("conflicting answers"),
    "one_word_answers": N_("one-word answers"),
    "over_long": N_("too long and cut"),
    "answers_shared": N_("answers shared between splits"),
}


def data_rows(report: Report) -> list[tuple[str, str]]:
    """Source, split and leaks of the data."""
    data = report.data
    split, leaks = data["split"], data["leaks"]
    rows = [
        (t("File"), str(data["source"] or t("not on record"))),
        (t("Format"), str(data["format"] or t("not on record"))),
    ]
    if data["columns"]:
        columns = ", ".join(f"{role} = {name}" for role, name in data["columns"].items())
        rows.append((t("Columns"), columns))
    if data["rows"] is not None:
        rows.append(
            (
                t("Rows"),
                t(
                    "{rows} in the file, {usable} usable, {rejected} rejected",
                    **{key: count(data[key]) for key in ("rows", "usable", "rejected")},
                ),
            )
        )
    if data["findings"]:
        found = ", ".join(
            f"{count(value)} {t(_FOUND.get(key, key))}" for key, value in data["findings"].items()
        )
        rows.append((t("Found"), found))
    if split["counts"]:
        values = {"counts": _by_split(split["counts"]), "seed": split["seed"]}
        how = (
            t("{counts}, defined by the file", **values)
            if split["given"]
            else t("{counts}, drawn with seed {seed}", **values)
        )
        rows.append((t("Split"), how))
    units = split["units"] or {}
    for label, counts in (
        (t("Units ({kind})", kind=str(units.get("kind"))), units.get("counts")),
        (t("Clusters"), split["clusters"]),
    ):
        if counts and any(counts.values()):
            rows.append((label, _by_split(counts)))
    known = [
        text
        for text, kind in (
            (t("{count} by text", count=count(leaks["text"])), "text"),
            (t("{count} by embedding", count=count(leaks["embedding"])), "embedding"),
        )
        if leaks[kind] is not None
    ]
    listed = ", ".join(known) or t("no search on record")
    if known and leaks["listed"]:
        removed, left = count(leaks["removed"]), count(leaks["left"])
        listed = t(
            "{leaks}; {removed} removed, {left} kept", leaks=listed, removed=removed, left=left
        )
    rows.append((t("Leaks into held-out"), listed))
    rows += [
        (t("SHA-256 of {split}", split=_split(name)), value)
        for name, value in (split["hashes"] or {}).items()
    ]
    return rows


def _split(name: str) -> str:
    names = {
        "heldout": t("held-out"),
        "train": t("train"),
        "validation": t("validation"),
    }
    return names.get(name, name)


def _by_split(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count(value)} {_split(name)}" for name, value in counts.items())
