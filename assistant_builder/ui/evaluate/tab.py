"""The Evaluate tab: the verdict, the pictures and tables behind it, the answers one by one, another study beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr
from markupsafe import Markup

from assistant_builder.arms import CELLS
from assistant_builder.errors import StudyError
from assistant_builder.study import Study
from assistant_builder.study.steps import evaluates
from assistant_builder.ui.evaluate.compare import AcrossPanel
from assistant_builder.ui.evaluate.figures import (
    cells_figure,
    contrast_panels,
    headline_panels,
    interval_figure,
    reliability_figure,
    reliability_rows,
    seeds_figure,
    waterfall_figure,
)
from assistant_builder.ui.evaluate.item_browser import ItemBrowser
from assistant_builder.ui.evaluate.item_filters import ItemSet, amounts, study_items
from assistant_builder.ui.evaluate.view import (
    evaluation_state,
    interval_key,
    metric_choices,
    power_sentence,
    report_tables,
    verdict_callout,
)
from assistant_builder.ui.html import callout, empty, error_callout, fold, table
from assistant_builder.ui.refresh import LiveRegion, StudyView, user_facing_errors
from assistant_builder.ui.study_snapshot import Snapshot, log_tail, needs_study, stamp, stopped_step, study_report
from assistant_builder.ui.train.actions import last_words, pause_label, pause_run, start_phase, start_run
from assistant_builder.ui.train.preflight_view import contacts_note
from evals.report.load import is_compared, served_cells

EMPTY = "The scores of the assistants are shown here."
_STOPPED = ("failed", "cancelled", "lost")


class EvaluateTab:
    """Components of the tab; the caller has opened the ``gr.Tab``."""

    def __init__(self) -> None:
        with gr.Column(elem_id="ab-evaluation"):
            with gr.Row(elem_classes="ab-actions", visible=False) as self.actions:
                self.start = gr.Button("Evaluate now", variant="primary", visible=False, elem_id="ab-evaluate")
                self.pause = gr.Button("Pause", visible=False, elem_id="ab-evaluate-pause")
            self.state = gr.HTML(needs_study(EMPTY))
            self.verdict = gr.HTML(elem_id="ab-verdict")
            with gr.Tabs(visible=False, elem_id="ab-evaluate-parts") as self.parts:
                with gr.Tab("Result", id="result"):
                    self._pictures()
                with gr.Tab("Answers", id="answers"):
                    self.no_items = gr.HTML()
                    with gr.Column() as self.browsing:
                        self.browser = ItemBrowser(_items_of, "ab-items")
                with gr.Tab("Compare studies", id="across"):
                    self.across = AcrossPanel()

    def _pictures(self) -> None:
        self.pending = gr.HTML(empty("The verdict and its pictures come with the report", "It is written by itself "
                                     "when all cells are scored. The answers can be looked at already."))
        with gr.Column(visible=False) as self.result:
            with gr.Row(elem_classes="ab-pictures"):
                with gr.Column(min_width=300):
                    self.headline = gr.Plot(label="QLoRA minus LoRA, 95 % intervals", elem_classes="ab-figure")
                    self.key = gr.HTML(elem_classes="ab-note")
                with gr.Column(min_width=300):
                    self.waterfall = gr.Plot(label="Where the difference comes from", elem_classes="ab-figure")
                    self.origin = gr.HTML(elem_classes="ab-note")
            with gr.Group(elem_classes="ab-group", elem_id="ab-metric"):
                self.metric = gr.Dropdown([], label="Metric of the next two pictures", interactive=True,
                                          filterable=False)
            with gr.Row(elem_classes="ab-pictures"):
                with gr.Column(min_width=300):
                    self.contrasts = gr.Plot(label="Every difference between cells", elem_classes="ab-figure")
                with gr.Column(min_width=300):
                    self.cells = gr.Plot(label="Every cell", elem_classes="ab-figure")
                    with gr.Column() as self.trust:
                        self.reliability = gr.Plot(label="Are confident answers right ones?", elem_classes="ab-figure")
                        self.trusted = gr.HTML(elem_classes="ab-note")
                    self.seeds = gr.Plot(label="Other training seeds", elem_classes="ab-figure")
                    self.seeded = gr.HTML(elem_classes="ab-note")
            self.tables = gr.HTML()

    def sections(self) -> list[LiveRegion]:
        """What follows the study."""
        return [
            LiveRegion("evaluate", [self.actions, self.start, self.pause, self.state, self.verdict, self.parts],
                    _state_mark, self._draw_state),
            LiveRegion("evaluate-result", [
                self.pending, self.result, self.headline, self.key, self.waterfall, self.origin, self.metric,
                self.contrasts, self.cells, self.trust, self.reliability, self.trusted, self.seeds, self.seeded,
                self.tables,
            ], _result_mark, self._draw_result),
            LiveRegion("evaluate-items", [self.no_items, self.browsing, *self.browser.outputs], _items_mark,
                    self._draw_items),
            *self.across.sections(),
        ]

    def _draw_state(self, look: StudyView) -> Sequence[Any]:
        seen, hidden = look.snapshot, gr.update(visible=False)
        if seen is None or look.study is None:
            said = error_callout(look.error) if look.error else needs_study(EMPTY)
            return [hidden, hidden, hidden, gr.update(value=said, visible=True), hidden, hidden]
        running = any(step.state == "running" for step in seen.steps if evaluates(step.step))
        stopped = stopped_step(seen)
        log = log_tail(look.study, stopped.step) if stopped and stopped.state == "failed" else ""
        said = evaluation_state(seen, log)
        phase = start_phase(look.study)
        if phase == "refused":
            said = callout("bad", "The run did not start", last_words(look.study)) + said
        cancelling, ready = look.study.cancel_requested, _can_start(seen)
        if ready:
            said = contacts_note(seen.config) + said
        return [
            gr.update(visible=ready or running), _start_button(seen, phase, ready),
            gr.update(visible=running, value=pause_label(look.study), interactive=not cancelling),
            gr.update(value=said, visible=bool(said)),
            gr.update(value=verdict_callout(seen.report) if seen.report else "", visible=bool(seen.report)),
            gr.update(visible=bool(seen.report) or set(served_cells(seen.config.arms)) <= seen.scores.keys()),
        ]

    def _draw_result(self, look: StudyView) -> Sequence[Any]:
        report = look.snapshot.report if look.snapshot else None
        if report is None:
            return [gr.update(visible=True), gr.update(visible=False), *[gr.skip()] * 13]
        primary, waterfall, trust = report["primary_metric"], report["attribution"], report["reliability"]
        metrics = list(dict.fromkeys(row["metric"] for row in report["contrasts"]))
        several = report["seeds"]["count"] > 1
        panels = headline_panels(report)
        return [
            gr.update(visible=False), gr.update(visible=True),
            gr.update(value=interval_figure(panels) if panels else None, visible=bool(panels),
                      label=f"{'QLoRA minus LoRA' if is_compared(report) else 'Tuned minus untuned'}, 95 % intervals"),
            _told([interval_key(report)]),
            gr.update(value=waterfall_figure(waterfall) if waterfall else None, visible=bool(waterfall)),
            _told([waterfall["sentence"] if waterfall else "", power_sentence(report)]),
            gr.update(choices=metric_choices(metrics), value=primary),
            *_by_metric(report, primary),
            gr.update(visible=bool(trust)),
            reliability_figure(trust) if trust else None,
            _reliability_note(trust) if trust else "",
            gr.update(value=seeds_figure(report["seeds"]) if several else None, visible=several),
            _told([report["seeds"]["sentence"]]),
            report_tables(report),
        ]

    def _draw_items(self, look: StudyView) -> Sequence[Any]:
        items = study_items(look.study) if look.study is not None else None
        if items is None:
            said = empty("No answers to compare yet", "They come as soon as the assistants are scored.")
            return [gr.update(value=said, visible=True), gr.update(visible=False), *self.browser.opened(None)]
        differ = amounts(items, *items.pair)["different"] > 0
        shown = self.browser.opened(items, "different" if differ else "all")
        return [gr.update(visible=False), gr.update(visible=True), *shown]

    # events

    def wire(self, picker: gr.Dropdown, tabs: gr.Tabs) -> None:
        """Connect the components.

        Args:
            picker: Holds the name of the chosen study.
            tabs: The tabs, to move on to another one.
        """
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        self.start.click(user_facing_errors(self._start), picker, self.start, **quiet)
        self.pause.click(user_facing_errors(pause_run), picker, self.pause, **quiet)
        self.metric.input(user_facing_errors(self._redraw), [picker, self.metric], [self.contrasts, self.cells], queue=False, **quiet)
        self.browser.wire(picker)
        self.across.wire(picker)

    def _start(self, name: str | None) -> dict[str, Any]:
        start_run(Study.open(name or "").name)
        return gr.update(interactive=False, value="Starting…")

    def _redraw(self, name: str | None, metric: str) -> list[Any]:
        report = study_report(Study.open(name or ""))
        if report is None:
            raise StudyError("the report is gone", remedy="Press “Carry on”")
        return _by_metric(report, metric)


def _can_start(seen: Snapshot) -> bool:
    unfinished = any(seen.step(step).state != "succeeded" for step in ("evaluate", "report"))
    return seen.trained and not seen.running and unfinished


def _start_button(seen: Snapshot, phase: str, ready: bool) -> dict[str, Any]:
    """One button: begin, or carry on with what stopped at the evaluation or the report."""
    if phase == "starting":
        return gr.update(visible=ready, interactive=False, value="Starting…")
    begun = any(step.state in (*_STOPPED, "succeeded") for step in seen.steps if evaluates(step.step))
    return gr.update(visible=ready, interactive=True, value="Carry on" if begun else "Evaluate now")


def _by_metric(report: dict[str, Any], metric: str) -> list[Any]:
    panels = contrast_panels(report, metric)
    return [
        interval_figure(panels) if panels else None,
        cells_figure({**report["cells"], **report["baselines"]}, metric),
    ]


def _reliability_note(reliability: dict[str, Any]) -> Markup:
    rows = reliability_rows(reliability)
    headers = ("Assistant", "Mean probability", "Right (95 % interval)", "Items")
    return fold("The picture in figures", table(headers, rows, numeric=(1, 2, 3)))


def _told(sentences: Sequence[str]) -> Markup:
    return Markup("").join(Markup("<p>{}</p>").format(sentence) for sentence in sentences if sentence)


def _items_of(name: str | None) -> ItemSet | None:
    return study_items(Study.open(name)) if name else None


def _state_mark(look: StudyView) -> str:
    """Changes with the steps that matter here, and not with every step of training."""
    study = look.study
    if study is None:
        return f"none:{look.name}"
    state = look.mark.split(":")[1]  # which tells of a process that died, and no file does
    files = [study.folder / "study.yaml", study.folder / "run.json", study.folder / "report.json"]
    files += sorted((study.folder / "arms").glob("*/status.json"))
    files += [study.cell_folder(cell) / "scores.json" for cell in CELLS]
    files += [path for step in (*study.shards, "evaluate", "report")
              for path in (study.status_file(step), study.step_folder(step) / f"{step}.progress.json")]
    return f"{look.name}:{state}:{stamp(files)}:{start_phase(study)}:{study.cancel_requested}"


def _result_mark(look: StudyView) -> str:
    return f"{look.name}:{stamp([look.study.folder / 'report.json'])}" if look.study else f"none:{look.name}"


def _items_mark(look: StudyView) -> str:
    if look.study is None:
        return f"none:{look.name}"
    files = [look.study.folder / "report.json"]
    files += [look.study.cell_folder(cell) / "scores.json" for cell in CELLS]
    return f"{look.name}:{stamp(files)}"
