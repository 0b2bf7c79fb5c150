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
    ready_panel,
    running_panel,
    spec_title,
    ways_to_use,
)
from assistant_builder.ui.html import Markup, copy_script, empty
from assistant_builder.ui.refresh import (
    QUIET,
    LiveRegion,
    StudyView,
    Updates,
    is_local,
    ready_region,
)
from assistant_builder.ui.study_snapshot import (
    answering_arms,
    log_tail,
    needs_study,
    shown_arms,
    study_report,
)


class ExportPanel:
    """Components of every export: a choice of assistant, format and type, and the state of the chosen one."""

    def __init__(self) -> None:
        # A change of this text shows the chosen export again. It is hidden by CSS, because an invisible component
        # causes no change event.
        self.jobs = gr.Textbox("", show_label=False, elem_classes="ab-offstage")
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
            with gr.Column(scale=7, min_width=300, elem_id="ab-export-chosen"):
                self.type = gr.Dropdown(
                    [], label=t("Type"), visible=False, elem_id="ab-export-type"
                )
                self.state = gr.HTML(elem_classes="ab-export-state")
                with gr.Row(elem_classes="ab-actions"):
                    self.download = gr.DownloadButton(
                        t("Download"), variant="primary", visible=False
                    )
                    self.start = gr.Button(
                        t("Export"), variant="primary", elem_id="ab-export-start"
                    )
                    self.cancel = gr.Button(t("Cancel"), variant="stop", visible=False)
                self.ways = gr.HTML(js_on_load=copy_script())

    @property
    def outputs(self) -> list[Any]:
        """The components that :meth:`updates` sets."""
        return [self.state, self.start, self.cancel, self.download, self.ways, self.type]

    def sections(self) -> list[LiveRegion]:
        """The regions that are redrawn when the study or an export changes."""
        choice = [self.arm, self.format, self.type, self.with_data, self.advice]
        return [
            # changes only with the study and the report, so that the user's choice is kept
            LiveRegion(
                "export-choice",
                choice,
                lambda view: f"{view.trained}:{view.stamp('report.json')}",
                self._draw_choice,
            ),
            LiveRegion(
                "export-jobs",
                [self.jobs],
                _jobs_mark,
                lambda view: {self.jobs: _jobs_mark(view)},
            ),
        ]

    def _draw_choice(self, view: StudyView) -> Updates:
        study = view.served
        if study is None or not view.trained:
            return {}
        report, arms = study_report(study), shown_arms(study.config)
        advised = advice(report, study.config.arms)
        spec = (
            _latest(study, _every_spec(study))
            or file_to_ship(report)
            or ExportSpec(advised.arm(EXPORT_FORMATS[DEFAULT_FORMAT]), DEFAULT_FORMAT)
        )
        return {
            self.arm: gr.update(choices=[(label(arm), arm) for arm in arms], value=spec.arm),
            self.format: spec.format,
            self.type: _type_update(spec),
            self.with_data: gr.update(value=False, visible=study.config.grounded),
            self.advice: advice_card(advised, report.formats_sentence if report else ""),
        }

    def updates(self, study: Study, spec: ExportSpec, *, local: bool) -> Updates:
        """Show the state of an export."""
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
            self.type: _type_update(spec),
        }

    def wire(self, picker: gr.Dropdown) -> None:
        """Connect the components; ``picker`` holds the name of the chosen study."""
        chosen = [picker, self.arm, self.format, self.type]
        gr.on(
            [self.jobs.change, self.arm.input, self.format.input, self.type.input],
            self.show,
            chosen,
            self.outputs,
            trigger_mode="always_last",
            **QUIET,
        )
        self.start.click(self.begin, [*chosen, self.with_data], self.start, **QUIET)
        self.cancel.click(self.end, chosen, self.cancel, **QUIET)

    def show(
        self, name: str | None, arm: str, format: str, type: str | None, request: gr.Request
    ) -> Updates:
        """Show the chosen export."""
        study = Study.open(name).recommended if name else None
        if study is None or arm not in answering_arms(study):
            return gr.skip()
        return self.updates(study, _spec_of(study, arm, format, type), local=is_local(request))

    def begin(
        self, name: str | None, arm: str, format: str, type: str | None, with_data: bool
    ) -> dict[str, Any]:
        """Start the chosen export."""
        study = Study.open(name or "").recommended
        job = ExportJob(study, _spec_of(study, arm, format, type))
        job.start(with_data=with_data is True and study.config.grounded)
        return gr.update(interactive=False, value=t("Starting…"))

    def end(self, name: str | None, arm: str, format: str, type: str | None) -> dict[str, Any]:
        """Cancel the chosen export."""
        study = Study.open(name or "").recommended
        job = ExportJob(study, _spec_of(study, arm, format, type))
        if not job.running:
            raise StudyError(
                m("no export is running"), remedy=m("Wait until the page shows the result")
            )
        job.request_cancel()
        return gr.update(value=t("Cancelling…"))


def _spec_of(study: Study, arm: str, format: str, type: str | None) -> ExportSpec:
    """The chosen export; of a format without this type the last one started, else the advised one."""
    default = next(spec for spec in export_specs() if (spec.arm, spec.format) == (arm, format))
    specs = typed(default)
    advised = file_to_ship(study_report(study))
    return (
        next((spec for spec in specs if spec.export_format.type == type), None)
        or _latest(study, specs)
        or (advised if advised in specs else default)
    )


def _type_update(spec: ExportSpec) -> dict[str, Any]:
    types = list(spec.export_format.types)
    # gradio refuses an empty text that is no choice
    return gr.update(choices=types, value=spec.export_format.type or None, visible=len(types) > 1)


def _every_spec(study: Study) -> list[ExportSpec]:
    """Each export of the arms that a study trains, in each type."""
    arms = shown_arms(study.config)
    return [each for spec in export_specs() if spec.arm in arms for each in typed(spec)]


def _jobs_mark(view: StudyView) -> str:
    study = view.served
    if study is None or not view.trained:
        return ""
    jobs = [ExportJob(study, spec) for spec in _every_spec(study)]
    summaries = [study.arm_folder(arm) / "summary.json" for arm in study.config.arms]
    files = view.stamp("report.json", *summaries, *(job.status_file for job in jobs))
    return ":".join([files, *(f"{job.running}:{job.cancel_requested}" for job in jobs)])


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
                self.panel = ExportPanel()

    def sections(self) -> list[LiveRegion]:
        """The regions that are redrawn when the study or an export changes."""
        return [
            ready_region("export-body", self.empty, self.body, EMPTY, _untrained, can_answer),
            LiveRegion(
                "export-all",
                [self.all],
                lambda view: str(view.trained),
                lambda view: {self.all: gr.update(visible=view.trained)},
            ),
            *self.cards.sections(),
            *self.panel.sections(),
        ]

    def wire(self, picker: gr.Dropdown, tabs: gr.Tabs) -> None:
        """Connect the components; ``picker`` holds the name of the chosen study."""
        self.cards.wire(picker)
        self.panel.wire(picker)


def _untrained(study: Study) -> str:
    uses = t(
        "You can then use an assistant on this computer, in Ollama, on a website and in other programs."
    )
    return empty(
        t("Nothing to use yet"), " ".join((t("Train the project on the Train tab."), uses))
    )


def _latest(study: Study, specs: Sequence[ExportSpec]) -> ExportSpec | None:
    """The export of these that a reloaded page shows: a running one, else the last one started."""
    found = [
        (record.state == "running", record.started, spec)
        for spec in specs
        if (record := ExportJob(study, spec).record()) is not None
    ]
    return max(found, key=lambda entry: entry[:2])[2] if found else None
