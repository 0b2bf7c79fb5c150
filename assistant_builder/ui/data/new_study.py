"""The part of the Data tab with which data is brought: a file, the example, or pasted pairs; columns, name, split.

The part of the Data tab that shows rows as the model will see them, and how long the pairs are.

The half of the Data tab that makes a study: bring pairs, see what they hold, mend them, name the columns.
"""

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
    free_name,
    inspect_file,
    power_of,
    preview_split,
    seen_by_model,
    shipped_datasets,
)
from assistant_builder.ui.data.row_editor import RowEditor, edited_file, left_out_download
from assistant_builder.ui.data.row_editor import told as edits_told
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


ROWS = (1, 3, 10)


class ModelView:
    """Components; :func:`~assistant_builder.ui.data.preview.seen_by_model` fills them.

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


NOTHING_YET = empty(
    "What the file holds is shown here",
    "Every usable pair, every rejected row with its reason, duplicates, and how the pairs would be split. Nothing is "
    "stored until you create the study.",
)
_ROLES = len(COLUMN_ROLES)
_SHOWN = 9 + _ROLES
"""Outputs of a look at the data."""
_PRIVATE: dict[str, Any] = {"api_visibility": "private"}


class NewData:
    """Components for data that no study has yet."""

    def __init__(self) -> None:
        self.source, self.origin = gr.State(None), gr.State(None)  # the file as edited, and as it was brought
        with gr.Column(visible=False) as self.body:
            with gr.Row():
                with gr.Column(scale=4, min_width=300):
                    self.bring = DataSource()
                with gr.Column(scale=7, min_width=300):
                    self.found = gr.HTML(NOTHING_YET, elem_id="ab-found")
                    self.split = gr.HTML(elem_id="ab-split")
            self.rejected = gr.HTML(elem_id="ab-rejected")
            with gr.Row(elem_classes="ab-actions"):
                self.left_out = gr.DownloadButton(
                    "Download the rows left out", size="sm", visible=False, elem_id="ab-left-out"
                )
            self.editor = RowEditor()
            self.seen = ModelView("ab-preview")

    # events

    def wire(self, picker: gr.Dropdown, tabs: gr.Tabs, revise: gr.Button) -> None:
        """Connect the components.

        Args:
            picker: Holds the name of the chosen study; set once a study is made.
            tabs: Moves on to training then.
            revise: Asks for the data of the chosen study as the beginning of a new one.
        """
        bring, editor, seen = self.bring, self.editor, self.seen
        roles, form = list(bring.roles.values()), bring.form.inputs
        shown = [bring.brief, self.found, self.split, self.rejected, self.left_out, bring.mapping, bring.naming,
                 editor.body, bring.add_pasted, *roles]
        new = [self.source, self.origin, bring.name, bring.message, editor.message, *shown]
        looked: dict[str, Any] = {**_PRIVATE, "show_progress_on": self.found}
        settled: dict[str, Any] = {**_PRIVATE, "show_progress": "hidden", "trigger_mode": "always_last"}
        edit = [self.source, editor.held, editor.table, *roles, *form]  # the data with what was typed into the table
        events = [
            bring.file.upload(user_facing_errors(self._bring_file), [bring.file, *form], new, **looked),
            bring.file.clear(self._forget, None, new, show_progress="hidden", **_PRIVATE),
            bring.try_example.click(user_facing_errors(self._bring_example), [bring.example, *form], [bring.file, *new], **looked),
            bring.use_pasted.click(
                user_facing_errors(self._bring_pasted), [bring.pasted, *form], [bring.paste_note, bring.file, *new], **looked
            ),
            bring.add_pasted.click(
                user_facing_errors(self._add_pasted), [bring.pasted, *edit],
                [bring.paste_note, self.source, *shown], **looked,
            ),
            revise.click(user_facing_errors(self._revise), picker, [picker, *form, bring.file, *new], **_PRIVATE),
            # A second choice made while the first is looked at must neither be dropped nor put back by its answer.
            gr.on([role.input for role in roles], user_facing_errors(self._remap), edit, [self.source, *shown[:-_ROLES]],
                  trigger_mode="always_last", **looked),
            editor.check.click(user_facing_errors(self._recheck), edit, [self.source, editor.message, *shown], **looked),
            editor.undo.click(user_facing_errors(self._undo), [self.origin, *roles, *form],
                              [self.source, editor.message, *shown], **looked),
        ]
        for event in events:
            event.then(user_facing_errors(self._first_rows), [self.source, *roles], editor.outputs, **settled).then(
                user_facing_errors(self._model_view), [self.source, seen.rows, *roles, *form], seen.outputs, **settled
            )
        # What was edited is checked before other rows are shown, so that nothing is lost by looking around.
        gr.on([editor.which.input, editor.search.submit], user_facing_errors(partial(self._recheck, asked=False)), edit,
              [self.source, editor.message, *shown], **settled).then(
            user_facing_errors(self._other_rows), [self.source, editor.which, editor.search, *roles], editor.outputs, **settled
        )
        gr.on([component.change for component in form], self._split, [self.source, *roles, *form], self.split,
              **settled).then(
            user_facing_errors(self._model_view), [self.source, seen.rows, *roles, *form], seen.outputs, **settled
        )
        seen.rows.input(user_facing_errors(self._model_view), [self.source, seen.rows, *roles, *form], seen.outputs, **settled)
        bring.create.click(user_facing_errors(self._create), [bring.name, *edit], [picker, tabs, bring.message],
                           show_progress_on=bring.message, **_PRIVATE)

    # bringing data

    def _bring_file(self, path: str | None, *form: Any) -> list[Any]:
        if not path:
            return self._forget()
        return self._new(Path(path), form)

    def _bring_example(self, name: str, *form: Any) -> list[Any]:
        return [None, *self._new(self.bring.example_file(name), form)]

    def _bring_pasted(self, text: str, *form: Any) -> list[Any]:
        try:
            path, note = write_pasted(text, new_folder(), name="pasted-pairs")
        except DataError as error:
            return [error_callout(error.to_record()), *[gr.skip()] * (1 + 5 + _SHOWN)]
        return [callout("info", note), None, *self._new(path, form)]

    def _add_pasted(
        self, text: str, source: str | None, held: str, lines: Sequence[Sequence[Any]], *shown: Any
    ) -> list[Any]:
        columns = column_mapping(shown[:_ROLES])
        try:
            path, note = write_pasted(text, new_folder())
            brought = load_pairs(path)
            if source is None or not brought.pairs:
                raise DataError("no pair could be read from what was pasted", remedy="Paste question and answer")
            base, _ = edited_file(Path(source), columns, held, lines)
            target = new_folder() / f"{base.name.split('.')[0]}.jsonl"
            append_pairs(base, [(pair.question, pair.answer) for pair in brought.pairs], target, columns)
        except DataError as error:
            return [error_callout(error.to_record()), *[gr.skip()] * (1 + _SHOWN)]
        lost = "; ".join(f"line {entry.row}: {entry.reason}" for entry in brought.rejected[:5])
        said = callout(
            "warn" if lost else "good", f"{len(brought.pairs)} pairs were added at the end",
            f"{note} {len(brought.rejected)} could not be read and were not added ({lost})." if lost else note,
        )
        return [said, str(target), *self._look(str(target), *shown)]

    def _revise(self, name: str | None) -> list[Any]:
        study = Study.open(name or "")
        if study.source is None:
            raise DataError("the data file is not in the study's folder", remedy="Upload it anew under New study")
        config = study.config
        form = self.bring.form.values(config)
        return [None, *form, None, *self._new(study.source, form, name, mapped_roles(config.data.columns))]

    def _new(
        self, path: Path, form: Sequence[Any], name: str | None = None, mapped: Sequence[str] = (AUTOMATIC,) * _ROLES
    ) -> list[Any]:
        """Everything that new data sets, from ``source`` to the columns."""
        place = str(path)
        return [place, place, free_name(name or path.name.split(".")[0]), "", "", *self._look(place, *mapped, *form)]

    def _forget(self) -> list[Any]:
        hidden = gr.update(visible=False)
        return [None, None, "", "", "", "", NOTHING_YET, "", "", *[hidden] * 5, *[gr.skip()] * _ROLES]

    # looking at it

    def _look(self, path: str | None, *shown: Any) -> list[Any]:
        """What the file gives, with the columns as mapped; the mapping is opened when the columns are the problem."""
        if not path:
            return self._forget()[5:]
        mapped, form = shown[:_ROLES], shown[_ROLES:]
        columns = column_mapping(mapped)
        seen = inspect_file(Path(path), columns)
        roles = [
            gr.update(choices=role_choices(seen, role), value=value)
            for role, value in zip(COLUMN_ROLES, mapped, strict=True)
        ]
        said = any(value != AUTOMATIC for value in mapped)
        opened = gr.update(visible=bool(seen.columns), open=seen.findings is None or said)
        hidden, readable = gr.update(visible=False), gr.update(visible=True)
        if seen.findings is None:
            view = unreadable_view(seen.error or {"what": "the file cannot be read"}, seen.columns, seen.peek)
            return [brief_view(None), view, "", "", hidden, opened, hidden, hidden, hidden, *roles]
        findings = seen.findings
        csv = left_out_download(Path(path), columns, Path(path).name.split(".")[0])
        record = findings.to_record()
        return [
            brief_view(record),
            card(f"What was found in {Path(path).name}", findings_view(record)),
            self._split_of(seen, form),
            rejected_view(findings.left_out, findings.dataset.rows),
            gr.update(value=csv, visible=csv is not None),
            opened,
            gr.update(visible=findings.can_start()),
            readable,
            readable,
            *roles,
        ]

    def _remap(
        self, path: str | None, held: str, lines: Sequence[Sequence[Any]], *shown: Any
    ) -> list[Any]:
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
            config = self.bring.form.read(form, StudyConfig()).data
        except AssistantBuilderError as error:
            return error_callout(error.to_record())
        split = preview_split(seen.findings, config)
        if isinstance(split, dict):
            return error_callout(split)
        record = split.to_record()
        shown = card("How it would be split", split_view(record, power_of(record)))
        return shown + leaks_view(record["leaks"], record["leaks_removed"])

    def _model_view(self, path: str | None, rows: int, *shown: Any) -> list[Any]:
        try:
            config = self.bring.form.read(shown[_ROLES:], StudyConfig())
        except AssistantBuilderError:  # said where the split is shown
            return [gr.skip()] * 3
        config = config.model_copy(
            update={"data": config.data.model_copy(update={"columns": column_mapping(shown[:_ROLES])})}
        )
        text, lengths = seen_by_model(Path(path), config, rows) if path else (Markup(""), Markup(""))
        return [gr.update(visible=bool(text)), text, lengths]

    # editing it

    def _first_rows(self, path: str | None, *mapped: Any) -> list[Any]:
        return self.editor.values(path, column_mapping(mapped), None, "")

    def _other_rows(self, path: str | None, which: Any, search: str, *mapped: Any) -> list[Any]:
        return self.editor.values(path, column_mapping(mapped), which, search)

    def _recheck(
        self, path: str | None, held: str, lines: Sequence[Sequence[Any]], *shown: Any, asked: bool = True
    ) -> list[Any]:
        said = callout("info", "No cell was changed") if asked else gr.skip()
        unchanged = [gr.skip(), said, *[gr.skip()] * _SHOWN]
        if not path:
            return unchanged
        edited, edits = edited_file(Path(path), column_mapping(shown[:_ROLES]), held, lines)
        if not edits:
            return unchanged
        done = callout("good", f"Checked again: {edits_told(edits)}", "What was found above is of the edited rows.")
        return [str(edited), done, *self._look(str(edited), *shown)]

    def _undo(self, origin: str | None, *shown: Any) -> list[Any]:
        if not origin:
            return [gr.skip()] * (2 + _SHOWN)
        return [origin, callout("info", "The data is as you brought it"), *self._look(origin, *shown)]

    # making a study

    def _create(
        self, name: str, path: str | None, held: str, lines: Sequence[Sequence[Any]], *shown: Any
    ) -> list[Any]:
        if not path:
            raise DataError("there is no data file yet", remedy="Upload one, or try the example")
        columns = column_mapping(shown[:_ROLES])
        try:
            source, edits = edited_file(Path(path), columns, held, lines)
            if edits and not (findings := inspect_file(source, columns).findings):
                raise DataError("the rows as edited cannot be read", remedy="Press “Check again” to see why")
            if edits and findings:
                findings.require_start()
            tree = self.bring.form.read(shown[_ROLES:], StudyConfig()).model_dump(mode="json")
            tree["name"] = name.strip()
            tree["data"] |= {"source": source.name, "columns": columns}
            study = Study.create(parse_config(tree, where="settings"), source)
        except AssistantBuilderError as error:
            return [gr.skip(), gr.skip(), error_callout(error.to_record())]
        return [gr.update(choices=[study.name], value=study.name), gr.Tabs(selected="plan"), ""]
