"""How assistants that look facts up answer after other turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from assistant_builder.arms import CELLS
from assistant_builder.i18n import enumerated, t, tn
from evals.report.format import count
from evals.report.load import Cell
from evals.report.schema import Report


def conversation(cells: Mapping[str, Cell], served: Sequence[str]) -> dict[str, Any] | None:
    """Shares of right answers alone and after unrelated turns; None where nothing is looked up.

    Returns:
        ``after_turns`` (share of the answerable questions that the first served assistant answers exactly, by
        the number of unrelated turns before them), ``follow_ups`` (the same of the later questions of conversations,
        None without any), and ``cells`` (the counts of :func:`evals.answers.after_turns` of each served assistant).
    """
    found = {
        name: cells[name].scores["conversation"]
        for name in served
        if name in cells and "conversation" in cells[name].scores
    }
    if not found:
        return None
    first = next(iter(found.values()))
    later = first["follow_ups"]
    return {
        "after_turns": {
            turns: right / max(first["items"], 1) for turns, right in first["right"].items()
        },
        "follow_ups": later["right"] / later["items"] if later["items"] else None,
        "cells": found,
    }


def sentences(report: Report) -> list[str]:
    """What the record says, for the report, in the current language."""
    lines = []
    for name, found in (report.conversation or {"cells": {}})["cells"].items():
        turns = [key for key in found["right"] if key != "0"]
        counts = {
            key: enumerated([count(found[key][each]) for each in turns])
            for key in ("right", "declined")
        }
        answered = tn(
            "{assistant}: of {count} question that should be answered, {alone} are answered exactly right alone, and "
            "{right} after {turns} questions about something else.",
            "{assistant}: of {count} questions that should be answered, {alone} are answered exactly right alone, and "
            "{right} after {turns} questions about something else.",
            found["items"],
            assistant=t(CELLS[name].label),
            alone=count(found["right"]["0"]),
            right=counts["right"],
            turns=enumerated(turns),
        )
        lines.append(answered)
        if found["to_decline"]:
            lines[-1] += " " + t(
                "Of {number:,} that should be declined, {alone:,} are declined alone, and {declined} after these.",
                number=found["to_decline"],
                alone=found["declined"]["0"],
                declined=counts["declined"],
            )
        later = found["follow_ups"]
        if later["items"]:
            lines[-1] += " " + tn(
                "Of {count} later question of conversations, {right:,} are answered exactly right.",
                "Of {count} later questions of conversations, {right:,} are answered exactly right.",
                later["items"],
                right=later["right"],
            )
    return lines
