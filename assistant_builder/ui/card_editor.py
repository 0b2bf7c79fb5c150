"""The part of the Data tab that shows a study's dataset card and keeps what is written into it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from assistant_builder.data.card_file import CARD, GENERATED, is_edited, is_outdated, save_edited, take_generated
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.study import Study
from assistant_builder.ui.downloads import offer
from assistant_builder.ui.markup import callout, error_callout
from assistant_builder.ui.sections import Look, Section, told
from assistant_builder.ui.snapshots import stamp

_ABOUT = (
    "The card says what the data is, where it comes from and who may use it. Fill in licence, language and origin. "
    "Your words are kept when the data is made ready again; the new figures are then offered here beside them."
)
_NEW = callout(
    "info", "The data was made ready again after you edited the card",
    "Your card is kept, but its figures may be old.",
    "“Take the generated card” shows the new one in place of yours; copy your words first.",
)


class CardEditor:
    """Components of the card."""

    def __init__(self) -> None:
        with gr.Accordion("Dataset card", open=False, visible=False, elem_id="ab-card") as self.body:
            gr.HTML(f"<p class='ab-note'>{_ABOUT}</p>")
            self.state = gr.HTML()
            self.text = gr.Textbox(
                label="Dataset card (Markdown)", lines=14, max_lines=30, interactive=True, elem_id="ab-card-text"
            )
            with gr.Row(elem_classes="ab-actions"):
                self.save = gr.Button("Save the card", size="sm", variant="primary", elem_id="ab-card-save")
                self.back = gr.Button("Take the generated card", size="sm", visible=False, elem_id="ab-card-back")
                self.download = gr.DownloadButton("Download the card", size="sm")
            self.message = gr.HTML(elem_id="ab-card-message")

    def section(self) -> Section:
        """What follows the study."""
        return Section(
            "card", [self.body, self.state, self.text, self.back, self.download, self.message], _mark, self._draw
        )

    def _draw(self, look: Look) -> Sequence[Any]:
        folder = look.study.folder / "data" if look.study else None
        if look.study is None or folder is None or not (folder / CARD).is_file():
            return [gr.update(visible=False), *[gr.skip()] * 5]
        return [
            gr.update(visible=True), _NEW if is_outdated(folder) else "", (folder / CARD).read_text(encoding="utf-8"),
            gr.update(visible=is_edited(folder)), offer(folder / CARD, f"{look.study.name}-card.md"), gr.skip(),
        ]

    def wire(self, picker: gr.Dropdown) -> None:
        """Connect the buttons; the section draws what they did."""
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        self.save.click(told(self._save), [picker, self.text], self.message, **quiet)
        self.back.click(told(self._back), picker, [self.text, self.message], **quiet)

    def _save(self, name: str | None, text: str) -> str:
        folder = Study.open(name or "").folder / "data"
        before = (folder / CARD).read_text(encoding="utf-8")
        if text == before:
            return callout("info", "Nothing was changed")
        try:
            save_edited(folder, text, before)
        except AssistantBuilderError as error:
            return error_callout(error.to_record())
        return callout("good", "Saved", "The card in the study's folder is the one above.")

    def _back(self, name: str | None) -> list[str]:
        folder = Study.open(name or "").folder / "data"
        take_generated(folder)
        return [(folder / CARD).read_text(encoding="utf-8"), callout("good", "This is the generated card again")]


def _mark(look: Look) -> str:
    if look.study is None:
        return f"none:{look.name}"
    return f"{look.name}:{stamp(look.study.folder / 'data' / file for file in (CARD, GENERATED))}"
