"""A data file in words and tables: what was found, the first rows, the rejected ones, the split."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from assistant_builder.data import Pair, Rejection
from assistant_builder.ui.markup import Tone, callout, card, cut, error_callout, fold, items, join, table, tiles
from evals.report.wording import count, percent

ROLE_TITLES = {
    "question": "Question",
    "answer": "Answer",
    "context": "Context",
    "messages": "Conversation",
    "group": "Group, kept together",
    "cluster": "Cluster, one fact",
    "split": "Split",
    "answerable": "Answerable",
    "system": "System prompt",
}
SPLIT_TITLES = {"train": "Training", "validation": "Validation", "heldout": "Held-out"}
_TONES: dict[str, Tone] = {"error": "bad", "warning": "warn", "info": "info"}
_MOST_ROWS = 200
_MOST_PREVIEW = 8


def findings_view(record: Mapping[str, Any]) -> Markup:
    """The figures and findings of a checked file.

    Args:
        record: ``Findings.to_record()``.
    """
    figures = [
        ("Rows", count(record["rows"]), str(record["format"]).upper()),
        ("Usable pairs", count(record["usable"]), percent(record["usable"] / max(record["rows"], 1), 0)),
        ("Rejected", count(len(record["rejected"])), "with reasons below"),
        ("Exact copies", count(record["exact_duplicates"]), "left out"),
        ("Near-duplicates", count(record["near_duplicates"]), "kept, and watched for leaks"),
        ("Conflicts", count(record["conflicts"]), "one question, several answers"),
    ]
    found = join(_problem(problem) for problem in record.get("problems", ()))
    notes = fold("How the file was read", items(record["notes"])) if record["notes"] else Markup("")
    return join([tiles(figures), found, notes])


def _problem(problem: Mapping[str, Any]) -> Markup:
    rows = _rows(problem.get("rows") or ())
    return Markup('<div class="ab-finding ab-{}"><strong>{}</strong> <span>{}</span>{}</div>').format(
        _TONES[problem["severity"]], problem["title"], problem["detail"],
        Markup("<small>{}</small>").format(rows) if rows else "",
    )


def _rows(rows: Sequence[int]) -> str:
    if not rows:
        return ""
    shown = ", ".join(map(str, rows[:12]))
    return f"Row{'s' if len(rows) > 1 else ''} {shown}" + (" …" if len(rows) > 12 else "")


def columns_view(columns: Mapping[str, str | None]) -> Markup:
    """Which column plays which role."""
    rows = [(ROLE_TITLES.get(role, role), name) for role, name in columns.items() if name]
    return table(("Role", "Column in the file"), rows)


def preview_view(pairs: Sequence[Pair]) -> Markup:
    """The first rows as the assistants will see them."""
    if not pairs:
        return Markup("")
    rows = [(str(pair.row), _conversation(pair), cut(pair.answer), _labels(pair)) for pair in pairs[:_MOST_PREVIEW]]
    title = f"First {min(len(pairs), _MOST_PREVIEW)} of {count(len(pairs))} pairs"
    return card(title, table(("Row", "Question", "Answer", "Labels"), rows, numeric=(0,)))


def _conversation(pair: Pair) -> str:
    more = f" (+ {pair.turns - 1} more turns)" if pair.turns > 1 else ""
    return cut(pair.question) + more


def _labels(pair: Pair) -> str:
    found = [
        f"{name} {value}"
        for name, value in (("group", pair.group), ("cluster", pair.cluster), ("split", pair.split))
        if value is not None
    ]
    return cut(" · ".join([*found, *([] if pair.answerable else ["to be declined"])]), 120)


def rejected_view(rejected: Sequence[Rejection], of: int) -> Markup:
    """Every row that is left out, with its reason and what stood there."""
    if not rejected:
        return Markup("")
    rows = [
        (str(entry.row), entry.reason, cut(_cells(entry.record), 160))
        for entry in rejected[:_MOST_ROWS]
    ]
    title = f"{count(len(rejected))} of {count(of)} rows left out"
    body = table(("Row", "Why", "What stands there"), rows, numeric=(0,))
    if len(rejected) > _MOST_ROWS:
        body = join([body, Markup("<p>The first {} are shown; the file has all of them.</p>").format(_MOST_ROWS)])
    return card(title, body)


def _cells(record: Any) -> str:
    if record is None:
        return ""
    return record if isinstance(record, str) else json.dumps(record, ensure_ascii=False)


def split_view(record: Mapping[str, Any], power: Mapping[str, Any] | None) -> Markup:
    """Sizes of the three sets, how they were made, and what the held-out set can show.

    Args:
        record: ``Split.to_record()``.
        power: ``evals.power.Power.to_record()`` of the held-out set.
    """
    counts = record["counts"]
    total = max(sum(counts.values()), 1)
    parts = join(
        Markup('<i class="ab-split-{}" style="flex:{}" title="{}"></i>').format(name, number, SPLIT_TITLES[name])
        for name, number in counts.items()
    )
    figures = [
        (SPLIT_TITLES[name], count(number), _share_of(record, name, number, total)) for name, number in counts.items()
    ]
    said = [note[:1].upper() + note[1:] for note in record.get("notes", ())]
    if power is not None:
        from evals.power import power_sentence

        said.append(power_sentence(power))
    return join([Markup('<div class="ab-split" role="img" aria-label="Sizes of the sets">{}</div>').format(parts),
                 tiles(figures), items(said) if said else ""])


def _share_of(record: Mapping[str, Any], name: str, number: int, total: int) -> str:
    clusters = record.get("clusters", {}).get(name)
    return percent(number / total, 0) + (f", {count(clusters)} clusters" if clusters else "")


def leaks_view(leaks: Sequence[Mapping[str, Any]], removed: int) -> Markup:
    """Held-out questions that also stand in training or validation."""
    if not leaks:
        return Markup("")
    rows = [
        (
            str(leak.get("heldout_row", "")), str(leak.get("other_row", "")), str(leak.get("kind", "")),
            f"{leak['similarity']:.2f}" if isinstance(leak.get("similarity"), float) else "",
            "removed" if leak.get("removed") else "kept",
        )
        for leak in leaks[:_MOST_ROWS]
    ]
    title = f"{count(len(leaks))} leaks between held-out and training, {count(removed)} removed"
    return card(title, table(("Held-out row", "Is like row", "How", "Similarity", ""), rows, numeric=(0, 1, 3)))


def study_data_view(
    findings: Mapping[str, Any] | None, split: Mapping[str, Any] | None, power: Mapping[str, Any] | None,
    pairs: Sequence[Pair], rejected: Sequence[Rejection], text: str,
) -> Markup:
    """Everything the Data tab shows of a study.

    Args:
        findings: data/findings.json.
        split: data/split.json.
        power: See :func:`split_view`.
        pairs: The first training pairs.
        rejected: The rows left out.
        text: The dataset card.
    """
    parts: Iterable[str] = (
        card("What was found", findings_view(findings)) if findings else "",
        card("Columns", columns_view(findings["columns"])) if findings else "",
        card("Split", split_view(split, power)) if split else "",
        leaks_view(split["leaks"], split["leaks_removed"]) if split else "",
        preview_view(pairs),
        rejected_view(rejected, findings["rows"] if findings else len(rejected)),
        fold("Dataset card", Markup('<pre class="ab-code ab-wrap">{}</pre>').format(text)) if text else "",
    )
    return join(parts)


def unreadable_view(error: Mapping[str, Any], columns: Sequence[str]) -> Markup:
    """Why no study can be made from the file, with the columns that it has."""
    if not columns:
        return error_callout(error)
    named = callout(
        "info", "Columns in the file: " + ", ".join(columns),
        remedy="On this page, say which is which under “Which column is which”.",
    )
    return join([error_callout(error), named])
