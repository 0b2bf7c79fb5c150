"""A sweep in sentences and in rows of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evals.across.wording import metric_shown
from evals.report.reading import BASELINE, CANDIDATE
from evals.report.wording import capitalised, difference, interval, number, p_value, percent, plural
from evals.sweep.grid import label

ARM_OF = {BASELINE: ("lora", "16-bit LoRA"), CANDIDATE: ("qlora", "QLoRA")}
"""Cell → the arm that it is, and what that is called."""
STATES = {
    "succeeded": "done", "stopped": "stopped early", "failed": "failed", "queued": "not run", "running": "running",
    "cancelled": "cancelled", "lost": "interrupted",
}
_BY = {
    "both": "the mean validation loss of both arms", "qlora": "QLoRA's validation loss",
    "lora": "16-bit LoRA's validation loss",
}
_TELLS = {
    "worse": "clearly worse than it", "better": "clearly better than it",
    "mixed": "clearly better with one arm and clearly worse with the other", "not told apart": "not to be told from it",
}


def sentence(record: Mapping[str, Any]) -> str:
    """The choice, and what the held-out questions say of it."""
    if record["selected"] is None:
        return "No study has finished, so none is chosen."
    rows = {row["name"]: row for row in record["studies"]}
    chosen = rows[record["selected"]]
    finished = [row for row in record["studies"] if row["state"] == "succeeded"]
    said = (f"Chosen by {_BY[record['arm']]}: {chosen['name']} ({label(chosen['settings'])}), "
            f"{number(chosen['validation_loss'], 'nll_per_token')} nats per token, the lowest of "
            f"{plural(len(finished), 'finished study', 'finished studies')}.")
    outcomes = study_outcomes(record)
    if not outcomes:
        return said
    counts = {what: [name for name, found in outcomes.items() if found == what] for what in _TELLS}
    told = [f"{_share(len(names), len(outcomes))} {_TELLS[what]}" for what, names in counts.items() if names]
    said += (f" On the {record['comparisons'][0]['n']} held-out questions, which had no part in the choice, "
             f"{'; '.join(told)} (Holm over {plural(len(record['comparisons']), 'test')}).")
    if counts["not told apart"] and not counts["better"]:
        said += " What cannot be told from it may be as good: prefer the cheapest."
    if counts["better"]:
        said += (f" Validation has missed {', '.join(counts['better'])}; whoever takes "
                 f"{'it' if len(counts['better']) == 1 else 'one of them'} now chooses by the held-out questions, and "
                 "its score on them flatters it.")
    return said


def _share(number_of: int, total: int) -> str:
    """``2 of the 5 others are``, ``all 5 others are``, ``the other one is``."""
    if number_of == total:
        return "the other one is" if total == 1 else f"all {total} others are"
    return f"{number_of} of the {total} others {'is' if number_of == 1 else 'are'}"


def study_outcomes(record: Mapping[str, Any]) -> dict[str, str]:
    """Each compared study's outcome over the arms that decide: worse, better, mixed or not told apart."""
    found: dict[str, set[str]] = {}
    for row in record["comparisons"]:
        found.setdefault(row["study"], set()).add(row["outcome"])
    clear = {name: outcomes - {"not told apart"} for name, outcomes in found.items()}
    return {name: "mixed" if len(outcomes) > 1 else next(iter(outcomes), "not told apart")
            for name, outcomes in clear.items()}


def notes(record: Mapping[str, Any], *, seeds: int) -> list[str]:
    """What a careful reader must know before believing the table.

    Args:
        record: The results.
        seeds: How often each arm is trained in each study.
    """
    said = []
    states = [row["state"] for row in record["studies"]]
    for state, why in (("stopped", "stopped early by the median rule, never scored, and in no test"),
                       ("failed", "failed, and in no test; run the sweep again to try once more")):
        count = states.count(state)
        if count:
            said.append(f"{plural(count, 'study', 'studies')} {'was ' if state == 'stopped' and count == 1 else ''}"
                        f"{'were ' if state == 'stopped' and count > 1 else ''}{why}")
    left = len([state for state in states if state not in ("succeeded", "stopped", "failed")])
    if left:
        said.append(f"{plural(left, 'study', 'studies')} not run yet: the choice is that of those that are done")
    if record["selected"]:
        said.append("The chosen study's validation loss is the lowest of many, which flatters it; its held-out score "
                    "had no part in the choice")
    if record["comparisons"]:
        said.append("Intervals are of 95% each, one by one; the p-values are adjusted for the number of tests")
        said.append("Each arm was trained once in each study: the intervals are over questions and leave out how much "
                    "another training seed would move the scores" if seeds == 1 else
                    "The choice is by the mean over the training seeds, the held-out differences are the first one's")
        said += dict.fromkeys(capitalised(text) for row in record["comparisons"] for text in row["warnings"])
    return said


def study_rows(record: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The studies as a table: columns, and one row each, the chosen one first, then by validation loss."""
    rows = ordered(record)
    cells = [cell for cell in ARM_OF if any(cell in row["heldout"] for row in rows)]
    how = metric_shown(record["metric"])
    columns = ["study", *record["sweep"], "validation loss",
               *(f"held-out {how.phrase}, {ARM_OF[cell][1]}" for cell in cells)]
    return columns, [
        [f"{row['name']}{' *' if row['name'] == record['selected'] else ''}", *map(str, row["settings"].values()),
         validation_text(row),
         *(number(row["heldout"][cell], record["metric"]) if cell in row["heldout"] else "–" for cell in cells)]
        for row in rows
    ]


def comparison_rows(record: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The tests as a table: columns, and one row each; differences are the study's figure minus the chosen one's."""
    columns = ["study", "arm", f"difference from {record['selected']}", "95% interval", "p (Holm)", ""]
    place = {row["name"]: number_of for number_of, row in enumerate(ordered(record))}
    return columns, [
        [row["study"], ARM_OF[row["cell"]][1], difference(row["delta"], row["metric"], row),
         interval(row, row["metric"]), p_value(row["p_value_holm"]), row["outcome"]]
        for row in sorted(record["comparisons"], key=lambda row: (place[row["study"]], list(ARM_OF).index(row["cell"])))
    ]


def ordered(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The studies: the chosen one, the other finished ones by validation loss, then the rest as they were defined."""
    return sorted(record["studies"], key=lambda row: (
        row["name"] != record["selected"], row["state"] != "succeeded",
        row["validation_loss"] if row["state"] == "succeeded" else 0.0,
    ))


def validation_text(row: Mapping[str, Any]) -> str:
    """A study's validation loss; of one that did not come to its end, how it ended."""
    if row["state"] == "succeeded":
        return number(row["validation_loss"], "nll_per_token")
    if row["state"] == "stopped":
        stopped = row["stopped"]
        loss = number(stopped["loss"], "nll_per_token")
        return f"stopped at {percent(stopped['share'], 0)} of {stopped['run']}: {loss}"
    return STATES[row["state"]]
