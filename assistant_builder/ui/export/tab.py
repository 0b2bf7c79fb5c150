"""The export of one arm in one format on the page: its state, its buttons, its download and how to load it.

The Export tab: choose assistant and format, start the export, follow it, download it. The views draw it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from assistant_builder.arms import ARMS, QLORA, label, plain_order
from assistant_builder.atomic_io import read_json
from assistant_builder.errors import AssistantBuilderError, StudyError
from assistant_builder.export.export import loading_snippets, read_export
from assistant_builder.export.job import ExportJob
from assistant_builder.export_formats import (
    DEFAULT_FORMAT,
    EXPORT_FORMATS,
    ExportSpec,
    advice,
    base_name,
    estimated_bytes,
    export_specs,
)
from assistant_builder.study import Study
from assistant_builder.ui.export.view import (
    advice_card,
    command_line,
    ended_panel,
    finished_panel,
    keeping_card,
    ready_panel,
    running_panel,
    spec_title,
)
from assistant_builder.ui.html import Markup, assistants, empty
from assistant_builder.ui.refresh import LiveRegion, StudyView, user_facing_errors
from assistant_builder.ui.study_snapshot import all_trained, needs_study, shown_arms, stamp
from assistant_builder.ui.uploads import offer
from evals.report.format import size

MAX_SNIPPETS = 4


class ExportPanel:
    """Components of one export; the caller has opened the column.

    Args:
        spec: Arm and format.
    """

    def __init__(self, spec: ExportSpec) -> None:
        self.spec = spec
        with gr.Column(visible=False, elem_id=f"ab-export-{spec.name}") as self.column:
            self.state = gr.HTML(elem_classes="ab-export-state")
            with gr.Row(elem_classes="ab-actions"):
                self.download = gr.DownloadButton("Download", variant="primary", visible=False)
                self.start = gr.Button("Export", variant="primary")
                self.cancel = gr.Button("Cancel", variant="stop", visible=False)
            self.ways = [
                gr.Code(language="python" if place == 0 else "shell", interactive=False, visible=False, lines=1,
                        wrap_lines=True, show_line_numbers=False, buttons=["copy"])
                for place in range(MAX_SNIPPETS)
            ]
            with gr.Accordion("The command line of this", open=False):
                self.command = gr.Code(language="shell", show_label=False, interactive=False, wrap_lines=True, lines=1,
                                       show_line_numbers=False, buttons=["copy"])

    def section(self, trained: Any) -> LiveRegion:
        """What follows the files of this export.

        Args:
            trained: Tells from a look whether there is something to export.
        """

        def there(look: StudyView) -> bool:
            return look.study is not None and trained(look) and self.spec.arm in look.study.config.arms

        def mark(look: StudyView) -> str:
            if not there(look) or look.study is None:
                return f"{look.name}:nothing"
            job = ExportJob(look.study, self.spec)
            files = [job.status_file, look.study.folder / "report.json",
                     look.study.arm_folder(self.spec.arm) / "summary.json"]
            return f"{look.name}:{stamp(files)}:{job.running}:{job.cancel_requested}"

        def draw(look: StudyView) -> Sequence[Any]:
            return self._draw(look.study) if look.study is not None and there(look) else self._blank()

        outputs = [self.state, self.start, self.cancel, self.download, *self.ways, self.command]
        return LiveRegion(f"export-{self.spec.name}", outputs, mark, draw)

    def _blank(self) -> list[Any]:
        return ["", gr.update(visible=False), gr.update(visible=False), gr.update(value=None, visible=False),
                *(gr.update(value="", visible=False) for _ in self.ways), ""]

    def _draw(self, study: Study) -> list[Any]:
        spec, job = self.spec, ExportJob(study, self.spec)
        record = job.record()
        export = None
        if record is None:
            path = study.folder / "report.json"
            report = read_json(path) if path.is_file() else None
            shown: Markup = ready_panel(spec, estimated_bytes(study, spec), advice(report, study.config.arms))
        elif record.state == "running":
            shown = running_panel(spec, record)
        elif record.state == "succeeded":
            export = read_export(Path(record.target))
            sha = read_json(study.arm_folder(spec.arm) / "summary.json")["adapter_sha256"]
            readme = Path(record.target) / "README.md"
            text = readme.read_text(encoding="utf-8") if export and readme.is_file() else ""
            shown = finished_panel(spec, record, export, current=export is not None and export["adapter_sha256"] == sha,
                                   model_card=text)
        else:
            shown = ended_panel(spec, record, _tail(job.log_file))
        busy = record is not None and record.state == "running"
        label = "Export again" if record is not None else f"Export {spec_title(spec)}"
        return [
            shown, gr.update(visible=not busy, interactive=True, value=label,
                             variant="secondary" if export else "primary"),
            gr.update(visible=busy, value="Cancelling…" if job.cancel_requested else "Cancel"),
            self._offered(job, export), *self._shown_ways(study, export), command_line(study.name, spec),
        ]

    def _offered(self, job: ExportJob, export: dict[str, Any] | None) -> dict[str, Any]:
        if export is None:
            return gr.update(value=None, visible=False)
        inside = export["archive"]
        path = Path(export["folder"]) / inside if inside else job.archive
        if not path.is_file() or Path(export["folder"]) not in (path.parent, job.files):
            return gr.update(value=None, visible=False)
        label = f"Download .zip ({size(path.stat().st_size)})"
        return gr.update(value=offer(path, path.name), visible=True, label=label)

    def _shown_ways(self, study: Study, export: dict[str, Any] | None) -> list[Any]:
        found = []
        if export is not None:
            try:
                shared, local = base_name(study)
                found = loading_snippets(study, self.spec, folder=export["folder"], base=str(local or shared))
            except AssistantBuilderError:  # the base model's folder is missing
                found = []
        shown = [gr.update(value=way.text, label=way.title, language=way.language, visible=True)
                 for way in found[:MAX_SNIPPETS]]
        return shown + [gr.update(value="", visible=False)] * (MAX_SNIPPETS - len(shown))

    def wire(self, picker: gr.Dropdown) -> None:
        """Connect the buttons.

        Args:
            picker: Holds the name of the chosen study.
        """
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        self.start.click(user_facing_errors(self._start), picker, self.start, **quiet)
        self.cancel.click(user_facing_errors(self._cancel), picker, self.cancel, **quiet)

    def _start(self, name: str | None) -> dict[str, Any]:
        ExportJob(Study.open(name or ""), self.spec).start()
        return gr.update(interactive=False, value="Starting…")

    def _cancel(self, name: str | None) -> dict[str, Any]:
        job = ExportJob(Study.open(name or ""), self.spec)
        if not job.running:
            raise StudyError("no export is running", remedy="The page shows its result in a moment")
        job.request_cancel()
        return gr.update(value="Cancelling…")


def _tail(path: Path, lines: int = 30) -> str:
    if not path.is_file():
        return ""
    text = path.read_text(encoding="utf-8", errors="replace")[-64_000:]
    return "\n".join(text.replace("\r", "\n").split("\n")[-lines:]).strip("\n")


EMPTY = "Trained assistants are exported here."


class ExportTab:
    """Components of the tab; the caller has opened the ``gr.Tab``."""

    def __init__(self) -> None:
        self.empty = gr.HTML(needs_study(EMPTY))
        with gr.Column(visible=False) as self.body:
            with gr.Row(elem_id="ab-export"):
                with gr.Column(scale=4, min_width=300):
                    with gr.Group(elem_classes="ab-group"):
                        gr.HTML("<h3>What to export</h3>")
                        self.arm = gr.Radio(
                            [(label(arm), arm) for arm in plain_order(ARMS)], value=QLORA.name, label="Assistant",
                            elem_id="ab-export-arm", elem_classes="ab-presets",
                        )
                        self.format = gr.Radio(
                            [(f"{form.label}: {form.explanation}", form.name) for form in EXPORT_FORMATS.values()],
                            value=DEFAULT_FORMAT, label="Format", elem_id="ab-export-format", elem_classes="ab-presets",
                        )
                    self.advice = gr.HTML(elem_id="ab-export-advice")
                with gr.Column(scale=7, min_width=300):
                    self.panels = [ExportPanel(spec) for spec in export_specs()]
            self.keeping = gr.HTML(elem_id="ab-export-keeping")

    def sections(self) -> list[LiveRegion]:
        """What follows the study."""
        return [
            LiveRegion("export-body", [self.empty, self.body], _trained_mark, self._draw_body),
            LiveRegion("export-choice", [self.arm, self.format, *(panel.column for panel in self.panels), self.advice,
                                      self.keeping], _choice_mark, self._draw_choice),
            *(panel.section(_trained) for panel in self.panels),
        ]

    def _draw_body(self, look: StudyView) -> Sequence[Any]:
        if look.study is None:
            shown = needs_study(EMPTY)
        else:
            who = assistants(len(look.study.config.arms))
            shown = empty("Nothing to export yet", f"Train {who} on the Train tab. What is trained can be exported "
                          "here: as a small adapter, or as a whole model that Ollama and other programs load.")
        trained = _trained(look)
        return [gr.update(value=shown, visible=not trained), gr.update(visible=trained)]

    def _draw_choice(self, look: StudyView) -> Sequence[Any]:
        if look.study is None or not _trained(look):
            return [gr.skip()] * (4 + len(self.panels))
        path = look.study.folder / "report.json"
        report = read_json(path) if path.is_file() else None
        arms = shown_arms(look.study.config)
        advised = advice(report, look.study.config.arms)
        spec = _latest(look.study, arms) or ExportSpec(advised.arm(EXPORT_FORMATS[DEFAULT_FORMAT]), DEFAULT_FORMAT)
        choices = [(label(arm), arm) for arm in arms]
        return [gr.update(choices=choices, value=spec.arm), spec.format, *_visible(spec.arm, spec.format),
                advice_card(advised), keeping_card(report)]

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
    return [gr.update(visible=(spec.arm, spec.format) == (arm, format)) for spec in export_specs()]


def _latest(study: Study, arms: Sequence[str]) -> ExportSpec | None:
    """The running export, else the last one started: what a reload should show."""
    found = [(record.state == "running", record.started, spec) for spec in export_specs()
             if spec.arm in arms and (record := ExportJob(study, spec).record()) is not None]
    return max(found, key=lambda entry: entry[:2])[2] if found else None


def _trained(look: StudyView) -> bool:
    return look.study is not None and all_trained(look.study)


def _trained_mark(look: StudyView) -> str:
    return f"{look.name}:{_trained(look)}"


def _choice_mark(look: StudyView) -> str:
    """Changes with study and report alone, so that a choice of the user's stays."""
    files = [look.study.folder / "report.json"] if look.study else []
    return f"{look.name}:{_trained(look)}:{stamp(files)}"
