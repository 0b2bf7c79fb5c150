"""Settings of the Train tab: base model, presets, every option, and saving them as a new study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from assistant_builder.arms import ARMS, QLORA, label
from assistant_builder.config import BY_HEART, PRESETS, StudyConfig
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.i18n import t
from assistant_builder.models.bundled import BASE
from assistant_builder.models.catalog import CATALOG, weight_bytes
from assistant_builder.models.hub import available_offline
from assistant_builder.planning.advice import Advice, advise, cheapest_saving
from assistant_builder.planning.plan import Plan
from assistant_builder.study import Study
from assistant_builder.study.admin import duplicate_study
from assistant_builder.ui.html import Markup, Tone, callout, heading
from assistant_builder.ui.refresh import QUIET, StudyView, Updates, Values, chosen_study
from assistant_builder.ui.settings_form import (
    OptionForm,
    get_value,
    keys_of,
    matching_preset,
    preset_choices,
    preset_keys,
    preset_values,
    study_options,
)
from assistant_builder.ui.train.preflight import (
    DataEstimate,
    estimate_data,
    make_plan,
    run_seconds,
    serves_by_heart,
)
from assistant_builder.ui.train.preflight_view import about_time
from assistant_builder.ui.train.view import model_note
from evals.report.number_format import size

FIXED_KEYS = ("data.source",)
"""Settings that cannot change after the study is created."""
PLANNED_KEYS = ("train.micro_batch_size", "train.gradient_checkpointing", "train.max_length")
"""Settings that determine the training memory and that the planner may select; the user may change them."""


def _billions(parameters: int) -> str:
    return f"{parameters / 1e9:.2g} B" if parameters >= 1e9 else f"{parameters / 1e6:.0f} M"


class TrainSettings:
    """Components of the settings; the caller has opened the column."""

    def __init__(self) -> None:
        self.form = OptionForm({"model.base": model_choices()})
        with gr.Group(elem_classes="ab-group"):
            gr.HTML(heading(t("How thoroughly?")))
            self.form.show(["train.preset"])
            self.form.show(["model.base"])
            self.note = gr.HTML(elem_classes="ab-note")
            self.start = gr.Button(t("Start"), variant="primary", elem_id="ab-start")
        with gr.Accordion(t("Advanced"), open=False, elem_id="ab-advanced"):
            self.selected = gr.HTML(elem_id="ab-selected")
            with gr.Group(elem_classes="ab-group ab-grid"):
                self.form.show(
                    [
                        "approaches",
                        *keys_of("train", basic=True),
                        "seeds",
                        *keys_of("eval", basic=True),
                    ]
                )
            for title, keys in (
                (t("Model"), keys_of("model", basic=False)),
                (
                    t("Training"),
                    ["arms", *keys_of("train", basic=False, without=("train.preset",))],
                ),
                (t("Looking up, of the grounded approach"), keys_of("retrieval")),
                (t("Evaluation"), keys_of("eval", basic=False)),
                (t("Files that are scored"), keys_of("formats")),
                (t("Data and split"), keys_of("data", without=FIXED_KEYS)),
                (t("Where the steps run"), keys_of("executor")),
            ):
                gr.HTML(Markup("<h4>{}</h4>").format(title))
                with gr.Group(elem_classes="ab-group ab-grid"):
                    self.form.show(keys)
        with gr.Accordion(t("Save these settings as a new project"), open=False):
            self.new_name = gr.Textbox(
                label=t("Name of the new project"), info=t("It uses the same data file.")
            )
            self.save = gr.Button(t("Save as new project"), size="sm")

    @property
    def notes(self) -> list[Any]:
        """Notes about the settings, set by :meth:`note_updates`."""
        return [self.note, self.selected, self.form.components["train.preset"]]

    def note_updates(self, study: Study, config: StudyConfig) -> Updates:
        """Notes about the model, the presets, and the planner's selection before the first start."""
        selection = recommend_settings(study, config) if not_started(study) else None
        by_heart = config.train.preset == BY_HEART or serves_by_heart(study, config)
        running = study.state == "running"  # it shows its own time
        cards = preset_choices({} if running else preset_times(study, config), by_heart=by_heart)
        return {
            self.note: model_note(config.model),
            self.selected: recommendation_note(selection) if selection else "",
            self.form.components["train.preset"]: gr.update(choices=cards, interactive=not running),
        }

    def draw_form(self, view: StudyView) -> Updates:
        """Values of the form for the study."""
        return self.form.values(starting_config(view.study) if view.study else StudyConfig())

    def wire(self, picker: gr.Dropdown) -> None:
        """Connect the components; ``picker`` holds the name of the chosen study."""
        form = self.form
        preset, targets = form.components["train.preset"], form.preset_targets()
        preset.input(preset_values, preset, targets, **QUIET)
        gr.on(
            [target.input for target in targets],
            _switch_preset,
            [preset, *targets],
            preset,
            **QUIET,
        )
        gr.on(
            [form.components[key].input for key in ("model.base", "arms")],
            partial(self._model_chosen, picker),
            {picker, *form.inputs},
            [form.components[key] for key in PLANNED_KEYS],
            trigger_mode="always_last",
            **QUIET,
        )
        self.save.click(
            partial(self._save, picker),
            {picker, self.new_name, *form.inputs},
            [picker, self.new_name],
            api_visibility="private",
        )

    def _model_chosen(self, picker: gr.Dropdown, values: Values) -> Updates:
        """Update the recommended settings for another base model or other arms."""
        try:
            study = Study.open(values[picker] or "")
            selection = (
                recommend_settings(study, self.form.read(values, study.config))
                if not_started(study)
                else None
            )
        except AssistantBuilderError:
            return gr.skip()
        if selection is None:
            return gr.skip()
        return {self.form.components[key]: get_value(selection.config, key) for key in PLANNED_KEYS}

    def _save(self, picker: gr.Dropdown, values: Values) -> Updates:
        study = Study.open(values[picker] or "")
        config = self.form.read(values, study.config)
        made = duplicate_study(study, values[self.new_name], config)
        return {picker: chosen_study(made, "queued"), self.new_name: ""}


def model_choices() -> list[tuple[str, str]]:
    """The base models of the catalog, each with its size and whether it must be downloaded."""
    here = {*available_offline()}
    found = []
    for entry in CATALOG.values():
        where = (
            t("bundled")
            if entry.name == BASE.name
            else t("on this computer")
            if here & {entry.name, entry.hub_id}
            else t("download {weight_bytes}", weight_bytes=size(weight_bytes(entry)))
        )
        found.append((f"{entry.name}  ·  {_billions(entry.parameters)}  ·  {where}", entry.name))
    return found


def preset_times(study: Study, config: StudyConfig) -> dict[str, str]:
    """Preset → the estimated time of a run with it, where it is known."""
    times = {}
    for name in PRESETS:
        changed = config.with_changes({"train.preset": name})
        try:
            estimate = run_seconds(study, changed)
        except AssistantBuilderError:
            continue
        if estimate is not None:
            times[name] = about_time(estimate.seconds, changed, complete=estimate.complete)
    return times


def _switch_preset(chosen: str, *values: Any) -> str:
    """Switch to “custom” when a value of the preset is changed."""
    return matching_preset(dict(zip(preset_keys(), values, strict=True)), chosen)


def starting_config(study: Study) -> StudyConfig:
    """Initial settings of the form: the study's, with the planner's selection before its first start."""
    try:
        config = study.config
        selection = recommend_settings(study) if not_started(study) else None
    except AssistantBuilderError:
        return StudyConfig()
    return selection.config if selection else config


@dataclass(frozen=True)
class RecommendedSettings:
    """The planner's settings for a study on this machine: dotted key → value, and the plan with them."""

    config: StudyConfig
    after: Plan
    changes: Mapping[str, Any]
    advice: Advice


def recommend_settings(
    study: Study, config: StudyConfig | None = None
) -> RecommendedSettings | None:
    """Change the settings of :data:`PLANNED_KEYS` until all arms fit, or at least the 4-bit arm.

    The study holds their initial values, ``config`` the other settings on the form (by default the study's). None if
    the model's architecture is not available here, or the settings are invalid.
    """
    own = study.config
    try:
        start = (config or own).with_changes({key: get_value(own, key) for key in PLANNED_KEYS})
        data = estimate_data(study, start.data)
        plan = make_plan(start, data if isinstance(data, DataEstimate) else None)
        if plan is None:
            return None
        changes = cheapest_saving(plan, *start.arms) or (
            cheapest_saving(plan, QLORA.name) if QLORA.name in start.arms else {}
        )
        after = plan.with_changes(changes)
    except AssistantBuilderError:
        return None
    return RecommendedSettings(after.config, after, changes, advise(after))


def not_started(study: Study) -> bool:
    """Whether no step of a study has started, so that its settings can still be selected."""
    return study.run_record() is None and all(
        study.step(step).state == "queued" for step in study.steps
    )


def recommendation_note(selection: RecommendedSettings) -> Markup:
    """The selected settings with the reason."""
    machine, arms = selection.after.machine, selection.after.arms
    fits = all(method.fit != "no" for method in arms)
    reason = t(
        "Training needs {memory}.",
        memory=t(
            "{needed} of the {free} that are free on {machine}",
            needed=size(max(method.expected_bytes for method in arms)),
            free=size(selection.after.memory_bytes),
            machine=machine.title,
        ),
    )
    if selection.changes:
        title = t("Settings selected for {machine}", machine=machine.title)
        chosen = (f"{study_options()[key].title} {to}" for key, to in selection.changes.items())
        reason = f"{', '.join(chosen)}. {reason}"
    elif fits:
        title = t("The settings fit into memory")
    else:
        title = t("The project does not fit into memory")
    if selection.advice.method in ARMS:
        if selection.after.config.compares:
            best = t("Recommended: {arm}.", arm=label(selection.advice.method))
            reason += f" {best} {t(selection.advice.why)}"
        if not fits and selection.after.qlora.fit != "no":
            reason += " " + t(
                "{arm} fits alone: select it under Advanced → Arms.", arm=label(QLORA.name)
            )
    tone: Tone = "info" if fits else "warn"
    return callout(tone, title, reason, t("You can change these settings below."))
