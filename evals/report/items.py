"""The held-out items with the answers of the cells: word differences, flips, refusals, and groups for the page.

Differences are marked by words, or by characters in scripts without spaces between words. A combining character (vowel
sign, accent, part of an emoji) stays with its base character.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, Literal

from assistant_builder.arms import ARMS, LORA, TWINS
from assistant_builder.i18n import N_, t
from evals.metrics.text import UNSPACED
from evals.report.load import BASELINE, CANDIDATE, Cell
from evals.report.number_format import number
from evals.report.schema import Report

_MAX_ALIGNED_WORDS = 4000
"""Longer answers are not aligned, because the matcher's time grows with the square of the length."""
Runs = list[tuple[str, bool]]  # pieces of a text, each with whether it is missing in the other text
Side = Literal["both", "first", "second"]
Diff = list[
    tuple[str, Side]
]  # pieces of two texts in reading order, each with the side that has it

_ONE_SIDED: tuple[Side, Side] = ("first", "second")
_JOINERS = "\u200c\u200d"
_SKIN_TONES = range(0x1F3FB, 0x1F400)


def word_diff(first: str, second: str) -> Diff:
    """Align two texts word by word; a replaced piece comes before its replacement.

    Joined, the pieces of ``both`` and ``first`` equal the first text and those of ``both`` and ``second`` the second.
    """
    left, right = pieces(first), pieces(second)
    if first == second:
        return [(first, "both")] if first else []
    if max(len(left), len(right)) > _MAX_ALIGNED_WORDS:
        return [(first, "first"), (second, "second")]
    found: Diff = []
    for tag, a, b, c, d in difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if tag == "equal":
            found.append(("".join(left[a:b]), "both"))
        else:
            found += [("".join(left[a:b]), "first"), ("".join(right[c:d]), "second")]
    return _merge_spaces([piece for piece in found if piece[0]])


def changed_words(first: str, second: str) -> tuple[Runs, Runs]:
    """Cut two texts into runs, each with whether it differs from the other text; joined, the runs equal the text."""
    found = word_diff(first, second)
    return _one_side(found, "first"), _one_side(found, "second")


def _one_side(found: Diff, side: Side) -> Runs:
    own = [(text, where == side) for text, where in found if where in ("both", side)]
    return [
        ("".join(text for text, _ in together), changed)
        for changed, together in groupby(own, key=itemgetter(1))
    ]


def pieces(text: str) -> list[str]:
    """Cut a text into words, runs of white space, and single other characters."""
    found: list[str] = []
    last = ""
    for char in text:
        kind = _kind(char)
        if found and (
            kind == "mark"
            or found[-1][-1] == "\u200d"
            or (kind == last and kind in ("space", "word"))
        ):
            found[-1] += char
        else:
            found.append(char)
            last = "other" if kind == "mark" else kind
    return found


def _kind(char: str) -> str:
    if char.isspace():
        return "space"
    if char in _JOINERS or ord(char) in _SKIN_TONES or unicodedata.category(char).startswith("M"):
        return "mark"
    if UNSPACED.match(char):
        return "sign"
    return "word" if char.isalnum() or char == "_" else "other"


def _merge_spaces(found: Diff) -> Diff:
    """Mark a space between two changed words as changed on both sides, so that the marks are contiguous."""
    merged: Diff = []
    for place, (text, side) in enumerate(found):
        between = (
            0 < place < len(found) - 1 and found[place - 1][1] != "both" != found[place + 1][1]
        )
        both = side == "both" and between and not text.strip()
        merged += [(text, "first"), (text, "second")] if both else [(text, side)]
    joined: Diff = []
    waiting: dict[Side, str] = dict.fromkeys(_ONE_SIDED, "")
    for text, side in [*merged, ("", "both")]:
        if side != "both":
            waiting[side] += text
            continue
        joined += [(own, name) for name, own in waiting.items() if own]
        waiting = dict.fromkeys(_ONE_SIDED, "")
        if text:
            joined.append((text, "both"))
    return joined


ORDER = ("lost", "gained", "different", "same", "not generated", "alone")
"""Order of the items: right under LoRA only, right under QLoRA only, other differences, no difference; ``alone`` if the
study trains one arm and compares no answers."""


def item_rows(
    cells: Mapping[str, Cell], metrics: list[str], tuned: Sequence[str] = (BASELINE, CANDIDATE)
) -> list[dict[str, Any]]:
    """One record for each item; items on which the two assistants differ come first, in the order of ``ORDER``."""
    rows = [_item_row(cells, item, metrics, tuned) for item in cells[tuned[0]].by_item]
    return sorted(rows, key=lambda row: ORDER.index(row["change"]))


def _item_row(
    cells: Mapping[str, Cell], item: str, metrics: list[str], tuned: Sequence[str]
) -> dict[str, Any]:
    sample = cells[tuned[0]].by_item[item]
    samples = {name: cell.by_item[item] for name, cell in cells.items()}
    return {
        "item": item,
        "row": sample.get("row"),
        "turn": sample.get("turn", 0),
        "cluster": sample.get("cluster"),
        "answerable": sample.get("answerable", True),
        "question": sample["question"],
        "context": [message for message in sample["prompt"][:-1] if message["role"] != "system"],
        "reference": sample["reference"],
        "change": change(cells[BASELINE], cells[CANDIDATE], item) if len(tuned) > 1 else "alone",
        "answers": {
            name: s["answer"] for name, s in samples.items() if s.get("answer") is not None
        },
        "declined": {
            name: bool(s["declined"])
            for name, s in samples.items()
            if s.get("declined") is not None
        },
        "tokens": sample["tokens"],
        "nll": {name: s["nll"] for name, s in samples.items()},
        "metrics": {
            name: {
                metric: value
                for metric in metrics
                if (value := cell.value(item, metric)) is not None
            }
            for name, cell in cells.items()
        },
        **({"sources": sample["sources"]} if "sources" in sample else {}),
    }


def with_copies(
    rows: Iterable[dict[str, Any]], copies: Cell | None, metrics: Iterable[str]
) -> list[dict[str, Any]]:
    """The items, each with the copied answer if copying was scored: its text, scores, and whether it declined."""
    if copies is None:
        return [*rows]
    return [
        {
            **row,
            "copied": {
                "answer": copies.by_item[row["item"]]["answer"],
                "declined": bool(copies.by_item[row["item"]].get("declined")),
                "metrics": {
                    metric: value
                    for metric in metrics
                    if (value := copies.value(row["item"], metric)) is not None
                },
            },
        }
        for row in rows
    ]


def change(baseline: Cell, candidate: Cell, item: str) -> str:
    """The :func:`relation` of an item's answers in two cells; right and wrong by exact match."""
    return relation(
        *(
            (cell.by_item[item].get("answer"), cell.value(item, "exact_match"))
            for cell in (baseline, candidate)
        )
    )


def relation(
    before: tuple[str | None, float | None], after: tuple[str | None, float | None]
) -> str:
    """The relation of two answers with their exact match, one of ``ORDER``."""
    (text, right), (other, still) = before, after
    if text is None or other is None:
        return "not generated"
    if right is not None and still is not None and right != still:
        return "lost" if right > still else "gained"
    return "same" if text.strip() == other.strip() else "different"


def flips(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Exact-match changes in both directions, with both answers; ``None`` if exact match was not scored."""
    if not any("exact_match" in row["metrics"].get(BASELINE, {}) for row in rows):
        return None
    keys = ("item", "row", "question", "reference")
    listed = {
        change: [
            {
                **{key: row[key] for key in keys},
                "answers": {c: row["answers"][c] for c in (BASELINE, CANDIDATE)},
            }
            for row in rows
            if row["change"] == change
        ]
        for change in ("lost", "gained")
    }
    return {
        "metric": "exact_match",
        "items": len(rows),
        **listed,
        "text_differs": sum(row["change"] in ("lost", "gained", "different") for row in rows),
    }


def declining(cells: Mapping[str, Cell]) -> dict[str, Any] | None:
    """How often each cell declined what it should and what it should not; ``None`` without generated answers."""
    by_cell = {}
    for name, cell in cells.items():
        known = [sample for sample in cell.samples if sample.get("declined") is not None]
        if known:
            others, should = (
                [bool(s["declined"]) for s in known if s.get("answerable", True) == answerable]
                for answerable in (True, False)
            )
            by_cell[name] = {
                "unanswerable_items": len(should),
                "declined": sum(should),
                "answerable_items": len(others),
                "false_declines": sum(others),
            }
    return {"cells": by_cell} if by_cell else None


_MAX_SHOWN_CHARACTERS = 1500  # longer texts are cut; ``report.json`` has the full text
_MAX_MARKED_SHARE = 0.75
_UNFOLDED = 5  # number of items of a group that are visible without unfolding it
_TITLES = {
    "lost": (N_("Right under 16-bit LoRA only"), N_("What {bits}-bit lost, by exact match.")),
    "gained": (N_("Right under QLoRA only"), N_("What {bits}-bit gained, by exact match.")),
    "different": (
        N_("Answers with other differences"),
        N_("Both are right or both are wrong, in different words."),
    ),
    "same": (N_("Same answer from both"), N_("Word for word.")),
    "not generated": (N_("Scored by loss only"), N_("No answers were generated for these.")),
    "alone": (
        N_("Every answer"),
        N_("One assistant was trained, so there are no other answers to compare with."),
    ),
}


def answer_groups(report: Report, most: int) -> list[dict[str, Any]]:
    """Items grouped by the relation of the two answers, differing ones first, at most ``most`` over all groups.

    A group has ``first`` (visible items) and ``more`` (folded items).
    """
    groups, left = [], most
    for change, (title, about) in _TITLES.items():
        rows = [row for row in report.items if row["change"] == change]
        if change == "different" and report.flips is None:
            title, about = N_("Answers that differ"), N_("In different words.")
        if rows:
            shown = [_item(row) for row in rows[:left]]
            left -= len(shown)
            at_once = (
                len(shown) if change == "same" else _UNFOLDED
            )  # the whole group "same" is folded
            groups.append(
                {
                    "change": change,
                    "title": t(title),
                    "about": t(about),
                    "total": len(rows),
                    "shown": len(shown),
                    "first": shown[:at_once],
                    "more": shown[at_once:],
                }
            )
    return groups


def cut(text: str) -> str:
    """The text, or its beginning with the number of omitted characters."""
    more = len(text) - _MAX_SHOWN_CHARACTERS
    return (
        text
        if more <= 0
        else t(
            "{text} … ({count:,} more characters)", text=text[:_MAX_SHOWN_CHARACTERS], count=more
        )
    )


def twin_runs(answers: Mapping[str, str | None]) -> dict[str, Runs]:
    """Cell → its answer cut into runs, for both twins; empty if one of them has no answer."""
    baseline, candidate = answers.get(BASELINE), answers.get(CANDIDATE)
    if baseline is None or candidate is None:
        return {}
    runs = marked(cut(baseline), cut(candidate))
    return {BASELINE: runs[0], CANDIDATE: runs[1]}


def _item(row: Mapping[str, Any]) -> dict[str, Any]:
    answers, alone = row["answers"], row["change"] == "alone"
    runs = twin_runs(answers)
    sides = []
    for arm in ARMS.values():
        name, further = arm.cell, alone or arm.name not in TWINS
        if further and answers.get(name):
            runs[name] = [(cut(answers[name]), False)]
        if name in row["nll"] or not further:
            nll = row["nll"].get(name)
            sides.append(
                {
                    "arm": arm.name,
                    "label": t(arm.label),
                    "runs": runs.get(name),
                    "loss": None if nll is None else number(nll / row["tokens"], "nll_per_token"),
                    "exact": row["metrics"].get(name, {}).get("exact_match") == 1,
                    "declined": row["declined"].get(name, False),
                }
            )
    bases = [arm.untuned_cell for arm in ARMS.values()]
    untuned = next((name for name in bases if name in answers), "") if alone else LORA.untuned_cell
    return {
        **row,
        "sides": sides,
        "untuned": cut(answers[untuned]) if untuned in answers else None,
    }


def marked(first: str, second: str) -> tuple[Runs, Runs]:
    """Both answers cut into runs, or unmarked if they have so little in common that marks would cover them."""
    runs = changed_words(first, second)
    changed = max(
        sum(len(text) for text, differs in side if differs) / max(len(whole), 1)
        for side, whole in zip(runs, (first, second), strict=True)
    )
    if changed <= _MAX_MARKED_SHARE:
        return runs
    return [(first, False)], [(second, False)]
