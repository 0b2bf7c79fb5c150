"""The part of the Data tab that creates a study: upload or paste pairs, check and edit them, map columns, name it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from assistant_builder.config import StudyConfig, parse_config
from assistant_builder.data import Findings
from assistant_builder.data.edit import Edits, mark_to_decline, write_pasted
from assistant_builder.data.wordings import add_wordings, count_wordings
from assistant_builder.errors import AssistantBuilderError, DataError
from assistant_builder.i18n import m, t, tn
from assistant_builder.serving.website import Website
from assistant_builder.study import Study
from assistant_builder.ui.data.columns import (
    UNUSED,
    ColumnHeader,
    choose_roles,
    column_note,
    shown_columns,
)
from assistant_builder.ui.data.form import DataSource, final_prompt, system_prompt
from assistant_builder.ui.data.preview import (
    Inspection,
    heldout_power,
    inspect_file,
    preview_split,
    unused_name,
    unused_title,
)
from assistant_builder.ui.data.row_editor import (
    RowEditor,
    edited_copy,
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
)
from assistant_builder.ui.html import Markup, callout, card, empty, error_callout, fragment
from assistant_builder.ui.refresh import QUIET, Updates, Values, chosen_study
from assistant_builder.ui.uploads import new_folder


def nothing_yet() -> Markup:
    """The place of the findings before there is a file."""
    return empty(
        t("The contents of the file are shown here"),
        t(
            "Usable pairs, rejected rows with the reason, duplicates, and the split. Nothing is stored until you "
            "create the project."
        ),
    )


_PRIVATE: dict[str, Any] = {"api_visibility": "private"}


class NewStudyForm:
    """Components that create a study from a data file."""

    def __init__(self) -> None:
        self.source = gr.State(None)  # the edited file
        self.origin = gr.State(None)
        self.mapping = gr.State({})  # role → column, as in data.columns
        self.base = gr.State(None)  # study whose settings the new one takes over
        with gr.Column(visible=False) as self.body:
            with gr.Row():
                with gr.Column(scale=4, min_width=300):
                    self.upload = DataSource()
                with gr.Column(scale=7, min_width=300):
                    self.header = ColumnHeader()
                    self.found = gr.HTML(nothing_yet(), elem_id="ab-found")
                    self.decline = gr.Button(variant="primary", visible=False, elem_id="ab-decline")
                    self.once = gr.HTML(elem_id="ab-once")
                    self.wordings = WordingsForm()
                    self.split = gr.HTML(elem_id="ab-split")
            with gr.Row(elem_classes="ab-actions"):
                self.left_out = gr.DownloadButton(
                    t("Download the rows left out"), size="sm", visible=False, elem_id="ab-left-out"
                )
            self.editor = RowEditor()

    # events

    def wire(self, picker: gr.Dropdown, tabs: gr.Tabs, revise: gr.Button) -> None:
        """Connect the events; the button ``revise`` loads the data of the selected study for a new one."""
        upload, editor, extra = self.upload, self.editor, self.wordings
        inputs = {self.source, self.mapping, *upload.form.inputs}
        edit = {*inputs, editor.held, editor.table}  # with the unsaved edits of the table
        outputs = self._outputs
        looked: dict[str, Any] = {**_PRIVATE, "show_progress_on": self.found}
        settled: dict[str, Any] = {**QUIET, "trigger_mode": "always_last"}
        events = [
            upload.file.upload(self._load_file, {upload.file, *inputs}, outputs, **looked),
            upload.file.clear(self._clear, None, outputs, **QUIET),
            upload.use_pasted.click(self._load_pasted, {upload.pasted, *inputs}, outputs, **looked),
            revise.click(
                partial(self._revise, picker),
                {picker, *inputs},
                [picker, *upload.form.inputs, *outputs],
                **_PRIVATE,
            ),
            # A choice made while another one is being processed must not be dropped or overwritten by its result.
            gr.on(
                [role.input for role in self.header.roles],
                self._remap,
                {*self.header.roles, *edit},
                outputs,
                trigger_mode="always_last",
                **looked,
            ),
            editor.check.click(self._recheck, edit, outputs, **looked),
            editor.undo.click(self._undo, {self.origin, *inputs}, outputs, **looked),
            extra.use.click(self._use_wordings, {extra.table, *edit}, outputs, **looked),
            self.decline.click(self._mark_to_decline, edit, outputs, **looked),
        ]
        for event in events:
            event.then(self._first_rows, {self.source, self.mapping}, editor.outputs, **settled)
        # Edits are checked before other rows are shown, so that they are not lost.
        gr.on(
            [editor.which.input, editor.search.submit],
            partial(self._recheck, requested=False),
            edit,
            outputs,
            **settled,
        ).then(
            self._rows,
            {self.source, self.mapping, editor.which, editor.search},
            editor.outputs,
            **settled,
        )
        gr.on(
            [component.change for component in upload.form.inputs],
            self._split,
            inputs,
            [self.split, self.once],
            **settled,
        )
        system = upload.form.components["data.system"]
        gr.on(
            # with the blur, because gradio drops the first input of a text box, as of a name that is pasted
            [event for box in (upload.called, upload.whom) for event in (box.input, box.blur)],
            system_prompt,
            [upload.called, upload.whom, system],
            system,
            **settled,
        )
        on_table: dict[str, Any] = {**_PRIVATE, "show_progress_on": extra.message}
        table = [extra.message, extra.table]
        data = {self.source, self.mapping}
        extra.use_pasted.click(self._match, {*data, extra.pasted}, table, **on_table)
        extra.file.upload(self._match, {*data, extra.file}, table, **on_table)
        drafting = extra.draft.click(
            self._draft,
            {*data, self.base, extra.by, extra.url, extra.model, extra.number},
            table,
            **on_table,
        )
        extra.stop.click(None, None, None, cancels=[drafting])
        upload.create.click(
            partial(self._create, picker, tabs),
            {upload.name, upload.called, upload.whom, self.base, *edit},
            [picker, tabs, upload.message],
            show_progress_on=upload.message,
            **_PRIVATE,
        )

    @property
    def _outputs(self) -> list[Any]:
        upload, extra = self.upload, self.wordings
        return [
            self.source,
            self.origin,
            self.base,
            self.mapping,
            upload.file,
            upload.brief,
            upload.paste_note,
            upload.naming,
            upload.name,
            upload.message,
            self.found,
            self.decline,
            self.split,
            self.once,
            self.left_out,
            self.editor.body,
            self.editor.message,
            extra.body,
            extra.table,
            extra.message,
            extra.pasted,
            *self.header.outputs,
        ]

    # adding data

    def _load_file(self, values: Values) -> Updates:
        path = values[self.upload.file]
        return self._new(Path(path), values) if path else self._clear()

    def _load_pasted(self, values: Values) -> Updates:
        note, file = self.upload.paste_note, self.upload.file
        try:
            path, text = write_pasted(values[self.upload.pasted], new_folder(), name="pasted-pairs")
        except DataError as error:
            return {note: error_callout(error.to_record())}
        return {note: callout("info", text), file: None, **self._new(path, values)}

    def _revise(self, picker: gr.Dropdown, values: Values) -> Updates:
        study = Study.open(values[picker] or "")
        if study.source is None:
            raise DataError(
                m("the data file is not in the project's folder"),
                remedy=m("Upload it again under New project"),
            )
        config, form = study.config, self.upload.form.values(study.config)
        new = self._new(study.source, form, study.title, config.data.columns, base=study.name)
        return {picker: None, self.upload.file: None, **form, **new}

    def _new(
        self,
        path: Path,
        values: Values,
        title: str = "",
        columns: dict[str, str] | None = None,
        base: str | None = None,
    ) -> Updates:
        """Show new data; ``base`` is the study whose settings are taken over."""
        if columns is None:
            columns = dict(inspect_file(path, {}).guessed)
        words = " ".join(path.name.split(".")[0].replace("_", " ").split())
        return {
            self.origin: str(path),
            self.base: base,
            self.upload.name: unused_title(title or words or "project"),
            self.upload.message: "",
            self.editor.message: "",
            **self._look(path, columns, values),
        }

    def _clear(self) -> Updates:
        nothing = dict.fromkeys((self.source, self.origin, self.base))
        texts = (self.upload.name, self.upload.message, self.editor.message, self.upload.brief)
        return {
            **self._hidden(nothing_yet()),
            **self.header.updates(None),
            **nothing,
            **dict.fromkeys(texts, ""),
            self.mapping: {},
        }

    # showing data

    def _hidden(self, view: Markup) -> Updates:
        """Hide what only a readable file has; ``view`` is shown in place of the findings."""
        upload, extra = self.upload, self.wordings
        parts = (self.decline, self.left_out, upload.naming, self.editor.body, extra.body)
        return {
            self.found: view,
            **dict.fromkeys((self.split, self.once, extra.message), ""),
            **dict.fromkeys(parts, gr.update(visible=False)),
        }

    def _look(self, path: Path, columns: dict[str, str], values: Values) -> Updates:
        """Show a file with the mapped columns."""
        seen = inspect_file(path, columns)
        guessed = inspect_file(path, {}).guessed
        header = replace(seen, guessed=guessed if dict(guessed) == columns else {})
        return {
            **self._findings(path, columns, values),
            **self.header.updates(header),
            self.source: str(path),
            self.mapping: columns,
        }

    def _findings(self, path: Path, columns: dict[str, str], values: Values) -> Updates:
        seen, upload, extra = inspect_file(path, columns), self.upload, self.wordings
        if seen.findings is None:
            error = seen.error or {"what": t("the file cannot be read")}
            hidden = self._hidden(unreadable_view(error, seen.columns))
            return {upload.brief: brief_view(None), **hidden}
        findings, record = seen.findings, seen.findings.to_record()
        csv = left_out_download(path, columns, path.name.split(".")[0])
        split, once = self._split_of(seen, values)
        left_out = rejected_view(findings.left_out, findings.dataset.rows, findings.dataset.numbers)
        return {
            upload.brief: brief_view(record),
            self.found: card(
                t("Findings in {name}", name=path.stem), findings_view(record), left_out
            ),
            self.decline: gr.update(
                value=tn(
                    "Mark {count} question as one to decline",
                    "Mark {count} questions as ones to decline",
                    len(findings.to_mark),
                ),
                visible=bool(findings.to_mark),
            ),
            self.split: split,
            self.left_out: gr.update(value=csv, visible=csv is not None),
            upload.naming: gr.update(visible=findings.can_start()),
            self.editor.body: gr.update(visible=True),
            self.once: once,
            extra.body: gr.update(visible=True, open=bool(once)),
            **extra.of_columns(path, columns, findings),
        }

    def _remap(self, values: Values, event: gr.EventData) -> Updates:
        if not values[self.source]:
            return gr.skip()
        path, columns = Path(values[self.source]), values[self.mapping]
        seen, roles = inspect_file(path, columns), self.header.roles
        names = shown_columns(seen.columns, seen.roles)
        latest = [role.elem_id for role in roles].index(event.target.elem_id)
        chosen, cleared = choose_roles(
            seen.columns, names, [values[role] for role in roles[: len(names)]], latest
        )
        path, _ = self._edited(values)
        return {
            **self._findings(path, chosen, values),
            **{roles[index]: gr.update(value=UNUSED) for index in cleared},
            self.header.note: column_note(inspect_file(path, chosen), len(names)),
            self.source: str(path),
            self.mapping: chosen,
        }

    def _split(self, values: Values) -> Updates:
        if not values[self.source]:
            return gr.skip()
        seen = inspect_file(Path(values[self.source]), values[self.mapping])
        split, once = self._split_of(seen, values)
        return {self.split: split, self.once: once}

    def _split_of(self, seen: Inspection, values: Values) -> tuple[Markup | str, Markup | str]:
        """The split, and what a test can show where each answer occurs once."""
        if seen.findings is None or not seen.findings.can_start():
            return "", ""
        try:
            config = self.upload.form.read(values, StudyConfig())
        except AssistantBuilderError as error:
            return error_callout(error.to_record()), ""
        split = preview_split(seen.findings, config.data)
        if isinstance(split, dict):
            return error_callout(split), ""
        record = split.to_record()
        leaks = leaks_view(record["leaks"], record["leaks_removed"], seen.findings.dataset.numbers)
        once = once_view(count_wordings(record), config)
        title = t("What is trained, and what is asked in the test")
        folded = fragment("data.folds", [(title, split_view(record, heldout_power(record)))])
        return folded + leaks, once

    # editing data

    def _edited(self, values: Values) -> tuple[Path, Edits]:
        """The file with the edits of the table, and the edits."""
        editor = self.editor
        path = Path(values[self.source])
        return edited_file(path, values[self.mapping], values[editor.held], values[editor.table])

    def _first_rows(self, values: Values) -> Updates:
        return self.editor.updates(values[self.source], values[self.mapping], None, "")

    def _rows(self, values: Values) -> Updates:
        editor = self.editor
        which, search = values[editor.which], values[editor.search]
        return editor.updates(values[self.source], values[self.mapping], which, search)

    def _recheck(self, values: Values, *, requested: bool = True) -> Updates:
        path, edits = self._edited(values) if values[self.source] else (None, None)
        if not path or not edits:
            unchanged = callout("info", t("No cell was changed"))
            return {self.editor.message: unchanged} if requested else gr.skip()
        done = callout(
            "good",
            t("Checked again: {edits}", edits=edits_summary(edits)),
            t("The findings above include the edits."),
        )
        return {self.editor.message: done, **self._look(path, values[self.mapping], values)}

    def _mark_to_decline(self, values: Values) -> Updates:
        self._usable(values)
        base, _ = self._edited(values)
        rows = self._usable({**values, self.source: str(base)}).to_mark
        target = edited_copy(base)
        columns = mark_to_decline(base, rows, target, values[self.mapping])
        done = callout(
            "good",
            tn(
                "{count} question is to be declined",
                "{count} questions are to be declined",
                len(rows),
            ),
            t("A column “answerable” says so; “Undo all edits” below removes it."),
        )
        seen = self._look(target, columns, values)
        return {**seen, self.found: done + seen[self.found]}

    def _undo(self, values: Values) -> Updates:
        if not values[self.origin]:
            return gr.skip()
        origin = Path(values[self.origin])
        # added wordings have a column of their own
        known = set(inspect_file(origin, {}).columns)
        columns = {
            role: name for role, name in values[self.mapping].items() if not name or name in known
        }
        undone = callout("info", t("All edits were undone"))
        return {self.editor.message: undone, **self._look(origin, columns, values)}

    # other wordings

    def _usable(self, values: Values) -> Findings:
        path = values[self.source]
        findings = inspect_file(Path(path), values[self.mapping]).findings if path else None
        if findings is None:
            raise DataError(m("there is no readable data file yet"), remedy=m("Upload one first"))
        return findings

    def _match(self, values: Values) -> Updates:
        return self.wordings.matched(self._usable(values), values)

    def _draft(
        self,
        values: Values,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - gradio requires it
    ) -> Updates:
        return self.wordings.drafted(self._usable(values), values[self.base], values, progress)

    def _use_wordings(self, values: Values) -> Updates:
        accepted = accepted_wordings(self._usable(values), values[self.wordings.table])
        base, _ = self._edited(values)
        target = edited_copy(base)
        columns = add_wordings(base, accepted, target, values[self.mapping])
        added = callout(
            "good",
            tn("{count} wording was added", "{count} wordings were added", len(accepted)),
            t("They are rows of the data now; “Undo all edits” removes them."),
        )
        shown = {self.wordings.message: added, self.wordings.pasted: ""}
        return {**self._look(target, columns, values), **shown}

    # creating a study

    def _create(self, picker: gr.Dropdown, tabs: gr.Tabs, values: Values) -> Updates:
        if not values[self.source]:
            raise DataError(m("there is no data file yet"), remedy=m("Upload one, or paste pairs"))
        base, columns = values[self.base], values[self.mapping]
        try:
            source, edits = self._edited(values)
            if edits and not (findings := inspect_file(source, columns).findings):
                raise DataError(
                    m("the edited rows cannot be read"), remedy=m("Press “Check again” to see why")
                )
            if edits and findings:
                findings.require_start()
            start = Study.open(base).config if base else StudyConfig()
            config = self.upload.form.read(values, start).named(values[self.upload.name])
            if config.title:
                config = config.model_copy(update={"name": unused_name(config.name)})
            called, whom = (
                (values.get(box) or "")[:1000] for box in (self.upload.called, self.upload.whom)
            )
            system = final_prompt(called, whom, config.data.system or "")
            tree = config.model_dump(mode="json")
            # without a system prompt a chat template may add its own, which names another assistant
            tree["data"] |= {
                "source": source.name,
                "columns": columns,
                "system": system
                or (start.data.system if base else system_prompt(config.shown_name, "", "")),
            }
            study = Study.create(parse_config(tree, where="settings"), source)
            if called.strip():
                Website(title=called.strip()[:80]).save(study)
        except AssistantBuilderError as error:
            return {self.upload.message: error_callout(error.to_record())}
        return {
            picker: chosen_study(study, "queued"),
            tabs: gr.Tabs(selected="train"),
            self.upload.message: "",
        }
