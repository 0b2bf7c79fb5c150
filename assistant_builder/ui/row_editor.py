"""The part of the Data tab in which rows are edited and checked again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import gradio as gr

from assistant_builder.data.editing import NUMBER, REASON
from assistant_builder.ui.inspection import inspect_file
from assistant_builder.ui.row_editing import NOTHING, EditorView, Held, Which, editor_view

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
                headers=[NUMBER, REASON], datatype="str", type="array", interactive=True, wrap=True, max_height=460,
                show_label=False, label="Rows", static_columns=[0, 1], buttons=["fullscreen"], elem_id="ab-edit-table",
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
        """Show rows of a file; see :func:`~assistant_builder.ui.row_editing.editor_view`."""
        if not path or inspect_file(Path(path), columns).findings is None:
            return [gr.skip(), "", gr.skip(), NOTHING.to_text()]
        view = editor_view(Path(path), columns, which, search)
        shown = which or ("left out" if view.counts["left out"] else "all")
        choices = [(f"{_KINDS[kind]} ({view.counts[kind]:,})", kind) for kind in get_args(Which)]
        table = gr.update(
            value={"headers": [NUMBER, REASON, *view.columns], "data": _lines(view)}, column_widths=_widths(view)
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
