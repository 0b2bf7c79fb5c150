"""HTML of the Data tab: findings, rejected rows, split, pairs in the chat template, and lengths of the pairs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from assistant_builder.data import RejectedRow
from assistant_builder.data.types import RowNumbers
from assistant_builder.data.wordings import count_wordings
from assistant_builder.i18n import N_, Text, capitalized, render, t, text_of, tn, use_row_numbers
from assistant_builder.ui.html import (
    Tone,
    callout,
    card,
    cut,
    error_callout,
    fragment,
    join,
    table,
)
from assistant_builder.ui.settings_form import MAPPING_TITLE, ROLE_TITLES
from evals.report.number_format import count, percent

SPLIT_TITLES = {"train": N_("Training"), "validation": N_("Validation"), "heldout": N_("Test")}
_TONES: dict[str, Tone] = {"error": "bad", "warning": "warn", "info": "info"}
_MAX_ROWS = 200
FEW_ROWS = 30
"""Rows below which an assistant can hardly be useful."""
_PLAIN = RowNumbers()
_MAX_LISTED = 50
_GOOD_POINTS, _FAIR_POINTS = 5.0, 12.0
"""Minimum detectable differences, in percentage points, up to which the held-out set counts as good and fair."""


def findings_view(record: Mapping[str, Any]) -> Markup:
    """Figures and problems of a checked file, from ``Findings.to_record()``."""
    numbers = RowNumbers.of_record(record)
    with use_row_numbers(numbers.shown):
        problems = [_problem(problem, numbers) for problem in record.get("problems", ())]
    urgent = [problem for problem in problems if problem[0] != "info"]
    return fragment(
        "data.findings",
        record,
        fragment("data.figures", record),
        urgent,
        [problem for problem in problems if problem[0] == "info"],
        _examples(record.get("details", {}), numbers),
        render(numbers.note),
        list(map(render, _notes(record))),
    )


def _notes(record: Mapping[str, Any]) -> list[Text]:
    """The notes of ``findings.json`` or ``split.json``."""
    notes = itertools.zip_longest(record.get("notes", ()), record.get("said", ()))
    return [text_of(said, text) for text, said in notes]


def _examples(
    details: Mapping[str, Any], numbers: RowNumbers
) -> list[tuple[str, Sequence[str], Sequence[Sequence[str]], Sequence[int]]]:
    """Title, headers, rows and numeric columns of the lists of duplicate and contradicting rows."""

    def shown(row: int) -> str:
        return str(numbers.shown(row))

    copies = [
        (shown(entry["row"]), shown(entry["of"])) for entry in details.get("exact_duplicates", ())
    ]
    near = [
        (
            shown(entry["row"]),
            cut(entry["question"], 160),
            shown(entry["of"]),
            cut(entry["other"], 160),
            percent(entry["similarity"], 0),
        )
        for entry in details.get("near_duplicates", ())
    ]
    conflicts = [
        (cut(entry["text"], 160), ", ".join(map(shown, entry["rows"][:12])))
        for entry in details.get("conflicts", ())
    ]
    return [
        (t("Exact copies"), (t("Row"), t("Copy of row")), copies[:_MAX_LISTED], (0, 1)),
        (
            t("Near-duplicates"),
            (t("Row"), t("Question"), t("Similar row"), t("Its question"), t("Shared words")),
            near[:_MAX_LISTED],
            (0, 2, 4),
        ),
        (
            t("Questions with several answers"),
            (t("Question"), t("Rows")),
            conflicts[:_MAX_LISTED],
            (),
        ),
    ]


def _problem(problem: Mapping[str, Any], numbers: RowNumbers) -> tuple[str, str, str, str]:
    """Tone, title, detail and rows of a finding."""
    places, said = problem.get("rows") or (), problem.get("said", {})
    title, detail = (render(text_of(said.get(key), problem[key])) for key in ("title", "detail"))
    listed = ", ".join(str(numbers.shown(row)) for row in places[:12])
    listed += " …" if len(places) > 12 else ""
    rows = t("Row {row}", row=listed) if len(places) == 1 else t("Rows {rows}", rows=listed)
    return (
        _TONES[problem["severity"]],
        title,
        detail,
        rows if places else "",
    )


def rejected_view(rejected: Sequence[RejectedRow], of: int, numbers: RowNumbers = _PLAIN) -> Markup:
    """The rows that are left out, with the reason and their contents."""
    if not rejected:
        return Markup("")
    with use_row_numbers(numbers.shown):
        rows = [
            (str(numbers.shown(entry.row)), render(entry.reason), cut(_cells(entry.record), 160))
            for entry in rejected[: _MAX_ROWS + 1]
        ]
    title = t("{rejected} of {of} rows left out", rejected=count(len(rejected)), of=count(of))
    return fragment("data.rejected", title, rows, _MAX_ROWS)


def _cells(record: Any) -> str:
    """The contents of a row as text, without syntax of the file format."""
    if record is None:
        return ""
    if isinstance(record, dict) and isinstance(
        record.get("messages"), list
    ):  # a valid pair that was left out
        texts = [
            turn["content"]
            for turn in record["messages"]
            if isinstance(turn, dict) and turn.get("content")
        ]
        return " · ".join(map(str, texts))
    if isinstance(record, dict):
        return " · ".join(
            f"{name}: {_cells(value)}" for name, value in record.items() if value not in (None, "")
        )
    return record if isinstance(record, str) else json.dumps(record, ensure_ascii=False)


def split_view(record: Mapping[str, Any], power: Mapping[str, Any] | None) -> Markup:
    """Sizes of the three sets, notes on the split, and the power of the held-out set, from the records of both."""
    counts, clusters = record["counts"], record.get("clusters", {})
    total = max(sum(counts.values()), 1)
    sets = [(name, t(SPLIT_TITLES[name]), number) for name, number in counts.items()]
    figures = [
        (
            t(SPLIT_TITLES[name]),
            count(number),
            ", ".join(
                filter(
                    None,
                    (
                        percent(number / total, 0),
                        tn("{count} cluster", "{count} clusters", clusters[name])
                        if clusters.get(name)
                        else "",
                    ),
                )
            ),
        )
        for name, number in counts.items()
    ]
    if record.get("respelled", {}).get("heldout"):
        power = None  # these questions are no test of other words
    notes = [render(capitalized(note)) for note in _notes(record)]
    sizes = ", ".join(f"{title} {count(number)}" for _, title, number in sets)
    measured = power_view(power) if power is not None else ""
    return fragment("data.split", sets, sizes, figures, measured, notes)


def power_view(power: Mapping[str, Any]) -> Markup:
    """The smallest difference that the held-out set can detect, from ``evals.stats.power.Power.to_record()``."""
    from evals.stats.power import power_sentence

    points = 100 * power["minimum_detectable"]
    tone: Tone = "good" if points <= _GOOD_POINTS else "info" if points <= _FAIR_POINTS else "warn"
    needed = float(f"{power['items_needed']:.2g}")
    return fragment(
        "data.power",
        tone,
        points=points,
        whole=max(1, round(points)),
        items=power["items"],
        target=100 * power["target"],
        needed=needed,
        details=power_sentence(power),
    )


def leaks_view(
    leaks: Sequence[Mapping[str, Any]], removed: int, numbers: RowNumbers = _PLAIN
) -> Markup:
    """Held-out questions that also occur in training or validation."""
    if not leaks:
        return Markup("")
    kinds = {
        "exact": t("the same"),
        "near": t("nearly the same words"),
        "embedding": t("the same meaning"),
    }
    sides = [
        [
            f"{numbers.shown(leak[f'{side}_row'])}: {cut(leak[f'{side}_question'], 160)}"
            for side in ("heldout", "other")
        ]
        for leak in leaks[:_MAX_LISTED]
    ]
    rows = [
        (*texts, ", ".join((kinds[leak["kind"]], t("removed") if leak["removed"] else t("kept"))))
        for texts, leak in zip(sides, leaks, strict=False)
    ]
    what = tn(
        "{count} test question also occurs in training",
        "{count} test questions also occur in training",
        len(leaks),
    )
    done = (
        t("{number} removed from the test", number=count(removed))
        if removed
        else t("kept in the test")
    )
    return fragment("data.leaks", f"{what}, {done}", rows)


def lookup_view(record: Mapping[str, Any] | None, approach: str = "") -> Markup:
    """How often training pairs have the answer to a validation question (``Recall.to_record()``), and the approach."""
    if record is None or not record["questions"]:
        return fragment("parts.paragraph", approach, "ab-note-line") if approach else Markup("")
    rows = [
        (
            cut(
                f"{miss['history']} … {miss['question']}" if miss["history"] else miss["question"],
                160,
            ),
            cut(miss["expected"], 160),
            " · ".join(
                f"{place}. {cut(hit['answer'], 120)}"
                for place, hit in enumerate(miss["found"], start=1)
            ),
        )
        for miss in record.get("misses", ())[:_MAX_LISTED]
    ]
    return fragment("data.lookup", record, record["questions"] - record["covered"], rows, approach)


def study_data_view(
    findings: Mapping[str, Any] | None,
    split: Mapping[str, Any] | None,
    power: Mapping[str, Any] | None,
    rejected: Sequence[RejectedRow],
    leaks: Sequence[Mapping[str, Any]] = (),
    recall: Mapping[str, Any] | None = None,
    approach: str = "",
) -> Markup:
    """Everything that the Data tab shows about a study.

    These are findings.json, split.json, the rows left out, all leaks, the recall.json of the index, and the sentence
    about the approach that suits the data.
    """
    columns = findings["columns"].items() if findings else ()
    roles = [(t(ROLE_TITLES.get(role, role)), name) for role, name in columns if name]
    numbers, once = RowNumbers.of_record(findings), count_wordings(split) if split else None
    helps = (
        Markup("")
        if once is None or not once.occurs_once
        else callout(
            "warn" if once.remedy else "info",
            once.title,
            once.meaning,
            " ".join((once.remedy, t("Press “Edit a copy for a new project”.")))
            if once.holds_facts_out
            else once.remedy
            and t(
                "Type about ten on the Results tab as people would ask: no other training is needed."
            ),
        )
    )
    of = findings["rows"] if findings else len(rejected)
    folds = [
        (t("How well the answers are found"), lookup_view(recall, approach)),
        (t("What is trained, and what is asked in the test"), split and split_view(split, power)),
        (
            t("Which columns were read"),
            findings and table((t("Role"), t("Column in the file")), roles),
        ),
    ]
    return join(
        (
            card(t("Your data"), findings_view(findings), rejected_view(rejected, of, numbers))
            if findings
            else rejected_view(rejected, of, numbers),
            helps,
            leaks_view(leaks, sum(leak["removed"] for leak in leaks), numbers),
            fragment("data.folds", [(title, content) for title, content in folds if content]),
        )
    )


def unreadable_view(error: Mapping[str, Any], columns: Sequence[str]) -> Markup:
    """The record of the error of a file that cannot be read; its columns can be chosen if they are known."""
    return error_callout(
        {**error, "remedy": t("Choose them under “{title}”.", title=t(MAPPING_TITLE))}
        if columns
        else error
    )


def brief_view(record: Mapping[str, Any] | None) -> Markup:
    """One line below the upload: whether a study can be created; ``record`` is None if the file cannot be read."""
    if record is None:
        return fragment("data.brief", "bad", t("This file cannot be used yet:"), unreadable=True)
    rows = {"usable": count(record["usable"]), "rows": count(record["rows"])}
    tone, text = "good", t("{usable} of {rows} rows can be used", **rows)
    if not record["can_start"]:
        tone, text = "bad", t("{usable} of {rows} rows can be used, too few for a project", **rows)
    elif record["usable"] < FEW_ROWS:
        tone, text = (
            "warn",
            t(
                "{usable} of {rows} rows can be used: enough to try the page, too few for a useful "
                "assistant (about {least})",
                **rows,
                least=FEW_ROWS,
            ),
        )
    elif record["usable"] < record["rows"]:
        tone = "warn"
    return fragment("data.brief", tone, text)
