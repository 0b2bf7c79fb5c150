"""The tab “Use it”: a card for each use, and for specialists every assistant in every format."""

from __future__ import annotations

import contextlib
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
    Snippet,
    advice,
    base_name,
    estimated_bytes,
    export_specs,
    file_to_ship,
    typed,
)
from assistant_builder.i18n import N_, m, t
from assistant_builder.models.bundled import EMBEDDER_BUNDLE
from assistant_builder.serving.endpoint_process import Endpoints
from assistant_builder.study import Study
from assistant_builder.study.contents import ArmSummary
from assistant_builder.ui.chat.tab import can_answer
from assistant_builder.ui.export.use import UseCards, download_update, job_buttons
from assistant_builder.ui.export.view import (
    advice_card,
    command_line,
    ended_panel,
    finished_panel,
    quality_card,
    ready_panel,
    running_panel,
    spec_title,
    ways_to_use,
)
from assistant_builder.ui.html import Markup, assistants, copy_script, empty
from assistant_builder.ui.refresh import (
    QUIET,
    LiveRegion,
    StudyView,
    Updates,
    is_local,
    ready_region,
)
from assistant_builder.ui.study_snapshot import log_tail, needs_study, shown_arms, study_report


class ExportPanel:
    """Components of one export; with a choice of the type if the format has several."""

    def __init__(self, spec: ExportSpec) -> None:
        self.spec = spec
        with gr.Column(visible=False, elem_id=f"ab-export-{spec.name}") as self.column:
            types = spec.export_format.types
            self.type = (
                gr.Dropdown(
                    list(types),
                    value=spec.export_format.type,
                    label=t("Type"),
                    elem_id=f"ab-export-type-{spec.name}",
                )
                if len(types) > 1
                else None
            )
            self.state = gr.HTML(elem_classes="ab-export-state")
            with gr.Row(elem_classes="ab-actions"):
                self.download = gr.DownloadButton(t("Download"), variant="primary", visible=False)
                self.start = gr.Button(t("Export"), variant="primary")
                self.cancel = gr.Button(t("Cancel"), variant="stop", visible=False)
            self.ways = gr.HTML(js_on_load=copy_script())

    @property
    def outputs(self) -> list[Any]:
        """The components that :meth:`_updates` sets."""
        return [
            self.state,
            self.start,
            self.cancel,
            self.download,
            self.ways,
            *([self.type] if self.type else []),
        ]

    def section(self) -> LiveRegion:
        """The region that is redrawn when the files of this export change."""

        def available(view: StudyView) -> Study | None:
            return (
                view.served
                if view.served and view.trained and self.spec.arm in view.served.config.arms
                else None
            )

        def mark(view: StudyView) -> str:
            study = available(view)
            if study is None:
                return f"{view.name}:nothing"
            jobs = [ExportJob(study, spec) for spec in typed(self.spec)]
            files = view.stamp(
                *(job.status_file for job in jobs),
                "report.json",
                study.arm_folder(self.spec.arm) / "summary.json",
            )
            return ":".join([files, *(f"{job.running}:{job.cancel_requested}" for job in jobs)])

        return LiveRegion(
            f"export-{self.spec.name}",
            self.outputs,
            mark,
            lambda view: self._updates(available(view), local=view.local),
        )

    def _updates(
        self, study: Study | None, chosen: ExportSpec | None = None, *, local: bool
    ) -> Updates:
        """Show the chosen type, else the last one started, else the advised one."""
        if study is None:
            return {
                self.state: "",
                self.start: gr.update(visible=False),
                self.cancel: gr.update(visible=False),
                self.download: gr.update(value=None, visible=False),
                self.ways: "",
            }
        advised_file = file_to_ship(study_report(study))
        spec = (
            chosen
            or _latest(study, typed(self.spec))
            or (advised_file if advised_file in typed(self.spec) else self.spec)
        )
        job = ExportJob(study, spec)
        record = job.record()
        export = None
        if record is None:
            advised = advice(study_report(study), study.config.arms)
            shown: Markup = ready_panel(
                spec, estimated_bytes(study, spec), advised, grounded=study.config.grounded
            )
        elif record.state == "running":
            shown = running_panel(spec, record)
        elif record.state == "succeeded":
            export = read_export(Path(record.target))
            sha = read_json(study.arm_folder(spec.arm) / "summary.json", ArmSummary)[
                "adapter_sha256"
            ]
            readme = Path(record.target) / "README.md"
            text = readme.read_text(encoding="utf-8") if export and readme.is_file() else ""
            shown = finished_panel(
                spec,
                record,
                export,
                current=export is not None and export["adapter_sha256"] == sha,
                model_card=text,
                local=local,
            )
        else:
            shown = ended_panel(spec, record, log_tail(job.log_file) if local else "", local=local)
        start = (
            t("Export again") if record is not None else t("Export {title}", title=spec_title(spec))
        )
        return {
            self.state: shown,
            **job_buttons(job, self.start, self.cancel, start, written=bool(export)),
            self.download: download_update(job, export),
            self.ways: ways_to_use(
                _snippets(study, spec, export, local=local), command_line(study.name, spec)
            ),
            **({self.type: spec.export_format.type} if self.type else {}),
        }

    def wire(self, picker: gr.Dropdown, with_data: gr.Checkbox) -> None:
        """Connect the buttons; ``picker`` holds the name of the chosen study."""
        type = [self.type] if self.type else []
        self.start.click(self._start, [picker, with_data, *type], self.start, **QUIET)
        self.cancel.click(self._cancel, [picker, *type], self.cancel, **QUIET)
        if self.type:
            self.type.input(self._choose, [picker, self.type], self.outputs, **QUIET)

    def _of(self, type: str | None) -> ExportSpec:
        return next(
            (spec for spec in typed(self.spec) if spec.export_format.type == type), self.spec
        )

    def _choose(self, name: str | None, type: str | None, request: gr.Request) -> Updates:
        return self._updates(
            Study.open(name or "").recommended, self._of(type), local=is_local(request)
        )

    def _start(self, name: str | None, with_data: bool, type: str | None = None) -> dict[str, Any]:
        study = Study.open(name or "").recommended
        ExportJob(study, self._of(type)).start(
            with_data=with_data is True and study.config.grounded
        )
        return gr.update(interactive=False, value=t("Starting…"))

    def _cancel(self, name: str | None, type: str | None = None) -> dict[str, Any]:
        job = ExportJob(Study.open(name or "").recommended, self._of(type))
        if not job.running:
            raise StudyError(
                m("no export is running"), remedy=m("Wait until the page shows the result")
            )
        job.request_cancel()
        return gr.update(value=t("Cancelling…"))


def _snippets(
    study: Study, spec: ExportSpec, export: dict[str, Any] | None, *, local: bool
) -> list[Snippet]:
    """How a finished export is loaded; empty if the folder of the base model is missing."""
    if export is None:
        return []
    with contextlib.suppress(AssistantBuilderError):
        shared, folder = base_name(study)
        bundled = local and EMBEDDER_BUNDLE.folder.is_dir()
        return loading_snippets(
            study,
            spec,
            folder=export["folder"] if local else f"{study.name}-{spec.name}",
            base=str(local and folder or shared),
            with_data=export.get("with_data", False),
            embedder=str(EMBEDDER_BUNDLE.folder) if bundled else None,
        )
    return []


EMPTY = N_("You can use the trained assistants here.")


class ExportTab:
    """Components of the tab; the caller has opened the ``gr.Tab``."""

    def __init__(self) -> None:
        self.empty = gr.HTML(needs_study(t(EMPTY)))
        with gr.Column(visible=False) as self.body:
            self.cards = UseCards(Endpoints())
            with gr.Accordion(
                t("All assistants and formats"), open=False, elem_id="ab-export-all"
            ) as self.all:
                self._place_exports()

    def _place_exports(self) -> None:
        with gr.Row(elem_id="ab-export"):
            with gr.Column(scale=4, min_width=300):
                with gr.Group(elem_classes="ab-group"):
                    self.arm = gr.Radio(
                        [(label(arm), arm) for arm in plain_order(ARMS)],
                        value=QLORA.name,
                        label=t("Assistant"),
                        elem_id="ab-export-arm",
                        elem_classes="ab-presets",
                    )
                    self.format = gr.Radio(
                        [
                            (f"{t(form.label)}: {t(form.explanation)}", form.name)
                            for form in EXPORT_FORMATS.values()
                        ],
                        value=DEFAULT_FORMAT,
                        label=t("Format"),
                        elem_id="ab-export-format",
                        elem_classes="ab-presets",
                    )
                    self.with_data = gr.Checkbox(
                        False,
                        label=t("Include the facts"),
                        visible=False,
                        elem_id="ab-export-data",
                        info=t(
                            "The export can then look facts up. It contains all training pairs as plain text. On "
                            "the command line: --with-data."
                        ),
                    )
                self.advice = gr.HTML(elem_id="ab-export-advice")
            with gr.Column(scale=7, min_width=300):
                self.panels = [ExportPanel(spec) for spec in export_specs()]
        self.quality = gr.HTML(elem_id="ab-export-keeping")

    def sections(self) -> list[LiveRegion]:
        """The regions that are redrawn when the study or an export changes."""
        choice = [
            self.arm,
            self.format,
            *(panel.column for panel in self.panels),
            self.with_data,
            self.advice,
            self.quality,
        ]
        return [
            ready_region("export-body", self.empty, self.body, EMPTY, _untrained, can_answer),
            LiveRegion(
                "export-all",
                [self.all],
                lambda view: str(view.trained),
                lambda view: {self.all: gr.update(visible=view.trained)},
            ),
            # changes only with the study and the report, so that the user's choice is kept
            LiveRegion(
                "export-choice",
                choice,
                lambda view: f"{view.trained}:{view.stamp('report.json')}",
                self._draw_choice,
            ),
            *self.cards.sections(),
            *(panel.section() for panel in self.panels),
        ]

    def _draw_choice(self, view: StudyView) -> Updates:
        study = view.served
        if study is None or not view.trained:
            return {}
        report, arms = study_report(study), shown_arms(study.config)
        advised = advice(report, study.config.arms)
        jobs = [each for spec in export_specs() if spec.arm in arms for each in typed(spec)]
        spec = (
            _latest(study, jobs)
            or file_to_ship(report)
            or ExportSpec(advised.arm(EXPORT_FORMATS[DEFAULT_FORMAT]), DEFAULT_FORMAT)
        )
        return {
            self.arm: gr.update(choices=[(label(arm), arm) for arm in arms], value=spec.arm),
            self.format: spec.format,
            **self._panel_of(spec.arm, spec.format),
            self.with_data: gr.update(value=False, visible=study.config.grounded),
            self.advice: advice_card(advised, report.formats_sentence if report else ""),
            self.quality: quality_card(report),
        }

    def _panel_of(self, arm: str, format: str) -> Updates:
        """Show the panel of an export, and hide the others."""
        return {
            panel.column: gr.update(visible=(panel.spec.arm, panel.spec.format) == (arm, format))
            for panel in self.panels
        }

    # events

    def wire(self, picker: gr.Dropdown, tabs: gr.Tabs) -> None:
        """Connect the components; ``picker`` holds the name of the chosen study."""
        gr.on(
            [self.arm.input, self.format.input],
            self._panel_of,
            [self.arm, self.format],
            [panel.column for panel in self.panels],
            queue=False,
            **QUIET,
        )
        self.cards.wire(picker)
        for panel in self.panels:
            panel.wire(picker, self.with_data)


def _untrained(study: Study) -> str:
    number = len(study.config.arms)
    train = (
        t("Train the assistant on the Train tab.")
        if number == 1
        else t("Train {who} on the Train tab.", who=assistants(number))
    )
    uses = t(
        "You can then use an assistant on this computer, in Ollama, on a website and in other programs."
    )
    return empty(t("Nothing to use yet"), f"{train} {uses}")


def _latest(study: Study, specs: Sequence[ExportSpec]) -> ExportSpec | None:
    """The export of these that a reloaded page shows: a running one, else the last one started."""
    found = [
        (record.state == "running", record.started, spec)
        for spec in specs
        if (record := ExportJob(study, spec).record()) is not None
    ]
    return max(found, key=lambda entry: entry[:2])[2] if found else None
