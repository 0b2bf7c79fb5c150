"""What the row editor shows of a data file, and the file that editing makes. No gradio.

The part of the Data tab in which rows are edited and checked again.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import gradio as gr

from assistant_builder.data import Findings
from assistant_builder.data.edit import (
    JSONL_SUFFIX,
    PROBLEM_TITLE,
    ROW_TITLE,
    Edits,
    apply_edits,
    edit_grid,
    rejected_csv,
    write_rows,
)
from assistant_builder.data.load import read_table
from assistant_builder.data.types import Table
from assistant_builder.ui.data.preview import inspect_file
from assistant_builder.ui.settings_form import page_words
from assistant_builder.ui.study_snapshot import stamp
from assistant_builder.ui.uploads import new_folder, offer_bytes
from evals.report.format import count

Which = Literal["left out", "worth a look", "all"]
MOST_ROWS = 300
"""Rows in the editor at a time: a browser stays quick, and nobody edits more by hand."""


@dataclass(frozen=True)
class Held:
    """Which rows of which file are in the editor, so that what is typed there is never put into another file.

    It travels through the browser beside the table: the server may have moved on while the browser still shows, and
    sends, the rows of before.

    Attributes:
        path: The data file; empty for none.
        rows: The rows' numbers.
    """

    path: str
    rows: list[int]

    def to_text(self) -> str:
        """The form in which the browser holds it."""
        return json.dumps([self.path, self.rows])

    @classmethod
    def from_text(cls, text: str) -> Held:
        """The reverse of :meth:`to_text`; of anything else, nothing is held."""
        try:
            path, rows = json.loads(text)
            return cls(str(path), [int(row) for row in rows])
        except (TypeError, ValueError):
            return NOTHING


NOTHING = Held("", [])


@dataclass(frozen=True)
class EditorView:
    """What the editor shows.

    Attributes:
        columns: The file's columns.
        lines: See :func:`assistant_builder.data.edit.edit_grid`.
        numbers: The rows in ``lines``.
        fitting: Rows that were asked for, shown or not.
        counts: How many rows there are of each kind.
    """

    columns: tuple[str, ...]
    lines: list[list[str]]
    numbers: list[int]
    fitting: int
    counts: dict[Which, int]

    @property
    def note(self) -> str:
        """How many of the rows are shown, in words."""
        if not self.fitting:
            return "No such row."
        if self.fitting > len(self.numbers):
            return (
                f"The first {count(len(self.numbers))} of {count(self.fitting)} such rows are shown; search to see "
                "others. Rows that are not shown stay as they are."
            )
        return f"{count(self.fitting)} of {count(self.counts['all'])} rows. Rows that are not shown stay as they are."


def editor_view(path: Path, columns: Mapping[str, str], which: Which | None, search: str) -> EditorView:
    """Rows of a file to be edited.

    Args:
        path: The data file.
        columns: Role → column, as mapped.
        which: Which rows; None: those left out, or all where none is.
        search: Only rows with this text in a cell, in any case.
    """
    table = _table(str(path), stamp([path]), tuple(name for name in columns.values() if name))
    findings = inspect_file(path, columns).findings
    reasons = reasons_of(findings) if findings else {}
    left_out = {row.row for row in findings.left_out} if findings else set()
    groups: dict[Which, list[int]] = {
        "left out": [row.row for row in table.rows if row.row in left_out],
        "worth a look": [row.row for row in table.rows if row.row in reasons.keys() - left_out],
        "all": [row.row for row in table.rows],
    }
    numbers = groups[which or ("left out" if groups["left out"] else "all")]
    if search.strip():
        wanted = search.strip().casefold()
        lines = edit_grid(table, numbers, reasons)
        numbers = [int(line[0]) for line in lines if any(wanted in cell.casefold() for cell in line[1:])]
    shown = numbers[:MOST_ROWS]
    return EditorView(
        table.columns, edit_grid(table, shown, reasons), shown, len(numbers),
        {kind: len(rows) for kind, rows in groups.items()},
    )


@functools.lru_cache(maxsize=4)
def _table(path: str, seen: str, mapped: tuple[str, ...]) -> Table:
    """``seen`` is the file's stamp."""
    return read_table(Path(path), set(mapped))


def reasons_of(findings: Findings) -> dict[int, str]:
    """Row → what is the matter with it: why it is left out, or what is to be looked at."""
    reasons = {row: "; ".join(titles) for row, titles in _remarks(findings).items()}
    return reasons | {entry.row: f"Left out: {page_words(entry.reason)}" for entry in findings.left_out}


def _remarks(findings: Findings) -> dict[int, list[str]]:
    remarks: dict[int, list[str]] = {}

    def remark(row: int, text: str) -> None:
        remarks.setdefault(row, []).append(text)

    for near in findings.near_duplicates:
        remark(near.row, f"nearly the question of row {near.of}")
    for conflict in findings.conflicts:
        for row in conflict.rows:
            others = ", ".join(str(other) for other in conflict.rows[:6] if other != row)
            remark(row, f"row {others} answers the same question otherwise")
    for row in findings.one_word_answers:
        remark(row, "the answer is one word")
    for what, rows in findings.odd_texts.items():
        for row in rows:
            remark(row, what)
    return remarks


def edited_file(
    path: Path, columns: Mapping[str, str], held: str, lines: Sequence[Sequence[Any]]
) -> tuple[Path, Edits]:
    """The file with the edits, or the file itself where there are none.

    Args:
        path: The data file that is edited; it stays as it is.
        columns: Role → column, as mapped.
        held: :meth:`Held.to_text` of what the editor was given; where that is another file, there are no edits.
        lines: What it holds now.
    """
    given = Held.from_text(held)
    if given.path != str(path):
        return path, Edits()
    table = _table(str(path), stamp([path]), tuple(name for name in columns.values() if name))
    rows, edits = apply_edits(table, given.rows, lines)
    if not edits:
        return path, edits
    target = new_folder() / f"{path.name.split('.')[0]}{JSONL_SUFFIX}"
    write_rows(rows, target)
    return target, edits


def told(edits: Edits) -> str:
    """What was edited, in words."""
    parts = [
        f"{count(number)} {noun}{'s' if number != 1 else ''} {verb}"
        for number, noun, verb in (
            (edits.cells, "cell", "changed"), (edits.added, "row", "added"), (edits.removed, "row", "removed"),
        )
        if number
    ]
    return ", ".join(parts)


def left_out_download(path: Path, columns: Mapping[str, str], name: str) -> str | None:
    """The rows that are left out as a CSV file for download; None where there are none.

    Args:
        path: The data file.
        columns: Role → column, as mapped.
        name: Begins the name of the download.
    """
    findings = inspect_file(path, columns).findings
    if findings is None or not findings.left_out:
        return None
    table = _table(str(path), stamp([path]), tuple(value for value in columns.values() if value))
    reasons = {entry.row: page_words(entry.reason) for entry in findings.left_out}
    return offer_bytes(rejected_csv(table, reasons), f"{name}-left-out.csv")


_KINDS: dict[Which, str] = {"left out": "Left out", "worth a look": "Worth a look", "all": "All rows"}


class RowEditor:
    """Components; the Data tab wires them, for an edit changes the file that the whole tab looks at."""

    def __init__(self) -> None:
        self.held = gr.Textbox(NOTHING.to_text(), visible=False, label="Rows in the editor")
        with gr.Accordion("Edit rows, and check again", open=False, visible=False, elem_id="ab-edit") as self.body:
            gr.HTML(
                "<p class='ab-note'>Double-click a cell, or press Enter on it, to edit it; a right click adds or takes "
                "out a row. Your own file is not touched: the study takes the edited copy.</p>"
            )
            with gr.Row(elem_classes="ab-edit-choose"):
                self.which = gr.Radio(
                    [(title, kind) for kind, title in _KINDS.items()], value="all", label="Rows", min_width=320,
                    elem_id="ab-edit-which", elem_classes="ab-inline",
                )
                self.search = gr.Textbox(
                    label="Only rows with this text", placeholder="press Enter to search", min_width=200,
                    elem_id="ab-edit-search",
                )
            self.note = gr.HTML(elem_classes="ab-note")
            self.table = gr.Dataframe(
                headers=[ROW_TITLE, PROBLEM_TITLE], datatype="str", type="array", interactive=True, wrap=True,
                max_height=460, show_label=False, label="Rows", static_columns=[0, 1], buttons=["fullscreen"],
                elem_id="ab-edit-table",
            )
            with gr.Row(elem_classes="ab-actions"):
                self.check = gr.Button("Check again", variant="primary", size="sm", elem_id="ab-edit-check")
                self.undo = gr.Button("Undo all edits", size="sm", elem_id="ab-edit-undo")
            self.message = gr.HTML(elem_id="ab-edit-message")

    @property
    def outputs(self) -> list[Any]:
        """What :meth:`values` sets."""
        return [self.which, self.note, self.table, self.held]

    def values(self, path: str | None, columns: Mapping[str, str], which: Which | None, search: str) -> list[Any]:
        """Show rows of a file; see :func:`~assistant_builder.ui.data.row_editor.editor_view`."""
        if not path or inspect_file(Path(path), columns).findings is None:
            return [gr.skip(), "", gr.skip(), NOTHING.to_text()]
        view = editor_view(Path(path), columns, which, search)
        shown = which or ("left out" if view.counts["left out"] else "all")
        choices = [(f"{_KINDS[kind]} ({view.counts[kind]:,})", kind) for kind in get_args(Which)]
        table = gr.update(
            value={"headers": [ROW_TITLE, PROBLEM_TITLE, *view.columns], "data": _lines(view)},
            column_widths=_widths(view),
        )
        return [gr.update(choices=choices, value=shown), view.note, table, Held(path, view.numbers).to_text()]


def _lines(view: EditorView) -> list[list[str]]:
    return view.lines or [[""] * (2 + len(view.columns))]


def _widths(view: EditorView) -> list[str]:
    """Wide where the texts are long; never so narrow that a title breaks within a word."""
    longest = [
        max((len(text) for text in (title, *(line[place] for line in view.lines))), default=0)
        for place, title in enumerate(view.columns, start=2)
    ]
    return ["72px", "200px", *(f"{min(max(9 * length + 40, 120), 380)}px" for length in longest)]
