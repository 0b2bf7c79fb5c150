"""What the measurements beside the headline give reason to doubt: each a warning of the report.

What a careful reader must know before believing the numbers: warnings, and what the held-out set could detect.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from assistant_builder.arms import ARMS
from assistant_builder.models.bundled import BASE_MODEL
from evals.report.contrasts import HEADLINE, clearly_worse
from evals.report.format import SIGNIFICANT, difference, interval, percent, plural, share_lost, shown, signed
from evals.report.load import BASELINE, CANDIDATE, arms_of, is_compared, lead_pair, tuned_cells
from evals.report.other_results import NAMES, shortfall_in_short
from evals.stats.power import TARGET, heldout_power, intraclass_correlation, items_needed, minimum_detectable_mean
from evals.tasks.general_knowledge import TASK as RETENTION

Doubt = tuple[str, str, str]
"""Code, level and text."""
EXACT = 1e-12
"""Largest rounding error at which an identity holds."""
_FAILED = 0.1
_ONE_PLACE = 0.6
"""Share of decided judgements for one place from which a judge is called partial to it."""
_SAME_LOSS = 1e-3


def secondary_warnings(report: Mapping[str, Any]) -> Iterator[Doubt]:
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
                 for name, label in ((arm.cell, arm.short) for arm in ARMS.values())
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


_Z95 = 1.959964


def power(
    rows: list[dict[str, Any]], items: list[dict[str, Any]], primary: str, margin: float
) -> list[dict[str, Any]]:
    """What a held-out set of this size can detect, from the scatter of the differences seen.

    Args:
        rows: The headline's contrasts.
        items: The report's items, for their clusters.
        primary: Metric of the verdict.
        margin: Its margin, in the metric's units.

    Returns:
        For the primary metric and exact match: ``standard_error`` and ``detectable``, the true difference found in 80 %
        of such studies, both in the metric's units; ``target``, the margin or 2 points; and ``needed``, the units
        (clusters where there are any, else items) at which ``detectable`` equals the target. For exact match also what
        could be said before the run, ``planned`` (:class:`evals.stats.power.Power`), and how its assumptions came out,
        ``seen`` (``flip_rate``, ``icc``); ``None`` for other metrics.
    """
    found = []
    clusters = [item["cluster"] for item in items]
    for row in rows:
        is_primary, is_exact = row["metric"] == primary, row["metric"] == "exact_match"
        if not is_primary and not is_exact:
            continue
        error = (row["ci_high"] - row["ci_low"]) / (2 * _Z95)
        target = margin if is_primary else TARGET
        units = row["n_clusters"] or row["n"]
        scatter = error * math.sqrt(units)
        found.append({
            "metric": row["metric"], "n": row["n"], "units": units,
            "unit": "clusters" if row["n_clusters"] else "items",
            "standard_error": error, "detectable": minimum_detectable_mean(units, scatter), "target": target,
            "needed": items_needed(target, sd=scatter) if target > 0 else None,
            "planned": heldout_power(len(items), clusters=clusters).to_record() if is_exact else None,
            "seen": _flips_seen(items) if is_exact else None,
        })
    return found


def _flips_seen(items: list[dict[str, Any]]) -> dict[str, float]:
    """The share of items that flipped, and how alike flips within a cluster were."""
    scored = [(item["metrics"][CANDIDATE]["exact_match"] - item["metrics"][BASELINE]["exact_match"], item["cluster"])
              for item in items if all("exact_match" in item["metrics"][cell] for cell in (BASELINE, CANDIDATE))]
    flips = [flip for flip, _ in scored]
    return {"flip_rate": sum(flip != 0 for flip in flips) / len(flips),
            "icc": intraclass_correlation(flips, [cluster for _, cluster in scored])}


def warnings(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """Everything that limits what the report shows.

    Args:
        report: The report so far.

    Returns:
        ``{"code", "level", "text"}``; level ``serious`` where it bears on the verdict or on whether tuning was worth
        it, else ``note``.
    """
    found = [*secondary_warnings(report), *_about_statistics(report), *_about_training(report), *_about_data(report)]
    return [{"code": code, "level": level, "text": text} for code, level, text in found]


def _about_statistics(report: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    verdict = report["verdict"]
    for text in verdict["warnings"]:
        yield "statistics", "serious", _statistics(verdict["metric"], text)
    said = set(verdict["warnings"])
    lead = "-".join(lead_pair(report))
    for row in report["contrasts"]:
        if row["name"] == lead and (row["metric"] != verdict["metric"] or not is_compared(report)):
            for text in row["warnings"]:
                if text not in said:
                    said.add(text)
                    yield "statistics", "note", _statistics(row["metric"], text)
    if report["seeds"]["count"] == 1:
        yield "one_seed", "note", report["seeds"]["sentence"]
    if any("similarity" in report["cells"][name]["metrics"] for name in tuned_cells(arms_of(report))):
        yield ("similarity_blind", "note",
               "Similarity is blind to negation and to numbers: “31 metres” and “13 metres” score almost alike. Do not "
               "read it as correctness.")
    if report["flips"] and not report["flips"]["noise_floor"]:
        yield ("flip_noise", "note",
               "Some answers would also change if only the scoring batch had another size (rounding). That floor was "
               "not measured here, so single changed answers prove nothing.")


def _statistics(metric: str, text: str) -> str:
    return f"{shown(metric).label}: {text.replace(' %', '%').rstrip('.')}."


def _about_training(report: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    twins, both = report["twins"], is_compared(report)
    if not both:
        pass  # without a twin there is nothing to match
    elif twins is None:
        yield ("twins_unknown", "serious",
               "The settings of both arms are not on record, so that they were twins is unproven.")
    elif not twins["matched"]:
        what = ", ".join(row["setting"] for row in twins["unintended"]) or "the storage is the same"
        yield ("twins_differ", "serious",
               f"The arms are not twins: they differ in more, or other, than the base's storage ({what}). The "
               "difference below cannot be laid to 4-bit alone.")
    came_through_gguf = "gguf" in json.dumps(report["provenance"].get("base_model"), default=str).lower()
    if came_through_gguf or report["config"]["model"]["base"].strip().casefold() == BASE_MODEL:
        yield ("base_requantized", "serious",
               "The base model reached this study through a 4-bit GGUF file: “float16” here means those 4-bit weights "
               "widened to float16. " + (
                   "Both arms start from them, but the cost of 4-bit on weights that were never rounded before may "
                   "differ." if both else "From weights that were never rounded before training may give "
                   "another result."))
    for untuned, tuned in ((arm.untuned_cell, arm.cell) for arm in ARMS.values()):
        if {untuned, tuned} <= report["cells"].keys() and (
            report["cells"][tuned]["nll_per_token"] >= report["cells"][untuned]["nll_per_token"]
        ):
            yield ("tuning_did_not_help", "serious",
                   f"Tuning did not lower the loss ({tuned} against {untuned})." + (
                       " Comparing two assistants that learned nothing says little about 4-bit." if both else ""))
    if any(record.get("device") == "cpu" for record in report["arms"].values()):
        yield ("cpu_memory", "note",
               "Trained on a CPU. Peak memory is the resident set of the training process, Python and libraries "
               "included, so it shrinks far less than the weights do; on a GPU the weights dominate.")
    if len({record.get("gradient_checkpointing") for record in report["resources"].values()}) > 1:
        yield ("checkpointing_differs", "note",
               "Only one arm had to recompute activations (gradient checkpointing) to fit into memory. That changes no "
               "result, but time and memory of the two arms are not alike for it.")
    devices = max((record.get("devices") or 1 for record in report["resources"].values()), default=1)
    if devices > 1:
        yield ("several_devices", "note",
               f"{devices} devices trained {'each' if both else 'the'} arm together and shared out each step's pairs. "
               "The figures of memory are those of one device; the losses are those of a single one but for the order "
               "in which sums are rounded.")
    dtypes = sorted({str(record["compute_dtype"]) for record in report["arms"].values() if record.get("compute_dtype")})
    if dtypes:
        yield ("compute_dtype", "note",
               f"Storage and arithmetic are separate: the base is stored in {_storages(report)}, and "
               f"{'both arms compute' if both else 'the arm computes'} in {' and '.join(dtypes)}.")


def _storages(report: Mapping[str, Any]) -> str:
    stored = (ARMS[arm].storage or "in 4 bits" for arm in arms_of(report))
    return " or ".join(dict.fromkeys(stored)).removeprefix("in ")


def _about_data(report: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    leaks = report["data"]["leaks"]
    if leaks["removed"]:
        yield ("leaks_removed", "note",
               f"{plural(leaks['removed'], 'question')} stood, or nearly stood, in training and so left "
               "the held-out set.")
    if leaks["left"]:
        why = " because the file itself gives the split" if report["data"]["split"]["given"] else ""
        yield ("leaks_left", "serious",
               f"{plural(leaks['left'], 'held-out question')} also stand, or nearly stand, in training and were left in"
               f"{why}. Where these are phrasings of one fact on purpose, the test is one of rephrasing; otherwise the "
               f"scores {'of both arms ' if is_compared(report) else ''}are flattered.")
    if leaks["text"] is None or leaks["embedding"] is None:
        missing = " or ".join(name for name, key in (("text", "text"), ("sentence embedding", "embedding"))
                              if leaks[key] is None)
        yield "leaks_unknown", "note", f"No search for leaks by {missing} is on record."
    yield from _about_groups(report)
    unanswerable = sum(not row["answerable"] for row in report["items"])
    if unanswerable:
        yield ("unanswerable", "note",
               f"{plural(unanswerable, 'item')} of {len(report['items']):,} should be declined. They count in the loss "
               "and wherever else they carry a score.")
    everything = len(report["items"])
    for row in report["contrasts"]:
        if row["name"] == "-".join(lead_pair(report)) and row["n"] < everything:
            yield ("fewer_items", "note",
                   f"{shown(row['metric']).label} is figured on {row['n']:,} of {everything:,} items; the others carry "
                   "no such score.")


def _about_groups(report: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Groups keep the splits apart and no more; the intervals heed clusters alone."""
    units, counts = report["data"]["split"]["units"] or {}, report["data"]["split"]["counts"] or {}
    if units.get("kind") != "group" or report["verdict"]["n_clusters"] is not None:
        return
    groups, column = units["counts"]["heldout"], report["data"]["columns"].get("group", "group")
    if groups < counts["heldout"]:
        yield ("groups_are_no_clusters", "note",
               f"The {counts['heldout']:,} questions kept aside come from {plural(groups, 'group')} (column {column}) "
               "and are taken as independent. If answers of one group turn right or wrong together, the intervals are "
               f"too short: name the column as cluster too (data.columns.cluster: {column}).")
