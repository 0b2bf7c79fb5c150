"""Settings of the Train tab: base model, presets, every option, and saving them as a new study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from assistant_builder.config import StudyConfig
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.models.catalog import CATALOG
from assistant_builder.study import Study
from assistant_builder.study.admin import duplicate_study
from assistant_builder.ui.html import Markup
from assistant_builder.ui.refresh import StudyView, user_facing_errors
from assistant_builder.ui.settings_form import OptionForm, get_value, keys_of, preset_values
from assistant_builder.ui.train.preflight_view import preset_table
from assistant_builder.ui.train.recommended_settings import (
    PLANNED_KEYS,
    not_started,
    recommend_settings,
    recommendation_note,
)
from assistant_builder.ui.train.view import model_note

FIXED_KEYS = ("data.source",)
"""Settings that cannot change after the study is created."""


def base_model_choices() -> list[tuple[str, str]]:
    """Names and sizes of the catalog's models."""
    return [(f"{entry.name}  ·  {_billions(entry.parameters)}", entry.name) for entry in CATALOG.values()]


def _billions(parameters: int) -> str:
    return f"{parameters / 1e9:.2g} B" if parameters >= 1e9 else f"{parameters / 1e6:.0f} M"


class TrainSettings:
    """Components of the settings; the caller has opened the column."""

    def __init__(self) -> None:
        self.form = OptionForm({"model.base": base_model_choices()})
        with gr.Group(elem_classes="ab-group"):
            gr.HTML("<h3>Base model and preset</h3>")
            self.form.show(["model.base"])
            self.note = gr.HTML(elem_classes="ab-note")
            self.selected = gr.HTML(elem_id="ab-selected")
            self.form.show(["train.preset"])
            self.presets = gr.HTML(preset_table(StudyConfig()), elem_classes="ab-note")
        with gr.Group(elem_classes="ab-group ab-grid"):
            self.form.show([*keys_of("train", basic=True), "seeds", *keys_of("eval", basic=True)])
        with gr.Accordion("All settings", open=False):
            for title, keys in (
                ("Model", keys_of("model", basic=False)),
                ("Training", ["arms", *keys_of("train", basic=False, without=("train.preset",))]),
                ("Evaluation", keys_of("eval", basic=False)),
                ("Data and split", keys_of("data", without=FIXED_KEYS)),
                ("Where the steps run", keys_of("executor")),
            ):
                gr.HTML(Markup("<h4>{}</h4>").format(title))
                with gr.Group(elem_classes="ab-group ab-grid"):
                    self.form.show(keys)
        with gr.Accordion("Save these settings as a new study", open=False):
            self.new_name = gr.Textbox(label="Name of the new study", info="It uses the same data file.")
            self.save = gr.Button("Save as new study", size="sm")

    @property
    def notes(self) -> list[Any]:
        """Notes about the settings, set by :meth:`note_values`."""
        return [self.note, self.presets, self.selected]

    def note_values(self, study: Study, config: StudyConfig) -> list[Any]:
        """Notes about the model, the presets, and the planner's selection before the first start."""
        selection = recommend_settings(study, config) if not_started(study) else None
        recommended = recommendation_note(selection, config) if selection else ""
        return [model_note(config.model.base), preset_table(config), recommended]

    def draw_form(self, view: StudyView) -> Sequence[Any]:
        """Values of the form for the study."""
        return self.form.values(starting_config(view.study) if view.study else StudyConfig())

    def wire(self, picker: gr.Dropdown) -> None:
        """Connect the components; ``picker`` holds the name of the chosen study."""
        preset = self.form.components["train.preset"]
        preset.input(preset_values, preset, self.form.preset_targets(), show_progress="hidden",
                     api_visibility="private")
        gr.on(
            [self.form.components[key].input for key in ("model.base", "arms")], self._model_chosen,
            [picker, *self.form.inputs], [self.form.components[key] for key in PLANNED_KEYS],
            show_progress="hidden", trigger_mode="always_last", api_visibility="private",
        )
        self.save.click(
            user_facing_errors(self._save), [picker, self.new_name, *self.form.inputs], [picker, self.new_name],
            api_visibility="private",
        )

    def _model_chosen(self, name: str | None, *shown: Any) -> list[Any]:
        """Update the recommended settings for another base model or other arms."""
        nothing = [gr.skip()] * len(PLANNED_KEYS)
        try:
            study = Study.open(name or "")
            selection = recommend_settings(study, self.form.read(shown, study.config)) if not_started(study) else None
        except AssistantBuilderError:
            return nothing
        return nothing if selection is None else [get_value(selection.config, key) for key in PLANNED_KEYS]

    def _save(self, name: str | None, new_name: str, *shown: Any) -> list[Any]:
        study = Study.open(name or "")
        made = duplicate_study(study, new_name, self.form.read(shown, study.config))
        return [gr.update(choices=[made.name], value=made.name), ""]


def starting_config(study: Study) -> StudyConfig:
    """Initial settings of the form: the study's, with the planner's selection before its first start."""
    try:
        config = study.config
        selection = recommend_settings(study) if not_started(study) else None
    except AssistantBuilderError:
        return StudyConfig()
    return selection.config if selection else config
