"""How assistants that look facts up answer after other turns, and how many answers are not in the words of a fact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from assistant_builder.arms import CELLS
from assistant_builder.atomic_io import read_json
from assistant_builder.i18n import enumerated, t, tn
from assistant_builder.retrieval.answering import is_verbatim
from assistant_builder.retrieval.decline import FILE, RuleFile
from assistant_builder.study import Study
from evals.metrics.text import exact_match
from evals.report.load import Cell
from evals.report.number_format import count
from evals.report.schema import NotVerbatim, Report


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


def not_verbatim(
    study: Study, cells: Mapping[str, Cell], served: Sequence[str]
) -> dict[str, Any] | None:
    """Answers to held-out questions that are not word for word a fact of their prompt; None where nothing is looked up.

    Returns:
        ``answers`` that are shown, ``generated`` in other words than a fact, ``generated_right`` of these exactly
        right; ``shown`` in other words, ``right`` of these; ``own_words``, whether others are replaced by the fact that
        they repeat; ``values``, what must contain the values of others; and the counts of validation by which that was
        decided, ``validation``.
    """
    rules = [
        read_json(path, RuleFile)
        for arm in study.config.arms
        if (path := study.arm_folder(arm) / FILE).is_file()
    ]
    samples = [
        sample
        for name in served
        if name in cells
        for sample in cells[name].samples
        if "generated" in sample and not sample["declined"]
    ]
    if not rules or not samples or not all("verbatim" in rule for rule in rules):
        return None

    def other_words(key: str) -> list[Mapping[str, Any]]:
        return [
            sample
            for sample in samples
            if not is_verbatim(sample[key], [source["answer"] for source in sample["sources"]])
        ]

    def right(key: str) -> int:
        return sum(
            sample["answerable"] and exact_match(sample[key], sample["reference"]) == 1
            for sample in other_words(key)
        )

    return {
        "answers": len(samples),
        "generated": len(other_words("generated")),
        "generated_right": right("generated"),
        "shown": len(other_words("answer")),
        "right": right("answer"),
        "own_words": all(rule["rule"]["own_words"] for rule in rules),
        "values": rules[0]["rule"].get("values", "anywhere"),
        "validation": {key: sum(rule[key] for rule in rules) for key in ("shown", "verbatim")},
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
    return [*lines, *([_other_words(report.not_verbatim)] if report.not_verbatim else [])]


def _other_words(words: NotVerbatim) -> str:
    """How many answers are in other words than a fact, and what happens to them."""
    number, decided = words["generated"], words["validation"]
    answers = tn("{count} answer", "{count} answers", words["answers"])
    values = {"number": number, "answers": answers, "right": words["generated_right"]}
    if not number:
        first = t(
            "{number:,} of {answers} to test questions were generated in other words than those of a fact in the "
            "prompt.",
            **values,
        )
    elif words["own_words"]:
        first = t(
            "{number:,} of {answers} to test questions were generated in other words than those of a fact in the "
            "prompt, {right:,} of them exactly right; the fact is shown instead.",
            **values,
        )
    else:
        first = t(
            "{number:,} of {answers} to test questions were generated in other words than those of a fact in the "
            "prompt, {right:,} of them exactly right.",
            **values,
        )
    if number and words["values"] != "anywhere":
        first += " " + t(
            "A sentence with a number, a name or a code that no single fact contains is replaced by the best fact."
        )
    values = {"verbatim": decided["verbatim"], "shown": decided["shown"]}
    second = (
        t(
            "On validation questions, {verbatim:,} of {shown:,} answers were word for word a fact, so other answers "
            "are replaced.",
            **values,
        )
        if words["own_words"]
        else t(
            "On validation questions, {verbatim:,} of {shown:,} answers were word for word a fact, so other answers "
            "are not replaced.",
            **values,
        )
    )
    return f"{first} {second}"
