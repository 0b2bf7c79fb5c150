"""The Train tab: settings, preflight checks, start, progress, pause and resume."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

import gradio as gr
from gradio.components import Component

from assistant_builder.config import StudyConfig, printable
from assistant_builder.errors import AssistantBuilderError, ConfigError
from assistant_builder.i18n import N_, render, t
from assistant_builder.models.remote_code import allow_code, code_needing_permission, is_allowed
from assistant_builder.study import Study
from assistant_builder.study.addresses import allow_addresses, not_allowed
from assistant_builder.ui.html import FIT_CHARTS, callout, error_callout
from assistant_builder.ui.plots import loss_figure
from assistant_builder.ui.refresh import (
    QUIET,
    LiveRegion,
    StudyView,
    Updates,
    Values,
    body_region,
)
from assistant_builder.ui.settings_form import OptionForm
from assistant_builder.ui.study_snapshot import (
    Snapshot,
    log_tail,
    needs_study,
    samples_stamp,
    state_of,
    stopped_step,
)
from assistant_builder.ui.train.actions import (
    START_LABELS,
    pause_label,
    pause_run,
    start_or_resume,
    start_phase,
    start_refusal,
    start_run,
    studies_ahead,
)
from assistant_builder.ui.train.preflight import (
    DataEstimate,
    PreflightIssue,
    TimeRemaining,
    estimate_data,
    run_preflight,
    scoring_seconds,
    time_left,
)
from assistant_builder.ui.train.preflight_view import contacts_note, not_ready, preflight_card
from assistant_builder.ui.train.settings import TrainSettings, starting_config
from assistant_builder.ui.train.view import run_panel, samples_card

_NOTIFY = (Path(__file__).parents[1] / "scripts" / "notify.js").read_text(encoding="utf-8")
_BELL = N_("Notify me when it is done")
_CONNECT = N_("I know {addresses} and allow to connect; it is remembered on this computer")
_TRUST = N_(
    "I have read the Python code of {code} and allow it to run: in this run, and in chats and exports until "
    "the server stops"
)


class TrainTab:
    """Components of the tab; the caller has opened the ``gr.Tab``."""

    def __init__(self) -> None:
        self.empty = gr.HTML(
            needs_study(t("Training needs a project with its question–answer file."))
        )
        with gr.Row(visible=False, elem_id="ab-train") as self.body:
            with gr.Column(scale=5, min_width=300):
                self.settings = TrainSettings()
            with gr.Column(scale=7, min_width=300):
                self._watch()

    def _watch(self) -> None:
        self.plan = gr.HTML(elem_classes="ab-plan")
        with gr.Row(elem_classes="ab-actions"):
            self.pause = gr.Button(t("Pause"), visible=False, elem_id="ab-pause")
            self.bell = gr.Button(t(_BELL), visible=False, elem_id="ab-bell")
        self.trust = gr.Checkbox(False, visible=False, elem_id="ab-trust")
        self.connect = gr.Checkbox(False, visible=False, elem_id="ab-connect")
        self.replace = gr.Checkbox(
            False,
            label=t(
                "Replace results: run the changed steps again (all steps if nothing has changed)"
            ),
            visible=False,
        )
        self.message = gr.HTML()
        self.panel = gr.HTML(elem_id="ab-run")
        self.samples = gr.HTML(elem_id="ab-samples")
        with gr.Accordion(
            t("For specialists: loss curves"), open=False, visible=False, elem_id="ab-curves"
        ) as self.curves:
            self.plot = gr.Plot(show_label=False, elem_id="ab-loss")

    @property
    def start(self) -> gr.Button:
        """The start button, below the presets."""
        return self.settings.start

    @property
    def form(self) -> OptionForm:
        """Every setting."""
        return self.settings.form

    def sections(self) -> list[LiveRegion]:
        """The regions that are redrawn when the study changes."""
        return [
            body_region("train-body", self.empty, self.body),
            LiveRegion(
                "train-form", self.form.inputs, lambda view: str(view.name), self.settings.draw_form
            ),
            LiveRegion("train-plan", self._plan_outputs, _plan_mark, self._draw_plan),
            LiveRegion(
                "train-run",
                [
                    self.start,
                    self.pause,
                    self.bell,
                    self.replace,
                    self.panel,
                ],
                _run_mark,
                self._draw_run,
            ),
            LiveRegion("train-plot", [self.curves, self.plot], _metrics_mark, self._draw_plot),
            LiveRegion(
                "train-samples",
                [self.samples],
                lambda view: f"{view.name}:{samples_stamp(view.study) if view.study else ''}",
                lambda view: {
                    self.samples: samples_card(view.snapshot.arms) if view.snapshot else ""
                },
            ),
            LiveRegion(
                "train-message",
                [self.message],
                lambda view: str(view.name),
                lambda view: {self.message: ""},
            ),
        ]

    @property
    def _plan_outputs(self) -> list[Component]:
        return [*self.settings.notes, self.plan, self.trust, self.connect]

    def _draw_plan(self, view: StudyView) -> Updates:
        if view.study is None or view.snapshot is None:
            texts = (self.settings.note, self.settings.selected, self.plan)
            hidden = gr.update(visible=False, value=False)
            return {**dict.fromkeys(texts, ""), self.trust: hidden, self.connect: hidden}
        return self._plan_updates(view.study, starting_config(view.study))

    def _draw_run(self, view: StudyView) -> Updates:
        snapshot, study = view.snapshot, view.study
        if study is None or snapshot is None:
            damaged = study is not None  # a damaged study can be run again
            return {
                self.start: gr.update(interactive=damaged, visible=True),
                **dict.fromkeys((self.pause, self.bell), gr.update(visible=False)),
                self.replace: gr.update(visible=damaged),
                self.panel: error_callout(view.error) if view.error else "",
            }
        stopped = stopped_step(snapshot)
        phase, busy = start_phase(study), snapshot.busy
        label = t("Starting…") if phase == "starting" else t(START_LABELS[snapshot.state])
        log = log_tail(study.log_file(stopped.step)) if stopped else ""
        return {
            self.start: gr.update(value=label, visible=not busy, interactive=phase != "starting"),
            self.pause: gr.update(visible=busy, value=pause_label(study)),
            self.bell: gr.update(visible=busy, **({} if busy else {"value": t(_BELL)})),
            self.replace: gr.update(visible=snapshot.touched and not busy),
            self.panel: start_refusal(study) + run_panel(snapshot, log, _time_remaining(snapshot)),
        }

    def _draw_plot(self, view: StudyView) -> Updates:
        arms = view.snapshot.arms if view.snapshot else {}
        trained = any(arm.points or arm.validations for arm in arms.values())
        figure = loss_figure(arms) if trained else None
        return {self.curves: gr.update(visible=trained), self.plot: gr.update(value=figure)}

    def _plan_updates(
        self,
        study: Study,
        config: StudyConfig,
        redo: bool = False,
        trust: bool = False,
    ) -> Updates:
        checks = ""
        code = code_needing_permission(config.model)
        unknown = not_allowed(config.addresses)
        # the checkbox may be of another model
        trusted = trust and code is not None and is_allowed(code.source)
        if _shows_preflight(study, redo):
            result = run_preflight(study, config)
            before = studies_ahead(study)
            checks = preflight_card(result, before=before, again=_has_begun(study) and not redo)
        if study.state != "running" and not study.queued_behind:
            checks = contacts_note(config) + checks
        return {
            **self.settings.note_updates(study, config),
            self.plan: checks,
            self.trust: gr.update(
                visible=code is not None, value=trusted, label=t(_TRUST, code=code)
            ),
            self.connect: gr.update(
                visible=bool(unknown), value=False, label=t(_CONNECT, addresses=_listed(unknown))
            ),
        }

    # events

    def wire(self, picker: gr.Dropdown, tabs: gr.Tabs) -> None:
        """Connect the components; ``picker`` holds the name of the chosen study."""
        form, self._picker = self.form, picker
        self.settings.wire(picker)
        inputs = {picker, self.replace, self.trust, *form.inputs}
        gr.on(
            [component.change for component in [*form.inputs, self.replace]],
            self._changed,
            inputs,
            self._plan_outputs,
            trigger_mode="always_last",
            **QUIET,
        )
        self.trust.input(self._trusted, inputs, self._plan_outputs, **QUIET)
        self.connect.input(self._allowed, {self.connect, *inputs}, self._plan_outputs, **QUIET)
        self.start.click(
            self._start,
            inputs,
            [self.message, self.start, self.replace],
            api_visibility="private",
            show_progress_on=self.message,
        )
        self.curves.expand(None, None, None, js=f"() => {{ {FIT_CHARTS} }}")
        self.pause.click(pause_run, picker, self.pause, **QUIET)
        self.bell.click(
            None,
            None,
            self.bell,
            js=_NOTIFY.replace(
                "NOTIFIED", json.dumps(t("You will be notified while this page is open"))
            ),
        )

    def _trusted(self, values: Values) -> Updates:
        """Allow the code of the model on the form, and of no other model, until the server stops."""
        if values[self.trust] and values[self._picker]:
            with contextlib.suppress(AssistantBuilderError):  # _changed reports the error
                model = self._config(values).model
                if code_needing_permission(model) is not None:
                    allow_code(model)
        return self._changed(values)

    def _allowed(self, values: Values) -> Updates:
        """Allow the addresses on the form, which the checkbox names."""
        if values[self.connect] and values[self._picker]:
            with contextlib.suppress(AssistantBuilderError):  # _changed reports the error
                allow_addresses(self._config(values).addresses.values())
        return self._changed(values)

    def _config(self, values: Values) -> StudyConfig:
        return self.form.read(values, Study.open(values[self._picker] or "").config)

    def _changed(self, values: Values) -> Updates:
        chosen = (values[box] for box in (self.replace, self.trust))
        try:
            study = Study.open(values[self._picker] or "")
            return self._plan_updates(study, self.form.read(values, study.config), *chosen)
        except ConfigError as error:
            wrong = PreflightIssue(render(error.what), t("Correct it in the settings."))
            return {self.plan: not_ready([wrong])}
        except AssistantBuilderError:
            return gr.skip()

    def _start(self, values: Values) -> Updates:
        study, replace = Study.open(values[self._picker] or ""), values[self.replace]
        started = {
            self.message: "",
            self.start: gr.update(interactive=False, value=t("Starting…")),
            self.replace: gr.update(value=False),
        }
        if replace and state_of(study) == "damaged":
            start_run(study.name, redo=True)
            return started
        try:
            config = self.form.read(values, study.config)
        except ConfigError as error:
            invalid, correct = (
                t("These settings are not valid"),
                t("Correct them and press Start again."),
            )
            return {self.message: callout("bad", invalid, render(error.what), correct)}
        code = code_needing_permission(config.model)
        unknown = not_allowed(config.addresses)
        refusal = ""
        if code is not None and not (values[self.trust] and is_allowed(code.source)):
            refusal = callout(
                "bad",
                t("The project was not started"),
                t("The base model runs its own Python code: {code}.", code=code),
                t(
                    "Read the code. To run it, select the checkbox that names it and press Start again."
                ),
            )
        elif unknown:
            refusal = callout(
                "bad",
                t("The project was not started"),
                t(
                    "It connects to {addresses}, which its file names.",
                    addresses=_listed(unknown),
                ),
                t(
                    "If you know the address, select the checkbox that names it and press Start again."
                ),
            )
        elif errors := run_preflight(study, config).errors:
            refusal = not_ready(errors)
        else:
            refusal = start_or_resume(study, config, replace=replace, trust=code is not None)
        return {self.message: refusal} if refusal else started


def _listed(addresses: Mapping[str, str]) -> str:
    return ", ".join(map(printable, addresses.values()))


def _has_begun(study: Study) -> bool:
    return any(study.step(step).state != "queued" for step in study.steps)


def _shows_preflight(study: Study, redo: bool) -> bool:
    """Whether the preflight card is shown: not during a run, and not for finished or paused studies."""
    if study.state == "running" or study.queued_behind:
        return False
    return redo or study.state in ("queued", "failed") or not _has_begun(study)


def _time_remaining(snapshot: Snapshot) -> TimeRemaining | None:
    if not snapshot.running:
        return None
    data = estimate_data(Study.open(snapshot.name), snapshot.config.data)
    answers = data.heldout if isinstance(data, DataEstimate) else 0
    return time_left(snapshot, scoring_seconds(snapshot.config.model.base), answers)


def _plan_mark(view: StudyView) -> str:
    if view.study is None:
        return f"none:{view.name}"
    return f"{view.stamp('data/split.json')}:{state_of(view.study)}:{studies_ahead(view.study)}"


def _run_mark(view: StudyView) -> str:
    if view.study is None:
        return view.mark
    return f"{view.mark}:{start_phase(view.study)}:{view.study.cancel_requested}:{studies_ahead(view.study)}"


def _metrics_mark(view: StudyView) -> str:
    arms = view.study.config.arms if view.study else []
    return view.stamp(*(f"arms/{arm}/metrics.jsonl" for arm in arms))
