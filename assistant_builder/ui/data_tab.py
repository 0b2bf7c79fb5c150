"""The Data tab: bring a file, see what it holds, say which column is which, and make a study of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from assistant_builder.config import StudyConfig, parse_config
from assistant_builder.data import Pair, Rejection
from assistant_builder.data.records import COLUMN_ROLES
from assistant_builder.errors import AssistantBuilderError, DataError
from assistant_builder.files import read_json, read_jsonl
from assistant_builder.study import Study
from assistant_builder.ui.downloads import offer
from assistant_builder.ui.forms import OptionForm, keys_of
from assistant_builder.ui.inspection import (
    Inspection,
    free_name,
    inspect_file,
    power_of,
    preview_split,
    shipped_datasets,
)
from assistant_builder.ui.markup import Markup, card, empty, error_callout
from assistant_builder.ui.sections import Look, Section, told
from assistant_builder.ui.snapshots import stamp
from assistant_builder.ui.views.data import (
    ROLE_TITLES,
    findings_view,
    preview_view,
    rejected_view,
    split_view,
    study_data_view,
    unreadable_view,
)

FILE_TYPES = [".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".xlsx", ".parquet", ".gz", ".txt"]
AUTOMATIC, UNUSED = "(as found)", "(not used)"
NOTHING_YET = empty(
    "What the file holds is shown here",
    "Every usable pair, every rejected row with its reason, duplicates, and how the pairs would be split. Nothing is "
    "stored until you create the study.",
)


class DataTab:
    """Components of the tab; the caller has opened the ``gr.Tab``."""

    def __init__(self) -> None:
        self.form = OptionForm()
        self.shipped = shipped_datasets()
        self.source = gr.State(None)
        with gr.Column(visible=False) as self.making:
            with gr.Row():
                with gr.Column(scale=4, min_width=300):
                    self._bring()
                with gr.Column(scale=7, min_width=300):
                    self.found = gr.HTML(NOTHING_YET, elem_id="ab-found")
                    self.split = gr.HTML()
            self.preview = gr.HTML(elem_id="ab-preview")
            self.rejected = gr.HTML(elem_id="ab-rejected")
        with gr.Column(visible=False) as self.having:
            with gr.Row(elem_classes="ab-actions"):
                self.downloads = [gr.DownloadButton(label, size="sm") for label in ("Rejected rows", "Dataset card")]
            self.held = gr.HTML(elem_id="ab-data")

    def _bring(self) -> None:
        with gr.Group(elem_classes="ab-group"):
            gr.HTML("<h3>1 · Your questions and answers</h3>")
            self.file = gr.File(
                label="CSV, TSV, JSON, JSONL, XLSX or Parquet", file_types=FILE_TYPES, height=150, elem_id="ab-file"
            )
            self.example = gr.Dropdown(
                [(shipped.title, shipped.name) for shipped in self.shipped], label="No file at hand?",
                value=self.shipped[0].name if self.shipped else None, interactive=True, filterable=False,
                visible=bool(self.shipped),
            )
            self.try_example = gr.Button("Try the example", visible=bool(self.shipped), elem_id="ab-example")
        with gr.Accordion("Which column is which", open=False, visible=False) as self.mapping:
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

    # what follows a chosen study

    def sections(self) -> list[Section]:
        """What follows the study."""
        return [
            Section("data-body", [self.making, self.having], lambda look: str(look.study is None), self._draw_body),
            Section("data", [*self.downloads, self.held], _data_mark, self._draw),
        ]

    def _draw_body(self, look: Look) -> Sequence[Any]:
        return [gr.update(visible=look.study is None), gr.update(visible=look.study is not None)]

    def _draw(self, look: Look) -> Sequence[Any]:
        if look.study is None:
            return [gr.update(value=None), gr.update(value=None), error_callout(look.error) if look.error else ""]
        folder, name = look.study.folder / "data", look.study.name
        files = [offer(folder / file, f"{name}-{file}") for file in ("rejected.jsonl", "card.md")]
        return [*(gr.update(value=file, visible=file is not None) for file in files), study_data(look.study)]

    # events

    def wire(self, picker: gr.Dropdown, tabs: gr.Tabs) -> None:
        """Connect the components.

        Args:
            picker: Holds the name of the chosen study; set once a study is made.
            tabs: Moves on to training then.
        """
        roles, form = list(self.roles.values()), self.form.inputs
        shown = [self.found, self.split, self.preview, self.rejected, self.mapping, self.naming, *roles]
        new = [self.source, self.name, self.message, *shown]
        self.file.upload(told(self._bring_file), [self.file, *form], new, api_visibility="private",
                         show_progress_on=self.found)
        self.file.clear(self._forget, None, new, show_progress="hidden", api_visibility="private")
        self.try_example.click(told(self._bring_example), [self.example, *form], [self.file, *new],
                               api_visibility="private", show_progress_on=self.found)
        # A second choice made while the first is looked at must neither be dropped nor put back by its answer.
        gr.on([role.input for role in roles], told(self._remap), [self.source, *roles, *form], shown[: -len(roles)],
              trigger_mode="always_last", api_visibility="private", show_progress_on=self.found)
        gr.on([component.change for component in form], self._split, [self.source, *roles, *form], [self.split],
              show_progress="hidden", trigger_mode="always_last", api_visibility="private")
        self.create.click(told(self._create), [self.source, self.name, *roles, *form], [picker, tabs, self.message],
                          api_visibility="private", show_progress_on=self.message)

    def _bring_file(self, path: str | None, *form: Any) -> list[Any]:
        if not path:
            return self._forget()
        unmapped = [AUTOMATIC] * len(COLUMN_ROLES)
        return [path, free_name(Path(path).name.split(".")[0]), "", *self._look(path, *unmapped, *form)]

    def _bring_example(self, name: str, *form: Any) -> list[Any]:
        shipped = next((shipped for shipped in self.shipped if shipped.name == name), None)
        if shipped is None:
            raise DataError(f"no shipped dataset {name!r}", remedy="Upload a file instead")
        unmapped = [AUTOMATIC] * len(COLUMN_ROLES)
        path = str(shipped.file)
        return [None, path, free_name(shipped.name), "", *self._look(path, *unmapped, *form)]

    def _forget(self) -> list[Any]:
        hidden = gr.update(visible=False)
        return [None, "", "", NOTHING_YET, "", "", "", hidden, hidden, *[gr.skip()] * len(COLUMN_ROLES)]

    def _look(self, path: str | None, *shown: Any) -> list[Any]:
        """What the file gives, with the columns as mapped; the mapping is opened when the columns are the problem."""
        if not path:
            return self._forget()[3:]
        mapped, form = shown[: len(COLUMN_ROLES)], shown[len(COLUMN_ROLES) :]
        seen = inspect_file(Path(path), column_mapping(mapped))
        roles = [
            gr.update(choices=_role_choices(seen, role), value=value)
            for role, value in zip(COLUMN_ROLES, mapped, strict=True)
        ]
        said = any(value != AUTOMATIC for value in mapped)
        opened = gr.update(visible=bool(seen.columns), open=seen.findings is None or said)
        if seen.findings is None:
            view = unreadable_view(seen.error or {"what": "the file cannot be read"}, seen.columns)
            return [view, "", "", "", opened, gr.update(visible=False), *roles]
        findings = seen.findings
        return [
            card(f"What was found in {Path(path).name}", findings_view(findings.to_record())),
            self._split_of(seen, form),
            preview_view(findings.usable),
            rejected_view(findings.left_out, findings.dataset.rows),
            opened,
            gr.update(visible=findings.can_start()),
            *roles,
        ]

    def _remap(self, path: str | None, *shown: Any) -> list[Any]:
        return self._look(path, *shown)[: -len(COLUMN_ROLES)]

    def _split(self, path: str | None, *shown: Any) -> Any:
        if not path:
            return gr.skip()
        mapped, form = shown[: len(COLUMN_ROLES)], shown[len(COLUMN_ROLES) :]
        return self._split_of(inspect_file(Path(path), column_mapping(mapped)), form)

    def _split_of(self, seen: Inspection, form: Sequence[Any]) -> Markup | str:
        if seen.findings is None or not seen.findings.can_start():
            return ""
        try:
            config = self.form.read(form, StudyConfig()).data
        except AssistantBuilderError as error:
            return error_callout(error.to_record())
        split = preview_split(seen.findings, config)
        if isinstance(split, dict):
            return error_callout(split)
        record = split.to_record()
        return card("How it would be split", split_view(record, power_of(record)))

    def _create(self, path: str | None, name: str, *shown: Any) -> list[Any]:
        if not path:
            raise DataError("there is no data file yet", remedy="Upload one, or try the example")
        mapped, form = shown[: len(COLUMN_ROLES)], shown[len(COLUMN_ROLES) :]
        source = Path(path)
        try:
            tree = self.form.read(form, StudyConfig()).model_dump(mode="json")
            tree["name"] = name.strip()
            tree["data"] |= {"source": source.name, "columns": column_mapping(mapped)}
            study = Study.create(parse_config(tree, where="settings"), source)
        except AssistantBuilderError as error:
            return [gr.skip(), gr.skip(), error_callout(error.to_record())]
        return [gr.update(choices=[study.name], value=study.name), gr.Tabs(selected="train"), ""]


def column_mapping(mapped: Sequence[str | None]) -> dict[str, str]:
    """Role → column from the dropdowns, in the order of the roles; roles left as found are not in it."""
    said = {role: value for role, value in zip(COLUMN_ROLES, mapped, strict=True) if value and value != AUTOMATIC}
    return {role: "" if value == UNUSED else value for role, value in said.items()}


def _role_choices(seen: Inspection, role: str) -> list[tuple[str, str]]:
    found = seen.dataset.columns.get(role) if seen.dataset else None
    automatic = f"{AUTOMATIC}  {found}" if found else AUTOMATIC
    return [(automatic, AUTOMATIC), (UNUSED, UNUSED), *((name, name) for name in seen.columns)]


def study_data(study: Study) -> Markup:
    """The data of a study: from its files once they are made, else as its own copy of the source would give them."""
    folder = study.folder / "data"
    try:
        if (folder / "split.json").is_file() and (folder / "findings.json").is_file():
            split = read_json(folder / "split.json")
            left_out = read_jsonl(folder / "rejected.jsonl")
            rejected = [Rejection(entry["row"], entry["reason"], entry.get("record")) for entry in left_out]
            pairs = [Pair.from_record(record, "train") for record in read_jsonl(study.split_file("train"))]
            text = (folder / "card.md").read_text(encoding="utf-8") if (folder / "card.md").is_file() else ""
            return study_data_view(
                read_json(folder / "findings.json"), split, power_of(split), pairs, rejected, text
            )
        return _source_view(study, study.config.data.columns)
    except AssistantBuilderError as error:
        return error_callout(error.to_record())


def _source_view(study: Study, columns: Mapping[str, str]) -> Markup:
    if study.source is None:
        return empty("The data file is not in the study's folder", f"It is read from {study.config.data.source}.")
    seen = inspect_file(study.source, columns)
    if seen.findings is None:
        return unreadable_view(seen.error or {"what": "the file cannot be read"}, seen.columns)
    split = preview_split(seen.findings, study.config.data)
    record = None if isinstance(split, dict) else split.to_record()
    return study_data_view(
        seen.findings.to_record(), record, power_of(record) if record else None, seen.findings.usable,
        seen.findings.left_out, "",
    )


def _data_mark(look: Look) -> str:
    if look.study is None:
        return f"none:{look.name}"
    files = ("study.yaml", "data/split.json", "data/findings.json", "data/embed.status.json")
    return f"{look.name}:{stamp(look.study.folder / file for file in files)}"
