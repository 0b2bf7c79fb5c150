"""The part of the Data tab that creates a study: upload or paste pairs, check and edit them, map columns, name it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from assistant_builder.config import StudyConfig, parse_config
from assistant_builder.data import Findings, load_pairs
from assistant_builder.data.edit import AddedPair, append_pairs, write_pasted
from assistant_builder.data.wordings import add_wordings, count_wordings
from assistant_builder.errors import AssistantBuilderError, DataError
from assistant_builder.i18n import N_, t, tn
from assistant_builder.study import Study
from assistant_builder.ui.data.columns import (
    MAX_COLUMNS,
    UNUSED,
    ColumnHeader,
    choose_roles,
    shown_columns,
)
from assistant_builder.ui.data.preview import (
    Inspection,
    heldout_power,
    inspect_file,
    preview_split,
    shipped_datasets,
    template_preview,
    unused_name,
    unused_title,
)
from assistant_builder.ui.data.row_editor import (
    RowEditor,
    edited_file,
    edits_summary,
    left_out_download,
)
from assistant_builder.ui.data.view import (
    brief_view,
    findings_view,
    leaks_view,
    rejected_view,
    split_view,
    unreadable_view,
)
from assistant_builder.ui.data.wordings import (
    WordingsForm,
    accepted_wordings,
    once_view,
    wording_lines,
)
from assistant_builder.ui.html import Markup, callout, card, empty, error_callout, heading
from assistant_builder.ui.refresh import user_facing_errors
from assistant_builder.ui.settings_form import OptionForm, keys_of
from assistant_builder.ui.study_snapshot import picker_label
from assistant_builder.ui.uploads import new_folder

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
        self.shipped = shipped_datasets()
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
            self.example = gr.Dropdown(
                [(shipped.title, shipped.name) for shipped in self.shipped],
                label=t("No file yet?"),
                value=self.shipped[0].name if self.shipped else None,
                interactive=True,
                filterable=False,
                visible=bool(self.shipped),
            )
            self.try_example = gr.Button(
                t("Try the example"), visible=bool(self.shipped), elem_id="ab-example"
            )
        with gr.Group(visible=False, elem_classes="ab-group") as self.naming:
            gr.HTML(heading(t("2 · Name and split")))
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
            self.form.show(["data.system"])
            with gr.Accordion(t("Test and split"), open=False):
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
            with gr.Row(elem_classes="ab-actions"):
                self.use_pasted = gr.Button(t("Use these pairs"), size="sm", elem_id="ab-paste-use")
                self.add_pasted = gr.Button(
                    t("Add them to the data below"),
                    size="sm",
                    visible=False,
                    elem_id="ab-paste-add",
                )
            self.paste_note = gr.HTML(elem_id="ab-paste-note")


def system_prompt(called: str, whom: str, before: str) -> str:
    """The system prompt for a name and an audience; ``before`` is kept if a person wrote it or nothing is given."""
    called, whom = called.strip(), whom.strip().rstrip(".")
    start = t("You are {name}.", name="\0").partition("\0")[0]
    if not (called or whom) or before.strip() and not before.startswith(start):
        return before
    asked = t("You answer questions of {whom}.", whom=whom) if whom else t("You answer questions.")
    return " ".join((t("You are {name}.", name=called or t("an assistant")), asked))


ROWS = (1, 3, 10)


class TemplatePreview:
    """Components that ``template_preview`` fills; ``place`` is the prefix of their element ids."""

    def __init__(self, place: str) -> None:
        with gr.Column(visible=False, elem_classes="ab-modelview") as self.body:
            self.rows = gr.Radio(
                [(tn("{count} row", "{count} rows", number), number) for number in ROWS],
                value=ROWS[1],
                label=t("Rows to show"),
                elem_id=f"{place}-rows",
                elem_classes="ab-inline",
            )
            self.shown = gr.HTML(elem_id=place)
            self.lengths = gr.HTML(elem_id=f"{place}-lengths")

    @property
    def outputs(self) -> list[gr.components.Component | gr.Column]:
        """Outputs of an event: visibility, rows, lengths."""
        return [self.body, self.shown, self.lengths]


def nothing_yet() -> Markup:
    """The place of the findings before there is a file."""
    return empty(
        t("The contents of the file are shown here"),
        t(
            "Usable pairs, rejected rows with the reason, duplicates, and the split. Nothing is stored until you "
            "create "
            "the project."
        ),
    )


_SHOWN = 13 + 2 + 3 * MAX_COLUMNS
"""Number of outputs of :meth:`NewStudyForm._look`."""
_HEADER = 2 + 3 * MAX_COLUMNS
_PRIVATE: dict[str, Any] = {"api_visibility": "private"}


class NewStudyForm:
    """Components that create a study from a data file."""

    def __init__(self) -> None:
        self.source, self.origin = (
            gr.State(None),
            gr.State(None),
        )  # the edited file, and the original
        self.mapping = gr.State({})  # role → column, as in data.columns
        self.base = gr.State(None)  # study whose settings the new one takes over
        with gr.Column(visible=False) as self.body:
            with gr.Row():
                with gr.Column(scale=4, min_width=300):
                    self.upload = DataSource()
                with gr.Column(scale=7, min_width=300):
                    self.header = ColumnHeader()
                    self.once = gr.HTML(elem_id="ab-once")
                    self.wordings = WordingsForm()
                    self.found = gr.HTML(nothing_yet(), elem_id="ab-found")
                    self.split = gr.HTML(elem_id="ab-split")
            self.rejected = gr.HTML(elem_id="ab-rejected")
            with gr.Row(elem_classes="ab-actions"):
                self.left_out = gr.DownloadButton(
                    t("Download the rows left out"), size="sm", visible=False, elem_id="ab-left-out"
                )
            self.editor = RowEditor()
            self.seen = TemplatePreview("ab-preview")

    # events

    def wire(self, picker: gr.Dropdown, tabs: gr.Tabs, revise: gr.Button) -> None:
        """Connect the events; the button ``revise`` loads the data of the selected study for a new one."""
        upload, editor, seen, extra = self.upload, self.editor, self.seen, self.wordings
        mapping, form = self.mapping, upload.form.inputs
        shown = [
            upload.brief,
            self.found,
            self.split,
            self.rejected,
            self.left_out,
            upload.naming,
            editor.body,
            upload.add_pasted,
            self.once,
            extra.body,
            extra.table,
            extra.message,
            mapping,
            *self.header.outputs,
        ]
        new = [
            self.source,
            self.origin,
            self.base,
            upload.name,
            upload.message,
            editor.message,
            *shown,
        ]
        looked: dict[str, Any] = {**_PRIVATE, "show_progress_on": self.found}
        settled: dict[str, Any] = {
            **_PRIVATE,
            "show_progress": "hidden",
            "trigger_mode": "always_last",
        }
        edit = [
            self.source,
            editor.held,
            editor.table,
            mapping,
            *form,
        ]  # the data and the table's unsaved edits
        checked = [self.source, editor.message, *shown]
        view = [self.source, seen.rows, mapping, *form]
        events = [
            upload.file.upload(self._load_file, [upload.file, *form], new, **looked),
            upload.file.clear(self._clear, None, new, show_progress="hidden", **_PRIVATE),
            upload.try_example.click(
                self._load_example, [upload.example, *form], [upload.file, *new], **looked
            ),
            upload.use_pasted.click(
                self._load_pasted,
                [upload.pasted, *form],
                [upload.paste_note, upload.file, *new],
                **looked,
            ),
            upload.add_pasted.click(
                self._add_pasted,
                [upload.pasted, *edit],
                [upload.paste_note, self.source, *shown],
                **looked,
            ),
            revise.click(self._revise, picker, [picker, *form, upload.file, *new], **_PRIVATE),
            # A choice made while another one is being processed must not be dropped or overwritten by its result.
            gr.on(
                [role.input for role in self.header.roles],
                self._remap,
                [*self.header.roles, *edit],
                [self.source, *shown],
                trigger_mode="always_last",
                **looked,
            ),
            editor.check.click(self._recheck, edit, checked, **looked),
            editor.undo.click(self._undo, [self.origin, mapping, *form], checked, **looked),
            extra.use.click(
                self._use_wordings, [extra.table, *edit], [self.source, *shown], **looked
            ),
        ]
        for event in events:
            event.then(self._first_rows, [self.source, mapping], editor.outputs, **settled).then(
                self._model_view, view, seen.outputs, **settled
            )
        # Edits are checked before other rows are shown, so that they are not lost.
        gr.on(
            [editor.which.input, editor.search.submit],
            partial(self._recheck, requested=False),
            edit,
            checked,
            **settled,
        ).then(
            self._rows,
            [self.source, editor.which, editor.search, mapping],
            editor.outputs,
            **settled,
        )
        gr.on(
            [component.change for component in form],
            self._split,
            [self.source, mapping, *form],
            [self.split, self.once],
            **settled,
        ).then(self._model_view, view, seen.outputs, **settled)
        seen.rows.input(self._model_view, view, seen.outputs, **settled)
        system = upload.form.components["data.system"]
        gr.on(
            [upload.called.input, upload.whom.input],
            system_prompt,
            [upload.called, upload.whom, system],
            system,
            **settled,
        )
        told = [extra.message, extra.table]
        on_table: dict[str, Any] = {**_PRIVATE, "show_progress_on": extra.message}
        extra.use_pasted.click(self._match, [self.source, mapping, extra.pasted], told, **on_table)
        extra.file.upload(self._match_file, [self.source, mapping, extra.file], told, **on_table)
        drafting = extra.draft.click(
            self._draft,
            [self.source, mapping, self.base, extra.by, extra.url, extra.model, extra.number],
            told,
            **on_table,
        )
        extra.stop.click(None, None, None, cancels=[drafting])
        upload.create.click(
            self._create,
            [upload.name, self.base, *edit],
            [picker, tabs, upload.message],
            show_progress_on=upload.message,
            **_PRIVATE,
        )

    # adding data

    @user_facing_errors
    def _load_file(self, path: str | None, *form: Any) -> list[Any]:
        return self._new(Path(path), form) if path else self._clear()

    @user_facing_errors
    def _load_example(self, name: str, *form: Any) -> list[Any]:
        found = next(
            (shipped.file for shipped in self.upload.shipped if shipped.name == name), None
        )
        if found is None:
            raise DataError(
                t("no shipped dataset {name!r}", name=name), remedy=t("Upload a file instead")
            )
        return [None, *self._new(found, form)]

    @user_facing_errors
    def _load_pasted(self, text: str, *form: Any) -> list[Any]:
        try:
            path, note = write_pasted(text, new_folder(), name="pasted-pairs")
        except DataError as error:
            return [error_callout(error.to_record()), *[gr.skip()] * (1 + 6 + _SHOWN)]
        return [callout("info", note), None, *self._new(path, form)]

    @user_facing_errors
    def _add_pasted(
        self,
        text: str,
        source: str | None,
        held: str,
        lines: Sequence[Sequence[Any]],
        columns: dict[str, str],
        *form: Any,
    ) -> list[Any]:
        try:
            path, note = write_pasted(text, new_folder())
            pasted = load_pairs(path)
            if source is None or not pasted.pairs:
                raise DataError(
                    t("the pasted text contains no pair"), remedy=t("Paste question and answer")
                )
            base, _ = edited_file(Path(source), columns, held, lines)
            target = new_folder() / f"{base.name.split('.')[0]}.jsonl"
            append_pairs(
                base,
                [AddedPair(pair.question, pair.answer) for pair in pasted.pairs],
                target,
                columns,
            )
        except DataError as error:
            return [error_callout(error.to_record()), *[gr.skip()] * (1 + _SHOWN)]
        lost = "; ".join(
            t("line {row}: {reason}", row=entry.row, reason=entry.reason)
            for entry in pasted.rejected[:5]
        )
        message = callout(
            "warn" if lost else "good",
            tn(
                "{count} pair was added at the end",
                "{count} pairs were added at the end",
                len(pasted.pairs),
            ),
            t(
                "{note} {rejected} could not be read and were not added ({lost}).",
                note=note,
                rejected=len(pasted.rejected),
                lost=lost,
            )
            if lost
            else note,
        )
        return [message, str(target), *self._look(str(target), columns, *form)]

    @user_facing_errors
    def _revise(self, name: str | None) -> list[Any]:
        study = Study.open(name or "")
        if study.source is None:
            raise DataError(
                t("the data file is not in the project's folder"),
                remedy=t("Upload it again under New project"),
            )
        config = study.config
        form = self.upload.form.values(config)
        return [
            None,
            *form,
            None,
            *self._new(study.source, form, study.title, config.data.columns, base=study.name),
        ]

    def _new(
        self,
        path: Path,
        form: Sequence[Any],
        title: str = "",
        columns: dict[str, str] | None = None,
        base: str | None = None,
    ) -> list[Any]:
        """All outputs of new data, from ``source`` to the columns."""
        place = str(path)
        if columns is None:
            columns = dict(inspect_file(path, {}).guessed)
        proposed = unused_title(
            title or " ".join(path.name.split(".")[0].replace("_", " ").split()) or "project"
        )
        return [place, place, base, proposed, "", "", *self._look(place, columns, *form)]

    def _clear(self) -> list[Any]:
        hidden = gr.update(visible=False)
        return [
            None,
            None,
            None,
            "",
            "",
            "",
            "",
            nothing_yet(),
            "",
            "",
            *[hidden] * 4,
            "",
            hidden,
            gr.skip(),
            "",
            {},
            *self.header.values(None),
        ]

    # showing data

    def _look(self, path: str | None, columns: dict[str, str], *form: Any) -> list[Any]:
        """Outputs for a file with the mapped columns."""
        if not path:
            return self._clear()[6:]
        seen = inspect_file(Path(path), columns)
        first = inspect_file(Path(path), {})
        guess = first.guessed if dict(first.guessed) == columns else {}
        header = self.header.values(replace(seen, guessed=guess))
        hidden, readable = gr.update(visible=False), gr.update(visible=True)
        if seen.findings is None:
            view = unreadable_view(
                seen.error or {"what": t("the file cannot be read")}, seen.columns
            )
            return [
                brief_view(None),
                view,
                "",
                "",
                *[hidden] * 4,
                "",
                hidden,
                gr.skip(),
                "",
                columns,
                *header,
            ]
        findings, record = seen.findings, seen.findings.to_record()
        csv = left_out_download(Path(path), columns, Path(path).name.split(".")[0])
        split, once = self._split_of(seen, form)
        return [
            brief_view(record),
            card(t("Findings in {name}", name=Path(path).name), findings_view(record)),
            split,
            rejected_view(findings.left_out, findings.dataset.rows, findings.dataset.numbers),
            gr.update(value=csv, visible=csv is not None),
            gr.update(visible=findings.can_start()),
            readable,
            readable,
            once,
            gr.update(visible=True, open=bool(once)),
            wording_lines(findings, [], accepted=True),
            "",
            columns,
            *header,
        ]

    @user_facing_errors
    def _remap(self, event: gr.EventData, *shown: Any) -> list[Any]:
        values, (path, held, lines, columns, *form) = shown[:MAX_COLUMNS], shown[MAX_COLUMNS:]
        if not path:
            return [gr.skip()] * (1 + _SHOWN)
        seen = inspect_file(Path(path), columns)
        names = shown_columns(seen.columns, seen.roles)
        latest = next(
            (place for place, role in enumerate(self.header.roles) if role._id == event.target._id),
            0,
        )
        chosen, cleared = choose_roles(seen.columns, names, values[: len(names)], latest)
        path = str(edited_file(Path(path), columns, held, lines)[0])
        header = [
            gr.update(value=UNUSED) if place in cleared else gr.skip()
            for place in range(MAX_COLUMNS)
        ]
        looked = self._look(path, chosen, *form)[:-_HEADER]
        note = self.header.values(inspect_file(Path(path), chosen))[1]
        return [
            path,
            *looked,
            gr.skip(),
            note,
            *[gr.skip()] * MAX_COLUMNS,
            *header,
            *[gr.skip()] * MAX_COLUMNS,
        ]

    def _split(self, path: str | None, columns: dict[str, str], *form: Any) -> list[Any]:
        return (
            list(self._split_of(inspect_file(Path(path), columns), form))
            if path
            else [gr.skip()] * 2
        )

    def _split_of(self, seen: Inspection, form: Sequence[Any]) -> tuple[Markup | str, Markup | str]:
        """The split, and what a test can show where each answer occurs once."""
        if seen.findings is None or not seen.findings.can_start():
            return "", ""
        try:
            config = self.upload.form.read(form, StudyConfig())
        except AssistantBuilderError as error:
            return error_callout(error.to_record()), ""
        split = preview_split(seen.findings, config.data)
        if isinstance(split, dict):
            return error_callout(split), ""
        record = split.to_record()
        leaks = leaks_view(record["leaks"], record["leaks_removed"], seen.findings.dataset.numbers)
        once = once_view(count_wordings(record), config)
        return card(t("Split"), split_view(record, heldout_power(record))) + leaks, once

    @user_facing_errors
    def _model_view(
        self, path: str | None, rows: int, columns: dict[str, str], *form: Any
    ) -> list[Any]:
        try:
            config = self.upload.form.read(form, StudyConfig())
        except AssistantBuilderError:  # the split shows this error
            return [gr.skip()] * 3
        data = config.data.model_copy(update={"columns": columns})
        config = config.model_copy(update={"data": data})
        text, lengths = (
            template_preview(Path(path), config, rows) if path else (Markup(""), Markup(""))
        )
        return [gr.update(visible=bool(text)), text, lengths]

    # editing data

    @user_facing_errors
    def _first_rows(self, path: str | None, columns: dict[str, str]) -> list[Any]:
        return self._rows(path, None, "", columns)

    @user_facing_errors
    def _rows(
        self, path: str | None, which: Any, search: str, columns: dict[str, str]
    ) -> list[Any]:
        return self.editor.values(path, columns, which, search)

    @user_facing_errors
    def _recheck(
        self,
        path: str | None,
        held: str,
        lines: Sequence[Sequence[Any]],
        columns: dict[str, str],
        *form: Any,
        requested: bool = True,
    ) -> list[Any]:
        edits = None
        if path:
            edited, edits = edited_file(Path(path), columns, held, lines)
        if not edits:
            message = callout("info", t("No cell was changed")) if requested else gr.skip()
            return [gr.skip(), message, *[gr.skip()] * _SHOWN]
        done = callout(
            "good",
            t("Checked again: {edits}", edits=edits_summary(edits)),
            t("The findings above include the edits."),
        )
        return [str(edited), done, *self._look(str(edited), columns, *form)]

    @user_facing_errors
    def _undo(self, origin: str | None, columns: dict[str, str], *form: Any) -> list[Any]:
        if not origin:
            return [gr.skip()] * (2 + _SHOWN)
        known = set(
            inspect_file(Path(origin), {}).columns
        )  # added wordings have a column of their own
        columns = {role: name for role, name in columns.items() if not name or name in known}
        return [
            origin,
            callout("info", t("All edits were undone")),
            *self._look(origin, columns, *form),
        ]

    # other wordings

    @user_facing_errors
    def _match(self, path: str | None, columns: dict[str, str], text: str) -> list[Any]:
        return self.wordings.matched(_findings(path, columns), text=text)

    @user_facing_errors
    def _match_file(self, path: str | None, columns: dict[str, str], file: str) -> list[Any]:
        return self.wordings.matched(_findings(path, columns), path=file)

    @user_facing_errors
    def _draft(
        self,
        path: str | None,
        columns: dict[str, str],
        base: str | None,
        by: str,
        url: str,
        model: str,
        number: int,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - gradio requires it
    ) -> list[Any]:
        return self.wordings.drafted(
            _findings(path, columns), base, by, url, model, number, progress
        )

    @user_facing_errors
    def _use_wordings(
        self,
        table: Sequence[Sequence[Any]],
        path: str | None,
        held: str,
        lines: Sequence[Sequence[Any]],
        columns: dict[str, str],
        *form: Any,
    ) -> list[Any]:
        accepted = accepted_wordings(_findings(path, columns), table)
        base, _ = edited_file(Path(path or ""), columns, held, lines)
        target = new_folder() / f"{base.name.split('.')[0]}.jsonl"
        columns = add_wordings(base, accepted, target, columns)
        looked = self._look(str(target), columns, *form)
        looked[_MESSAGE] = callout(
            "good",
            tn("{count} wording was added", "{count} wordings were added", len(accepted)),
            t("They are rows of the data now; “Undo all edits” removes them."),
        )
        return [str(target), *looked]

    # creating a study

    @user_facing_errors
    def _create(
        self,
        given: str,
        base: str | None,
        path: str | None,
        held: str,
        lines: Sequence[Sequence[Any]],
        columns: dict[str, str],
        *form: Any,
    ) -> list[Any]:
        if not path:
            raise DataError(
                t("there is no data file yet"), remedy=t("Upload one, or try the example")
            )
        try:
            source, edits = edited_file(Path(path), columns, held, lines)
            if edits and not (findings := inspect_file(source, columns).findings):
                raise DataError(
                    t("the edited rows cannot be read"), remedy=t("Press “Check again” to see why")
                )
            if edits and findings:
                findings.require_start()
            start = Study.open(base).config if base else StudyConfig()
            config = self.upload.form.read(form, start).named(given)
            if config.title:
                config = config.model_copy(update={"name": unused_name(config.name)})
            tree = config.model_dump(mode="json")
            # without a system prompt a chat template may add its own, which names another assistant
            tree["data"] |= {
                "source": source.name,
                "columns": columns,
                "system": config.data.system
                or (start.data.system if base else system_prompt(config.shown_name, "", "")),
            }
            study = Study.create(parse_config(tree, where="settings"), source)
        except AssistantBuilderError as error:
            return [gr.skip(), gr.skip(), error_callout(error.to_record())]
        label = picker_label(study.title, "queued")
        return [
            gr.update(choices=[(label, study.name)], value=study.name),
            gr.Tabs(selected="train"),
            "",
        ]


_MESSAGE = 11
"""Place of the message about wordings in the outputs of :meth:`NewStudyForm._look`."""


def _findings(path: str | None, columns: dict[str, str]) -> Findings:
    found = inspect_file(Path(path), columns).findings if path else None
    if found is None:
        raise DataError(t("there is no readable data file yet"), remedy=t("Upload one first"))
    return found
