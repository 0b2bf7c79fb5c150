"""Views of held-out items on the Results tab: both answers with their marks and scores, and the pages of a list."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from assistant_builder.arms import CELLS
from assistant_builder.data.types import RowNumbers
from assistant_builder.i18n import N_, t
from assistant_builder.ui.evaluate.item_filters import (
    ItemFilter,
    ItemSet,
    Row,
    answer_change,
    degradation,
)
from assistant_builder.ui.html import cut, empty, fragment
from evals.report.items import Runs, marked
from evals.report.number_format import count, number, shown, signed

PER_PAGE = 10
_MAX_CHARACTERS = 4000
"""Characters of a text that are shown; the report's JSON has the complete text."""
_KINDS = {
    "lost": ("bad", N_("✕ correct → wrong")),
    "gained": ("good", N_("✓ wrong → correct")),
    "different": ("warn", N_("≠ different wording")),
    "same": ("quiet", N_("= same answer")),
    "not generated": ("quiet", N_("scored by loss only")),
}


def items_view(items: ItemSet, rows: Sequence[Row], query: ItemFilter, page: int) -> Markup:
    """One page of items.

    Args:
        items: All items.
        rows: The selected items.
        query: Selection, with the two cells that are compared.
        page: The page, from 1.
    """
    if not rows:
        return empty(t("No matching items"), t("Choose “All items”, or change the search."))
    part = rows[(page - 1) * PER_PAGE : page * PER_PAGE]
    return fragment("evaluate.items", [item_view(items, row, query) for row in part])


def item_view(items: ItemSet, row: Row, query: ItemFilter) -> Markup:
    """One item; see :func:`items_view` for the arguments."""
    tone, change = _KINDS[answer_change(row, query.first, query.second)]
    place = row_text(row["row"], items.numbers)
    turn = t("turn {turn}", turn=row["turn"] + 1) if row["turn"] else ""
    cluster = row["cluster"] and t("cluster {cluster}", cluster=cut(str(row["cluster"]), 40))
    scores = (_score(row, query, metric) for metric in items.metrics)
    return fragment(
        "evaluate.item",
        [
            ", ".join(filter(None, (place, turn))),
            cluster,
            "" if row["answerable"] else t("should be declined"),
        ],
        tone,
        t(change),
        [(message["role"], _short(message["content"])) for message in row["context"]],
        _short(row["question"]),
        _short(row["reference"]),
        [_side(items, row, query, cell) for cell in (query.first, query.second)],
        [score for score in scores if score is not None],
    )


def row_text(row: int | None, numbers: RowNumbers) -> str:
    """Where an item comes from, as the user counts the rows of the data file; empty if that is not known."""
    return "" if row is None else t("Row {row}", row=numbers.shown(row))


def _side(items: ItemSet, row: Row, query: ItemFilter, cell: str) -> Markup:
    answer, spec = row["answers"].get(cell), CELLS.get(cell.rpartition(":")[2])
    return fragment(
        "evaluate.side",
        spec and spec.adapter,
        items.cells.get(cell, cell),
        None if answer is None else row["metrics"].get(cell, {}).get("exact_match"),
        row["declined"].get(cell),
        _runs(row, query, cell) if answer else answer,
    )


def _runs(row: Row, query: ItemFilter, cell: str) -> Runs:
    """Pieces of an answer, each with whether the other answer lacks it."""
    answer = _short(row["answers"][cell])
    other = row["answers"].get(query.second if cell == query.first else query.first)
    return [(answer, False)] if other is None else marked(answer, _short(other))[0]


def _score(
    row: Row, query: ItemFilter, metric: str
) -> tuple[str, str, tuple[str, str, str] | None] | None:
    """Name, values and change of a metric of both answers; equal values are shown once. None without values."""
    first, second = (
        row["metrics"].get(cell, {}).get(metric) for cell in (query.first, query.second)
    )
    if first is None and second is None:
        return None
    form, worse = shown(metric), degradation(row, query.first, query.second, metric)
    values = [number_or_dash(value, metric) for value in (first, second)]
    if worse is None:
        return form.label, " → ".join(values), None
    if round(worse * form.factor, form.decimals) == 0:
        return form.label, values[0], None
    tone, words = ("bad", t("▼ worse")) if worse > 0 else ("good", t("▲ better"))
    moved = signed((second - first) * form.factor, form.decimals)
    return form.label, " → ".join(values), (tone, moved, words)


def number_or_dash(value: float | None, metric: str) -> str:
    """A value of a metric; a dash without one."""
    return "–" if value is None else number(value, metric)


def _short(text: str) -> str:
    return cut(text, _MAX_CHARACTERS)


def pager_text(total: int, page: int) -> str:
    """Range of the items on a page: ``11–20 of 57``."""
    if not total:
        return t("None")
    return t(
        "{first}–{last} of {total}",
        first=count((page - 1) * PER_PAGE + 1),
        last=count(min(page * PER_PAGE, total)),
        total=count(total),
    )


def pages(total: int) -> int:
    """Number of pages of ``total`` items, at least one."""
    return max(1, -(-total // PER_PAGE))
