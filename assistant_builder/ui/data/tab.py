"""The part of the Data tab that shows a study's dataset card and keeps what is written into it.

The data of a study as the Data tab shows it: from its files once they are made, else from its data file.

The Data tab: the making of a study from data, or the data of the chosen study.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from assistant_builder.atomic_io import read_json, read_jsonl
from assistant_builder.data import Pair, RejectedRow
from assistant_builder.data.card import (
    CARD_FILE,
    GENERATED_CARD_FILE,
    is_card_edited,
    is_card_outdated,
    restore_generated_card,
    save_edited_card,
)
from assistant_builder.data.edit import rejected_csv
from assistant_builder.data.load import read_table
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.study import Study
from assistant_builder.ui.data.new_study import ModelView, NewData
from assistant_builder.ui.data.preview import inspect_file, power_of, preview_split, seen_by_model
from assistant_builder.ui.data.row_editor import left_out_download
from assistant_builder.ui.data.view import study_data_view, unreadable_view
from assistant_builder.ui.html import Markup, callout, empty, error_callout
from assistant_builder.ui.refresh import LiveRegion, StudyView, user_facing_errors
from assistant_builder.ui.settings_form import page_words
from assistant_builder.ui.study_snapshot import stamp
from assistant_builder.ui.uploads import offer, offer_bytes

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

    def section(self) -> LiveRegion:
        """What follows the study."""
        return LiveRegion(
            "card", [self.body, self.state, self.text, self.back, self.download, self.message], _mark, self._draw
        )

    def _draw(self, look: StudyView) -> Sequence[Any]:
        folder = look.study.folder / "data" if look.study else None
        if look.study is None or folder is None or not (folder / CARD_FILE).is_file():
            return [gr.update(visible=False), *[gr.skip()] * 5]
        return [
            gr.update(visible=True), _NEW if is_card_outdated(folder) else "",
            (folder / CARD_FILE).read_text(encoding="utf-8"), gr.update(visible=is_card_edited(folder)),
            offer(folder / CARD_FILE, f"{look.study.name}-card.md"), gr.skip(),
        ]

    def wire(self, picker: gr.Dropdown) -> None:
        """Connect the buttons; the section draws what they did."""
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        self.save.click(user_facing_errors(self._save), [picker, self.text], self.message, **quiet)
        self.back.click(user_facing_errors(self._back), picker, [self.text, self.message], **quiet)

    def _save(self, name: str | None, text: str) -> str:
        folder = Study.open(name or "").folder / "data"
        before = (folder / CARD_FILE).read_text(encoding="utf-8")
        if text == before:
            return callout("info", "Nothing was changed")
        try:
            save_edited_card(folder, text, before)
        except AssistantBuilderError as error:
            return error_callout(error.to_record())
        return callout("good", "Saved", "The card in the study's folder is the one above.")

    def _back(self, name: str | None) -> list[str]:
        folder = Study.open(name or "").folder / "data"
        restore_generated_card(folder)
        return [(folder / CARD_FILE).read_text(encoding="utf-8"), callout("good", "This is the generated card again")]


def _mark(look: StudyView) -> str:
    if look.study is None:
        return f"none:{look.name}"
    return f"{look.name}:{stamp(look.study.folder / 'data' / file for file in (CARD_FILE, GENERATED_CARD_FILE))}"


def study_data(study: Study) -> Markup:
    """What was found in the study's data, and how it is split."""
    try:
        if is_prepared(study):
            split = read_json(study.folder / "data" / "split.json")
            by_meaning = read_json(study.embedding_file)["leaks"] if study.embedding_file.is_file() else []
            return study_data_view(
                read_json(study.folder / "data" / "findings.json"), split, power_of(split), _rejected(study),
                [*split["leaks"], *by_meaning],
            )
        return _source_view(study, study.config.data.columns)
    except AssistantBuilderError as error:
        return error_callout(error.to_record())


def is_prepared(study: Study) -> bool:
    """Whether the data step has made its files."""
    return all((study.folder / "data" / name).is_file() for name in ("split.json", "findings.json"))


def _rejected(study: Study) -> list[RejectedRow]:
    entries = read_jsonl(study.split_file("rejected"))
    return [RejectedRow(entry["row"], entry["reason"], entry.get("record")) for entry in entries]


def _source_view(study: Study, columns: Mapping[str, str]) -> Markup:
    if study.source is None:
        return empty("The data file is not in the study's folder", f"It is read from {study.config.data.source}.")
    seen = inspect_file(study.source, columns)
    if seen.findings is None:
        return unreadable_view(seen.error or {"what": "the file cannot be read"}, seen.columns, seen.peek)
    split = preview_split(seen.findings, study.config.data)
    record = None if isinstance(split, dict) else split.to_record()
    return study_data_view(
        seen.findings.to_record(), record, power_of(record) if record else None, seen.findings.left_out,
        record["leaks"] if record else (),
    )


def study_seen_by_model(study: Study, rows: int) -> tuple[Markup, Markup]:
    """See :func:`~assistant_builder.ui.data.preview.seen_by_model`; once there is a split, the rows are of training.

    Args:
        study: The study.
        rows: How many rows.
    """
    if study.source is None:
        return Markup(""), Markup("")
    first: Sequence[Pair] | None = None
    if is_prepared(study):
        first = [Pair.from_record(record, "train") for record in read_jsonl(study.split_file("train"))[:rows]]
    return seen_by_model(study.source, study.config, rows, first=first, day=study.template_date)


def study_left_out(study: Study) -> str | None:
    """The rows that the study leaves out, as CSV for download; None where there are none."""
    source = study.source
    if source is None:
        return None
    columns = study.config.data.columns
    if not is_prepared(study):
        return left_out_download(source, columns, study.name)
    reasons = {entry.row: page_words(entry.reason) for entry in _rejected(study)}
    if not reasons:
        return None
    table = read_table(Path(source), {name for name in columns.values() if name})
    return offer_bytes(rejected_csv(table, reasons), f"{study.name}-left-out.csv")


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

    def sections(self) -> list[LiveRegion]:
        """What follows the study."""
        return [
            LiveRegion("data-body", [self.new.body, self.body], lambda look: str(look.study is None), self._draw_body),
            LiveRegion("data", [self.held, self.drawn], _data_mark, self._draw),
            self.card.section(),
        ]

    def _draw_body(self, look: StudyView) -> Sequence[Any]:
        return [gr.update(visible=look.study is None), gr.update(visible=look.study is not None)]

    def _draw(self, look: StudyView) -> Sequence[Any]:
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
            [self.drawn.change, self.seen.rows.input], user_facing_errors(self._study_view), [self.drawn, self.seen.rows],
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


def _data_mark(look: StudyView) -> str:
    if look.study is None:
        return f"none:{look.name}"
    files = ("study.yaml", "data/split.json", "data/findings.json", "data/embedding.json")
    return f"{look.name}:{stamp(look.study.folder / file for file in files)}"
