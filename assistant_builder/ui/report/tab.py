"""The Report tab: shows, downloads, prints and re-creates the report."""

from __future__ import annotations

import gradio as gr
from markupsafe import Markup

from assistant_builder.i18n import N_, t
from assistant_builder.runner.run import rerender_report
from assistant_builder.study import Study
from assistant_builder.ui.html import (
    callout,
    code,
    empty,
    error_callout,
    fold,
    fragment,
    join,
    report_frame,
)
from assistant_builder.ui.refresh import LiveRegion, StudyView, Updates
from assistant_builder.ui.study_snapshot import (
    Snapshot,
    first_verdict,
    log_tail,
    needs_study,
    state_of,
)
from assistant_builder.ui.uploads import offer

EMPTY = N_("This tab shows the report.")
FORMATS = ("html", "md", "json")
HINT = N_(
    "Choose “Save as PDF” in the print dialog to get a file. The report is always printed in light colours."
)
_PRINT = """() => {
  const shown = document.querySelector("iframe.ab-report");
  if (!shown) return;
  const frame = document.createElement("iframe");
  frame.setAttribute("sandbox", "allow-same-origin allow-modals");
  frame.setAttribute("aria-hidden", "true");
  frame.tabIndex = -1;
  frame.className = "ab-printing";
  frame.srcdoc = shown.srcdoc;
  frame.onload = () => {
    frame.contentWindow.addEventListener("afterprint", () => frame.remove());
    frame.contentWindow.print();
  };
  document.body.append(frame);
}"""
"""Prints a copy of the report, because the sandbox of the visible frame prevents access and dialogs.

The copy's sandbox permits access and dialogs, but no scripts either.
"""


class ReportTab:
    """Components of the tab; the caller has opened the ``gr.Tab``."""

    def __init__(self) -> None:
        with gr.Row(visible=False, elem_classes="ab-actions") as self.bar:
            self.buttons = [
                gr.DownloadButton(t("Download .{ending}", ending=ending), size="sm")
                for ending in FORMATS
            ]
            self.printing = gr.Button(t("Print or save as PDF"), size="sm", elem_id="ab-print")
            self.again = gr.Button(t("Re-create report"), size="sm", elem_id="ab-remake")
        self.hint = gr.HTML(fragment("parts.paragraph", t(HINT), "ab-print-hint"), visible=False)
        self.message = gr.HTML(elem_id="ab-report-state")
        self.frame = gr.HTML(needs_study(t(EMPTY)), elem_id="ab-report")

    def sections(self) -> list[LiveRegion]:
        """The regions that are redrawn when the study changes."""
        return [
            LiveRegion(
                "report",
                [self.bar, self.hint, *self.buttons, self.frame],
                lambda view: view.stamp("report.html"),
                self._draw,
            ),
            LiveRegion("report-state", [self.again, self.message], _state_mark, self._draw_state),
        ]

    def _draw(self, view: StudyView) -> Updates:
        page = view.study.folder / "report.html" if view.study else None
        if view.study is None or page is None or not page.is_file():
            return {
                self.bar: gr.update(visible=False),
                self.hint: gr.update(visible=False),
                **dict.fromkeys(self.buttons, gr.update(value=None)),
                self.frame: needs_study(t(EMPTY))
                if view.study is None
                else empty(
                    t("No report yet"),
                    t("The report is written automatically after the evaluation."),
                ),
            }
        study = view.study
        files = {
            button: offer(study.folder / f"report.{ending}", f"{study.name}-report.{ending}")
            for button, ending in zip(self.buttons, FORMATS, strict=True)
        }
        return {
            self.bar: gr.update(visible=True),
            self.hint: gr.update(visible=True),
            **{button: gr.update(value=file) for button, file in files.items()},
            self.frame: report_frame(page.read_text(encoding="utf-8")),
        }

    def _draw_state(self, view: StudyView) -> Updates:
        if view.study is None or view.snapshot is None:
            return {self.again: gr.update(interactive=False), self.message: ""}
        ready = view.snapshot.step("evaluate").state == "succeeded" and not view.snapshot.running
        log = log_tail(view.study.log_file("report"))
        return {
            self.again: gr.update(interactive=ready),
            self.message: report_state(view.snapshot, log),
        }

    def wire(self, picker: gr.Dropdown, tabs: gr.Tabs) -> None:
        """Connect the components; ``picker`` holds the name of the chosen study."""
        self.printing.click(None, None, None, js=_PRINT)

        def rerender(name: str | None) -> Markup:
            rerender_report(Study.open(name or ""))
            return callout("good", t("The report was re-created"))

        self.again.click(
            rerender, picker, self.message, show_progress_on=self.message, api_visibility="private"
        )


def report_state(snapshot: Snapshot, log: str = "") -> Markup:
    """State of the report step, with the end of its log if it failed; empty if the report is up to date."""
    record = snapshot.step("report")
    evaluated = snapshot.step("evaluate").state == "succeeded"
    if record.state == "queued" and snapshot.first_verdict:
        return first_verdict(snapshot)
    if record.state == "running" or (record.state == "queued" and snapshot.running and evaluated):
        return callout("info", t("The report is being written"), t("This takes a few seconds."))
    if record.state == "failed":
        message = error_callout(record.error or {"what": t("the report could not be written")})
        return join([message, fold(t("Log of “Report”"), code(log)) if log else ""])
    if record.state == "succeeded" and not evaluated:
        return callout(
            "warn",
            t("This report is from an earlier evaluation"),
            remedy=t("Finish the evaluation to update the report."),
        )
    return Markup("")


def _state_mark(view: StudyView) -> str:
    state = state_of(view.study) if view.study else ""
    return f"{state}:{view.stamp('evals/status.json', 'report.status.json', 'run.json')}"
