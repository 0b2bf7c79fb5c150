"""The Export tab: choose assistant and form, start the export, watch it, take it away. It wires; the views draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from assistant_builder.files import read_json
from assistant_builder.study import Study
from assistant_builder.ui.export_panel import ExportPanel
from assistant_builder.ui.markup import ARM_TITLES, empty
from assistant_builder.ui.sections import Look, Section
from assistant_builder.ui.snapshots import all_trained, shown_arms, stamp
from assistant_builder.ui.views.export import FORMAT_TITLES, advice_card, keeping_card
from assistant_builder.ui.views.study import needs_study
from evals.export.job import ExportJob
from evals.export.kinds import KINDS, Kind, advice

EMPTY = "Trained assistants are taken along from here."


class ExportTab:
    """Components of the tab; the caller has opened the ``gr.Tab``."""

    def __init__(self) -> None:
        self.empty = gr.HTML(needs_study(EMPTY))
        with gr.Column(visible=False) as self.body:
            with gr.Row(elem_id="ab-export"):
                with gr.Column(scale=4, min_width=300):
                    with gr.Group(elem_classes="ab-group"):
                        gr.HTML("<h3>What to take along</h3>")
                        self.arm = gr.Radio(
                            [(ARM_TITLES[arm], arm) for arm in ("qlora", "lora")], value="qlora", label="Assistant",
                            elem_id="ab-export-arm", elem_classes="ab-presets",
                        )
                        self.format = gr.Radio(
                            [(title, format) for format, title in FORMAT_TITLES.items()], value="adapter",
                            label="Form", elem_id="ab-export-format", elem_classes="ab-presets",
                        )
                    self.advice = gr.HTML(elem_id="ab-export-advice")
                with gr.Column(scale=7, min_width=300):
                    self.panels = [ExportPanel(kind) for kind in KINDS]
            self.keeping = gr.HTML(elem_id="ab-export-keeping")

    def sections(self) -> list[Section]:
        """What follows the study."""
        return [
            Section("export-body", [self.empty, self.body], _trained_mark, self._draw_body),
            Section("export-choice", [self.arm, self.format, *(panel.column for panel in self.panels), self.advice,
                                      self.keeping], _choice_mark, self._draw_choice),
            *(panel.section(_trained) for panel in self.panels),
        ]

    def _draw_body(self, look: Look) -> Sequence[Any]:
        if look.study is None:
            shown = needs_study(EMPTY)
        else:
            who = "both assistants" if len(look.study.config.arms) > 1 else "the assistant"
            shown = empty("Nothing to take along yet", f"Train {who} on the Train tab. What is trained can be exported "
                          "here: as a small adapter, or as a whole model that Ollama and other programs load.")
        trained = _trained(look)
        return [gr.update(value=shown, visible=not trained), gr.update(visible=trained)]

    def _draw_choice(self, look: Look) -> Sequence[Any]:
        if look.study is None or not _trained(look):
            return [gr.skip()] * (4 + len(self.panels))
        path = look.study.folder / "report.json"
        report = read_json(path) if path.is_file() else None
        arms = shown_arms(look.study.config)
        said = advice(report, look.study.config.arms)
        kind = _latest(look.study, arms) or Kind(said.adapter, "adapter")
        choices = [(ARM_TITLES[arm], arm) for arm in arms]
        return [gr.update(choices=choices, value=kind.arm), kind.format, *_visible(kind.arm, kind.format),
                advice_card(said), keeping_card(report)]

    # events

    def wire(self, picker: gr.Dropdown, tabs: gr.Tabs) -> None:
        """Connect the components.

        Args:
            picker: Holds the name of the chosen study.
            tabs: The tabs, to move on to another one.
        """
        gr.on(
            [self.arm.input, self.format.input], _visible, [self.arm, self.format],
            [panel.column for panel in self.panels], show_progress="hidden", api_visibility="private", queue=False,
        )
        for panel in self.panels:
            panel.wire(picker)


def _visible(arm: str, format: str) -> list[Any]:
    return [gr.update(visible=(kind.arm, kind.format) == (arm, format)) for kind in KINDS]


def _latest(study: Study, arms: Sequence[str]) -> Kind | None:
    """The export that is under way, else the last one started: what a reload should show."""
    found = [(record.state == "running", record.started, kind) for kind in KINDS
             if kind.arm in arms and (record := ExportJob(study, kind).record()) is not None]
    return max(found, key=lambda entry: entry[:2])[2] if found else None


def _trained(look: Look) -> bool:
    return look.study is not None and all_trained(look.study)


def _trained_mark(look: Look) -> str:
    return f"{look.name}:{_trained(look)}"


def _choice_mark(look: Look) -> str:
    """Changes with study and report alone, so that a choice of the user's stays."""
    files = [look.study.folder / "report.json"] if look.study else []
    return f"{look.name}:{_trained(look)}:{stamp(files)}"
