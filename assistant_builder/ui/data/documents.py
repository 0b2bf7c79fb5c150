"""The part of the Data tab for documents: upload them, see what they state, and decide on what changed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import gradio as gr

from assistant_builder.chat.stale_answers import KINDS as ANSWER_KINDS
from assistant_builder.chat.stale_answers import answers_resting_on
from assistant_builder.documents.changes import Change, Decision
from assistant_builder.documents.reading import KINDS
from assistant_builder.documents.site import MAX_PAGES, normal_address
from assistant_builder.documents.store import Documents, Update
from assistant_builder.errors import AssistantBuilderError, DataError
from assistant_builder.i18n import m, t, tn
from assistant_builder.runner.open_documents import open_documents
from assistant_builder.study import Study
from assistant_builder.ui.data.preview import unused_title
from assistant_builder.ui.html import (
    Markup,
    callout,
    card,
    error_callout,
    fragment,
    hint,
    join,
    table,
)
from assistant_builder.ui.refresh import QUIET, LiveRegion, StudyView, Updates, chosen_study

_SHOWN_CHARACTERS, _SHOWN_CHANGES = 120, 200
_SITE = "https://www.example.com"
_PRIVATE = {"api_visibility": "private"}


class DocumentsForm:
    """Components of the documents of a study, or of a new study from documents."""

    def __init__(self) -> None:
        with gr.Accordion(
            t("Documents or a website"), open=False, elem_id="ab-documents"
        ) as self.body:
            gr.HTML(
                hint(
                    t(
                        "A handbook, web pages or a price list: the chat answers from what they state, with page and "
                        "passage, at once and without training. Questions and answers stay as they are."
                    )
                )
            )
            self.files = gr.File(
                label=t("PDF, DOCX, PPTX, HTML, Markdown or text"),
                file_count="multiple",
                file_types=sorted(KINDS),
                height=130,
                elem_id="ab-documents-files",
            )
            self.site = gr.Textbox(
                label=t("Or the address of your website"),
                placeholder=_SITE,
                info=t(
                    "Its pages are read as its robots.txt allows, from this address on and on the same host; nothing "
                    "else leaves this computer."
                ),
                max_lines=1,
                elem_id="ab-documents-site",
            )
            self.pages = gr.Number(
                MAX_PAGES,
                label=t("Pages that are read at most"),
                precision=0,
                minimum=1,
                maximum=2000,
                elem_id="ab-documents-pages",
            )
            self.name = gr.Textbox(label=t("Name of the project"), elem_id="ab-documents-name")
            self.read = gr.Button(
                t("Read the documents"), variant="primary", size="sm", elem_id="ab-documents-read"
            )
            self.message = gr.HTML(elem_id="ab-documents-message")
            self.shown = gr.HTML(elem_id="ab-documents-shown")
            with gr.Column(visible=False) as self.deciding:
                self.chosen = gr.CheckboxGroup(
                    [], label=t("What changed"), elem_id="ab-documents-changes"
                )
                with gr.Row(elem_classes="ab-actions"):
                    self.keep = gr.Button(
                        t("What rests on them is still right"), size="sm", elem_id="ab-changes-keep"
                    )
                    self.drop = gr.Button(
                        t("No longer serve what rests on them"),
                        size="sm",
                        elem_id="ab-changes-drop",
                    )

    def section(self) -> LiveRegion:
        """The region that follows the study."""
        return LiveRegion(
            "documents",
            [self.name, self.shown, self.deciding, self.chosen],
            lambda look: look.stamp("documents/documents.json", "documents/changes.jsonl"),
            self._draw,
        )

    def _draw(self, look: StudyView) -> Updates:
        study = look.study
        if study is None or not Documents(study):
            return {
                self.name: gr.update(visible=study is None),
                self.shown: "",
                self.deciding: gr.update(visible=False),
                self.chosen: gr.update(choices=[], value=[]),
            }
        try:
            changes = Documents(study).undecided
            shown = documents_view(study, changes)
        except AssistantBuilderError as error:
            changes, shown = [], error_callout(error.to_record())
        # further ones follow when these are decided
        choices = [(_label(change), change.key) for change in changes[:_SHOWN_CHANGES]]
        return {
            self.name: gr.update(visible=False),
            self.shown: shown,
            self.deciding: gr.update(visible=bool(changes)),
            self.chosen: gr.update(choices=choices, value=[key for _, key in choices]),
        }

    def wire(self, picker: gr.Dropdown, tabs: gr.Tabs) -> None:
        """Connect the buttons; the region redraws what they change."""
        self.read.click(
            partial(self._read, picker, tabs),
            [picker, self.name, self.files, self.site, self.pages],
            [picker, tabs, self.files, self.message],
            show_progress_on=self.message,
            **_PRIVATE,
        )
        decisions: dict[Decision, gr.Button] = {"keep": self.keep, "drop": self.drop}
        for decision, button in decisions.items():
            button.click(
                partial(self._decide, decision), [picker, self.chosen], self.message, **QUIET
            )

    def _read(
        self,
        picker: gr.Dropdown,
        tabs: gr.Tabs,
        name: str | None,
        new_name: str | None,
        files: list[str] | None,
        site: str | None = None,
        pages: float | None = None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - gradio requires it
    ) -> Updates:
        address = (site or "").strip()
        try:
            if bool(files) == bool(address):
                raise DataError(
                    m("there are files and an address") if files else m("there is no document yet"),
                    remedy=m("Read one after the other")
                    if files
                    else m("Upload one, or name a website"),
                )
            own = (new_name or "").strip() or (Path(files[0]).stem if files else _host(address))
            study, update = open_documents(
                files or [],
                site=address or None,
                pages=int(pages or MAX_PAGES),
                name=name or unused_title(own),
                progress=lambda done, total, page: progress((done, total), desc=page),
            )
        except AssistantBuilderError as error:
            record = error.to_record()
            option = record.get("where") == "--site"  # of the command line
            return {self.message: error_callout({**record, "where": ""} if option else record)}
        done = {self.message: update_view(update), self.files: None}
        if name:
            return done
        return {**done, picker: chosen_study(study, "queued"), tabs: gr.Tabs(selected="chat")}

    def _decide(self, decision: Decision, name: str | None, keys: list[str] | None) -> Markup:
        try:
            decided = Documents(Study.open(name or "")).decide(keys or [], decision)
        except AssistantBuilderError as error:
            return error_callout(error.to_record())
        return callout(
            "good" if decided else "info",
            tn("{count} change was decided", "{count} changes were decided", len(decided)),
        )


def _host(address: str) -> str:
    return normal_address(address).split("/")[2].removeprefix("www.")


def update_view(update: Update) -> Markup:
    """What was read, and what could not be."""
    title = tn("{count} document was read", "{count} documents were read", len(update.documents))
    body = tn("{count} statement is new.", "{count} statements are new.", len(update.added))
    problems = [error_callout(error.to_record()) for error in update.problems.values()]
    return join([callout("good", title, body), *problems])


def documents_view(study: Study, changes: list[Change]) -> Markup:
    """The documents of a study, and what changed in them with the answers that rest on it."""
    rows = [
        [each["name"], each["title"], str(each["pages"]), str(each["statements"])]
        for each in Documents(study).records
    ]
    headers = [t("Document"), t("Title"), t("Pages"), t("Statements")]
    parts = [card(t("Documents"), table(headers, rows, numeric=(2, 3)))]
    if changes:
        title = tn(
            "{count} statement changed, and is not served until you decide",
            "{count} statements changed, and are not served until you decide",
            len(changes),
        )
        shown = changes[:_SHOWN_CHANGES]
        resting = answers_resting_on(study, shown)
        entries = [
            (
                change,
                [(t(ANSWER_KINDS[each.kind]), each) for each in answers],
            )
            for change, answers in zip(shown, resting, strict=True)
        ]
        parts.insert(0, callout("warn", title))
        parts.append(card(t("What changed"), fragment("data.changes", entries)))
    return join(parts)


def _label(change: Change) -> str:
    text = f"{change.old.place}: {change.old.text}"
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
