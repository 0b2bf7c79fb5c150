"""The held-out questions with the reference and both answers, grouped for reading."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evals.report.diffing import Runs, changed_words
from evals.report.reading import BASELINE, CANDIDATE
from evals.report.wording import number

_LONGEST = 1500
"""Characters of one text shown; ``report.json`` holds the whole."""
_MOST_MARKED = 0.75
_OPEN = 5
"""Items of a group shown without unfolding it."""
_TITLES = {
    "lost": ("Right under 16-bit LoRA only", "What 4-bit lost, by exact match."),
    "gained": ("Right under QLoRA only", "What 4-bit gained, by exact match."),
    "different": ("Answers that differ otherwise", "Both right or both wrong, in other words."),
    "same": ("Same answer from both", "Word for word."),
    "not generated": ("Scored by loss only", "No answers were generated for these."),
    "alone": ("Every answer", "One assistant was trained, so that its answers stand alone."),
}


def answer_groups(report: Mapping[str, Any], most: int) -> list[dict[str, Any]]:
    """Items by how the two answers relate, differing ones first.

    Args:
        report: The report.
        most: Items to show over all groups; the differing ones take precedence.

    Returns:
        Groups with ``change title about total``, ``first`` (shown at once) and ``more`` (folded away).
    """
    groups, left = [], most
    for change, (title, about) in _TITLES.items():
        rows = [row for row in report["items"] if row["change"] == change]
        if change == "different" and report["flips"] is None:
            title, about = "Answers that differ", "Worded otherwise."
        if rows:
            shown = [_item(row) for row in rows[:left]]
            left -= len(shown)
            at_once = len(shown) if change == "same" else _OPEN  # that group is folded as a whole
            groups.append({"change": change, "title": title, "about": about, "total": len(rows),
                           "shown": len(shown), "first": shown[:at_once], "more": shown[at_once:]})
    return groups


def cut(text: str) -> str:
    """The text, or its beginning with a note of how much is missing."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} … ({len(text) - _LONGEST:,} more characters)"


def _item(row: Mapping[str, Any]) -> dict[str, Any]:
    answers, alone = row["answers"], row["change"] == "alone"
    runs: dict[str, Runs] = {}
    if BASELINE in answers and CANDIDATE in answers:
        runs = dict(zip((BASELINE, CANDIDATE), marked(cut(answers[BASELINE]), cut(answers[CANDIDATE])), strict=True))
    elif alone:
        runs = {name: [(cut(answers[name]), False)] for name in (BASELINE, CANDIDATE) if answers.get(name)}
    sides = [
        {"arm": arm, "label": label, "runs": runs.get(name), "loss": _loss(row, name),
         "exact": row["metrics"].get(name, {}).get("exact_match") == 1, "declined": row["declined"].get(name, False)}
        for arm, name, label in (("lora", BASELINE, "LoRA, 16-bit"), ("qlora", CANDIDATE, "QLoRA, 4-bit"))
        if not alone or name in row["nll"]
    ]
    untuned = next((name for name in ("B16", "B4") if name in answers), "") if alone else "B16"
    return {
        "row": row["row"], "turn": row["turn"], "cluster": row["cluster"], "answerable": row["answerable"],
        "question": cut(row["question"]), "reference": cut(row["reference"]), "sides": sides,
        "context": [{"role": message["role"], "content": cut(message["content"])} for message in row["context"]],
        "untuned": cut(answers[untuned]) if untuned in answers else None,
    }


def marked(first: str, second: str) -> tuple[Runs, Runs]:
    """Both answers cut into runs, or left whole where they have so little in common that marks would cover them."""
    runs = changed_words(first, second)
    changed = max(sum(len(text) for text, differs in side if differs) / max(len(whole), 1)
                  for side, whole in zip(runs, (first, second), strict=True))
    if changed <= _MOST_MARKED:
        return runs
    return [(first, False)], [(second, False)]


def _loss(row: Mapping[str, Any], name: str) -> str | None:
    if not row["tokens"] or row["nll"].get(name) is None:
        return None
    return number(row["nll"][name] / row["tokens"], "nll_per_token")
