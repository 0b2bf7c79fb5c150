"""The part of the Data tab that shows rows as the model will see them, and how long the pairs are."""

from __future__ import annotations

import gradio as gr

ROWS = (1, 3, 10)


class ModelView:
    """Components; :func:`~assistant_builder.ui.prompting.seen_by_model` fills them.

    Args:
        place: Begins the ids of its elements.
    """

    def __init__(self, place: str) -> None:
        with gr.Column(visible=False, elem_classes="ab-modelview") as self.body:
            self.rows = gr.Radio(
                [(f"{number} row{'s' if number > 1 else ''}", number) for number in ROWS], value=ROWS[1],
                label="Rows to show", elem_id=f"{place}-rows", elem_classes="ab-inline",
            )
            self.shown = gr.HTML(elem_id=place)
            self.lengths = gr.HTML(elem_id=f"{place}-lengths")

    @property
    def outputs(self) -> list[gr.components.Component | gr.Column]:
        """What an event sets: visibility, rows, lengths."""
        return [self.body, self.shown, self.lengths]
