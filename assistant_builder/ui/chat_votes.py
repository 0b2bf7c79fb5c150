"""Blind voting on the page: four buttons, the reveal, the running tally, and the votes in the report."""

from __future__ import annotations

from typing import Any

import gradio as gr

from assistant_builder.chat.conversation import CHOICES, Choice, Turn
from assistant_builder.chat.votes import tally, tally_sentence
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.jobs.reporting import write_report_again
from assistant_builder.study import Study
from assistant_builder.ui.markup import Markup, error_callout
from assistant_builder.ui.sections import told
from evals.report.votes import report_lacks_votes

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
        alike = turn is not None and open_ and turn.alike
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
        ).then(told(_write), picker, self.report, show_progress="hidden", api_visibility="private").failure(
            lambda: gr.update(interactive=True, value="Write the votes into the report"), None, self.report,
            queue=False, show_progress="hidden", api_visibility="private",
        )


def _write(name: str | None) -> dict[str, Any]:
    write_report_again(Study.open(name or ""))
    gr.Info("The report holds the votes now; see the Report tab.")
    return gr.update(visible=False)
