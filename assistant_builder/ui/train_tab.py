"""The Train tab: choose, see the exact command, start, watch, cancel, carry on. It wires; the views draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from assistant_builder.config import StudyConfig
from assistant_builder.errors import AssistantBuilderError, ConfigError
from assistant_builder.models.catalog import CATALOG
from assistant_builder.study import Study
from assistant_builder.ui.figures import loss_figure
from assistant_builder.ui.forms import OptionForm, keys_of, preset_values
from assistant_builder.ui.inspection import training_pairs
from assistant_builder.ui.markup import Markup, callout, card, error_callout
from assistant_builder.ui.runs import GO_LABELS, cancel_run, go, last_words, save_as_new, start_phase
from assistant_builder.ui.sections import Look, Section, told
from assistant_builder.ui.snapshots import log_tail, stamp
from assistant_builder.ui.views.study import needs_study, stopped_step
from assistant_builder.ui.views.training import command_lines, model_note, plan_line, resources_table, run_panel

NOT_HERE = ("data.source",)
"""Settings that are fixed once the study is made."""


def base_model_choices() -> list[tuple[str, str]]:
    """The catalog by name and size."""
    return [
        (f"{entry.name}  ·  {_billions(entry.parameters)}", entry.name) for entry in CATALOG.values()
    ]


def _billions(parameters: int) -> str:
    return f"{parameters / 1e9:.2g} B" if parameters >= 1e9 else f"{parameters / 1e6:.0f} M"


class TrainTab:
    """Components of the tab; the caller has opened the ``gr.Tab``."""

    def __init__(self) -> None:
        self.form = OptionForm({"model.base": base_model_choices()})
        self.empty = gr.HTML(needs_study("Training needs a study with its question–answer file."))
        with gr.Row(visible=False, elem_id="ab-train") as self.body:
            with gr.Column(scale=5, min_width=300):
                self._settings()
            with gr.Column(scale=7, min_width=300):
                self._watch()

    def _settings(self) -> None:
        with gr.Group(elem_classes="ab-group"):
            gr.HTML("<h3>Base model and preset</h3>")
            self.form.show(["model.base"])
            self.note = gr.HTML(elem_classes="ab-note")
            self.form.show(["train.preset"])
        with gr.Group(elem_classes="ab-group ab-grid"):
            self.form.show([*keys_of("train", basic=True), "seeds", *keys_of("eval", basic=True)])
        with gr.Accordion("All settings", open=False):
            for title, keys in (
                ("Model", keys_of("model", basic=False)),
                ("Training", keys_of("train", basic=False, without=("train.preset",))),
                ("Evaluation", keys_of("eval", basic=False)),
                ("Data and split", keys_of("data", without=NOT_HERE)),
            ):
                gr.HTML(Markup("<h4>{}</h4>").format(title))
                with gr.Group(elem_classes="ab-group ab-grid"):
                    self.form.show(keys)
        with gr.Accordion("Save these settings as a new study", open=False):
            self.new_name = gr.Textbox(label="Name of the new study", info="It uses the same data file.")
            self.save = gr.Button("Save as new study", size="sm")

    def _watch(self) -> None:
        self.plan = gr.HTML(elem_classes="ab-plan")
        with gr.Row(elem_classes="ab-actions"):
            self.start = gr.Button("Start", variant="primary", elem_id="ab-start")
            self.cancel = gr.Button("Cancel", variant="stop", visible=False, elem_id="ab-cancel")
        self.replace = gr.Checkbox(
            False, label="Replace results: run again what the changes touch (everything, where nothing changed)",
            visible=False,
        )
        self.message = gr.HTML()
        self.panel = gr.HTML(elem_id="ab-run")
        self.plot = gr.Plot(show_label=False, visible=False, elem_id="ab-loss", elem_classes="ab-card")
        self.resources = gr.HTML()
        with gr.Accordion("The command line of this", open=False):
            self.command = gr.Code(language="shell", show_label=False, interactive=False, wrap_lines=True)

    def sections(self) -> list[Section]:
        """What follows the study."""
        return [
            Section("train-body", [self.empty, self.body], lambda look: str(look.name), self._draw_body),
            Section("train-form", self.form.inputs, lambda look: str(look.name), self._draw_form),
            Section("train-plan", [self.note, self.plan, self.command], _split_mark, self._draw_plan),
            Section("train-run", [self.start, self.cancel, self.replace, self.panel, self.resources],
                    _run_mark, self._draw_run),
            Section("train-plot", [self.plot], _metrics_mark, self._draw_plot),
            Section("train-message", [self.message], lambda look: str(look.name), lambda look: [""]),
        ]

    def _draw_body(self, look: Look) -> Sequence[Any]:
        return [gr.update(visible=look.study is None), gr.update(visible=look.study is not None)]

    def _draw_form(self, look: Look) -> Sequence[Any]:
        try:
            config = look.study.config if look.study else StudyConfig()
        except AssistantBuilderError:
            config = StudyConfig()
        return self.form.values(config)

    def _draw_plan(self, look: Look) -> Sequence[Any]:
        if look.study is None or look.snapshot is None:
            return ["", "", ""]
        return self._planned(look.study, look.snapshot.config)

    def _draw_run(self, look: Look) -> Sequence[Any]:
        seen = look.snapshot
        if look.study is None or seen is None:
            shown = error_callout(look.error) if look.error else ""
            return [gr.update(interactive=False), gr.update(visible=False), gr.update(visible=False), shown, ""]
        stopped = stopped_step(seen)
        table = resources_table(seen)
        phase = start_phase(look.study)
        if phase == "refused":
            refusal = callout("bad", "The run did not start", last_words(look.study))
        else:
            refusal = Markup("")
        label = "Starting…" if phase == "starting" else GO_LABELS[seen.state]
        return [
            gr.update(value=label, visible=not seen.running, interactive=phase != "starting"),
            gr.update(visible=seen.running, value="Cancelling…" if look.study.cancel_requested else "Cancel"),
            gr.update(visible=seen.touched and not seen.running),
            refusal + run_panel(seen, log_tail(look.study, stopped.step) if stopped else ""),
            card("What training took", table) if table else "",
        ]

    def _draw_plot(self, look: Look) -> Sequence[Any]:
        seen = look.snapshot
        if seen is None or not any(arm.points or arm.validations for arm in seen.arms.values()):
            return [gr.update(value=None, visible=False)]
        return [gr.update(value=loss_figure(seen.arms), visible=True)]

    def _planned(self, study: Study, config: StudyConfig, redo: bool = False) -> list[str]:
        source = study.config.data.source or (study.source.name if study.source else "")
        return [
            model_note(config.model.base),
            plan_line(config, training_pairs(study, config.data)),
            command_lines(study.name, config, source=source, redo=redo),
        ]

    # events

    def wire(self, picker: gr.Dropdown, tabs: gr.Tabs) -> None:
        """Connect the components.

        Args:
            picker: Holds the name of the chosen study.
            tabs: The tabs, to move on to another one.
        """
        form = self.form
        preset = form.components["train.preset"]
        preset.input(preset_values, preset, form.preset_targets(), show_progress="hidden", api_visibility="private")
        gr.on(
            [component.change for component in form.inputs] + [self.replace.change], self._changed,
            [picker, self.replace, *form.inputs], [self.note, self.plan, self.command], show_progress="hidden",
            trigger_mode="always_last", api_visibility="private",
        )
        self.start.click(
            told(self._start), [picker, self.replace, *form.inputs], [self.message, self.start, self.replace],
            api_visibility="private", show_progress_on=self.message,
        )
        self.cancel.click(told(cancel_run), picker, self.cancel, show_progress="hidden", api_visibility="private")
        self.save.click(
            told(self._save), [picker, self.new_name, *form.inputs], [picker, self.new_name], api_visibility="private"
        )

    def _changed(self, name: str | None, redo: bool, *shown: Any) -> list[Any]:
        if not name:
            return [gr.skip()] * 3
        try:
            study = Study.open(name)
            return self._planned(study, self.form.read(shown, study.config), redo)
        except ConfigError as error:
            return [gr.skip(), callout("bad", "These settings do not fit", error.what), gr.skip()]
        except AssistantBuilderError:
            return [gr.skip()] * 3

    def _start(self, name: str | None, replace: bool, *shown: Any) -> list[Any]:
        study = Study.open(name or "")
        message, started = go(study, lambda base: self.form.read(shown, base), replace=replace)
        button = gr.update(interactive=False, value="Starting…") if started else gr.skip()
        return [message, button, gr.update(value=False) if started else gr.skip()]

    def _save(self, name: str | None, new_name: str, *shown: Any) -> list[Any]:
        study = Study.open(name or "")
        made = save_as_new(study, self.form.read(shown, study.config), new_name)
        return [gr.update(choices=[made.name], value=made.name), ""]


def _split_mark(look: Look) -> str:
    return f"{look.name}:{stamp([look.study.folder / 'data' / 'split.json'])}" if look.study else f"none:{look.name}"


def _run_mark(look: Look) -> str:
    return f"{look.mark}:{start_phase(look.study)}:{look.study.cancel_requested}" if look.study else look.mark


def _metrics_mark(look: Look) -> str:
    if look.study is None:
        return f"none:{look.name}"
    return f"{look.name}:{stamp(look.study.arm_folder(arm) / 'metrics.jsonl' for arm in ('qlora', 'lora'))}"
