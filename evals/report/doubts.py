"""What the measurements beside the headline give reason to doubt: each a warning of the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from evals.report.baselines import NAMES, shortfall_in_short
from evals.report.contrasts import HEADLINE, clearly_worse
from evals.report.reading import BASELINE, CANDIDATE, arms_of, is_compared, tuned_cells
from evals.report.wording import SIGNIFICANT, difference, interval, percent, plural, share_lost, shown, signed
from evals.retention import TASK as RETENTION

Doubt = tuple[str, str, str]
"""Code, level and text."""
EXACT = 1e-12
"""Largest rounding error at which an identity holds."""
_FAILED = 0.1
_ONE_PLACE = 0.6
"""Share of decided judgements for one place from which a judge is called partial to it."""
_SAME_LOSS = 1e-3


def doubts(report: Mapping[str, Any]) -> Iterator[Doubt]:
    """Warnings from untuned baselines, identities, fidelity, noise floor, seeds, exports, tasks, declining, judge.

    Args:
        report: The report but for its sentences.
    """
    yield from _untuned(report)
    yield from _arithmetic(report)
    yield from _noise(report)
    yield from _seeds(report)
    yield from _exports(report)
    yield from _tasks(report)
    yield from _declining(report)
    yield from _judge(report)


def _untuned(report: Mapping[str, Any]) -> Iterator[Doubt]:
    figures = {**report["cells"], **report["baselines"]}
    few = any(text.startswith("too few") for text in report["verdict"]["warnings"])
    for baseline, name in NAMES.items():
        failing = [record for record in report["beats_untuned"]
                   if record["baseline"] == baseline and (record["not_beaten"] or record["worse"])]
        if failing:
            beaten = "beat" if any(record["worse"] or not record["beaten"] for record in failing) else "clearly beat"
            text = (f"Tuning does not {beaten} {name}: "
                    f"{'; '.join(shortfall_in_short(record, figures) for record in failing)}.")
            if few and not any(record["worse"] for record in failing):
                text += " With so few items that may be for want of evidence."
            yield f"not_better_than_{baseline}", "serious", text


def _arithmetic(report: Mapping[str, Any]) -> Iterator[Doubt]:
    broken = [entry for entry in report["identities"] if entry["error"] > EXACT]
    if broken:
        yield ("identity_broken", "serious",
               f"{broken[0]['text']} is off by {broken[0]['error']:.1e} on {broken[0]['metric']}: the figures of the "
               "cells do not belong together.")
    fidelity = report["fidelity"] or {"pairs": [], "skipped": None}
    if fidelity["skipped"]:
        yield "fidelity_skipped", "note", fidelity["sentence"]
    cells = report["cells"]
    for pair in fidelity["pairs"]:
        if {pair["candidate"], pair["reference"]} <= cells.keys():
            seen = cells[pair["candidate"]]["nll_per_token"] - cells[pair["reference"]]["nll_per_token"]
            if abs(pair["delta_nll"] - seen) > _SAME_LOSS:
                yield ("fidelity_disagrees", "note",
                       f"Compared token by token, {pair['candidate']} loses {pair['delta_nll']:.4f} nats per token on "
                       f"{pair['reference']}, by the cells' own scores {seen:.4f}: the two were not computed alike.")


def _noise(report: Mapping[str, Any]) -> Iterator[Doubt]:
    flips = report["flips"]
    floor = flips["noise_floor"] if flips else None
    if not floor:
        return
    between = len(flips["lost"]) + len(flips["gained"])
    noise = max(cell["lost"] + cell["gained"] for cell in floor["cells"].values())
    if noise and noise >= between:
        level = "serious" if report["primary_metric"] == flips["metric"] else "note"
        yield ("flips_within_noise", level,
               f"Scoring in batches of another size turns {plural(noise, 'answer')} of one assistant from right to "
               f"wrong or back, 4-bit no more than {between:,}: the flips listed may be arithmetic, not 4-bit.")
    if floor["verdict"] is not None and floor["verdict"] != report["verdict"]["outcome"]:
        yield ("verdict_moves_with_batches", "serious",
               f"With other scoring batches the verdict is “{floor['verdict']}” instead of "
               f"“{report['verdict']['outcome']}”: it hangs on rounding. More held-out items would settle it.")


def _seeds(report: Mapping[str, Any]) -> Iterator[Doubt]:
    seeds, verdict = report["seeds"], report["verdict"]
    if seeds["spread"] is None or not is_compared(report):
        return
    unlike = [str(run["seed"]) for run in seeds["runs"][1:] if run["twins"] is False]
    if unlike:
        yield ("seeds_not_twins", "serious",
               f"The arms of seed {', '.join(unlike)} are not twins: they differ in more, or other, than the base's "
               "storage, so the spread over seeds is not only luck.")
    verdicts = [run["verdict"] for run in seeds["runs"]]
    if len(set(verdicts)) > 1:
        told = ", ".join(f"“{outcome}” with seed {run['seed']}"
                         for run, outcome in zip(seeds["runs"], verdicts, strict=True))
        yield ("seeds_disagree", "serious",
               f"Another training seed gives another verdict: {told}. The verdict above is that of seed 1.")
    low, high = seeds["spread"]["delta"]["ci"]
    worst = -low if verdict["higher_is_better"] else high
    if verdict["outcome"] == "no worse" and worst > verdict["margin"]:
        how = shown(verdict["metric"])
        yield ("seeds_reach_beyond_margin", "note",
               f"Over {seeds['count']} training seeds the difference could be as much as "
               f"{signed((low if verdict['higher_is_better'] else high) * how.factor, how.decimals)} {how.unit}, more "
               "harm than you allowed. The verdict is about the assistants of seed 1, not about every retraining.")


def _exports(report: Mapping[str, Any]) -> Iterator[Doubt]:
    for row in report["exports"]:
        if row["keeps"] == "no":
            yield ("export_loses", "note",
                   f"{row['cell']} does not keep what {row['measured']} was measured at ({_measured(row)}): it loses "
                   f"{share_lost(row)}. {row['how']}")


def _tasks(report: Mapping[str, Any]) -> Iterator[Doubt]:
    for task, record in report["tasks"].items():
        if record["error"]:
            yield "task_failed", "note", record["sentence"]
        worse = {row["name"]: row for row in record["contrasts"] if clearly_worse(row)}
        if HEADLINE in worse and worse[HEADLINE]["p_value_holm"] <= SIGNIFICANT:
            yield ("worse_on_task", "serious",
                   f"{record['label']}: QLoRA is clearly worse than its 16-bit twin ({_measured(worse[HEADLINE])}).")
        forgot = [f"{row['candidate']} against {row['baseline']} {_measured(row)}"
                  for name, row in worse.items() if name != HEADLINE]
        if forgot and task == RETENTION:
            yield "forgetting", "note", f"Tuning made the model forget general knowledge: {'; '.join(forgot)}."


def _measured(row: Mapping[str, Any]) -> str:
    return (f"{difference(row['delta'], row['metric'], row)} {shown(row['metric']).unit}, 95% interval "
            f"{interval(row, row['metric'], plus=False)}")


def _declining(report: Mapping[str, Any]) -> Iterator[Doubt]:
    cells = (report["declining"] or {"cells": {}})["cells"]
    inventing = [f"{label} answered {cell['unanswerable_items'] - cell['declined']:,}"
                 for name, label in ((BASELINE, "16-bit LoRA"), (CANDIDATE, "QLoRA"))
                 if (cell := cells.get(name)) and 2 * cell["declined"] < cell["unanswerable_items"]]
    if inventing:
        asked = plural(cells[tuned_cells(arms_of(report))[0]]["unanswerable_items"], "question")
        yield ("invents", "serious",
               f"Of {asked} that should be declined, {' and '.join(inventing)}. What is said there is made up, but for "
               "declines in words that are not recognised: look at those answers.")


def _judge(report: Mapping[str, Any]) -> Iterator[Doubt]:
    judge = report["judge"]
    if not judge:
        return
    if judge["failures"] > _FAILED * judge["items"]:
        yield ("judge_failures", "serious",
               f"The judge failed on {judge['failures']:,} of {plural(judge['items'], 'item')} "
               f"({percent(judge['failures'] / judge['items'])}). If those are not like the others, its preference "
               "says little.")
    share = judge["first_of_decided"]
    if share is not None and judge["place_p_value"] <= SIGNIFICANT and max(share, 1 - share) >= _ONE_PLACE:
        place = "first" if share > 0.5 else "second"
        yield ("judge_position_bias", "note",
               f"The judge chose the answer shown {place} in {percent(max(share, 1 - share))} of its decided "
               "judgements. Both orders were asked, so neither assistant gains from that, but its ties are less than "
               "a real “equally good”.")
    if judge["ci"] and judge["ci"][1] < 0.5 and judge["p_value"] <= SIGNIFICANT and (
        report["verdict"]["outcome"] == "no worse"
    ):
        yield ("judge_prefers_lora", "serious",
               f"The judge prefers the answers of {BASELINE} to those of {CANDIDATE}. {judge['sentence']}")
