"""The Results tab: the conclusion, and for specialists figures, tables, every answer and comparisons of studies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from assistant_builder.arms import CELLS
from assistant_builder.chat.client import WorkerPool
from assistant_builder.data.edit import NO_NUMBERS
from assistant_builder.data.prepare import row_numbers
from assistant_builder.i18n import N_, t
from assistant_builder.retrieval.own_questions import takes_own_questions
from assistant_builder.study import Study
from assistant_builder.ui.evaluate.compare import CompareStudiesPanel
from assistant_builder.ui.evaluate.item_browser import ItemBrowser
from assistant_builder.ui.evaluate.item_filters import count_by_choice, study_items
from assistant_builder.ui.evaluate.own_questions import OwnQuestionsPanel
from assistant_builder.ui.evaluate.view import (
    declaration_note,
    evaluation_state,
    four_bit_card,
    good_enough_card,
    misses_card,
    report_pending,
    results_frame,
    specialists_title,
    verdict_picture,
)
from assistant_builder.ui.html import CLICKS, empty, error_callout
from assistant_builder.ui.refresh import QUIET, LiveRegion, StudyView
from assistant_builder.ui.study_snapshot import (
    log_tail,
    needs_study,
    report_conclusion,
    state_of,
    stopped_step,
)
from evals.report.load import served_cells

EMPTY = N_("This tab shows the scores of the assistants.")


class EvaluateTab:
    """Components of the tab; the caller has opened the ``gr.Tab``. The pool answers the owner's questions."""

    def __init__(self, pool: WorkerPool) -> None:
        with gr.Column(elem_id="ab-evaluation"):
            self.state = gr.HTML(needs_study(t(EMPTY)))
            with gr.Column(visible=False, elem_id="ab-conclusion") as self.conclusion:
                self.enough = gr.HTML(js_on_load=CLICKS)
                with gr.Group(elem_classes="ab-group ab-four-bit"):
                    self.cost = gr.HTML()
                self.misses = gr.HTML()
            self.own = OwnQuestionsPanel(pool)
            self.details = gr.Accordion(
                specialists_title(None), open=False, visible=False, elem_id="ab-specialists"
            )
            with self.details:
                with gr.Tabs():
                    with gr.Tab(t("Verdict and figures")):
                        self.result = gr.HTML(elem_id="ab-verdict")
                    with gr.Tab(t("Every answer")):
                        self.no_items = gr.HTML()
                        with gr.Column() as self.browsing:
                            self.browser = ItemBrowser(
                                lambda name: study_items(Study.open(name)) if name else None,
                                "ab-items",
                            )
                    with gr.Tab(t("Compare projects")):
                        self.across = CompareStudiesPanel()

    def sections(self) -> list[LiveRegion]:
        """The regions that are redrawn when the study changes."""
        return [
            LiveRegion(
                "evaluate",
                [self.state, self.details],
                _state_mark,
                self._draw_state,
            ),
            LiveRegion(
                "evaluate-conclusion",
                [self.conclusion, self.enough, self.cost, self.misses],
                lambda view: view.stamp("report.json"),
                self._draw_conclusion,
            ),
            LiveRegion(
                "evaluate-result",
                [self.result],
                lambda view: view.stamp("report.json"),
                self._draw_result,
            ),
            LiveRegion(
                "evaluate-items",
                [self.no_items, self.browsing, *self.browser.outputs],
                lambda view: view.stamp(*_item_files(view.study)),
                self._draw_items,
            ),
            *self.own.sections(),
            *self.across.sections(),
        ]

    def _draw_state(self, view: StudyView) -> Sequence[Any]:
        snapshot, hidden = view.snapshot, gr.update(visible=False)
        if snapshot is None or view.study is None:
            message = error_callout(view.error) if view.error else needs_study(t(EMPTY))
            return [gr.update(value=message, visible=True), hidden]
        stopped = stopped_step(snapshot)
        log = (
            log_tail(view.study.log_file(stopped.step))
            if stopped and stopped.state == "failed"
            else ""
        )
        message = evaluation_state(snapshot, log)
        report, scored = (
            snapshot.report,
            set(served_cells(snapshot.config.arms)) <= snapshot.scores.keys(),
        )
        if (
            not report
            and snapshot.config.compares
            and snapshot.step("data").state == "succeeded"
            and not takes_own_questions(view.study)
        ):
            message += declaration_note(view.study)
        return [
            gr.update(value=message, visible=bool(message)),
            gr.update(visible=bool(report) or scored, label=specialists_title(report)),
        ]

    def _draw_conclusion(self, view: StudyView) -> Sequence[Any]:
        report = view.snapshot.report if view.snapshot else None
        found = report_conclusion(report) if report else None
        if report is None or found is None:
            return [gr.update(visible=False), *[gr.skip()] * 3]
        numbers = row_numbers(view.study.folder / "data") if view.study else NO_NUMBERS
        return [
            gr.update(visible=True),
            good_enough_card(report, found),
            four_bit_card(report, found) + verdict_picture(report),
            misses_card(report, found, numbers),
        ]

    def _draw_result(self, view: StudyView) -> Sequence[Any]:
        report = view.snapshot.report if view.snapshot else None
        return [results_frame(report) if report else report_pending()]

    def _draw_items(self, view: StudyView) -> Sequence[Any]:
        items = study_items(view.study) if view.study is not None else None
        if items is None:
            message = empty(
                t("No answers to compare yet"),
                t("The answers are shown after the assistants are scored."),
            )
            return [
                gr.update(value=message, visible=True),
                gr.update(visible=False),
                *self.browser.open_values(None),
            ]
        differ = count_by_choice(items, *items.pair)["different"] > 0
        shown = self.browser.open_values(items, "different" if differ else "all")
        return [gr.update(visible=False), gr.update(visible=True), *shown]

    # events

    def wire(self, picker: gr.Dropdown, tabs: gr.Tabs) -> None:
        """Connect the components; ``picker`` holds the name of the chosen study."""
        self.enough.click(_open_tab, None, tabs, queue=False, **QUIET)
        self.own.wire(picker)
        self.browser.wire(picker)
        self.across.wire(picker)


def _open_tab(event: gr.EventData) -> gr.Tabs:
    return gr.Tabs(selected=str(getattr(event, "action", "")))


def _item_files(study: Study | None) -> list[Path | str]:
    return (
        ["report.json", *(study.cell_folder(cell) / "scores.json" for cell in CELLS)]
        if study
        else []
    )


def _state_mark(view: StudyView) -> str:
    """Changes with the steps that this tab shows, and not with every training step."""
    study = view.study
    if study is None:
        return f"none:{view.name}"
    files = [
        "study.yaml",
        "run.json",
        *sorted((study.folder / "arms").glob("*/status.json")),
        *_item_files(study),
    ]
    for step in (*study.shards, "evaluate", "report"):
        files += [study.status_file(step), study.step_folder(step) / f"{step}.progress.json"]
    # no file changes when a process dies, but the state does
    return f"{state_of(study)}:{view.stamp(*files)}"
