"""The sentences and tables of a sweep, from ``sweep.json`` alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from assistant_builder.arms import ARMS, CELLS, Arm
from assistant_builder.sweep.spec import label
from evals.report.load import served_cells
from evals.report.number_format import (
    capitalised,
    difference,
    interval,
    number,
    p_value,
    plural,
    shown,
)

STATES = {
    "succeeded": "done",
    "failed": "failed",
    "queued": "not run",
    "running": "running",
    "cancelled": "cancelled",
    "lost": "interrupted",
}
_OUTCOME_TEXTS = {
    "worse": "clearly worse",
    "better": "clearly better",
    "mixed": "clearly better with one arm and clearly worse with the other",
    "not told apart": "not clearly different",
}
"""Outcome in ``sweep.json`` → its text."""


def arm_of(cell: str) -> Arm:
    """The arm that a cell scores."""
    return ARMS[CELLS[cell].adapter or ""]


def sentence(record: Mapping[str, Any]) -> str:
    """The selected study, and its comparison with the others on the held-out questions."""
    if record["selected"] is None:
        return "No study has finished, so none is selected."
    rows = {row["name"]: row for row in record["studies"]}
    chosen = rows[record["selected"]]
    finished = [row for row in record["studies"] if row["state"] == "succeeded"]
    by = (
        "the mean validation loss of both arms"
        if record["arm"] == "both"
        else f"{ARMS[record['arm']].short}'s validation loss"
    )
    text = (
        f"Selected by {by}: {chosen['name']} ({label(chosen['settings'])}), "
        f"{number(chosen['validation_loss'], 'nll_per_token')} nats per token, the lowest of "
        f"{plural(len(finished), 'finished study', 'finished studies')}."
    )
    outcomes = study_outcomes(record)
    if not outcomes:
        return text
    names = {
        what: [name for name, outcome in outcomes.items() if outcome == what]
        for what in _OUTCOME_TEXTS
    }
    shares = [
        f"{_share(len(names[what]), len(outcomes))} {words}"
        for what, words in _OUTCOME_TEXTS.items()
        if names[what]
    ]
    text += (
        f" On the {record['comparisons'][0]['n']} held-out questions, which were not used for the selection, "
        f"{'; '.join(shares)} (Holm over {plural(len(record['comparisons']), 'test')})."
    )
    if names["not told apart"] and not names["better"]:
        text += " A study that is not clearly different may be as good, so prefer the cheapest."
    if names["better"]:
        text += (
            f" Validation missed {', '.join(names['better'])}. Choosing "
            f"{'it' if len(names['better']) == 1 else 'one of them'} now would be a choice by the held-out "
            "questions, which makes its held-out score too optimistic."
        )
    return text


def _share(number_of: int, total: int) -> str:
    """A subject such as ``2 of the 5 others are``, ``all 5 others are`` or ``the other one is``."""
    if number_of == total:
        return "the other one is" if total == 1 else f"all {total} others are"
    return f"{number_of} of the {total} others {'is' if number_of == 1 else 'are'}"


def study_outcomes(record: Mapping[str, Any]) -> dict[str, str]:
    """The outcome of each compared study over the deciding arms: worse, better, mixed or not told apart."""
    outcomes: dict[str, str] = {}
    for row in record["comparisons"]:
        known, own = outcomes.get(row["study"], "not told apart"), row["outcome"]
        clear = {known, own} - {"not told apart"}
        outcomes[row["study"]] = "mixed" if len(clear) > 1 else clear.pop() if clear else own
    return outcomes


def notes(record: Mapping[str, Any], *, seeds: int) -> list[str]:
    """The limitations of the results, one sentence each."""
    found = []
    states = [row["state"] for row in record["studies"]]
    failed = states.count("failed")
    if failed:
        found.append(
            f"{plural(failed, 'study', 'studies')} failed and {'is' if failed == 1 else 'are'} in no test; "
            "run the sweep again to retry"
        )
    left = sum(state not in ("succeeded", "failed") for state in states)
    if left:
        found.append(
            f"{plural(left, 'study', 'studies')} not run yet: the selection covers the finished studies alone"
        )
    if record["selected"]:
        found.append(
            "The selected study's validation loss is the lowest of many and therefore too optimistic; its "
            "held-out score was not used for the selection"
        )
    if record["comparisons"]:
        found.append(
            "Each interval covers 95% by itself; the p-values are adjusted for the number of tests"
        )
        found.append(
            "Each arm was trained once in each study: the intervals cover the choice of questions, not the "
            "variation between training seeds"
            if seeds == 1
            else "The selection uses the mean over the training seeds, the held-out differences use the first seed"
        )
        found += dict.fromkeys(
            capitalised(text) for row in record["comparisons"] for text in row["warnings"]
        )
    return found


def study_rows(record: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The studies as a table with columns and rows, in the order of :func:`ordered`."""
    rows = ordered(record)
    cells = [cell for cell in served_cells(ARMS) if any(cell in row["heldout"] for row in rows)]
    how = shown(record["metric"])
    columns = [
        "study",
        *record["sweep"],
        "validation loss",
        *(f"held-out {how.phrase}, {arm_of(cell).short}" for cell in cells),
    ]
    return columns, [
        [
            f"{row['name']}{' *' if row['name'] == record['selected'] else ''}",
            *map(str, row["settings"].values()),
            validation_text(row),
            *(
                number(row["heldout"][cell], record["metric"]) if cell in row["heldout"] else "–"
                for cell in cells
            ),
        ]
        for row in rows
    ]


def comparison_rows(record: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The tests as a table with columns and rows; a difference is the study's figure minus the selected one's."""
    difference_from = f"difference from {record['selected']}"
    columns = ["study", "arm", difference_from, "95% interval", "p (Holm)", "result"]
    return columns, [
        [
            row["study"],
            arm_of(row["cell"]).short,
            difference(row["delta"], row["metric"], row),
            interval(row, row["metric"]),
            p_value(row["p_value_holm"]),
            _OUTCOME_TEXTS[row["outcome"]],
        ]
        for row in _comparisons(record)
    ]


def _comparisons(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    place = {row["name"]: at for at, row in enumerate(ordered(record))}
    cells = served_cells(ARMS)
    return sorted(
        record["comparisons"], key=lambda row: (place[row["study"]], cells.index(row["cell"]))
    )


def ordered(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The studies: the selected one, the other finished ones by validation loss, then the rest in their order."""
    return sorted(
        record["studies"],
        key=lambda row: (
            row["name"] != record["selected"],
            row["state"] != "succeeded",
            row["validation_loss"] if row["state"] == "succeeded" else 0.0,
        ),
    )


def validation_text(row: Mapping[str, Any]) -> str:
    """A study's validation loss, or its state if it has not finished."""
    if row["state"] == "succeeded":
        return number(row["validation_loss"], "nll_per_token")
    return STATES[row["state"]]
