"""The part of the Data tab with which data is brought: a file, the example, or pasted pairs; columns, name, split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gradio as gr

from assistant_builder.data.records import COLUMN_ROLES
from assistant_builder.errors import DataError
from assistant_builder.ui.forms import OptionForm, keys_of
from assistant_builder.ui.inspection import Inspection, shipped_datasets
from assistant_builder.ui.page_words import MAPPING_TITLE, ROLE_TITLES

FILE_TYPES = [".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".xlsx", ".parquet", ".gz", ".txt"]
AUTOMATIC, UNUSED = "(as found)", "(not used)"
_PASTE = "Where is the ferry office?\tBeside the north pier.\nWhen does it open?\tAt half past seven."


class DataSource:
    """Components only; the Data tab wires them."""

    def __init__(self) -> None:
        self.form = OptionForm()
        self.shipped = shipped_datasets()
        with gr.Group(elem_classes="ab-group"):
            gr.HTML("<h3>1 · Your questions and answers</h3>")
            self.file = gr.File(
                label="CSV, TSV, JSON, JSONL, XLSX or Parquet", file_types=FILE_TYPES, height=150, elem_id="ab-file"
            )
            self.brief = gr.HTML(elem_id="ab-brief")
            self._paste()
            self.example = gr.Dropdown(
                [(shipped.title, shipped.name) for shipped in self.shipped], label="Nothing at hand?",
                value=self.shipped[0].name if self.shipped else None, interactive=True, filterable=False,
                visible=bool(self.shipped),
            )
            self.try_example = gr.Button("Try the example", visible=bool(self.shipped), elem_id="ab-example")
        with gr.Accordion(MAPPING_TITLE, open=False, visible=False) as self.mapping:
            with gr.Group(elem_classes="ab-group ab-grid"):
                self.roles = {
                    role: gr.Dropdown(
                        [AUTOMATIC, UNUSED], value=AUTOMATIC, label=ROLE_TITLES[role], interactive=True, min_width=140,
                        allow_custom_value=True, elem_id=f"ab-role-{role}",
                    )
                    for role in COLUMN_ROLES
                }
        with gr.Group(visible=False, elem_classes="ab-group") as self.naming:
            gr.HTML("<h3>2 · Name and split</h3>")
            self.name = gr.Textbox(label="Name of the study", info="a-z 0-9 . _ -", elem_id="ab-name")
            with gr.Group(elem_classes="ab-group ab-grid"):
                self.form.show(keys_of("data", basic=True))
            with gr.Accordion("More about the split", open=False):
                self.form.show(keys_of("data", basic=False, without=("data.source", "data.columns")))
            self.create = gr.Button("Create the study", variant="primary", elem_id="ab-create")
            self.message = gr.HTML()

    def _paste(self) -> None:
        with gr.Accordion("Or paste pairs", open=False, elem_id="ab-paste"):
            self.pasted = gr.Textbox(
                label="Question and answer", placeholder=_PASTE, lines=5, max_lines=14, elem_id="ab-paste-text",
                info="Two columns copied from a spreadsheet; CSV and JSON Lines will do too.",
            )
            with gr.Row(elem_classes="ab-actions"):
                self.use_pasted = gr.Button("Use these pairs", size="sm", elem_id="ab-paste-use")
                self.add_pasted = gr.Button(
                    "Add them to the data below", size="sm", visible=False, elem_id="ab-paste-add"
                )
            self.paste_note = gr.HTML(elem_id="ab-paste-note")

    def example_file(self, name: str) -> Path:
        """The file of a shipped dataset.

        Raises:
            DataError: There is none of that name.
        """
        found = next((shipped.file for shipped in self.shipped if shipped.name == name), None)
        if found is None:
            raise DataError(f"no shipped dataset {name!r}", remedy="Upload a file instead")
        return found


def column_mapping(mapped: Sequence[str | None]) -> dict[str, str]:
    """Role → column from the dropdowns, in the order of the roles; roles left as found are not in it."""
    said = {role: value for role, value in zip(COLUMN_ROLES, mapped, strict=True) if value and value != AUTOMATIC}
    return {role: "" if value == UNUSED else value for role, value in said.items()}


def mapped_roles(columns: dict[str, str]) -> list[str]:
    """The reverse of :func:`column_mapping`: what the dropdowns show, in the order of the roles."""
    return [AUTOMATIC if role not in columns else columns[role] or UNUSED for role in COLUMN_ROLES]


def role_choices(seen: Inspection, role: str) -> list[tuple[str, str]]:
    """What can play a role: the column that was found, none, or any of the file."""
    found = seen.dataset.columns.get(role) if seen.dataset else None
    automatic = f"{AUTOMATIC}  {found}" if found else AUTOMATIC
    return [(automatic, AUTOMATIC), (UNUSED, UNUSED), *((name, name) for name in seen.columns)]
