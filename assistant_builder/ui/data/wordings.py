"""Other wordings on the Data tab: typed, pasted, from a file or drafted, and looked over before they are used."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from assistant_builder.config import ModelConfig, StudyConfig
from assistant_builder.data import Findings
from assistant_builder.data.wordings import (
    ADDED_LATER,
    Wording,
    check_wordings,
    match_wordings,
    pairs_to_word,
    parse_wordings,
    read_wordings,
    wordings_in_columns,
)
from assistant_builder.drafting import SMALL_MODEL_NOTE, URL_VARIABLE, draft_wordings
from assistant_builder.errors import AssistantBuilderError, DataError
from assistant_builder.i18n import N_, m, render, t, tn
from assistant_builder.models.bundled import BASE_MODEL
from assistant_builder.models.fetch import local_model_folder
from assistant_builder.study import Study
from assistant_builder.ui.html import Markup, Tone, callout, error_callout, hint
from assistant_builder.ui.refresh import QUIET, Updates, Values

_HEADERS = [N_("Use"), N_("Row"), N_("Question"), N_("Other wording"), N_("Answer"), N_("Look at")]
_USE, _ROW, _WORDING = 0, 1, 3
_MAX_ROWS = 500
_LOCAL, _ENDPOINT = (
    N_("The base model on this computer"),
    N_("A model behind an OpenAI-compatible endpoint"),
)
_PASTE = N_(
    "Are you open on Sundays?\tWe open at 8 on Sundays.\nCan I order by phone?\tYes, call us before noon."
)
_ABOUT = N_(
    "Write another wording beside a question, or let the table be filled. Only wordings with a tick are used. Each "
    "becomes a row with the answer of its question; the test is made of them. If "
    "they are fewer than ten, the Results tab asks for more later."
)


class WordingsForm:
    """Components; :class:`~assistant_builder.ui.data.new_study.NewStudyForm` connects their events."""

    def __init__(self) -> None:
        with gr.Accordion(
            t("Add other wordings"), open=False, visible=False, elem_id="ab-wordings"
        ) as self.body:
            gr.HTML(hint(t(_ABOUT)))
            with gr.Tabs():
                with gr.Tab(t("Paste")):
                    self.pasted = gr.Textbox(
                        label=t("One new question per line, next to its answer"),
                        lines=4,
                        max_lines=14,
                        placeholder=t(_PASTE),
                        elem_id="ab-wordings-paste",
                        info=t(
                            "Separated by a tab, as two columns copied from a spreadsheet. The known question or the "
                            "row number will do instead of the answer."
                        ),
                    )
                    self.use_pasted = gr.Button(
                        t("Put them into the table"), size="sm", elem_id="ab-wordings-match"
                    )
                with gr.Tab(t("From a file")):
                    self.file = gr.File(
                        label=t("Columns question and answer; the answers are those of your file"),
                        file_types=[".csv", ".tsv", ".xlsx", ".json", ".jsonl"],
                        height=110,
                        elem_id="ab-wordings-file",
                    )
                with gr.Tab(t("Draft")):
                    self.by = gr.Radio(
                        [(t(by), by) for by in (_LOCAL, _ENDPOINT)],
                        value=_LOCAL,
                        label=t("Who drafts?"),
                    )
                    self.note = gr.HTML(
                        callout("warn", t("Look every draft over"), t(SMALL_MODEL_NOTE))
                    )
                    with gr.Row(visible=False) as self.endpoint:
                        self.url = gr.Textbox(
                            os.environ.get(URL_VARIABLE, ""),
                            label="URL",
                            placeholder="http://127.0.0.1:8000/v1",
                        )
                        self.model = gr.Textbox(label=t("Model"))
                    self.number = gr.Slider(
                        1, 5, value=2, step=1, label=t("Wordings of each question")
                    )
                    with gr.Row(elem_classes="ab-actions"):
                        self.draft = gr.Button(t("Draft"), size="sm", elem_id="ab-wordings-draft")
                        self.stop = gr.Button(t("Stop"), size="sm")
            self.message = gr.HTML(elem_id="ab-wordings-message")
            self.table = gr.Dataframe(
                headers=[t(title) for title in _HEADERS],
                datatype=["bool", "number", "str", "str", "str", "str"],
                type="array",
                interactive=True,
                wrap=True,
                max_height=420,
                show_label=False,
                label=t("Other wordings"),
                static_columns=[1, 2, 4, 5],
                elem_id="ab-wordings-table",
                column_widths=["130px", "90px", "200px", "230px", "320px", "120px"],
                buttons=["fullscreen"],
            )
            with gr.Row(elem_classes="ab-actions"):
                self.use = gr.Button(
                    t("Use the ticked wordings"),
                    variant="primary",
                    size="sm",
                    elem_id="ab-wordings-use",
                )
                self.all = gr.Button(t("Tick all"), size="sm", elem_id="ab-wordings-all")
                self.none = gr.Button(t("Untick all"), size="sm")
        self.by.input(self._by, self.by, [self.endpoint, self.note], **QUIET)
        for button, ticked in ((self.all, True), (self.none, False)):
            button.click(
                lambda lines, ticked=ticked: [
                    [ticked and bool(str(line[_WORDING] or "").strip()), *line[1:]]
                    for line in lines
                ],
                self.table,
                self.table,
                **QUIET,
            )

    def _by(self, by: str) -> Updates:
        note = callout("warn", t("Look every draft over"), t(SMALL_MODEL_NOTE))
        if by != _LOCAL:
            note = callout(
                "info",
                t("Your questions and answers are sent to this endpoint"),
                t(
                    "Its key is read from ASSISTANT_BUILDER_DRAFT_KEY in the environment of the program, if "
                    "ASSISTANT_BUILDER_DRAFT_URL there is the same URL."
                ),
            )
        return {self.endpoint: gr.update(visible=by == _ENDPOINT), self.note: note}

    def matched(self, findings: Findings, values: Values) -> Updates:
        """Show the wordings of the file or of the pasted text, whichever is among the values."""
        try:
            path = values.get(self.file)
            cells = (
                read_wordings(Path(path)) if path else parse_wordings(values.get(self.pasted) or "")
            )
        except DataError as error:
            return {self.message: error_callout(error.to_record())}
        wordings, unmatched = match_wordings(findings.usable, cells, findings.dataset.numbers)
        lost = tn(
            "{count} question matched no row: {questions}",
            "{count} questions matched no row: {questions}",
            len(unmatched),
            questions="; ".join(unmatched[:5]),
        )
        title = tn(
            "{count} new wording in the table", "{count} new wordings in the table", len(wordings)
        )
        tone: Tone = "good" if wordings and not unmatched else "warn"
        return {
            self.message: callout(tone, title, lost if unmatched else ""),
            self.table: wording_lines(findings, wordings, accepted=True),
        }

    def of_columns(self, path: Path, columns: dict[str, str], findings: Findings) -> Updates:
        """The table: wordings in columns without a role, or without any the questions that have one wording."""
        shown = {self.table: wording_lines(findings, [], accepted=True), self.message: ""}
        if findings.dataset.rows > _MAX_ROWS or all(
            name in findings.dataset.columns.values() for name in findings.dataset.column_names
        ):
            return shown
        titles, found = wordings_in_columns(path, findings.usable, columns)
        if not found:
            return shown
        title = tn(
            "{count} other wording in the column {columns}",
            "{count} other wordings in the column {columns}",
            len(found),
            columns=", ".join(f"“{name}”" for name in titles),
        )
        note = t(
            "They are ticked in the table below. “Use the ticked wordings” makes rows of them."
        )
        return {
            self.table: wording_lines(findings, found, accepted=True),
            self.message: callout("info", title, note),
        }

    def drafted(
        self, findings: Findings, base: str | None, values: Values, progress: Any
    ) -> Updates:
        """Show drafts, none of which is ticked; ``base`` is the study whose model writes them."""
        config = Study.open(base).config.model if base else StudyConfig().model
        local = values[self.by] == _LOCAL
        if local and local_model_folder(config) is None:
            config = ModelConfig(base=BASE_MODEL)  # nothing is downloaded for drafts
        try:
            drafts = draft_wordings(
                findings.usable,
                int(values[self.number]),
                model=config if local else None,
                url=values[self.url],
                name=values[self.model],
                on_progress=lambda done, total: progress(
                    (done, total), desc=t("Drafting"), unit=t("questions")
                ),
            )
        except AssistantBuilderError as error:
            return {self.message: error_callout(error.to_record())}
        title = tn("{count} draft to look over", "{count} drafts to look over", len(drafts))
        note = t("Tick the good ones; correct them first where needed.")
        return {
            self.message: callout("info", title, note),
            self.table: wording_lines(findings, drafts, accepted=False),
        }


def wording_lines(
    findings: Findings, found: Sequence[Wording], *, accepted: bool
) -> dict[str, list[Any]]:
    """The table: the wordings, or without any each question that has one wording.

    The titles come with it, because those of the component are English.
    """
    pairs, numbers = {pair.row: pair for pair in findings.usable}, findings.dataset.numbers
    wordings = found or [Wording(pair.row, "") for pair in pairs_to_word(findings.usable)]
    rows = [
        [
            not wording.question or accepted and not wording.doubt,
            numbers.shown(wording.row),
            pairs[wording.row].question,
            wording.question,
            pairs[wording.row].answer,
            render(wording.doubt),
        ]
        for wording in wordings[:_MAX_ROWS]
    ]
    return {"headers": [t(title) for title in _HEADERS], "data": rows}


def accepted_wordings(findings: Findings, lines: Sequence[Sequence[Any]]) -> list[Wording]:
    """The wordings of the table with a tick.

    Raises:
        DataError: There are none.
    """
    rows, numbers = {pair.row for pair in findings.usable}, findings.dataset.numbers
    chosen = []
    for line in lines:
        text, row = str(line[_WORDING] or "").strip(), numbers.row_of(int(float(line[_ROW] or 0)))
        if text and row in rows and line[_USE] in (True, "true", "True"):
            chosen.append(Wording(row, text))
    found = check_wordings(findings.usable, chosen)
    if not found:
        raise DataError(
            m("no new wording is ticked"), remedy=m("Tick the wordings to use in the first column")
        )
    return found


def once_view(counted: Any, config: StudyConfig) -> Markup:
    """What a test can show where each answer occurs once; empty for other data."""
    if counted is None or not counted.occurs_once:
        return Markup("")
    later = counted.holds_facts_out and config.grounded and config.retrieval.final_index
    return callout(
        "warn" if counted.remedy else "info",
        counted.title,
        f"{counted.meaning} {t(ADDED_LATER)}" if later else counted.meaning,
        counted.remedy,
    )
