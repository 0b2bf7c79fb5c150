"""The Train tab: choose, see what it comes to, start, watch, pause, carry on. It wires; the views draw."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from assistant_builder.config import StudyConfig
from assistant_builder.errors import AssistantBuilderError, ConfigError
from assistant_builder.models.remote_code import allow_code, code_needing_permission, is_allowed
from assistant_builder.study import Study
from assistant_builder.ui.html import Markup, callout, card, error_callout
from assistant_builder.ui.plots import loss_figure
from assistant_builder.ui.refresh import LiveRegion, StudyView, user_facing_errors
from assistant_builder.ui.settings_form import OptionForm
from assistant_builder.ui.study_snapshot import (
    Snapshot,
    log_tail,
    needs_study,
    samples_stamp,
    stamp,
    state_of,
    stopped_step,
)
from assistant_builder.ui.train.actions import (
    GO_LABELS,
    go,
    last_words,
    others_before,
    pause_label,
    pause_run,
    start_phase,
    start_run,
)
from assistant_builder.ui.train.eta import TimeRemaining, scoring_seconds, time_left
from assistant_builder.ui.train.preflight import Planned, PreflightIssue, Readiness, assess, planned_data
from assistant_builder.ui.train.preflight_view import contacts_note, not_ready, readiness_card, unticked
from assistant_builder.ui.train.settings import TrainSettings, starting_config
from assistant_builder.ui.train.view import command_lines, resources_table, run_panel, samples_card

_NOTIFY = (Path(__file__).parents[1] / "scripts" / "notify.js").read_text(encoding="utf-8")
_BELL = "Tell me when it is done"
_TRUST = (
    "I have read the Python code of {} and let it run: in this run, and in chats and exports until the page's server "
    "ends"
)
_PROCEED = "Proceed anyhow: I have read the warnings"


class TrainTab:
    """Components of the tab; the caller has opened the ``gr.Tab``."""

    def __init__(self) -> None:
        self.empty = gr.HTML(needs_study("Training needs a study with its question–answer file."))
        with gr.Row(visible=False, elem_id="ab-train") as self.body:
            with gr.Column(scale=5, min_width=300):
                self.settings = TrainSettings()
            with gr.Column(scale=7, min_width=300):
                self._watch()

    def _watch(self) -> None:
        self.plan = gr.HTML(elem_classes="ab-plan")
        with gr.Row(elem_classes="ab-actions"):
            self.start = gr.Button("Start", variant="primary", elem_id="ab-start")
            self.pause = gr.Button("Pause", visible=False, elem_id="ab-pause")
            self.bell = gr.Button(_BELL, visible=False, elem_id="ab-bell")
        self.proceed = gr.Checkbox(False, label=_PROCEED, visible=False, elem_id="ab-proceed")
        self.now = gr.Checkbox(
            False, label="Do not wait: run beside the studies that run now, which slows all of them down",
            visible=False, elem_id="ab-now",
        )
        self.trust = gr.Checkbox(False, visible=False, elem_id="ab-trust")
        self.replace = gr.Checkbox(
            False, label="Replace results: run again what the changes touch (everything, where nothing changed)",
            visible=False,
        )
        self.message = gr.HTML()
        self.panel = gr.HTML(elem_id="ab-run")
        self.plot = gr.Plot(show_label=False, visible=False, elem_id="ab-loss", elem_classes="ab-card")
        self.samples = gr.HTML(elem_id="ab-samples")
        self.resources = gr.HTML()
        with gr.Accordion("The command line of this", open=False):
            self.command = gr.Code(language="shell", show_label=False, interactive=False, wrap_lines=True)

    @property
    def form(self) -> OptionForm:
        """Every setting."""
        return self.settings.form

    def sections(self) -> list[LiveRegion]:
        """What follows the study."""
        return [
            LiveRegion("train-body", [self.empty, self.body], lambda look: str(look.name), self._draw_body),
            LiveRegion("train-form", self.form.inputs, lambda look: str(look.name), self.settings.draw_form),
            LiveRegion("train-plan", self._plan_outputs, _plan_mark, self._draw_plan),
            LiveRegion("train-run", self._run_outputs, _run_mark, self._draw_run),
            LiveRegion("train-plot", [self.plot], _metrics_mark, self._draw_plot),
            LiveRegion("train-samples", [self.samples], _samples_mark, self._draw_samples),
            LiveRegion("train-message", [self.message], lambda look: str(look.name), lambda look: [""]),
        ]

    def _draw_body(self, look: StudyView) -> Sequence[Any]:
        return [gr.update(visible=look.study is None), gr.update(visible=look.study is not None)]

    @property
    def _plan_outputs(self) -> list[Component]:
        return [*self.settings.notes, self.plan, self.proceed, self.trust, self.command]

    def _draw_plan(self, look: StudyView) -> Sequence[Any]:
        if look.study is None or look.snapshot is None:
            return ["", gr.skip(), "", "", gr.update(visible=False), gr.update(visible=False, value=False), ""]
        return self._planned(look.study, starting_config(look.study))

    @property
    def _run_outputs(self) -> list[Component]:
        return [self.start, self.pause, self.bell, self.now, self.replace, self.panel, self.resources]

    def _draw_run(self, look: StudyView) -> Sequence[Any]:
        seen, study = look.snapshot, look.study
        if study is None or seen is None:
            shown = error_callout(look.error) if look.error else ""
            hidden = [gr.update(visible=False)] * 3
            damaged = study is not None  # what cannot be read can be made anew
            return [gr.update(interactive=damaged, visible=True), *hidden, gr.update(visible=damaged), shown, ""]
        stopped = stopped_step(seen)
        table = resources_table(seen)
        phase = start_phase(study)
        if phase == "refused":
            refusal = callout("bad", "The run did not start", last_words(study))
        else:
            refusal = Markup("")
        others = others_before(study)
        label = "Starting…" if phase == "starting" else GO_LABELS[seen.state]
        return [
            gr.update(value=label, visible=not seen.busy, interactive=phase != "starting"),
            gr.update(visible=seen.busy, value=pause_label(study)),
            gr.update(visible=True) if seen.busy else gr.update(visible=False, value=_BELL),
            gr.update(visible=True) if others and not seen.busy else gr.update(visible=False, value=False),
            gr.update(visible=seen.touched and not seen.busy),
            refusal + run_panel(seen, log_tail(study, stopped.step) if stopped else "", _left(seen)),
            card("What training took", table) if table else "",
        ]

    def _draw_plot(self, look: StudyView) -> Sequence[Any]:
        seen = look.snapshot
        if seen is None or not any(arm.points or arm.validations for arm in seen.arms.values()):
            return [gr.update(value=None, visible=False)]
        return [gr.update(value=loss_figure(seen.arms), visible=True)]

    def _draw_samples(self, look: StudyView) -> Sequence[Any]:
        return [samples_card(look.snapshot.arms) if look.snapshot else ""]

    def _planned(
        self, study: Study, config: StudyConfig, redo: bool = False, now: bool = False, trust: bool = False
    ) -> list[Any]:
        source = study.config.data.source or (study.source.name if study.source else "")
        shown, asks = "", False
        code = code_needing_permission(config.model)
        ticked = trust and code is not None and is_allowed(code.source)  # else it was ticked for another model
        if _worth_showing(study, redo):
            seen = assess(study, config)
            before = [] if now else others_before(study)
            shown = readiness_card(seen, before=before, again=_touched(study) and not redo)
            asks = not seen.errors and bool(_to_overrule(study, seen, redo))
        if study.state != "running" and not study.queued_behind:
            shown = contacts_note(config) + shown
        return [
            *self.settings.said(study, config),
            shown,
            gr.update(visible=asks, value=False),
            gr.update(visible=code is not None, value=ticked, label=_TRUST.format(code)),
            command_lines(study.name, config, source=source, redo=redo, now=now, trust=ticked),
        ]

    # events

    def wire(self, picker: gr.Dropdown, tabs: gr.Tabs) -> None:
        """Connect the components.

        Args:
            picker: Holds the name of the chosen study.
            tabs: The tabs, to move on to another one.
        """
        form = self.form
        self.settings.wire(picker)
        gr.on(
            [component.change for component in [*form.inputs, self.replace, self.now]], self._changed,
            [picker, self.replace, self.now, self.trust, *form.inputs], self._plan_outputs, show_progress="hidden",
            trigger_mode="always_last", api_visibility="private",
        )
        self.trust.input(
            self._ticked, [picker, self.replace, self.now, self.trust, *form.inputs], self._plan_outputs,
            show_progress="hidden", api_visibility="private",
        )
        self.start.click(
            user_facing_errors(self._start), [picker, self.replace, self.now, self.proceed, self.trust, *form.inputs],
            [self.message, self.start, self.replace], api_visibility="private", show_progress_on=self.message,
        )
        self.pause.click(user_facing_errors(pause_run), picker, self.pause, show_progress="hidden", api_visibility="private")
        self.bell.click(None, None, self.bell, js=_NOTIFY)

    def _ticked(self, name: str | None, redo: bool, now: bool, trust: bool, *shown: Any) -> list[Any]:
        """Allow the code of the model on the form, and of no other, until the page's server ends."""
        if trust and name:
            with contextlib.suppress(AssistantBuilderError):  # said by what follows
                model = self.form.read(shown, Study.open(name).config).model
                if code_needing_permission(model) is not None:
                    allow_code(model)
        return self._changed(name, redo, now, trust, *shown)

    def _changed(self, name: str | None, redo: bool, now: bool, trust: bool, *shown: Any) -> list[Any]:
        nothing = [gr.skip()] * len(self._plan_outputs)
        if not name:
            return nothing
        try:
            study = Study.open(name)
            return self._planned(study, self.form.read(shown, study.config), redo, now, trust)
        except ConfigError as error:
            wrong = not_ready([PreflightIssue(error.what, "Correct it in the settings.")])
            return [gr.skip(), gr.skip(), gr.skip(), wrong, gr.update(visible=False), gr.skip(), gr.skip()]
        except AssistantBuilderError:
            return nothing

    def _start(
        self, name: str | None, replace: bool, now: bool, proceed: bool, trust: bool, *shown: Any
    ) -> list[Any]:
        study = Study.open(name or "")
        if replace and state_of(study) == "damaged":
            start_run(study.name, redo=True, now=now)
            return ["", gr.update(interactive=False, value="Starting…"), gr.update(value=False)]
        try:
            config = self.form.read(shown, study.config)
        except ConfigError as error:
            return [callout("bad", "These settings do not fit", error.what, "Correct them and press again."),
                    gr.skip(), gr.skip()]
        code = code_needing_permission(config.model)
        if code is not None and not (trust and is_allowed(code.source)):
            return [callout("bad", "Nothing was started", f"The base model runs Python code of its own: {code}.",
                            "Read that code; to run it, tick the box that names it and press again."),
                    gr.skip(), gr.skip()]
        seen = assess(study, config)
        if seen.errors:
            return [not_ready(seen.errors), gr.skip(), gr.skip()]
        warnings = _to_overrule(study, seen, replace)
        if warnings and not proceed:
            return [unticked(warnings), gr.skip(), gr.skip()]
        message, started = go(study, lambda base: self.form.read(shown, base), replace=replace, now=now,
                              trust=code is not None)
        button = gr.update(interactive=False, value="Starting…") if started else gr.skip()
        return [message, button, gr.update(value=False) if started else gr.skip()]


def _touched(study: Study) -> bool:
    return any(study.step(step).state != "queued" for step in study.steps)


def _worth_showing(study: Study, redo: bool) -> bool:
    """Whether what a start would be is worth showing: not while it runs, nor beside results or a run to carry on."""
    state = study.state
    if state == "running" or study.queued_behind:
        return False
    return redo or state in ("queued", "failed") or not _touched(study)


def _to_overrule(study: Study, seen: Readiness, redo: bool) -> Sequence[PreflightIssue]:
    """Warnings that have to be overruled: those of a new start, as what is carried on was started in spite of them."""
    return seen.warnings if redo or not _touched(study) else ()


def _left(seen: Snapshot) -> TimeRemaining | None:
    if not seen.running:
        return None
    study = Study.open(seen.name)
    planned = planned_data(study, seen.config.data)
    answers = planned.heldout if isinstance(planned, Planned) else 0
    return time_left(seen, scoring_seconds(seen.config.model.base), answers)


def _plan_mark(look: StudyView) -> str:
    if look.study is None:
        return f"none:{look.name}"
    split = stamp([look.study.folder / "data" / "split.json"])
    return f"{look.name}:{split}:{state_of(look.study)}:{others_before(look.study)}"


def _run_mark(look: StudyView) -> str:
    if look.study is None:
        return look.mark
    return f"{look.mark}:{start_phase(look.study)}:{look.study.cancel_requested}:{others_before(look.study)}"


def _metrics_mark(look: StudyView) -> str:
    if look.study is None:
        return f"none:{look.name}"
    return f"{look.name}:{stamp(look.study.arm_folder(arm) / 'metrics.jsonl' for arm in look.study.config.arms)}"


def _samples_mark(look: StudyView) -> str:
    return f"{look.name}:{samples_stamp(look.study) if look.study else ''}"
