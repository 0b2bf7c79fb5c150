"""Components of the Data tab: the upload and settings of a new study."""

from __future__ import annotations

import gradio as gr

from assistant_builder.i18n import N_, t
from assistant_builder.ui.html import heading
from assistant_builder.ui.settings_form import OptionForm, keys_of

FILE_TYPES = [
    ".csv",
    ".tsv",
    ".json",
    ".jsonl",
    ".ndjson",
    ".xlsx",
    ".parquet",
    ".gz",
    ".txt",
    ".xls",
    ".pdf",
    ".docx",
    ".pptx",
    ".doc",
    ".odt",
    ".rtf",
]
"""The last ones are no tables: they are accepted so that the page can say how to get one."""
_PASTE = N_(
    "Where is the ferry office?\tBeside the north pier.\nWhen does it open?\tAt half past seven."
)


class DataSource:
    """Components of the upload and the settings of a new study, without events."""

    def __init__(self) -> None:
        self.form = OptionForm()
        with gr.Group(elem_classes="ab-group"):
            gr.HTML(heading(t("1 · Your questions and answers")))
            self.file = gr.File(
                label=t("CSV, TSV, JSON, JSONL, XLSX or Parquet"),
                file_types=FILE_TYPES,
                height=150,
                elem_id="ab-file",
            )
            self.brief = gr.HTML(elem_id="ab-brief")
            self._paste()
        with gr.Group(visible=False, elem_classes="ab-group") as self.naming:
            gr.HTML(heading(t("2 · Name")))
            self.name = gr.Textbox(label=t("Name of the project"), elem_id="ab-name")
            gr.HTML(heading(t("What is your assistant called, and for whom?")))
            with gr.Row():
                self.called = gr.Textbox(
                    label=t("Called"), placeholder="Linde", min_width=120, elem_id="ab-called"
                )
                self.whom = gr.Textbox(
                    label=t("For whom"),
                    placeholder=t("customers of Krumm & Linde Bakery"),
                    min_width=160,
                    elem_id="ab-whom",
                )
            with gr.Accordion(t("For specialists: instruction, test and split"), open=False):
                self.form.show(["data.system"])
                self.form.show(
                    keys_of("data", without=("data.source", "data.columns", "data.system"))
                )
            self.create = gr.Button(
                t("Create the project"),
                variant="primary",
                elem_id="ab-create",
                elem_classes="ab-pinned",
            )
            self.message = gr.HTML()

    def _paste(self) -> None:
        with gr.Accordion(t("Or paste pairs"), open=False, elem_id="ab-paste"):
            self.pasted = gr.Textbox(
                label=t("Question and answer"),
                placeholder=t(_PASTE),
                lines=5,
                max_lines=14,
                elem_id="ab-paste-text",
                info=t("Two columns copied from a spreadsheet, CSV or JSON Lines."),
            )
            self.use_pasted = gr.Button(t("Use these pairs"), size="sm", elem_id="ab-paste-use")
            self.paste_note = gr.HTML(elem_id="ab-paste-note")


def system_prompt(called: str, whom: str, before: str) -> str:
    """The system prompt for a name and an audience; ``before`` is kept if a person wrote it or nothing is given."""
    start = t("You are {name}.", name="\0").partition("\0")[0]
    if not (called.strip() or whom.strip()) or before.strip() and not before.startswith(start):
        return before
    return f"{_named(called)} {_asked(whom)}"


def final_prompt(called: str, whom: str, before: str) -> str:
    """The system prompt once nothing more is typed: the last letters may not have reached ``before`` yet."""
    made = not before.strip() or any(
        before == f"{name} {_asked(whom[:end])}"
        for name in {_named(called[:end]) for end in range(len(called) + 1)}
        if before.startswith(name)
        for end in range(len(whom) + 1)
    )
    return system_prompt(called, whom, before) if made else before


def _named(called: str) -> str:
    return t("You are {name}.", name=called.strip() or t("an assistant"))


def _asked(whom: str) -> str:
    whom = whom.strip().rstrip(".")
    return t("You answer questions of {whom}.", whom=whom) if whom else t("You answer questions.")
