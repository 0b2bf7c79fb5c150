"""The Report tab: the report as it is, its three files to take away, printing it, and making it again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr
from markupsafe import Markup

from assistant_builder.runner.run import rerender_report
from assistant_builder.study import Study
from assistant_builder.ui.html import callout, code, empty, error_callout, fold, join
from assistant_builder.ui.refresh import LiveRegion, StudyView, user_facing_errors
from assistant_builder.ui.study_snapshot import Snapshot, log_tail, needs_study, stamp
from assistant_builder.ui.uploads import offer

EMPTY = "The report is shown here."
FORMATS = ("html", "md", "json")
HINT = "In the print window, “Save as PDF” makes a file of it. It prints in light colours whatever the page shows."
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
"""Prints a second copy: the frame that is shown may neither be reached from here nor open a window. No script runs in
the copy either, for it is not allowed any; it may be reached, so that it can be told to print."""


class ReportTab:
    """Components of the tab; the caller has opened the ``gr.Tab``."""

    def __init__(self) -> None:
        with gr.Row(visible=False, elem_classes="ab-actions") as self.bar:
            self.buttons = [gr.DownloadButton(f"Download .{ending}", size="sm") for ending in FORMATS]
            self.printing = gr.Button("Print or save as PDF", size="sm", elem_id="ab-print")
            self.again = gr.Button("Make the report again", size="sm", elem_id="ab-remake")
        self.hint = gr.HTML(Markup('<p class="ab-print-hint">{}</p>').format(HINT), visible=False)
        self.message = gr.HTML(elem_id="ab-report-state")
        self.frame = gr.HTML(needs_study(EMPTY), elem_id="ab-report")

    def sections(self) -> list[LiveRegion]:
        """What follows the study."""
        return [
            LiveRegion("report", [self.bar, self.hint, *self.buttons, self.frame], _report_mark, self._draw),
            LiveRegion("report-state", [self.again, self.message], _state_mark, self._draw_state),
        ]

    def _draw(self, look: StudyView) -> Sequence[Any]:
        nothing = [gr.update(visible=False), gr.update(visible=False), *(gr.update(value=None) for _ in FORMATS)]
        if look.study is None:
            return [*nothing, needs_study(EMPTY)]
        page = look.study.folder / "report.html"
        if not page.is_file():
            return [*nothing, empty("No report yet", "It is written by itself once the assistants are trained and "
                                    "evaluated.")]
        files = [
            gr.update(value=offer(look.study.folder / f"report.{ending}", f"{look.study.name}-report.{ending}"))
            for ending in FORMATS
        ]
        shown = gr.update(visible=True)
        return [shown, shown, *files, report_frame(page.read_text(encoding="utf-8"))]

    def _draw_state(self, look: StudyView) -> Sequence[Any]:
        if look.study is None or look.snapshot is None:
            return [gr.update(interactive=False), ""]
        evaluated = look.snapshot.step("evaluate").state == "succeeded"
        said = report_state(look.snapshot, log_tail(look.study, "report"))
        return [gr.update(interactive=evaluated and not look.snapshot.running), said]

    def wire(self, picker: gr.Dropdown, tabs: gr.Tabs) -> None:
        """Connect the components.

        Args:
            picker: Holds the name of the chosen study.
            tabs: The tabs, to move on to another one.
        """
        self.printing.click(None, None, None, js=_PRINT)
        self.again.click(user_facing_errors(_remake), picker, self.message, show_progress_on=self.message, api_visibility="private")


def _remake(name: str | None) -> Markup:
    rerender_report(Study.open(name or ""))
    return callout("good", "The report was made again")


def report_state(snapshot: Snapshot, log: str = "") -> Markup:
    """What there is to say of the making of the report, beside the report itself.

    Args:
        snapshot: The study.
        log: The end of the step's log.
    """
    record = snapshot.step("report")
    evaluated = snapshot.step("evaluate").state == "succeeded"
    if record.state == "running" or (record.state == "queued" and snapshot.running and evaluated):
        return callout("info", "The report is being made", "It takes some seconds; it comes here by itself.")
    if record.state == "failed":
        told = error_callout(record.error or {"what": "the report could not be made"})
        return join([told, fold("Log of “Report”", code(log)) if log else ""])
    if snapshot.report and not evaluated:
        return callout("warn", "This report is of an earlier evaluation",
                       remedy="Finish the evaluation, and it is made again.")
    return Markup("")


def report_frame(page: str) -> Markup:
    """The report in a frame of its own: its styles stay inside, and no script of it runs.

    A frame without an address resolves ``#part`` against that of the app, and would load the app into itself; so the
    report's own links get the frame's. Text of others holds no such link: its quotation marks are escaped.
    """
    inside = page.replace('href="#', 'href="about:srcdoc#')
    frame = Markup('<iframe class="ab-report" title="Report" sandbox="allow-popups" srcdoc="{}"></iframe>')
    return frame.format(inside)


def _report_mark(look: StudyView) -> str:
    return f"{look.name}:{stamp([look.study.folder / 'report.html'])}" if look.study else f"none:{look.name}"


def _state_mark(look: StudyView) -> str:
    if look.study is None:
        return f"none:{look.name}"
    study = look.study
    files = [study.status_file(step) for step in ("evaluate", "report")]
    return f"{look.name}:{look.mark.split(':')[1]}:{stamp([*files, study.folder / 'run.json'])}"
