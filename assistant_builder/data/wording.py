"""Findings in words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, TypedDict

from assistant_builder.data.grouping import gives_split, shortage

if TYPE_CHECKING:
    from assistant_builder.data.findings import Findings

Severity = Literal["error", "warning", "info"]
_ROWS = 100
_FEW_PAIRS = 100
_ORDER: dict[Severity, int] = {"error": 0, "warning": 1, "info": 2}


class Problem(TypedDict):
    """One finding in words, for page and command line.

    Attributes:
        severity: ``error``: a study cannot start; ``warning``: rows were left out or need a look; ``info``.
        title: One short sentence with the count.
        detail: What it means and what happens to the rows.
        rows: The first rows it concerns.
    """

    severity: Severity
    title: str
    detail: str
    rows: list[int]


def problems_of(findings: Findings) -> list[Problem]:
    """Everything that was found, as sentences with counts and rows, errors first."""
    found = [
        *_enough(findings),
        *_left_out(findings),
        *_questions(findings),
        *_answers(findings),
        *_lengths(findings),
        *_splits(findings),
        *_reading(findings),
    ]
    return sorted(found, key=lambda problem: _ORDER[problem["severity"]])


def counted(count: int, noun: str) -> str:
    """``1 row``, ``12 rows``."""
    return f"{count:,} {noun if count == 1 else noun + 's'}"


def _problem(severity: Severity, title: str, detail: str, rows: Iterable[int] = ()) -> Problem:
    return {"severity": severity, "title": title, "detail": detail, "rows": sorted(rows)[:_ROWS]}


def _enough(findings: Findings) -> list[Problem]:
    short = shortage(findings.usable)
    if short:
        what, remedy = short
        return [_problem("error", "A study cannot start from this file", f"{what[0].upper()}{what[1:]}. {remedy}.")]
    if len(findings.usable) < _FEW_PAIRS:
        return [
            _problem(
                "warning", f"Only {counted(len(findings.usable), 'usable pair')}",
                "A held-out test of this size can show large differences only; some hundreds of pairs tell more.",
            )
        ]
    return []


def _left_out(findings: Findings) -> list[Problem]:
    found = []
    if findings.rejected:
        reasons = Counter(_kind(rejection.reason) for rejection in findings.rejected).most_common(4)
        shown = "; ".join(f"{reason} ({count:,})" for reason, count in reasons)
        found.append(
            _problem("warning", f"{counted(len(findings.rejected), 'row')} cannot be used", f"Left out: {shown}.",
                    (rejection.row for rejection in findings.rejected))
        )
    if findings.exact_duplicates:
        found.append(
            _problem("warning", f"{counted(len(findings.exact_duplicates), 'exact duplicate')}",
                    "Question and answer repeat an earlier row word for word. The first is kept, later copies are left "
                    "out.", (copy.row for copy in findings.exact_duplicates))
        )
    return found


def _kind(reason: str) -> str:
    """A reason without what is particular to the row, so that like reasons are counted together."""
    return re.sub(r"\d+", "…", reason.split(" (line")[0].split(": ")[0])


def _questions(findings: Findings) -> list[Problem]:
    found = []
    if findings.near_duplicates:
        near = findings.near_duplicates[0]
        found.append(
            _problem("warning", f"{counted(len(findings.near_duplicates), 'near-duplicate question')}",
                    f"They nearly repeat an earlier question (similarity {findings.threshold:g} or more), for example "
                    f"row {near.row}, {_quoted(near.question)}, and row {near.of}, {_quoted(near.other)}. They are "
                    "kept; a held-out one whose like stands in training counts as a leak.",
                    (entry.row for entry in findings.near_duplicates))
        )
    if findings.conflicts:
        example = findings.conflicts[0]
        found.append(
            _problem("warning", f"{counted(len(findings.conflicts), 'question')} with conflicting answers",
                    f"Rows {', '.join(map(str, example.rows[:5]))} answer {_quoted(example.text)} differently. They "
                    "are kept; a model trained on them learns a mixture.",
                    (row for conflict in findings.conflicts for row in conflict.rows))
        )
    return found


def _answers(findings: Findings) -> list[Problem]:
    found = []
    if findings.one_word_answers:
        found.append(
            _problem("warning", f"{counted(len(findings.one_word_answers), 'one-word answer')}",
                    "They are kept. Exact match suits them; token F1 and ROUGE-L say little about them.",
                    (findings.one_word_answers))
        )
    for what, rows in findings.odd_texts.items():
        title = f"{counted(len(rows), 'row')}: {what}"
        found.append(_problem("warning", title, "They are kept as they are.", (rows)))
    if findings.answers_shared:
        count = sum(len(shared.rows) for shared in findings.answers_shared)
        found.append(
            _problem("info", f"{counted(len(findings.answers_shared), 'answer')} shared by several questions",
                    f"{counted(count, 'row')} in all. Often honest (several phrasings of one fact), so they are kept "
                    "and do not count as leaks.",
                    (row for shared in findings.answers_shared for row in shared.rows))
        )
    return found


def _lengths(findings: Findings) -> list[Problem]:
    over = findings.over_long
    if not over:
        return []
    longest = max(findings.tokens[row] for row in over)
    return [
        _problem("warning", f"{counted(len(over), 'row')} longer than {findings.max_length} tokens",
                f"Training cuts them at the end; the longest has {longest:,} tokens. Raise train.max_length to keep "
                "them whole, at the price of memory.", (over))
    ]


def _splits(findings: Findings) -> list[Problem]:
    found = []
    if gives_split(findings.usable):
        sizes = Counter(pair.split for pair in findings.usable)
        shown = ", ".join(f"{split} {count:,}" for split, count in sorted(sizes.items(), key=str))
        found.append(_problem("info", "The file gives the split", f"It is taken as given: {shown}."))
    if findings.straddling_groups:
        names = ", ".join(_quoted(group) for group in findings.straddling_groups[:3])
        found.append(
            _problem("warning", f"{counted(len(findings.straddling_groups), 'group')} on both sides of the given split",
                    f"For example {names}. The split is honoured all the same; held-out scores may be too good.")
        )
    return found


def _reading(findings: Findings) -> list[Problem]:
    changed = [
        _problem("info", f"{counted(len(rows), 'row')}: {what}", "", (rows))
        for what, rows in findings.dataset.changes.items()
    ]
    return changed + [_problem("info", note[0].upper() + note[1:], "") for note in findings.dataset.notes]


def _quoted(text: str) -> str:
    bare = " ".join(text.split())
    return f'"{bare if len(bare) <= 80 else bare[:79] + "…"}"'
