"""The part of the Data tab that creates a study: upload or paste pairs, check and edit them, map columns, name it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from assistant_builder.config import StudyConfig, parse_config
from assistant_builder.data import load_pairs
from assistant_builder.data.edit import append_pairs, write_pasted
from assistant_builder.data.types import COLUMN_ROLES
from assistant_builder.errors import AssistantBuilderError, DataError
from assistant_builder.study import Study
from assistant_builder.ui.data.preview import (
    Inspection,
    heldout_power,
    inspect_file,
    preview_split,
    shipped_datasets,
    template_preview,
    unused_name,
)
from assistant_builder.ui.data.row_editor import RowEditor, edited_file, edits_summary, left_out_download
from assistant_builder.ui.data.view import (
    brief_view,
    findings_view,
    leaks_view,
    rejected_view,
    split_view,
    unreadable_view,
)
from assistant_builder.ui.html import Markup, callout, card, empty, error_callout
from assistant_builder.ui.refresh import user_facing_errors
from assistant_builder.ui.settings_form import MAPPING_TITLE, ROLE_TITLES, OptionForm, keys_of
from assistant_builder.ui.uploads import new_folder

FILE_TYPES = [".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".xlsx", ".parquet", ".gz", ".txt"]
AUTOMATIC, UNUSED = "(as found)", "(not used)"
_PASTE = "Where is the ferry office?\tBeside the north pier.\nWhen does it open?\tAt half past seven."


class DataSource:
    """Components of the upload, the column mapping and the settings of a new study, without events."""

    def __init__(self) -> None:
        self.form = OptionForm()
        self.shipped = shipped_datasets()
        with gr.Group(elem_classes="ab-group"):
            gr.HTML("<h3>1 · Your questions and answers</h3>")
            self.file = gr.File(label="CSV, TSV, JSON, JSONL, XLSX or Parquet", file_types=FILE_TYPES, height=150,
                                elem_id="ab-file")
            self.brief = gr.HTML(elem_id="ab-brief")
            self._paste()
            self.example = gr.Dropdown([(shipped.title, shipped.name) for shipped in self.shipped], label="No file?",
                                       value=self.shipped[0].name if self.shipped else None, interactive=True,
                                       filterable=False, visible=bool(self.shipped))
            self.try_example = gr.Button("Try the example", visible=bool(self.shipped), elem_id="ab-example")
        with gr.Accordion(MAPPING_TITLE, open=False, visible=False) as self.mapping:
            with gr.Group(elem_classes="ab-group ab-grid"):
                self.roles = {role: gr.Dropdown([AUTOMATIC, UNUSED], value=AUTOMATIC, label=ROLE_TITLES[role],
                                                interactive=True, min_width=140, allow_custom_value=True,
                                                elem_id=f"ab-role-{role}") for role in COLUMN_ROLES}
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
            self.pasted = gr.Textbox(label="Question and answer", placeholder=_PASTE, lines=5, max_lines=14,
                                     elem_id="ab-paste-text",
                                     info="Two columns copied from a spreadsheet, CSV or JSON Lines.")
            with gr.Row(elem_classes="ab-actions"):
                self.use_pasted = gr.Button("Use these pairs", size="sm", elem_id="ab-paste-use")
                self.add_pasted = gr.Button("Add them to the data below", size="sm", visible=False,
                                            elem_id="ab-paste-add")
            self.paste_note = gr.HTML(elem_id="ab-paste-note")


def column_mapping(mapped: Sequence[str | None]) -> dict[str, str]:
    """Role → column from the values of the dropdowns; automatically mapped roles are omitted."""
    chosen = {role: value for role, value in zip(COLUMN_ROLES, mapped, strict=True) if value and value != AUTOMATIC}
    return {role: "" if value == UNUSED else value for role, value in chosen.items()}


def mapped_roles(columns: dict[str, str]) -> list[str]:
    """The inverse of :func:`column_mapping`: the values of the dropdowns, in the order of the roles."""
    return [AUTOMATIC if role not in columns else columns[role] or UNUSED for role in COLUMN_ROLES]


ROWS = (1, 3, 10)


class TemplatePreview:
    """Components that ``template_preview`` fills; ``place`` is the prefix of their element ids."""

    def __init__(self, place: str) -> None:
        with gr.Column(visible=False, elem_classes="ab-modelview") as self.body:
            self.rows = gr.Radio([(f"{number} row{'s' if number > 1 else ''}", number) for number in ROWS],
                                 value=ROWS[1], label="Rows to show", elem_id=f"{place}-rows", elem_classes="ab-inline")
            self.shown = gr.HTML(elem_id=place)
            self.lengths = gr.HTML(elem_id=f"{place}-lengths")

    @property
    def outputs(self) -> list[gr.components.Component | gr.Column]:
        """Outputs of an event: visibility, rows, lengths."""
        return [self.body, self.shown, self.lengths]


NOTHING_YET = empty(
    "The contents of the file are shown here",
    "Usable pairs, rejected rows with the reason, duplicates, and the split. Nothing is stored until you create the "
    "study.",
)
_ROLES = len(COLUMN_ROLES)
_SHOWN = 9 + _ROLES
"""Number of outputs of :meth:`NewStudyForm._look`."""
_PRIVATE: dict[str, Any] = {"api_visibility": "private"}


class NewStudyForm:
    """Components that create a study from a data file."""

    def __init__(self) -> None:
        self.source, self.origin = gr.State(None), gr.State(None)  # the edited file, and the original
        with gr.Column(visible=False) as self.body:
            with gr.Row():
                with gr.Column(scale=4, min_width=300):
                    self.upload = DataSource()
                with gr.Column(scale=7, min_width=300):
                    self.found = gr.HTML(NOTHING_YET, elem_id="ab-found")
                    self.split = gr.HTML(elem_id="ab-split")
            self.rejected = gr.HTML(elem_id="ab-rejected")
            with gr.Row(elem_classes="ab-actions"):
                self.left_out = gr.DownloadButton("Download the rows left out", size="sm", visible=False,
                                                  elem_id="ab-left-out")
            self.editor = RowEditor()
            self.seen = TemplatePreview("ab-preview")

    # events

    def wire(self, picker: gr.Dropdown, tabs: gr.Tabs, revise: gr.Button) -> None:
        """Connect the events; the button ``revise`` loads the data of the selected study for a new one."""
        upload, editor, seen = self.upload, self.editor, self.seen
        roles, form = list(upload.roles.values()), upload.form.inputs
        shown = [upload.brief, self.found, self.split, self.rejected, self.left_out, upload.mapping, upload.naming,
                 editor.body, upload.add_pasted, *roles]
        new = [self.source, self.origin, upload.name, upload.message, editor.message, *shown]
        looked: dict[str, Any] = {**_PRIVATE, "show_progress_on": self.found}
        settled: dict[str, Any] = {**_PRIVATE, "show_progress": "hidden", "trigger_mode": "always_last"}
        edit = [self.source, editor.held, editor.table, *roles, *form]  # the data and the table's unsaved edits
        checked = [self.source, editor.message, *shown]
        view = [self.source, seen.rows, *roles, *form]
        events = [
            upload.file.upload(self._load_file, [upload.file, *form], new, **looked),
            upload.file.clear(self._clear, None, new, show_progress="hidden", **_PRIVATE),
            upload.try_example.click(self._load_example, [upload.example, *form], [upload.file, *new], **looked),
            upload.use_pasted.click(self._load_pasted, [upload.pasted, *form], [upload.paste_note, upload.file, *new],
                                    **looked),
            upload.add_pasted.click(self._add_pasted, [upload.pasted, *edit], [upload.paste_note, self.source, *shown],
                                    **looked),
            revise.click(self._revise, picker, [picker, *form, upload.file, *new], **_PRIVATE),
            # A choice made while another one is being processed must not be dropped or overwritten by its result.
            gr.on([role.input for role in roles], self._remap, edit, [self.source, *shown[:-_ROLES]],
                  trigger_mode="always_last", **looked),
            editor.check.click(self._recheck, edit, checked, **looked),
            editor.undo.click(self._undo, [self.origin, *roles, *form], checked, **looked),
        ]
        for event in events:
            event.then(self._first_rows, [self.source, *roles], editor.outputs, **settled).then(
                self._model_view, view, seen.outputs, **settled)
        # Edits are checked before other rows are shown, so that they are not lost.
        gr.on([editor.which.input, editor.search.submit], partial(self._recheck, requested=False), edit, checked,
              **settled).then(self._rows, [self.source, editor.which, editor.search, *roles], editor.outputs, **settled)
        gr.on([component.change for component in form], self._split, [self.source, *roles, *form], self.split,
              **settled).then(self._model_view, view, seen.outputs, **settled)
        seen.rows.input(self._model_view, view, seen.outputs, **settled)
        upload.create.click(self._create, [upload.name, *edit], [picker, tabs, upload.message],
                           show_progress_on=upload.message, **_PRIVATE)

    # adding data

    @user_facing_errors
    def _load_file(self, path: str | None, *form: Any) -> list[Any]:
        return self._new(Path(path), form) if path else self._clear()

    @user_facing_errors
    def _load_example(self, name: str, *form: Any) -> list[Any]:
        found = next((shipped.file for shipped in self.upload.shipped if shipped.name == name), None)
        if found is None:
            raise DataError(f"no shipped dataset {name!r}", remedy="Upload a file instead")
        return [None, *self._new(found, form)]

    @user_facing_errors
    def _load_pasted(self, text: str, *form: Any) -> list[Any]:
        try:
            path, note = write_pasted(text, new_folder(), name="pasted-pairs")
        except DataError as error:
            return [error_callout(error.to_record()), *[gr.skip()] * (1 + 5 + _SHOWN)]
        return [callout("info", note), None, *self._new(path, form)]

    @user_facing_errors
    def _add_pasted(self, text: str, source: str | None, held: str, lines: Sequence[Sequence[Any]],
                    *shown: Any) -> list[Any]:
        columns = column_mapping(shown[:_ROLES])
        try:
            path, note = write_pasted(text, new_folder())
            pasted = load_pairs(path)
            if source is None or not pasted.pairs:
                raise DataError("the pasted text contains no pair", remedy="Paste question and answer")
            base, _ = edited_file(Path(source), columns, held, lines)
            target = new_folder() / f"{base.name.split('.')[0]}.jsonl"
            append_pairs(base, [(pair.question, pair.answer) for pair in pasted.pairs], target, columns)
        except DataError as error:
            return [error_callout(error.to_record()), *[gr.skip()] * (1 + _SHOWN)]
        lost = "; ".join(f"line {entry.row}: {entry.reason}" for entry in pasted.rejected[:5])
        message = callout(
            "warn" if lost else "good", f"{len(pasted.pairs)} pairs were added at the end",
            f"{note} {len(pasted.rejected)} could not be read and were not added ({lost})." if lost else note,
        )
        return [message, str(target), *self._look(str(target), *shown)]

    @user_facing_errors
    def _revise(self, name: str | None) -> list[Any]:
        study = Study.open(name or "")
        if study.source is None:
            raise DataError("the data file is not in the study's folder", remedy="Upload it again under New study")
        config = study.config
        form = self.upload.form.values(config)
        return [None, *form, None, *self._new(study.source, form, name, mapped_roles(config.data.columns))]

    def _new(self, path: Path, form: Sequence[Any], name: str | None = None,
             mapped: Sequence[str] = (AUTOMATIC,) * _ROLES) -> list[Any]:
        """All outputs of new data, from ``source`` to the column mapping."""
        place = str(path)
        return [place, place, unused_name(name or path.name.split(".")[0]), "", "", *self._look(place, *mapped, *form)]

    def _clear(self) -> list[Any]:
        hidden = gr.update(visible=False)
        return [None, None, "", "", "", "", NOTHING_YET, "", "", *[hidden] * 5, *[gr.skip()] * _ROLES]

    # showing data

    def _look(self, path: str | None, *shown: Any) -> list[Any]:
        """Outputs for a file with the mapped columns; the mapping is opened if the columns are the problem."""
        if not path:
            return self._clear()[5:]
        mapped, form = shown[:_ROLES], shown[_ROLES:]
        columns = column_mapping(mapped)
        seen = inspect_file(Path(path), columns)
        roles = []
        for role, value in zip(COLUMN_ROLES, mapped, strict=True):
            found = seen.findings.dataset.columns.get(role) if seen.findings else None
            automatic = (f"{AUTOMATIC}  {found}" if found else AUTOMATIC, AUTOMATIC)
            choices = [automatic, *((name, name) for name in (UNUSED, *seen.columns))]
            roles.append(gr.update(choices=choices, value=value))
        changed = any(value != AUTOMATIC for value in mapped)
        opened = gr.update(visible=bool(seen.columns), open=seen.findings is None or changed)
        hidden, readable = gr.update(visible=False), gr.update(visible=True)
        if seen.findings is None:
            view = unreadable_view(seen.error or {"what": "the file cannot be read"}, seen.columns, seen.peek)
            return [brief_view(None), view, "", "", hidden, opened, hidden, hidden, hidden, *roles]
        findings, record = seen.findings, seen.findings.to_record()
        csv = left_out_download(Path(path), columns, Path(path).name.split(".")[0])
        return [brief_view(record), card(f"Findings in {Path(path).name}", findings_view(record)),
                self._split_of(seen, form), rejected_view(findings.left_out, findings.dataset.rows),
                gr.update(value=csv, visible=csv is not None), opened, gr.update(visible=findings.can_start()),
                readable, readable, *roles]

    @user_facing_errors
    def _remap(self, path: str | None, held: str, lines: Sequence[Sequence[Any]], *shown: Any) -> list[Any]:
        if path:
            path = str(edited_file(Path(path), column_mapping(shown[:_ROLES]), held, lines)[0])
        return [path, *self._look(path, *shown)[:-_ROLES]]

    def _split(self, path: str | None, *shown: Any) -> Any:
        if not path:
            return gr.skip()
        return self._split_of(inspect_file(Path(path), column_mapping(shown[:_ROLES])), shown[_ROLES:])

    def _split_of(self, seen: Inspection, form: Sequence[Any]) -> Markup | str:
        if seen.findings is None or not seen.findings.can_start():
            return ""
        try:
            config = self.upload.form.read(form, StudyConfig()).data
        except AssistantBuilderError as error:
            return error_callout(error.to_record())
        split = preview_split(seen.findings, config)
        if isinstance(split, dict):
            return error_callout(split)
        record = split.to_record()
        return (card("Split", split_view(record, heldout_power(record)))
                + leaks_view(record["leaks"], record["leaks_removed"]))

    @user_facing_errors
    def _model_view(self, path: str | None, rows: int, *shown: Any) -> list[Any]:
        try:
            config = self.upload.form.read(shown[_ROLES:], StudyConfig())
        except AssistantBuilderError:  # the split shows this error
            return [gr.skip()] * 3
        data = config.data.model_copy(update={"columns": column_mapping(shown[:_ROLES])})
        config = config.model_copy(update={"data": data})
        text, lengths = template_preview(Path(path), config, rows) if path else (Markup(""), Markup(""))
        return [gr.update(visible=bool(text)), text, lengths]

    # editing data

    @user_facing_errors
    def _first_rows(self, path: str | None, *mapped: Any) -> list[Any]:
        return self._rows(path, None, "", *mapped)

    @user_facing_errors
    def _rows(self, path: str | None, which: Any, search: str, *mapped: Any) -> list[Any]:
        return self.editor.values(path, column_mapping(mapped), which, search)

    @user_facing_errors
    def _recheck(self, path: str | None, held: str, lines: Sequence[Sequence[Any]], *shown: Any,
                 requested: bool = True) -> list[Any]:
        edits = None
        if path:
            edited, edits = edited_file(Path(path), column_mapping(shown[:_ROLES]), held, lines)
        if not edits:
            message = callout("info", "No cell was changed") if requested else gr.skip()
            return [gr.skip(), message, *[gr.skip()] * _SHOWN]
        done = callout("good", f"Checked again: {edits_summary(edits)}", "The findings above include the edits.")
        return [str(edited), done, *self._look(str(edited), *shown)]

    @user_facing_errors
    def _undo(self, origin: str | None, *shown: Any) -> list[Any]:
        if not origin:
            return [gr.skip()] * (2 + _SHOWN)
        return [origin, callout("info", "All edits were undone"), *self._look(origin, *shown)]

    # creating a study

    @user_facing_errors
    def _create(self, name: str, path: str | None, held: str, lines: Sequence[Sequence[Any]], *shown: Any) -> list[Any]:
        if not path:
            raise DataError("there is no data file yet", remedy="Upload one, or try the example")
        columns = column_mapping(shown[:_ROLES])
        try:
            source, edits = edited_file(Path(path), columns, held, lines)
            if edits and not (findings := inspect_file(source, columns).findings):
                raise DataError("the edited rows cannot be read", remedy="Press “Check again” to see why")
            if edits and findings:
                findings.require_start()
            tree = self.upload.form.read(shown[_ROLES:], StudyConfig()).model_dump(mode="json")
            tree["name"] = name.strip()
            tree["data"] |= {"source": source.name, "columns": columns}
            study = Study.create(parse_config(tree, where="settings"), source)
        except AssistantBuilderError as error:
            return [gr.skip(), gr.skip(), error_callout(error.to_record())]
        return [gr.update(choices=[study.name], value=study.name), gr.Tabs(selected="plan"), ""]
