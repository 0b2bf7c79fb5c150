"""The Data tab: the making of a study from data, or the data of the chosen study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from assistant_builder.study import Study
from assistant_builder.ui.card_editor import CardEditor
from assistant_builder.ui.markup import error_callout
from assistant_builder.ui.model_view import ModelView
from assistant_builder.ui.new_data import NewData
from assistant_builder.ui.sections import Look, Section, told
from assistant_builder.ui.snapshots import stamp
from assistant_builder.ui.study_data import study_data, study_left_out, study_seen_by_model


class DataTab:
    """Components of the tab; the caller has opened the ``gr.Tab``."""

    def __init__(self) -> None:
        self.new = NewData()
        with gr.Column(visible=False) as self.body:
            self.held = gr.HTML(elem_id="ab-data")
            with gr.Row(elem_classes="ab-actions"):
                self.left_out = gr.DownloadButton("Download the rows left out", size="sm", visible=False)
                self.revise = gr.Button("Edit a copy for a new study", size="sm", elem_id="ab-revise")
            self.seen = ModelView("ab-held-preview")
            self.card = CardEditor()
            # Set when the study's data changes; what takes longer to draw follows it, and keeps nothing else waiting.
            # Off stage by style, for an invisible component is not there to tell of a change.
            self.drawn = gr.Textbox("", label="Data drawn", elem_classes="ab-offstage")

    def sections(self) -> list[Section]:
        """What follows the study."""
        return [
            Section("data-body", [self.new.body, self.body], lambda look: str(look.study is None), self._draw_body),
            Section("data", [self.held, self.drawn], _data_mark, self._draw),
            self.card.section(),
        ]

    def _draw_body(self, look: Look) -> Sequence[Any]:
        return [gr.update(visible=look.study is None), gr.update(visible=look.study is not None)]

    def _draw(self, look: Look) -> Sequence[Any]:
        if look.study is None:
            return [error_callout(look.error) if look.error else "", ""]
        return [study_data(look.study), _data_mark(look)]

    def wire(self, picker: gr.Dropdown, tabs: gr.Tabs) -> None:
        """Connect the components.

        Args:
            picker: Holds the name of the chosen study; set once a study is made.
            tabs: Moves on to training then.
        """
        self.new.wire(picker, tabs, self.revise)
        self.card.wire(picker)
        gr.on(
            [self.drawn.change, self.seen.rows.input], told(self._study_view), [self.drawn, self.seen.rows],
            [self.left_out, *self.seen.outputs], show_progress="hidden", trigger_mode="always_last",
            api_visibility="private",
        )

    def _study_view(self, drawn: str, rows: int) -> list[Any]:
        if not drawn:
            return [gr.skip()] * 4
        study = Study.open(drawn.partition(":")[0])  # not the picker's: it may be set after this one
        csv = study_left_out(study)
        text, lengths = study_seen_by_model(study, rows)
        return [gr.update(value=csv, visible=csv is not None), gr.update(visible=bool(text)), text, lengths]


def _data_mark(look: Look) -> str:
    if look.study is None:
        return f"none:{look.name}"
    files = ("study.yaml", "data/split.json", "data/findings.json", "data/embedding.json")
    return f"{look.name}:{stamp(look.study.folder / file for file in files)}"
