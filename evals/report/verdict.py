"""The verdict and the summary as plain sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from assistant_builder.arms import ARMS, CELLS, headline_arms
from evals.report import format as fmt
from evals.report.contrasts import clearly_worse
from evals.report.format import interval, number, percent, plain, plural, shown, signed_percent
from evals.report.load import BASELINE, CANDIDATE, arms_of, served_cells, tuned_cells
from evals.report.other_results import NAMES


def audience(rows: list[dict[str, Any]], verdict: Mapping[str, Any]) -> str:
    """The items of the verdict, such as ``208 held-out questions``, with a note if they are too few."""
    several = any(row["turn"] for row in rows)
    few = any(text.startswith("too few") for text in verdict["warnings"])
    asked = plural(verdict["n"], "held-out answer" if several else "held-out question")
    return f"{asked} (too few for a firm verdict)" if few else asked


def verdict_sentence(verdict: Mapping[str, Any], asked: str) -> str:
    """The verdict in one sentence; a report without a comparison gets the reason and the remedy instead."""
    if verdict["contrast"] is None:
        return f"{verdict['reason']} {verdict['action']}"
    low, high = harm_interval(verdict)
    margin, how = verdict["margin"], shown(verdict["metric"])
    measured = measured_text(verdict, "QLoRA's", "that of its 16-bit twin")
    unit = "" if verdict["metric"] == "nll_per_token" else how.unit
    allowed = f"{plain(margin * how.factor)} {unit}".rstrip()
    limit = f"the {allowed} you allowed" if margin > 0 else "the zero you allowed"
    if verdict["outcome"] == "no worse":
        if verdict["within_margin_but_worse"]:
            return f"On your {asked}, 4-bit is measurably worse, but within {limit}: {measured}."
        if high < 0:
            return f"On your {asked}, 4-bit did not cost quality, it is better: {measured}."
        return f"On your {asked}, 4-bit is no worse: {measured}, within {limit}."
    if verdict["outcome"] == "worse":
        beyond = f"all of it beyond {limit}" if low > margin else f"and the harm may exceed {limit}"
        return f"On your {asked}, 4-bit made the assistant worse: {measured}, {beyond}."
    if high <= margin:
        return (f"On your {asked}, this metric cannot show whether 4-bit cost anything, because nearly all answers of "
                f"both assistants are right, or nearly all are wrong: {measured}.")
    return (f"On your {asked}, the result is inconclusive: {measured}, which reaches from no harm to more than "
            f"{limit}. More held-out questions would narrow the interval.")


def harm_interval(verdict: Mapping[str, Any]) -> tuple[float, float]:
    """The 95 % interval of the harm, where positive means worse."""
    low, high = verdict["ci"]
    return (-high, -low) if verdict["higher_is_better"] else (low, high)


def measured_text(verdict: Mapping[str, Any], whose: str, other: str = "") -> str:
    """The difference of a verdict in words, with its interval, for sentences."""
    how, delta = shown(verdict["metric"]), verdict["delta"]
    row = {"ci_low": verdict["ci"][0], "ci_high": verdict["ci"][1]}
    amount = f"{abs(delta) * how.factor:.{fmt.decimals(verdict['metric'], row)}f}"
    same = float(amount) == 0
    compared = "the same" if same else f"{amount} {how.unit} {'higher' if delta > 0 else 'lower'}"
    if other:
        compared += f" {'as' if same else 'than'} {other}"
    return f"{whose} {how.phrase} is {compared} (95% interval {interval(row, verdict['metric'], plus=False)})"


def counter_evidence(rows: list[dict[str, Any]], outcome: str) -> str:
    """The metrics that contradict a reassuring verdict because QLoRA is clearly worse on them; empty without any."""
    against = [f"{shown(row['metric']).phrase} ({fmt.measured(row)})" for row in rows
               if "verdict" not in row and clearly_worse(row) and row["p_value_holm"] <= fmt.SIGNIFICANT]
    if not against or outcome == "worse":
        return ""
    return f"By another measure it is clearly worse: {fmt.enumerated(against)}."


def summary(report: Mapping[str, Any]) -> list[str]:
    """The first answers after the verdict: perplexity, right answers, refusals, and whether tuning helped."""
    cells, lines = report["cells"], []
    change, seeds = report["verdict"]["perplexity_change"], report["seeds"]
    if change:
        low, high = change["ci"]
        lines.append(
            f"In perplexity: {number_of(cells[BASELINE]['perplexity'])} for 16-bit LoRA, "
            f"{number_of(cells[CANDIDATE]['perplexity'])} for QLoRA, {signed_percent(change['share'])} "
            f"({signed_percent(low)} to {signed_percent(high)})."
        )
    return [*lines, *_right_answers(report), *_declining(report), *_tuning(report), *_untuned(report),
            *([seeds["sentence"]] if seeds["count"] > 1 else [])]


def number_of(perplexity: float) -> str:
    """A perplexity with about three digits."""
    return f"{perplexity:.2f}" if perplexity < 100 else f"{perplexity:,.0f}"


def _short(cell: str) -> str:
    """What sentences call the assistant of a cell."""
    return ARMS[CELLS[cell].adapter or ""].short


def _right_answers(report: Mapping[str, Any]) -> list[str]:
    cells, tuned = report["cells"], served_cells(arms_of(report))
    share = {name: cell["metrics"].get("exact_match") for name, cell in cells.items()}
    if any(share.get(name) is None for name in tuned):
        return ["Exact match, the share of completely right answers, was not scored."]
    total = next((row["n"] for row in report["contrasts"] if row["metric"] == "exact_match"), len(report["items"]))
    text = "Exactly right answers: " + ", ".join(f"{_short(name)} {_of(share[name], total)}" for name in tuned)
    untuned = ARMS[headline_arms(arms_of(report))[0]].untuned_cell
    if share.get(untuned) is not None:
        text += f", the untuned base {_of(share[untuned], total)}"
    flips = report["flips"]
    if flips:
        text += (f". {plural(len(flips['lost']), 'question')} right only under LoRA, {len(flips['gained'])} only under "
                 "QLoRA")
    return [text + "."]


def _declining(report: Mapping[str, Any]) -> list[str]:
    cells, tuned = (report["declining"] or {"cells": {}})["cells"], tuned_cells(arms_of(report))
    if not set(tuned) <= cells.keys() or not cells[tuned[0]]["unanswerable_items"]:
        return []
    if len(tuned) == 1:
        found = cells[tuned[0]]
        return [f"Of {plural(found['unanswerable_items'], 'question')} that should be declined, {_short(tuned[0])} "
                f"declined {found['declined']:,}; of the {found['answerable_items']:,} that should be answered, it "
                f"declined {found['false_declines']:,}."]
    lora, qlora = cells[BASELINE], cells[CANDIDATE]
    return [f"Of {plural(lora['unanswerable_items'], 'question')} that should be declined, 16-bit LoRA declined "
            f"{lora['declined']:,} and QLoRA {qlora['declined']:,}; of the {lora['answerable_items']:,} that should be "
            f"answered, they declined {lora['false_declines']:,} and {qlora['false_declines']:,}."]


def _untuned(report: Mapping[str, Any]) -> list[str]:
    """A line if tuning beats every untuned baseline on all metrics; otherwise there is a warning instead."""
    found = report["beats_untuned"]
    if not found or any(record["not_beaten"] or record["worse"] for record in found):
        return []
    rivals = " and ".join(NAMES[name] for name in dict.fromkeys(record["baseline"] for record in found))
    several = len(arms_of(report))
    who = ("The assistant clearly beats" if several == 1 else "Both assistants clearly beat" if several == 2 else
           "All assistants clearly beat")
    return [f"{who} {rivals} by every measure."]


def _of(share: float, total: int) -> str:
    return f"{round(share * total):,} of {total:,} ({percent(share)})"


def _tuning(report: Mapping[str, Any]) -> list[str]:
    cells, lines = report["cells"], []
    scored = {row["name"] for row in report["contrasts"] if row["metric"] == "nll_per_token"}
    for arm in ARMS.values():
        if f"{arm.cell}-{arm.untuned_cell}" in scored:
            before, after = (number(cells[name]["nll_per_token"], "nll_per_token")
                             for name in (arm.untuned_cell, arm.cell))
            lines.append(f"{arm.short} from {before} to {after}")
    return [f"Tuning took the loss (nats per token) of {', of '.join(lines)}."] if lines else []
