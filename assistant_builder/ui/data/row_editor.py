"""The row editor of the Data tab: show, search and edit the rows of a data file, and write the edited file."""

from __future__ import annotations

import functools
import json
from collections import defaultdict
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
from assistant_builder.data.reading_process import read_table
from assistant_builder.data.types import Table
from assistant_builder.i18n import N_, Rows, Text, joined, m, t, tn
from assistant_builder.ui.data.preview import LARGE_CELLS, inspect_file
from assistant_builder.ui.html import hint
from assistant_builder.ui.refresh import Updates
from assistant_builder.ui.study_snapshot import stamp
from assistant_builder.ui.uploads import new_folder, offer_bytes
from evals.report.number_format import count

RowFilter = Literal["left out", "worth a look", "all"]
MAX_ROWS = 300
"""Maximum number of rows in the editor, for the speed of the browser."""


@dataclass(frozen=True)
class EditorRows:
    """The file and the row numbers in the editor, so that an edit is never applied to another file.

    The browser sends it together with the table: the browser can still show and send the rows of a previous file.
    """

    path: str
    rows: list[int]

    def to_text(self) -> str:
        """The form in which the browser stores it."""
        return json.dumps([self.path, self.rows])

    @classmethod
    def from_text(cls, text: str) -> EditorRows:
        """The inverse of :meth:`to_text`; :data:`NO_ROWS` for any other text."""
        try:
            path, rows = json.loads(text)
            return cls(str(path), [int(row) for row in rows])
        except (TypeError, ValueError):
            return NO_ROWS


NO_ROWS = EditorRows("", [])


@dataclass(frozen=True)
class EditorView:
    """The contents of the editor.

    Attributes:
        lines: See :func:`assistant_builder.data.edit.edit_grid`.
        numbers: Row numbers of ``lines``.
        matching: Number of rows that match filter and search, shown or not.
        counts: Filter → number of rows.
    """

    columns: tuple[str, ...]
    lines: list[list[str]]
    numbers: list[int]
    matching: int
    counts: dict[RowFilter, int]

    @property
    def note(self) -> str:
        """The number of rows shown, as a sentence."""
        if not self.matching:
            return t("No such row.")
        shown = t(
            "{matching} of {all} rows.",
            matching=count(self.matching),
            all=count(self.counts["all"]),
        )
        if self.matching > len(self.numbers):
            shown = t(
                "The first {numbers} of {matching} such rows are shown; search to see others.",
                numbers=count(len(self.numbers)),
                matching=count(self.matching),
            )
        return t("{shown} Rows that are not shown do not change.", shown=shown)


def editor_view(
    path: Path, columns: Mapping[str, str], which: RowFilter | None, search: str
) -> EditorView:
    """Select rows of a file for editing.

    Args:
        path: The data file.
        columns: Role → column, as mapped.
        which: Filter; None: rows left out, or all rows if there are none.
        search: Text that a cell must contain; case-insensitive.
    """
    table = _table(path, columns)
    findings = inspect_file(path, columns).findings
    reasons = reasons_of(findings) if findings else {}
    left_out = {row.row for row in findings.left_out} if findings else set()
    groups: dict[RowFilter, list[int]] = {
        "left out": [row.row for row in table.rows if row.row in left_out],
        "worth a look": [row.row for row in table.rows if row.row in reasons.keys() - left_out],
        "all": [row.row for row in table.rows],
    }
    numbers = groups[which or ("left out" if groups["left out"] else "all")]
    if search.strip():
        wanted = search.strip().casefold()
        lines = edit_grid(table, numbers, reasons)
        numbers = [
            table.numbers.row_of(int(line[0]))
            for line in lines
            if any(wanted in cell.casefold() for cell in line[1:])
        ]
    shown = numbers[:MAX_ROWS]
    counts = {kind: len(rows) for kind, rows in groups.items()}
    return EditorView(table.columns, edit_grid(table, shown, reasons), shown, len(numbers), counts)


def _table(path: Path, columns: Mapping[str, str]) -> Table:
    return _cached_table(str(path), stamp([path]), tuple(name for name in columns.values() if name))


@functools.lru_cache(maxsize=4)
def _cached_table(path: str, seen: str, mapped: tuple[str, ...]) -> Table:
    """``seen`` is the stamp of the file, so that a changed file is read again."""
    table = read_table(Path(path), set(mapped))
    if len(table.rows) * len(table.columns) > LARGE_CELLS:
        _cached_table.cache_clear()
    return table


def reasons_of(findings: Findings) -> dict[int, Text]:
    """Row → its problem: the reason why it is left out, or a warning."""
    remarks = defaultdict[int, list[Text]](list)
    for near in findings.near_duplicates:
        remarks[near.row].append(m("the question is nearly that of row {of}", of=Rows((near.of,))))
    for conflict in findings.conflicts:
        for row in conflict.rows:
            others = [Rows((other,)) for other in conflict.rows[:6] if other != row]
            remarks[row].append(
                m("row {others} has another answer to the same question", others=others)
            )
    for what, rows in {
        N_("the answer is one word"): findings.one_word_answers,
        N_("the answer declines"): findings.declining,
        **findings.odd_texts,
    }.items():
        for row in rows:
            remarks[row].append(m(what))
    reasons: dict[int, Text] = {row: joined(titles, "; ") for row, titles in remarks.items()}
    return reasons | {
        entry.row: m("Left out: {reason}", reason=entry.reason) for entry in findings.left_out
    }


def edited_file(
    path: Path, columns: Mapping[str, str], held: str, lines: Sequence[Sequence[Any]]
) -> tuple[Path, Edits]:
    """Write a file with the edits; the data file is not changed.

    Args:
        path: The data file.
        columns: Role → column, as mapped.
        held: :meth:`EditorRows.to_text` of the rows that the editor was given; edits of another file are ignored.
        lines: The current contents of the editor.

    Returns:
        The edited file, or ``path`` without edits, and the edits.
    """
    given = EditorRows.from_text(held)
    if given.path != str(path):
        return path, Edits()
    table = _table(path, columns)
    rows, edits = apply_edits(table, given.rows, lines)
    if not edits:
        return path, edits
    target = edited_copy(path)
    write_rows(rows, target, table.numbers)
    return target, edits


def edits_summary(edits: Edits) -> str:
    """The edits as ``1 cell changed, 2 rows added``."""
    return ", ".join(
        filter(
            None,
            (
                tn("{count} cell changed", "{count} cells changed", edits.cells)
                if edits.cells
                else "",
                tn("{count} row added", "{count} rows added", edits.added) if edits.added else "",
                tn("{count} row removed", "{count} rows removed", edits.removed)
                if edits.removed
                else "",
            ),
        )
    )


def left_out_download(path: Path, columns: Mapping[str, str], name: str) -> str | None:
    """Path of a CSV download with the rows that are left out; None if there are none."""
    findings = inspect_file(path, columns).findings
    if findings is None or not findings.left_out:
        return None
    reasons = {entry.row: entry.reason for entry in findings.left_out}
    return offer_bytes(rejected_csv(_table(path, columns), reasons), f"{name}-left-out.csv")


_KINDS: dict[RowFilter, str] = {
    "left out": N_("Left out"),
    "worth a look": N_("Worth a look"),
    "all": N_("All rows"),
}


class RowEditor:
    """Components of the editor; :class:`~assistant_builder.ui.data.new_study.NewStudyForm` connects their events."""

    def __init__(self) -> None:
        self.held = gr.Textbox(NO_ROWS.to_text(), visible=False, label=t("Rows in the editor"))
        with gr.Accordion(
            t("Edit rows, and check again"), open=False, visible=False, elem_id="ab-edit"
        ) as self.body:
            gr.HTML(
                hint(
                    t(
                        "Double-click a cell, or press Enter on it, to edit it; right-click to add or remove a "
                        "row. Your file is not changed: the project uses an edited copy."
                    )
                )
            )
            with gr.Row(elem_classes="ab-edit-choose"):
                self.which = gr.Radio(
                    [(t(title), kind) for kind, title in _KINDS.items()],
                    value="all",
                    label=t("Rows"),
                    min_width=320,
                    elem_id="ab-edit-which",
                    elem_classes="ab-inline",
                )
                self.search = gr.Textbox(
                    label=t("Only rows with this text"),
                    placeholder=t("press Enter to search"),
                    min_width=200,
                    elem_id="ab-edit-search",
                )
            self.note = gr.HTML(elem_classes="ab-note")
            self.table = gr.Dataframe(
                headers=[t(ROW_TITLE), t(PROBLEM_TITLE)],
                datatype="str",
                type="array",
                interactive=True,
                wrap=True,
                max_height=460,
                show_label=False,
                label=t("Rows"),
                static_columns=[0, 1],
                buttons=["fullscreen"],
                elem_id="ab-edit-table",
            )
            with gr.Row(elem_classes="ab-actions"):
                self.check = gr.Button(
                    t("Check again"), variant="primary", size="sm", elem_id="ab-edit-check"
                )
                self.undo = gr.Button(t("Undo all edits"), size="sm", elem_id="ab-edit-undo")
            self.message = gr.HTML(elem_id="ab-edit-message")

    @property
    def outputs(self) -> list[Any]:
        """The components that :meth:`updates` sets."""
        return [self.which, self.note, self.table, self.held]

    def updates(
        self, path: str | None, columns: Mapping[str, str], which: RowFilter | None, search: str
    ) -> Updates:
        """Show rows of a file; see :func:`editor_view`."""
        if not path or inspect_file(Path(path), columns).findings is None:
            return {self.note: "", self.held: NO_ROWS.to_text()}
        view = editor_view(Path(path), columns, which, search)
        choices = [
            (f"{t(_KINDS[kind])} ({count(view.counts[kind])})", kind)
            for kind in get_args(RowFilter)
        ]
        longest = (
            max(len(text) for text in (title, *(line[place] for line in view.lines)))
            for place, title in enumerate(view.columns, start=2)
        )
        widths = (f"{min(max(9 * length + 40, 120), 380)}px" for length in longest)
        value = {
            "headers": [t(ROW_TITLE), t(PROBLEM_TITLE), *view.columns],
            "data": view.lines or [[""] * (2 + len(view.columns))],
        }
        first = which or ("left out" if view.counts["left out"] else "all")
        return {
            self.which: gr.update(choices=choices, value=first),
            self.note: view.note,
            self.table: gr.update(value=value, column_widths=["72px", "200px", *widths]),
            self.held: EditorRows(path, view.numbers).to_text(),
        }


def edited_copy(path: Path) -> Path:
    """A file for an edited copy of a data file, whose name says that it is one."""
    return new_folder() / f"{path.name.split('.')[0].removesuffix('-edited')}-edited{JSONL_SUFFIX}"
