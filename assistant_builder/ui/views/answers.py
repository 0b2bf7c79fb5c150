"""Held-out items for reading: the question, the reference, two answers with the differing words marked, the scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from markupsafe import Markup

from assistant_builder.ui.item_sets import ItemSet, Wish, harm, relation
from assistant_builder.ui.markup import cut, empty, join
from evals.report.answers import marked
from evals.report.diffing import Diff, Runs, word_diff
from evals.report.wording import number, shown, signed

Row = Mapping[str, Any]
Marks = Literal["each other", "the reference", "nothing"]
PER_PAGE = 10
_LONGEST = 4000
"""Characters of one text shown; the report's JSON holds the whole."""
_KINDS = {
    "lost": ("bad", "✕ right → wrong"),
    "gained": ("good", "✓ wrong → right"),
    "different": ("warn", "≠ worded otherwise"),
    "same": ("quiet", "= same answer"),
    "not generated": ("quiet", "scored by loss only"),
}


def items_view(items: ItemSet, rows: Sequence[Row], wish: Wish, marks: Marks, page: int) -> Markup:
    """One page of items.

    Args:
        items: Where they are from.
        rows: All that were chosen.
        wish: What was wished for.
        marks: What the answers' words are compared with.
        page: The page, from 1.
    """
    if not rows:
        return empty("No item is like that", "Choose “All items”, or search for something else.")
    part = rows[(page - 1) * PER_PAGE : page * PER_PAGE]
    key = _key(marks)
    return join([key, *(item_view(items, row, wish, marks) for row in part)])


def _key(marks: Marks) -> Markup:
    if marks == "nothing":
        return Markup("")
    if marks == "the reference":
        return Markup(
            '<p class="ab-key"><ins class="ab-added">underlined</ins> words are the answer’s own, '
            '<del class="ab-missing">struck out</del> words of the reference are missing from it.</p>'
        )
    return Markup('<p class="ab-key"><mark class="ab-own">Underlined</mark> words are not in the other answer.</p>')


def item_view(items: ItemSet, row: Row, wish: Wish, marks: Marks) -> Markup:
    """One item.

    Args:
        items: Where it is from.
        row: The item.
        wish: Which two cells are compared.
        marks: What the answers' words are compared with.
    """
    kind = relation(row, wish.first, wish.second)
    tone, words = _KINDS[kind]
    place = f"Row {row['row']}" + (f", turn {row['turn'] + 1}" if row["turn"] else "")
    notes = [place, *([f"cluster {cut(str(row['cluster']), 40)}"] if row["cluster"] else []),
             *([] if row["answerable"] else ["should be declined"])]
    sides = join(_side(items, row, wish, cell, marks) for cell in (wish.first, wish.second))
    return Markup(
        '<article class="ab-item"><header><small>{}</small><span class="ab-kind ab-{}">{}</span></header>{}'
        '<p class="ab-asked" dir="auto">{}</p>'
        '<div class="ab-item-reference"><span>Reference</span><p dir="auto">{}</p></div>'
        '<div class="ab-sides">{}</div>{}</article>'
    ).format(
        " · ".join(notes), tone, words, _context(row), _short(row["question"]), _short(row["reference"]), sides,
        _scores(items, row, wish),
    )


def _context(row: Row) -> Markup:
    """The turns before a later turn's question."""
    if not row["context"]:
        return Markup("")
    said = join(Markup('<p dir="auto"><b>{}</b> {}</p>').format(message["role"], _short(message["content"]))
                for message in row["context"])
    return Markup('<details class="ab-fold"><summary>Earlier in the conversation</summary>{}</details>').format(said)


def _side(items: ItemSet, row: Row, wish: Wish, cell: str, marks: Marks) -> Markup:
    answer = row["answers"].get(cell)
    if answer is None:
        text = Markup('<p class="ab-none">No answer was generated.</p>')
    elif not answer:
        text = Markup('<p class="ab-none">The answer is empty.</p>')
    else:
        text = Markup('<p class="ab-said" dir="auto">{}</p>').format(_marked(row, wish, cell, marks))
    declined = Markup('<span class="ab-kind ab-quiet">declined</span>') if row["declined"].get(cell) else Markup("")
    right = row["metrics"].get(cell, {}).get("exact_match")
    verdict = Markup("") if right is None or answer is None else Markup('<span class="ab-kind ab-{}">{}</span>').format(
        *(("good", "✓ right") if right == 1 else ("bad", "✕ not exact")))
    return Markup('<section class="{}"><header><b>{}</b>{}{}</header>{}</section>').format(
        "ab-side " + _arm_class(cell), items.cells.get(cell, cell), verdict, declined, text)


def _arm_class(cell: str) -> str:
    name = cell.rpartition(":")[2]
    return {"L": "ab-arm-lora", "Q": "ab-arm-qlora"}.get(name[0], "")


def _marked(row: Row, wish: Wish, cell: str, marks: Marks) -> Markup:
    answer = _short(row["answers"][cell])
    if marks == "the reference":
        return reference_marks(word_diff(_short(row["reference"]), answer))
    other = row["answers"].get(wish.second if cell == wish.first else wish.first)
    if marks == "each other" and other is not None:
        return own_marks(marked(answer, _short(other))[0])
    return Markup("{}").format(answer)


def own_marks(runs: Runs) -> Markup:
    """An answer with the words marked that another answer lacks."""
    return join(Markup('<mark class="ab-own">{}</mark>').format(text) if changed else text for text, changed in runs)


def reference_marks(found: Diff) -> Markup:
    """An answer with its own words underlined, and what it lacks of the reference struck out where that belongs."""
    tags = {"first": Markup('<del class="ab-missing">{}</del>'), "second": Markup('<ins class="ab-added">{}</ins>')}
    return join(tags[side].format(text) if side in tags else text for text, side in found)


def _scores(items: ItemSet, row: Row, wish: Wish) -> Markup:
    """Each metric of both answers, once where they are equal; else with the difference, by sign and arrow."""
    lines = join(_score(row, wish, metric) for metric in items.metrics)
    return Markup('<dl class="ab-scores">{}</dl>').format(lines) if lines else Markup("")


def _score(row: Row, wish: Wish, metric: str) -> Markup:
    first, second = (row["metrics"].get(cell, {}).get(metric) for cell in (wish.first, wish.second))
    if first is None and second is None:
        return Markup("")
    how, worse = shown(metric), harm(row, wish.first, wish.second, metric)
    told, moved = f"{_figure(first, metric)} → {_figure(second, metric)}", Markup("")
    if worse is not None:
        if round(worse * how.factor, how.decimals) == 0:
            told = _figure(first, metric)
        else:
            tone, words = ("bad", "▼ worse") if worse > 0 else ("good", "▲ better")
            moved = Markup(' <span class="ab-moved ab-{}">{} {}</span>').format(
                tone, signed((second - first) * how.factor, how.decimals), words)
    return Markup("<div><dt>{}</dt><dd>{}{}</dd></div>").format(how.label, told, moved)


def _figure(value: float | None, metric: str) -> str:
    return "–" if value is None else number(value, metric)


def _short(text: str) -> str:
    return cut(text, _LONGEST)


def pager_text(total: int, page: int) -> str:
    """Which items are shown: ``11–20 of 57``."""
    if not total:
        return "None"
    return f"{(page - 1) * PER_PAGE + 1:,}–{min(page * PER_PAGE, total):,} of {total:,}"


def pages(total: int) -> int:
    """How many pages ``total`` items fill, one at least."""
    return max(1, -(-total // PER_PAGE))


def cell_choices(items: ItemSet) -> list[tuple[str, str]]:
    """The cells as choices of a dropdown."""
    return [(title, cell) for cell, title in items.cells.items()]


def metric_choices(metrics: Iterable[str]) -> list[tuple[str, str]]:
    """Metrics as choices of a dropdown."""
    return [(shown(metric).label, metric) for metric in metrics]
