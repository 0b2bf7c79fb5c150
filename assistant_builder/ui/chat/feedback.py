"""Feedback on answers in the Chat tab: blind votes, corrections, and a new study that is trained on the corrections."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import gradio as gr

from assistant_builder.chat.conversation import CHOICES, Choice, Turn
from assistant_builder.chat.feedback import (
    Correction,
    TaughtPair,
    correction_rows,
    create_retraining_study,
    heldout_matches,
    plan_retraining,
    read_corrections,
    remove_correction,
    tally,
    tally_sentence,
    taught_pair,
)
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.i18n import N_, t, tn
from assistant_builder.runner.run import rerender_report
from assistant_builder.study import Study
from assistant_builder.ui.chat.view import corrections_list, retrained_note
from assistant_builder.ui.data.preview import unused_title
from assistant_builder.ui.html import copy_script, error_callout, fragment, hint
from assistant_builder.ui.refresh import QUIET, Updates, chosen_study, inform
from assistant_builder.ui.study_snapshot import answering_arms
from assistant_builder.ui.train.actions import start_unless_asked
from assistant_builder.ui.uploads import offer_bytes
from evals.report.other_results import report_lacks_votes

_TO_REPORT = N_("Add the votes to the report")
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
        with gr.Row(elem_classes="ab-tally-row"):
            self.tally = gr.HTML(elem_id="ab-tally")
            self.report = gr.Button(
                t(_TO_REPORT),
                size="sm",
                visible=False,
                scale=0,
                min_width=240,
                elem_id="ab-votes-report",
            )

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

    @property
    def tally_outputs(self) -> list[Any]:
        """Components set by :meth:`tally_updates`."""
        return [self.tally, self.report]

    def tally_updates(self, study: Study | None, *, blind: bool) -> Updates:
        """The tally, and the button that adds new votes to the report."""
        hidden = {self.tally: "", self.report: gr.update(visible=False)}
        if study is None:
            return hidden
        try:
            votes = tally(study)
        except AssistantBuilderError as error:
            return {**hidden, self.tally: error_callout(error.to_record())}
        if not votes.counted and not blind:
            return hidden
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
        return {
            self.tally: fragment("chat.tally", tally_sentence(votes), notes),
            self.report: gr.update(
                visible=report_lacks_votes(study), interactive=True, value=t(_TO_REPORT)
            ),
        }

    def wire(self, picker: gr.Dropdown) -> None:
        """Connect the report's button; the conversation connects the voting buttons."""

        def write(name: str | None) -> dict[str, Any]:
            rerender_report(Study.open(name or ""))
            inform(t("The votes were added to the report. See the Report tab."))
            return gr.update(visible=False)

        self.report.click(
            lambda: gr.update(interactive=False, value=t("Writing the report…")),
            None,
            self.report,
            queue=False,
            **QUIET,
        ).then(write, picker, self.report, **QUIET).failure(
            lambda: gr.update(interactive=True, value=t(_TO_REPORT)),
            None,
            self.report,
            queue=False,
            **QUIET,
        )


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
    """The list of corrections and the form that creates a new study."""

    def __init__(self) -> None:
        with gr.Accordion(
            t("Corrections"), open=False, visible=False, elem_id="ab-corrections"
        ) as self.fold:
            self.about = gr.HTML()
            self.list = gr.HTML(corrections_list([], ()), js_on_load=pane_script())
            self.rows = gr.DownloadButton(
                t("Download them as rows for your spreadsheet"), size="sm", elem_id="ab-rows"
            )
            self.longer = gr.Checkbox(
                True,
                label=t("Train twice as long"),
                info=t(
                    "Some corrections are in the training data already; the same training would not learn them."
                ),
                visible=False,
                elem_id="ab-retrain-longer",
            )
            self.name = gr.Textbox(
                label=t("Name of the new project"),
                info=t(
                    "It has the same settings and split; the corrections are added to its training data."
                ),
                max_lines=1,
                elem_id="ab-retrain-name",
            )
            self.retrain = gr.Button(
                t("Retrain as a new project"), variant="primary", elem_id="ab-retrain"
            )

    @property
    def outputs(self) -> list[Any]:
        """Components set by :meth:`updates`."""
        return [
            *(self.fold, self.about, self.list, self.rows),
            *(self.longer, self.retrain, self.name),
        ]

    def updates(self, study: Study | None, *, opened: bool | None = None) -> Updates:
        """Show the list, and propose a name; ``opened`` sets whether the list is unfolded."""
        corrections: list[Correction] = []
        taught: dict[int, TaughtPair] = {}
        try:
            corrections = read_corrections(study) if study else []
            heldout: dict[int, list[int]] = {}
            if study and corrections:
                heldout = heldout_matches(study, [one.question for one in corrections])
                taught = {
                    index: pair
                    for index, one in enumerate(corrections)
                    if (pair := taught_pair(study, one.question, one.answer))
                }
            view = corrections_list(corrections, heldout, taught)
        except AssistantBuilderError as error:
            view = error_callout(error.to_record())
        number, trained = len(corrections), bool(study and answering_arms(study))
        about, rows = "", None
        if study and corrections and study.serves_corrections:
            about = hint(
                t(
                    "They are served already. Training again is for when many have come together; a sheet that "
                    "has them as rows keeps them for other projects."
                )
            )
        if study and corrections:
            rows = offer_bytes(correction_rows(corrections), f"{study.name}-corrections.csv")
        retrain = tn(
            "Retrain with {count} correction as a new project",
            "Retrain with {count} corrections as a new project",
            number,
        )
        return {
            self.fold: gr.update(
                label=t("Corrections ({number})", number=number),
                visible=bool(corrections),
                **({} if opened is None else {"open": opened}),
            ),
            self.about: about,
            self.list: view,
            self.rows: gr.update(value=rows, visible=rows is not None),
            self.longer: gr.update(visible=bool(taught) and trained),
            self.retrain: gr.update(value=retrain, interactive=True, visible=trained),
            self.name: gr.update(value=self.proposed_name(study), visible=trained),
        }

    def wire(self, picker: gr.Dropdown, tabs: gr.Tabs) -> None:
        """Connect the components."""
        self.list.click(
            self._remove, picker, [part for part in self.outputs if part is not self.name], **QUIET
        )
        self.retrain.click(
            self._retrain,
            [picker, self.name, self.longer],
            [picker, tabs, self.name],
            api_visibility="private",
            show_progress_on=self.retrain,
        )

    def proposed_name(self, study: Study | None) -> str:
        """A free name for the new study."""
        if study is None:
            return ""
        titled = study.title != study.name
        return unused_title(
            t("{title} (corrected)", title=study.title) if titled else f"{study.name}-corrected"
        )

    def _remove(self, name: str | None, event: gr.EventData) -> Updates:
        study = Study.open(name or "")
        corrections, index = read_corrections(study), event.turn
        if isinstance(index, int) and 0 <= index < len(corrections):
            remove_correction(study, corrections[index].time)
        updates = self.updates(study)
        del updates[self.name]  # the user may have changed it
        return updates

    def _retrain(self, name: str | None, new: str, longer: bool) -> list[Any]:
        study = Study.open(name or "")
        plan = plan_retraining(study, read_corrections(study))
        made = create_retraining_study(
            study, plan, new or self.proposed_name(study), longer=bool(longer and plan.taught)
        )
        if start_unless_asked(made):
            note = retrained_note(made.title, plan, study.title)
            inform(note, t("The new project is running"), seconds=30)
        else:  # the user confirms on the Train tab
            inform(
                t(
                    "It contacts other machines, or its model runs its own code. Check the settings here and "
                    "press Start."
                ),
                t("The new project is not started yet"),
                seconds=30,
            )
        return [chosen_study(made, "queued"), gr.Tabs(selected="train"), ""]
