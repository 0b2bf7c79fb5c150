"""Feedback on answers in the Chat tab: blind votes and corrections."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import gradio as gr

from assistant_builder.chat.conversation import CHOICES, Choice, Turn
from assistant_builder.chat.feedback import (
    Correction,
    correction_rows,
    heldout_matches,
    read_corrections,
    remove_correction,
    tally,
    tally_sentence,
)
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.i18n import N_, t
from assistant_builder.study import Study
from assistant_builder.ui.chat.view import corrections_list
from assistant_builder.ui.html import copy_script, error_callout, fragment, hint
from assistant_builder.ui.refresh import QUIET, Updates
from assistant_builder.ui.study_snapshot import answering_arms
from assistant_builder.ui.uploads import offer_bytes
from evals.report.other_results import report_lacks_votes

_LABELS: dict[Choice, str] = {
    "a": N_("A is better"),
    "b": N_("B is better"),
    "tie": N_("Same"),
    "both bad": N_("Both are bad"),
}


class VoteBar:
    """The voting buttons, the outcome of a vote and the tally."""

    def __init__(self) -> None:
        with gr.Column(visible=False, elem_id="ab-votes") as self.body:
            with gr.Row(elem_classes="ab-actions"):
                self.buttons = {
                    choice: gr.Button(
                        t(_LABELS[choice]),
                        interactive=False,
                        min_width=120,
                        elem_id=f"ab-vote-{choice.replace(' ', '-')}",
                    )
                    for choice in CHOICES
                }
            self.outcome = gr.HTML(elem_id="ab-outcome")
        self.tally = gr.HTML(elem_id="ab-tally")

    @property
    def outputs(self) -> list[Any]:
        """Components set by :meth:`updates`."""
        return [self.body, *self.buttons.values(), self.outcome]

    def updates(self, turn: Turn | None, *, blind: bool, busy: bool, outcome: str = "") -> Updates:
        """Show the bar after the last turn; ``outcome`` is HTML below the buttons."""
        votable = turn is not None and turn.votable and not busy
        alike = turn is not None and votable and turn.identical
        hint = t("You can vote after both assistants have answered.")
        if alike:
            hint = t("Both answers are identical: vote for “Same” or “Both are bad”.")
        elif votable:
            hint = t("Which answer is better? Your vote reveals the assistants.")
        elif turn is not None and turn.hidden and not busy and turn.answers:
            hint = t("An answer was stopped or failed. Ask again to vote.")
        if alike or not outcome:
            outcome = fragment("parts.paragraph", hint, "ab-quiet")
        buttons = {
            button: gr.update(interactive=votable and not (alike and choice in ("a", "b")))
            for choice, button in self.buttons.items()
        }
        return {
            self.body: gr.update(visible=blind or (turn is not None and turn.hidden)),
            **buttons,
            self.outcome: outcome,
        }

    def tally_updates(self, study: Study | None, *, blind: bool) -> Updates:
        """The tally, and how new votes come into the report."""
        if study is None:
            return {self.tally: ""}
        try:
            votes = tally(study)
        except AssistantBuilderError as error:
            return {self.tally: error_callout(error.to_record())}
        if not votes.counted and not blind:
            return {self.tally: ""}
        notes = []
        if votes.outdated:
            notes.append(t("not counted: {outdated} on earlier adapters", outdated=votes.outdated))
        if votes.repeated:
            notes.append(
                t(
                    "not counted: {repeated} on answers that already had a vote",
                    repeated=votes.repeated,
                )
            )
        if report_lacks_votes(study):
            notes.append(t("“Re-create report” on the Report tab adds them to the report"))
        return {self.tally: fragment("chat.tally", tally_sentence(votes), notes)}


_PANE = (Path(__file__).parents[1] / "scripts" / "pane.js").read_text(encoding="utf-8")


def pane_script() -> str:
    """JavaScript of a pane of the chat."""
    return copy_script() + _PANE


def heldout_note(study: Study, question: str) -> str:
    """What the user must know about the correction of a test question; empty for others."""
    with contextlib.suppress(AssistantBuilderError):
        if heldout_matches(study, [question]):
            return t(
                "This is a test question. It stays in the test, and its correction is not trained on."
            )
    return ""


class Corrections:
    """The list of corrections."""

    def __init__(self) -> None:
        with gr.Accordion(
            t("Corrections"), open=False, visible=False, elem_id="ab-corrections"
        ) as self.fold:
            self.about = gr.HTML()
            self.list = gr.HTML(corrections_list([], ()), js_on_load=pane_script())
            self.rows = gr.DownloadButton(
                t("Download them as rows for your spreadsheet"), size="sm", elem_id="ab-rows"
            )

    @property
    def outputs(self) -> list[Any]:
        """Components set by :meth:`updates`."""
        return [self.fold, self.about, self.list, self.rows]

    def updates(self, study: Study | None, *, opened: bool | None = None) -> Updates:
        """Show the list; ``opened`` sets whether it is unfolded."""
        corrections: list[Correction] = []
        try:
            corrections = read_corrections(study) if study else []
            heldout: dict[int, list[int]] = {}
            if study and corrections:
                heldout = heldout_matches(study, [one.question for one in corrections])
            view = corrections_list(corrections, heldout)
        except AssistantBuilderError as error:
            view = error_callout(error.to_record())
        about, rows = "", None
        if study and corrections:
            rows = offer_bytes(correction_rows(corrections), f"{study.name}-corrections.csv")
            about = t("A sheet that has them as rows keeps them for other projects.")
            if answering_arms(study):
                later = t(
                    "When many have come together, train the next version with them on the tab “Inbox”."
                )
                about = f"{later} {about}"
        return {
            self.fold: gr.update(
                label=t("Corrections ({number})", number=len(corrections)),
                visible=bool(corrections),
                **({} if opened is None else {"open": opened}),
            ),
            self.about: hint(about),
            self.list: view,
            self.rows: gr.update(value=rows, visible=rows is not None),
        }

    def wire(self, picker: gr.Dropdown) -> None:
        """Connect the list."""
        self.list.click(self._remove, picker, self.outputs, **QUIET)

    def _remove(self, name: str | None, event: gr.EventData) -> Updates:
        study = Study.open(name or "")
        corrections, index = read_corrections(study), event.turn
        if isinstance(index, int) and 0 <= index < len(corrections):
            remove_correction(study, corrections[index].time)
        return self.updates(study)
