"""Views of the evaluation: its progress, the conclusion, the verdict, and the score tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from assistant_builder.arms import CELLS, TWINS_TITLE
from assistant_builder.data.edit import NO_NUMBERS
from assistant_builder.data.types import RowNumbers
from assistant_builder.error_record import ErrorRecord
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.i18n import N_, Message, Text, render, t, tn
from assistant_builder.study import Study
from assistant_builder.study.steps import evaluates
from assistant_builder.ui.evaluate.item_view import row_text
from assistant_builder.ui.html import (
    Tone,
    bar,
    callout,
    code,
    empty,
    error_callout,
    fold,
    fragment,
    hint,
    join,
    report_frame,
)
from assistant_builder.ui.study_snapshot import Snapshot, first_verdict, step_title
from evals.declaration import EXACT
from evals.report.brief import Example, examples, misses, risks
from evals.report.charts import interval_panel
from evals.report.conclusion import Conclusion
from evals.report.contrasts import HEADLINE
from evals.report.declared import changed_text
from evals.report.number_format import (
    duration,
    margin,
    shown,
)
from evals.report.other_words import is_respelled
from evals.report.own_questions import OwnTexts
from evals.report.render import draw_intervals, render_results
from evals.report.schema import Report


def evaluation_state(snapshot: Snapshot, log: str = "") -> Markup:
    """State of an evaluation that is not finished, with the end of the log of the step that failed."""
    scoring = [each for each in snapshot.steps if evaluates(each.step)]
    shown_states = ("running", "failed", "cancelled", "lost")
    found = (each for state in shown_states for each in scoring if each.state == state)
    record, report = next(found, scoring[-1]), snapshot.step("report")
    if record.state == "running":
        going = [each.step for each in scoring if each.state == "running"]
        return join([first_verdict(snapshot), _progress(snapshot, going)])
    for step in (record, report):
        if step.state == "failed":
            title = step_title(step.step)
            message = error_callout(step.error or {"what": t("“{title}” failed", title=title)})
            return join(
                [message, fold(t("Log of “{title}”", title=title), code(log)) if log else ""]
            )
    if record.state in ("cancelled", "lost"):
        title = (
            t("The evaluation was cancelled")
            if record.state == "cancelled"
            else t("The evaluation was interrupted")
        )
        return callout(
            "warn",
            title,
            t("The scores so far are kept."),
            t("Press “Resume” on the Train tab to continue with the cell at which it stopped."),
        )
    if record.state == "queued" and not snapshot.scores:
        return _not_begun(snapshot)
    if record.state == "succeeded" and snapshot.report is None:
        message = callout(
            "info", t("All cells are scored"), t("The report with the verdict is being written.")
        )
        if report.state == "succeeded":
            message = callout(
                "warn",
                t("The report is of an earlier release"),
                remedy=t("Press “Re-create report” on the Report tab."),
            )
        elif report.state != "running":
            message = callout(
                "warn",
                t("All cells are scored, but the report is missing"),
                remedy=t("Press “Resume” on the Train tab to write the report with the verdict."),
            )
        return message
    return Markup("")


def _not_begun(snapshot: Snapshot) -> Markup:
    if snapshot.trained and not snapshot.running:
        text = t("Start it again on the Train tab, and the test questions are asked.")
        return empty(t("Trained, not evaluated"), text)
    text = t("The evaluation starts automatically after the training.")
    if not snapshot.running:
        text = " ".join((t("Train the project on the Train tab."), text))
    return empty(t("Nothing to evaluate yet"), text)


def _progress(snapshot: Snapshot, steps: Sequence[str]) -> Markup:
    """Progress of the running scoring steps."""
    going = {
        step: found
        for step in steps
        if (found := snapshot.progress.get(step)) is not None and found.total
    }
    if not going:
        return callout("info", t("Evaluating"), t("Loading the models."))
    parts = []
    for step, progress in going.items():
        eta = progress.eta_seconds
        left = "" if eta is None else ", " + t("{time} left", time=duration(eta))
        if (verdict := progress.verdict_seconds) is not None:
            left = ", " + t("first verdict in {time}", time=duration(verdict)) + left
        what = render(progress.text) if progress.message else t("Scoring")
        parts += [
            callout("info", t("Evaluating"), f"{what}: {progress.done} %{left}"),
            bar(progress.done / progress.total, step_title(step)),
        ]
    return join([*parts, _cell_states(snapshot, [progress.text for progress in going.values()])])


def _cell_states(snapshot: Snapshot, messages: Sequence[Text]) -> Markup:
    """Each cell with its state and scoring time, in the order of the report."""
    current = {
        render(each.values.get("cell", "")) for each in messages if isinstance(each, Message)
    }
    stages = []
    for cell in (cell for cell in CELLS if cell in snapshot.config.cells):
        scores = snapshot.scores.get(cell)
        label = t(CELLS[cell].label)
        state, note = "running" if {cell, label} & current else "queued", ""
        if scores is not None:
            state, note = "succeeded", duration(sum((scores.get("seconds") or {}).values()))
        stages.append((cell, label, state, note))
    return fragment("evaluate.stages", stages)


_ACTIONS = {
    "chat": N_("Chat with the assistant"),
    "train": N_("Train longer"),
    "data": N_("Add other wordings"),
    "evaluate": N_("Test it with more questions"),
}
"""Another tab on which the advice of a conclusion is followed → title of the button that opens it."""
_MISSES = 50
"""Number of wrong answers that are listed."""
_SHORT_TEXT = 110
"""Characters of a question or an answer in a list of examples."""


AUDIENCE_TONES: dict[str, Tone] = {"customers": "good", "colleagues": "warn", "nobody": "bad"}


def good_enough_card(report: Report, conclusion: Conclusion) -> Markup:
    """Whether the assistant is good enough: figures, sentences, three answers, a risk, and a button for what to do."""
    who = conclusion.audience.who
    return fragment(
        "evaluate.good_enough",
        conclusion,
        AUDIENCE_TONES[who],
        example_table(examples(report, conclusion)),
        risks(report, conclusion)[: who != "colleagues"],
        t(_ACTIONS[conclusion.next_tab]) if conclusion.next_tab in _ACTIONS else "",
    )


def example_table(found: Sequence[Example], numbers: RowNumbers | None = None) -> Markup:
    """Questions with the right answer and the answer of the assistant, and with ``numbers`` their rows in the file."""
    if not found:
        return Markup("")
    labels = "".join(
        f"--ab-{place}: {json.dumps(f'{text} ', ensure_ascii=False)};"
        for place, text in (("second", t("Right answer:")), ("third", t("Assistant:")))
    )
    rows = [(each, row_text(each.row, numbers) if numbers else "") for each in found]
    return fragment("evaluate.examples", rows, labels, _SHORT_TEXT)


def four_bit_card(report: Report, conclusion: Conclusion) -> Markup:
    """How the compact assistant compares, in a sentence; what was changed after scoring is part of it."""
    changed = changed_text(report.verdict.frozen)
    return fragment("evaluate.four_bit", t(TWINS_TITLE), conclusion.four_bit, changed)


def misses_card(report: Report, conclusion: Conclusion, numbers: RowNumbers = NO_NUMBERS) -> Markup:
    """The wrong answers, folded; empty without any."""
    found = misses(report, conclusion)
    if not found:
        return Markup("")
    title = tn(
        "{count} question not answered right",
        "{count} questions not answered right",
        len(found),
    )
    listed = example_table(found[:_MISSES], numbers)
    config = report.config
    known = "grounded" in config.get("approaches", ()) and config["retrieval"]["final_index"]
    return fragment("evaluate.misses", title, listed, len(found) > _MISSES, known)


def own_state_view(
    questions: int,
    missing: int,
    *,
    trained: bool,
    asking: bool,
    error: ErrorRecord | None,
    reword: bool = True,
) -> Markup:
    """Whether anything is tested in the owner's words; ``missing`` of the questions were not asked yet.

    ``reword``: the file has too few other wordings for a test.
    """
    if not questions and not reword:
        return callout(
            "info",
            t("Does it decline what your file does not answer?"),
            t("The test has too few questions to decline to show that."),
            t("Tick or type some below: the assistants are asked them without another training."),
        )
    if not questions:
        return callout(
            "info",
            t("Nothing was tested in other words")
            if trained
            else t("You can write the test while it trains"),
            t(
                "Most answers of your file occur once, so the program has too few other wordings to test the assistant "
                "with. That says nothing against the assistant."
            ),
            t("Type some questions below: it is asked them, and is never trained on them."),
        )
    if error is not None and missing and not asking:
        return error_callout(error)
    kept = tn(
        "{count} question is kept for the test",
        "{count} questions are kept for the test",
        questions,
    )
    if asking:
        return callout("info", t("The questions are being asked…"))
    if not trained:
        return callout("good", kept, t("The assistants are asked when the run has ended."))
    if missing:
        return callout(
            "info",
            kept,
            t("They are asked when the run has ended, or if you press “Keep them and ask”."),
        )
    return Markup("")


def own_answers_view(texts: OwnTexts, numbers: RowNumbers) -> Markup:
    """The answers to the owner's questions side by side, and their counts."""
    places = [row_text(line.row, numbers) if line.row else "" for line in texts.rows]
    return fragment("evaluate.own_answers", texts, places)


def specialists_title(report: Report | None) -> str:
    """Title of the folded part, with the number of serious warnings in it."""
    serious = sum(entry.level == "serious" for entry in (report.warnings if report else ()))
    return (
        tn("For specialists ({count} warning)", "For specialists ({count} warnings)", serious)
        if serious
        else t("For specialists")
    )


def declaration_note(study: Study) -> Markup:
    """Metric, margins and claim of the verdict before its report; empty if they cannot be told from the data."""
    from evals.report.declared import explain_study

    try:
        return fold(t("How the verdict is reached"), explain_study(study))
    except (AssistantBuilderError, OSError, KeyError):
        return Markup("")  # the Data and Train tabs report a damaged split


def verdict_picture(report: Report) -> Markup:
    """The difference in the metric of the verdict with the margin, and its key; empty without a comparison."""
    metric, verdict = report.primary_metric, report.verdict
    rows = [
        {
            **row,
            "margin": verdict.margin,
            "label": t("Right answers") if metric == EXACT else shown(metric).label,
        }
        for row in report.contrasts
        if report.compares
        and not is_respelled(report)
        and row["name"] == HEADLINE
        and row["metric"] == metric
    ]
    if not rows:
        return Markup("")
    key = t(
        "Up to the dashed line, {margin}, it counts as no worse.",
        margin=margin(metric, verdict.margin),
    )
    higher = rows[0]["higher_is_better"]
    sides = (t("← worse"), t("better →")) if higher else (t("← better"), t("worse →"))
    heading = t("Compact minus full, 95 % interval")
    return intervals([interval_panel(rows, *sides, heading, ascending=True)]) + hint(key)


def intervals(panels: Sequence[dict[str, Any]]) -> Markup:
    """Differences with their intervals, drawn as in the report."""
    return fragment("evaluate.intervals", draw_intervals(panels))


def report_pending() -> Markup:
    """What stands in for the verdict before there is a report."""
    return empty(
        t("The verdict is part of the report"),
        t(
            "The report is written automatically after all cells are scored. The answers "
            "are available already."
        ),
    )


def results_frame(report: Report) -> Markup:
    """The report's own sections about the verdict and its figures, in a frame like that of the Report tab."""
    return report_frame(render_results(report))
