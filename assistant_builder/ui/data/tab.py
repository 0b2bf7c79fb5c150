"""The Data tab: the data of the selected study, or the form that creates a study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from assistant_builder.atomic_io import read_json, read_jsonl
from assistant_builder.data import RejectedRow
from assistant_builder.data.edit import rejected_csv
from assistant_builder.data.reading_process import read_table
from assistant_builder.documents.store import Documents
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.i18n import render, t
from assistant_builder.retrieval.embedder_choice import choice_note, embedder_note
from assistant_builder.retrieval.recall import RECALL, recommended_approach
from assistant_builder.study import Study
from assistant_builder.study.contents import (
    Embedding,
    Findings,
    RecallFile,
    RejectedLine,
    Split,
)
from assistant_builder.ui.data.documents import DocumentsForm
from assistant_builder.ui.data.new_study import NewStudyForm
from assistant_builder.ui.data.preview import (
    heldout_power,
    inspect_file,
    preview_split,
)
from assistant_builder.ui.data.row_editor import left_out_download
from assistant_builder.ui.data.view import study_data_view, unreadable_view
from assistant_builder.ui.html import Markup, empty, error_callout
from assistant_builder.ui.refresh import QUIET, LiveRegion, StudyView, Updates
from assistant_builder.ui.uploads import offer_bytes


def study_data_panel(study: Study) -> Markup:
    """Findings and split of a study, from its files or before the data step from its data file."""
    try:
        if is_prepared(study):
            split = read_json(study.folder / "data" / "split.json", Split)
            by_meaning = (
                read_json(study.embedding_file, Embedding)["leaks"]
                if study.embedding_file.is_file()
                else []
            )
            findings = read_json(study.folder / "data" / "findings.json", Findings)
            return study_data_view(
                findings,
                split,
                heldout_power(split),
                _rejected(study),
                [*split["leaks"], *by_meaning],
                _recall(study),
                f"{recommended_approach(study)} {render(embedder_note(study))}"
                if study.embedding_file.is_file()
                else "",
            )
        return _source_view(study)
    except AssistantBuilderError as error:
        return error_callout(error.to_record())


def is_prepared(study: Study) -> bool:
    """Whether the data step has written its files."""
    return all((study.folder / "data" / name).is_file() for name in ("split.json", "findings.json"))


def _recall(study: Study) -> dict[str, Any] | None:
    """The recall of the index; None before it is built, and in studies of versions without one."""
    path = study.retrieval_folder / RECALL
    return read_json(path, RecallFile) if path.is_file() else None


def _rejected(study: Study) -> list[RejectedRow]:
    entries = read_jsonl(study.split_file("rejected"), RejectedLine)
    return list(map(RejectedRow.from_line, entries))


def _source_view(study: Study) -> Markup:
    if study.source is None and Documents(study):
        return empty(
            t("This project answers from its documents"),
            t("Training needs questions with answers: start a new project with them."),
        )
    if study.source is None:
        return empty(
            t("The data file is not in the project's folder"),
            t("It is read from {source}.", source=study.config.data.source),
        )
    seen = inspect_file(study.source, study.config.data.columns)
    if seen.findings is None:
        return unreadable_view(seen.error or {"what": t("the file cannot be read")}, seen.columns)
    split = preview_split(seen.findings, study.config.data)
    record = None if isinstance(split, dict) else split.to_record()
    return study_data_view(
        seen.findings.to_record(),
        record,
        heldout_power(record) if record else None,
        seen.findings.left_out,
        record["leaks"] if record else (),
        approach=render(choice_note(study.config.retrieval.embedder, seen.findings.usable)),
    )


def study_left_out(study: Study) -> str | None:
    """Path of a CSV download with the rows that the study leaves out; None if there are none."""
    source = study.source
    if source is None:
        return None
    columns = study.config.data.columns
    if not is_prepared(study):
        return left_out_download(source, columns, study.name)
    reasons = {entry.row: entry.reason for entry in _rejected(study)}
    if not reasons:
        return None
    table = read_table(Path(source), {name for name in columns.values() if name})
    return offer_bytes(rejected_csv(table, reasons), f"{study.name}-left-out.csv")


class DataTab:
    """Components of the tab, created in the open ``gr.Tab``."""

    def __init__(self) -> None:
        self.new = NewStudyForm()
        with gr.Column(visible=False) as self.body:
            self.held = gr.HTML(elem_id="ab-data")
            with gr.Row(elem_classes="ab-actions"):
                self.left_out = gr.DownloadButton(
                    t("Download the rows left out"), size="sm", visible=False
                )
                self.revise = gr.Button(
                    t("Edit a copy for a new project"), size="sm", elem_id="ab-revise"
                )
            # A change of this text starts the slow part of the tab, so that it delays nothing else. It is hidden by
            # CSS, because an invisible component causes no change event.
            self.drawn = gr.Textbox("", label="Data drawn", elem_classes="ab-offstage")
        self.documents = DocumentsForm()

    def sections(self) -> list[LiveRegion]:
        """Regions that follow the study."""
        return [
            LiveRegion(
                "data-body",
                [self.new.body, self.body],
                lambda look: str(look.study is None),
                self._draw_body,
            ),
            LiveRegion("data", [self.held, self.drawn], _data_mark, self._draw),
            self.documents.section(),
        ]

    def _draw_body(self, look: StudyView) -> Updates:
        return {
            self.new.body: gr.update(visible=look.study is None),
            self.body: gr.update(visible=look.study is not None),
        }

    def _draw(self, look: StudyView) -> Updates:
        if look.study is None:
            return {self.held: error_callout(look.error) if look.error else "", self.drawn: ""}
        return {self.held: study_data_panel(look.study), self.drawn: _data_mark(look)}

    def wire(self, picker: gr.Dropdown, tabs: gr.Tabs) -> None:
        """Connect the events; see :class:`~assistant_builder.ui.tabs.TabContent`."""
        self.new.wire(picker, tabs, self.revise)
        self.documents.wire(picker, tabs)
        self.drawn.change(
            self._study_view, self.drawn, self.left_out, trigger_mode="always_last", **QUIET
        )

    def _study_view(self, drawn: str) -> Any:
        if not drawn:
            return gr.skip()
        csv = study_left_out(Study.open(drawn.partition(":")[0]))  # the picker may be updated later
        return gr.update(value=csv, visible=csv is not None)


def _data_mark(look: StudyView) -> str:
    return look.stamp(
        "study.yaml",
        "data/split.json",
        "data/findings.json",
        "data/embedding.json",
        f"retrieval/{RECALL}",
    )
