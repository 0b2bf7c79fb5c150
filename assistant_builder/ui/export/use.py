"""The cards of the tab “Use it”: an endpoint on this computer, Ollama, a website, other programs, and a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from assistant_builder.export.export import read_export
from assistant_builder.export.job import ZIP_LIMIT, ExportJob
from assistant_builder.export_formats import ExportSpec, advice, shipped_file
from assistant_builder.i18n import N_, t
from assistant_builder.serving.endpoint_process import Endpoints
from assistant_builder.study import Study
from assistant_builder.ui.export.view import (
    ENDPOINT_STARTS,
    endpoint_card,
    job_card,
    not_ready_warning,
)
from assistant_builder.ui.html import copy_script
from assistant_builder.ui.refresh import QUIET, LiveRegion, StudyView, Updates, is_local
from assistant_builder.ui.study_snapshot import log_tail, study_report
from assistant_builder.ui.uploads import offer
from evals.report.format import size


class EndpointCards:
    """Cards that start the endpoint of the recommended assistant and show how programs reach it."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        self._shown: dict[str, gr.HTML] = {}
        self._starts: dict[str, gr.Button] = {}

    def place(self, key: str) -> None:
        """Place one of :data:`ENDPOINT_STARTS`; the first one also stops the endpoint."""
        with gr.Column(elem_classes="ab-use-card", elem_id=f"ab-use-{key}"):
            self._shown[key] = gr.HTML(js_on_load=copy_script())
            self._starts[key] = gr.Button(
                t(ENDPOINT_STARTS[key]), variant="primary", elem_id=f"ab-use-{key}-start"
            )
            if len(self._shown) == 1:
                self._stop = gr.Button(
                    t("Stop"), variant="stop", visible=False, elem_id="ab-use-stop"
                )

    @property
    def outputs(self) -> list[Any]:
        """The components that :meth:`updates` sets."""
        return [*self._shown.values(), *self._starts.values(), self._stop]

    def section(self) -> LiveRegion:
        """The region that follows the endpoint."""
        return LiveRegion(
            "use-endpoint",
            self.outputs,
            lambda view: f"{view.name}:{self._endpoints.state(view.name)}",
            lambda view: self.updates(view.name, local=view.local),
        )

    def updates(self, name: str | None, *, local: bool) -> Updates:
        """Show the state of the endpoint; ``local``: the browser is on the computer that runs the page."""
        state = self._endpoints.state(name)
        busy = state.phase in ("starting", "running")
        return {
            **{
                card: endpoint_card(key, state, name or "", local=local)
                for key, card in self._shown.items()
            },
            **dict.fromkeys(self._starts.values(), gr.update(visible=not busy)),
            self._stop: gr.update(visible=busy),
        }

    def wire(self, picker: gr.Dropdown) -> None:
        """Connect the buttons."""
        gr.on(
            [button.click for button in self._starts.values()],
            self._start,
            picker,
            self.outputs,
            **QUIET,
        )
        self._stop.click(self._end, picker, self.outputs, **QUIET)

    def _start(self, name: str | None, request: gr.Request) -> Updates:
        study = Study.open(name or "").recommended
        self._endpoints.start(study, advice(study_report(study), study.config.arms).adapter)
        return self.updates(name, local=is_local(request))

    def _end(self, name: str | None, request: gr.Request) -> Updates:
        self._endpoints.stop(name or "")
        return self.updates(name, local=is_local(request))


class JobCard:
    """A card that writes an export of the recommended assistant."""

    def __init__(self, key: str, start: str, spec_of: Callable[[Study], ExportSpec]) -> None:
        self._key, self._start_label, self._spec_of = key, start, spec_of
        with gr.Column(elem_classes="ab-use-card", elem_id=f"ab-use-{key}"):
            self._shown = gr.HTML(js_on_load=copy_script())
            self._download = gr.DownloadButton(t("Download"), variant="primary", visible=False)
            self._start = gr.Button(t(start), variant="primary", elem_id=f"ab-use-{key}-start")
            self._cancel = gr.Button(t("Cancel"), variant="stop", visible=False)

    @property
    def _outputs(self) -> list[Any]:
        return [self._shown, self._download, self._start, self._cancel]

    def section(self) -> LiveRegion:
        """The region that follows the export."""

        def mark(view: StudyView) -> str:
            if view.served is None or not view.trained:
                return f"{view.name}:nothing"
            job = ExportJob(view.served, self._spec_of(view.served))
            return (
                f"{view.stamp(job.status_file, 'report.json')}:{job.running}:{job.cancel_requested}"
            )

        return LiveRegion(
            f"use-{self._key}",
            self._outputs,
            mark,
            lambda view: self._updates(view.served if view.trained else None, local=view.local),
        )

    def _updates(self, study: Study | None, *, local: bool) -> Updates:
        if study is None:
            hidden = dict.fromkeys(self._outputs, gr.update(visible=False))
            return {**hidden, self._shown: ""}
        spec = self._spec_of(study)
        job = ExportJob(study, spec)
        record = job.record()
        export = (
            read_export(Path(record.target)) if record and record.state == "succeeded" else None
        )
        log = log_tail(job.log_file) if local else ""
        card = job_card(self._key, study, spec, record, export, log, local=local)
        start = t("Write it again") if export else t(self._start_label)
        return {
            self._shown: card,
            self._download: download_update(job, export),
            **job_buttons(job, self._start, self._cancel, start, written=bool(export)),
        }

    def wire(self, picker: gr.Dropdown) -> None:
        """Connect the buttons."""
        self._start.click(self._begin, picker, self._outputs, **QUIET)
        self._cancel.click(self._end, picker, self._cancel, **QUIET)

    def _begin(self, name: str | None, request: gr.Request) -> Updates:
        study = Study.open(name or "").recommended
        ExportJob(study, self._spec_of(study)).start(with_data=False)
        return self._updates(study, local=is_local(request))

    def _end(self, name: str | None) -> dict[str, Any]:
        study = Study.open(name or "").recommended
        ExportJob(study, self._spec_of(study)).request_cancel()
        return gr.update(value=t("Cancelling…"))


class UseCards:
    """All cards, and a warning above them if the assistant is not good enough."""

    def __init__(self, endpoints: Endpoints) -> None:
        self.warning = gr.HTML(elem_id="ab-use-warning")
        self.endpoint = EndpointCards(endpoints)
        with gr.Row(elem_classes="ab-use"):
            self.endpoint.place("computer")
            self.jobs = [JobCard("ollama", N_("Write the file for Ollama"), _ollama_spec)]
            self.endpoint.place("website")
            self.endpoint.place("programs")
            self.jobs.append(JobCard("folder", N_("Make the folder"), _folder_spec))

    def sections(self) -> list[LiveRegion]:
        """The regions that follow the study."""
        return [
            LiveRegion(
                "use-warning",
                [self.warning],
                lambda view: view.stamp("report.json"),
                self._draw_warning,
            ),
            self.endpoint.section(),
            *(job.section() for job in self.jobs),
        ]

    def _draw_warning(self, view: StudyView) -> Updates:
        study = view.served if view.trained else None
        return {self.warning: not_ready_warning(study_report(study)) if study else ""}

    def wire(self, picker: gr.Dropdown) -> None:
        """Connect the cards."""
        self.endpoint.wire(picker)
        for job in self.jobs:
            job.wire(picker)


def _ollama_spec(study: Study) -> ExportSpec:
    return shipped_file(study_report(study), study.config.arms)


def _folder_spec(study: Study) -> ExportSpec:
    """The recommended assistant as a complete model, which needs no other files."""
    return ExportSpec(advice(study_report(study), study.config.arms).merged, "merged")


def job_buttons(
    job: ExportJob, start: gr.Button, cancel: gr.Button, label: str, *, written: bool
) -> Updates:
    """The buttons that start an export, with this label, and cancel it."""
    record = job.record()
    busy = record is not None and record.state == "running"
    variant = "secondary" if written else "primary"
    cancelling = t("Cancelling…") if job.cancel_requested else t("Cancel")
    return {
        start: gr.update(visible=not busy, interactive=True, value=label, variant=variant),
        cancel: gr.update(visible=busy, value=cancelling),
    }


def download_update(job: ExportJob, export: dict[str, Any] | None) -> dict[str, Any]:
    """The download button of an export: its archive, if it has one."""
    path = job.archive
    if export is not None and export["archive"]:
        path = Path(export["folder"]) / Path(export["archive"]).name
    if (
        export is None
        or not path.is_file()
        or path.stat().st_size > 2 * ZIP_LIMIT  # of somebody else: a copy is offered
        or Path(export["folder"]) not in (path.parent, job.files)
    ):
        return gr.update(value=None, visible=False)
    return gr.update(
        value=offer(path, path.name),
        visible=True,
        label=t("Download .zip ({st_size})", st_size=size(path.stat().st_size)),
    )
