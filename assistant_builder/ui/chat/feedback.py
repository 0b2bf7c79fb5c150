"""Blind voting on the page: four buttons, the reveal, the running tally, and the votes in the report.

Correcting answers on the page: the editor, the list, and a new study that is trained on them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from assistant_builder.chat.conversation import CHOICES, Choice, Turn
from assistant_builder.chat.feedback import (
    Correction,
    add_correction,
    create_retraining_study,
    heldout_matches,
    plan_retraining,
    read_corrections,
    remove_correction,
    tally,
    tally_sentence,
)
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.models.remote_code import code_needing_permission
from assistant_builder.runner.run import rerender_report
from assistant_builder.study import Study
from assistant_builder.ui.chat.view import corrections_list, retrained_note
from assistant_builder.ui.data.preview import free_name
from assistant_builder.ui.html import Markup, error_callout, toast
from assistant_builder.ui.refresh import user_facing_errors
from assistant_builder.ui.train.actions import start_run
from evals.report.format import plural
from evals.report.other_results import report_lacks_votes

_LABELS: dict[Choice, str] = {"a": "A is better", "b": "B is better", "tie": "A tie", "both bad": "Both are bad"}


class VoteBar:
    """The components."""

    def __init__(self) -> None:
        with gr.Column(visible=False, elem_id="ab-votes") as self.body:
            with gr.Row(elem_classes="ab-actions"):
                self.buttons = {
                    choice: gr.Button(
                        _LABELS[choice], interactive=False, min_width=120, elem_id=f"ab-vote-{choice.replace(' ', '-')}"
                    )
                    for choice in CHOICES
                }
            self.outcome = gr.HTML(elem_id="ab-outcome")
        with gr.Row(elem_classes="ab-tally-row"):
            self.tally = gr.HTML(elem_id="ab-tally")
            self.report = gr.Button(
                "Write the votes into the report", size="sm", visible=False, scale=0, min_width=240,
                elem_id="ab-votes-report",
            )

    @property
    def outputs(self) -> list[Any]:
        """What :meth:`drawn` sets."""
        return [self.body, *self.buttons.values(), self.outcome]

    def drawn(self, turn: Turn | None, *, blind: bool, busy: bool, outcome: str = "") -> list[Any]:
        """The buttons as they stand for the last turn.

        Args:
            turn: The last turn.
            blind: Whether blind mode is on.
            busy: Whether an answer is under way.
            outcome: What to say beneath them.
        """
        open_ = turn is not None and turn.votable and not busy
        alike = turn is not None and open_ and turn.identical
        if alike:
            outcome = '<p class="ab-quiet">Both answers are the same, word for word: a tie, or both bad.</p>'
        elif not outcome and open_:
            outcome = '<p class="ab-quiet">Which answer is better? Your vote shows who is who.</p>'
        elif not outcome and turn is not None and turn.hidden and not busy and turn.answers:
            outcome = '<p class="ab-quiet">An answer was stopped or failed: ask again to vote.</p>'
        shown = blind or (turn is not None and turn.hidden)
        return [
            gr.update(visible=shown),
            *(gr.update(interactive=open_ and not (alike and choice in ("a", "b"))) for choice in CHOICES),
            Markup(outcome) or Markup('<p class="ab-quiet">The vote is open once both have answered.</p>'),  # noqa: S704
        ]

    @property
    def tally_outputs(self) -> list[Any]:
        """What :meth:`counted` sets."""
        return [self.tally, self.report]

    def counted(self, study: Study | None, *, blind: bool) -> list[Any]:
        """The tally, and the button that puts new votes into the report."""
        if study is None:
            return ["", gr.update(visible=False)]
        try:
            found = tally(study)
        except AssistantBuilderError as error:
            return [error_callout(error.to_record()), gr.update(visible=False)]
        if not found.counted and not blind:
            return ["", gr.update(visible=False)]
        notes = []
        if found.outdated:
            notes.append(f"{found.outdated} on adapters trained before are not counted")
        if found.repeated:
            notes.append(f"{found.repeated} on answers you had voted on already are not counted")
        note = Markup(" <small>({})</small>").format("; ".join(notes)) if notes else ""
        shown = Markup('<p class="ab-tally" role="status"><b>Blind votes</b> {}{}</p>').format(
            tally_sentence(found), note)
        return [shown, gr.update(visible=report_lacks_votes(study), interactive=True,
                                 value="Write the votes into the report")]

    def wire(self, picker: gr.Dropdown) -> None:
        """Connect the report's button; those of the vote belong to the conversation."""
        self.report.click(
            lambda: gr.update(interactive=False, value="Writing the report…"), None, self.report, queue=False,
            show_progress="hidden", api_visibility="private",
        ).then(user_facing_errors(_write), picker, self.report, show_progress="hidden", api_visibility="private").failure(
            lambda: gr.update(interactive=True, value="Write the votes into the report"), None, self.report,
            queue=False, show_progress="hidden", api_visibility="private",
        )


def _write(name: str | None) -> dict[str, Any]:
    rerender_report(Study.open(name or ""))
    gr.Info("The report holds the votes now; see the Report tab.")
    return gr.update(visible=False)


PANE_SCRIPT = (Path(__file__).parents[1] / "scripts" / "pane.js").read_text(encoding="utf-8")
_DROP = "Train on them, and take their questions out of the test"
_LEAVE = "Keep their questions in the test, and do not train on them"


class Corrections:
    """The components; the caller's layout says where the two parts stand."""

    def editor(self) -> None:
        """Place the editor."""
        self.wrong = gr.State(("", ""))
        with gr.Column(visible=False, elem_id="ab-correction") as self.box:
            gr.HTML("<h3>What should the answer have been?</h3>")
            self.question = gr.Textbox(
                label="Question", info="It is trained on alone, without the turns before it: word it so that it says "
                "all.", lines=2, max_lines=6, elem_id="ab-correct-question",
            )
            self.answer = gr.Textbox(
                label="Better answer", info="Mend what the assistant said.", lines=3, max_lines=12,
                elem_id="ab-correct-answer",
            )
            self.note = gr.HTML(elem_classes="ab-note")
            with gr.Row(elem_classes="ab-actions"):
                self.keep = gr.Button("Keep the correction", variant="primary", size="sm", elem_id="ab-correct-keep")
                self.cancel = gr.Button("Cancel", size="sm")

    def collection(self) -> None:
        """Place the list and the way to a new study."""
        with gr.Accordion("Corrections", open=False, elem_id="ab-corrections") as self.fold:
            self.list = gr.HTML(corrections_list([], ()), js_on_load=PANE_SCRIPT)
            with gr.Column(visible=False) as self.retraining:
                self.heldout = gr.Radio(
                    [_DROP, _LEAVE], value=_DROP, label="Corrections of held-out questions",
                    info="A question that is trained on cannot test: it would no longer be fair.", visible=False,
                )
                self.name = gr.Textbox(
                    label="Name of the new study", info="Same settings, same split; the corrections are added to its "
                    "training data.", max_lines=1, elem_id="ab-retrain-name",
                )
                self.retrain = gr.Button("Retrain as a new study", variant="primary", elem_id="ab-retrain")

    @property
    def opened(self) -> list[Any]:
        """What :meth:`open` sets."""
        return [self.box, self.question, self.answer, self.note, self.wrong]

    def open(self, study: Study, question: str, answer: str, arm: str) -> list[Any]:
        """Show the editor on an answer."""
        try:
            leaks = bool(heldout_matches(study, [question]))
        except AssistantBuilderError:
            leaks = False
        note = ("This question stands in the held-out set. Trained on, it can no longer test; that is decided below, "
                "under Corrections." if leaks else "")
        return [gr.update(visible=True), question, answer, note, (answer, arm)]

    @property
    def listed(self) -> list[Any]:
        """What :meth:`drawn` sets."""
        return [self.fold, self.list, self.retraining, self.heldout, self.retrain]

    def drawn(self, study: Study | None) -> list[Any]:
        """The list as it stands."""
        found: list[Correction] = []
        heldout: dict[int, list[int]] = {}
        try:
            found = read_corrections(study) if study else []
            heldout = heldout_matches(study, [one.question for one in found]) if study and found else {}
            shown = corrections_list(found, heldout)
        except AssistantBuilderError as error:
            shown = error_callout(error.to_record())
        label = f"Corrections ({len(found)})" if found else "Corrections"
        button = f"Retrain with {plural(len(found), 'correction')} as a new study"
        return [gr.update(label=label), shown, gr.update(visible=bool(found)), gr.update(visible=bool(heldout)),
                gr.update(value=button, interactive=True)]

    def wire(self, picker: gr.Dropdown, tabs: gr.Tabs) -> None:
        """Connect the components."""
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        self.cancel.click(lambda: gr.update(visible=False), None, self.box, queue=False, **quiet)
        self.keep.click(
            user_facing_errors(self._keep), [picker, self.question, self.answer, self.wrong],
            [self.box, self.name, *self.listed], **quiet,
        )
        self.list.click(user_facing_errors(self._remove), picker, self.listed, **quiet)
        self.retrain.click(
            user_facing_errors(self._retrain), [picker, self.name, self.heldout], [picker, tabs, self.name],
            api_visibility="private", show_progress_on=self.retrain,
        )

    def proposed(self, study: Study | None) -> str:
        """A free name for the new study."""
        return free_name(f"{study.name}-corrected") if study else ""

    def _keep(self, name: str | None, question: str, answer: str, wrong: tuple[str, str]) -> list[Any]:
        study = Study.open(name or "")
        add_correction(study, question, answer, wrong=wrong[0], arm=wrong[1])
        listed = self.drawn(study)
        listed[0]["open"] = True
        return [gr.update(visible=False), self.proposed(study), *listed]

    def _remove(self, name: str | None, event: gr.EventData) -> list[Any]:
        study = Study.open(name or "")
        found = read_corrections(study)
        place = event.turn
        if isinstance(place, int) and 0 <= place < len(found):
            remove_correction(study, found[place].time)
        return self.drawn(study)

    def _retrain(self, name: str | None, new: str, heldout: str) -> list[Any]:
        study = Study.open(name or "")
        plan = plan_retraining(study, read_corrections(study), drop_heldout=heldout == _DROP)
        made = create_retraining_study(study, plan, new or self.proposed(study))
        if made.config.external_addresses or code_needing_permission(made.config.model) is not None:
            # shown, and allowed, on the Train tab
            gr.Info(toast("Its settings name other machines, or a model with code of its own: look at them here, and "
                          "press Start."), duration=30, title="A new study is made, and not started")
        else:
            start_run(made.name)
            gr.Info(toast(retrained_note(made.name, plan, study.name)), duration=30, title="A new study is running")
        return [gr.update(choices=[made.name], value=made.name), gr.Tabs(selected="train"), ""]
