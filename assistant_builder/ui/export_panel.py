"""One kind of export on the page: its state, its buttons, its download and how to load it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from assistant_builder.errors import AssistantBuilderError, StudyError
from assistant_builder.files import read_json
from assistant_builder.study import Study
from assistant_builder.ui.downloads import offer
from assistant_builder.ui.markup import Markup
from assistant_builder.ui.sections import Look, Section, told
from assistant_builder.ui.snapshots import stamp
from assistant_builder.ui.views.export import (
    command_line,
    ended_panel,
    finished_panel,
    kind_title,
    ready_panel,
    running_panel,
)
from evals.export.job import ExportJob
from evals.export.kinds import Kind, advice, base_name, planned_bytes
from evals.export.run import read_export, ways_to_load
from evals.report.wording import size

MOST_WAYS = 3


class ExportPanel:
    """Components of one kind; the caller has opened the column.

    Args:
        kind: Which arm in which form.
    """

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        with gr.Column(visible=False, elem_id=f"ab-export-{kind.name}") as self.column:
            self.state = gr.HTML(elem_classes="ab-export-state")
            with gr.Row(elem_classes="ab-actions"):
                self.download = gr.DownloadButton("Download", variant="primary", visible=False)
                self.start = gr.Button("Export", variant="primary")
                self.cancel = gr.Button("Cancel", variant="stop", visible=False)
            self.ways = [
                gr.Code(language="python" if place == 0 else "shell", interactive=False, visible=False, lines=1,
                        wrap_lines=True, show_line_numbers=False, buttons=["copy"])
                for place in range(MOST_WAYS)
            ]
            with gr.Accordion("The command line of this", open=False):
                self.command = gr.Code(language="shell", show_label=False, interactive=False, wrap_lines=True, lines=1,
                                       show_line_numbers=False, buttons=["copy"])

    def section(self, trained: Any) -> Section:
        """What follows the files of this export.

        Args:
            trained: Tells from a look whether there is something to export.
        """

        def there(look: Look) -> bool:
            return look.study is not None and trained(look) and self.kind.arm in look.study.config.arms

        def mark(look: Look) -> str:
            if not there(look) or look.study is None:
                return f"{look.name}:nothing"
            job = ExportJob(look.study, self.kind)
            files = [job.status_file, look.study.folder / "report.json",
                     look.study.arm_folder(self.kind.arm) / "summary.json"]
            return f"{look.name}:{stamp(files)}:{job.running}:{job.cancel_requested}"

        def draw(look: Look) -> Sequence[Any]:
            return self._draw(look.study) if look.study is not None and there(look) else self._blank()

        outputs = [self.state, self.start, self.cancel, self.download, *self.ways, self.command]
        return Section(f"export-{self.kind.name}", outputs, mark, draw)

    def _blank(self) -> list[Any]:
        return ["", gr.update(visible=False), gr.update(visible=False), gr.update(value=None, visible=False),
                *(gr.update(value="", visible=False) for _ in self.ways), ""]

    def _draw(self, study: Study) -> list[Any]:
        kind, job = self.kind, ExportJob(study, self.kind)
        record = job.record()
        export = None
        if record is None:
            path = study.folder / "report.json"
            report = read_json(path) if path.is_file() else None
            shown: Markup = ready_panel(kind, planned_bytes(study, kind), advice(report, study.config.arms))
        elif record.state == "running":
            shown = running_panel(kind, record)
        elif record.state == "succeeded":
            export = read_export(Path(record.target))
            sha = read_json(study.arm_folder(kind.arm) / "summary.json")["adapter_sha256"]
            readme = Path(record.target) / "README.md"
            text = readme.read_text(encoding="utf-8") if export and readme.is_file() else ""
            shown = finished_panel(kind, record, export, current=export is not None and export["adapter_sha256"] == sha,
                                   model_card=text)
        else:
            shown = ended_panel(kind, record, _tail(job.log_file))
        busy = record is not None and record.state == "running"
        label = "Export again" if record is not None else f"Export {kind_title(kind)}"
        return [
            shown, gr.update(visible=not busy, interactive=True, value=label,
                             variant="secondary" if export else "primary"),
            gr.update(visible=busy, value="Cancelling…" if job.cancel_requested else "Cancel"),
            self._offered(job, export), *self._shown_ways(study, export), command_line(study.name, kind),
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
                found = ways_to_load(study, self.kind, folder=export["folder"], base=str(local or shared))
            except AssistantBuilderError:  # the base model's folder is gone
                found = []
        shown = [gr.update(value=way.text, label=way.title, visible=True) for way in found]
        return shown + [gr.update(value="", visible=False)] * (MOST_WAYS - len(shown))

    def wire(self, picker: gr.Dropdown) -> None:
        """Connect the buttons.

        Args:
            picker: Holds the name of the chosen study.
        """
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        self.start.click(told(self._start), picker, self.start, **quiet)
        self.cancel.click(told(self._cancel), picker, self.cancel, **quiet)

    def _start(self, name: str | None) -> dict[str, Any]:
        ExportJob(Study.open(name or ""), self.kind).start()
        return gr.update(interactive=False, value="Starting…")

    def _cancel(self, name: str | None) -> dict[str, Any]:
        job = ExportJob(Study.open(name or ""), self.kind)
        if not job.running:
            raise StudyError("nothing is being exported", remedy="The page shows how it ended in a moment")
        job.request_cancel()
        return gr.update(value="Cancelling…")


def _tail(path: Path, lines: int = 30) -> str:
    if not path.is_file():
        return ""
    text = path.read_text(encoding="utf-8", errors="replace")[-64_000:]
    return "\n".join(text.replace("\r", "\n").split("\n")[-lines:]).strip("\n")
