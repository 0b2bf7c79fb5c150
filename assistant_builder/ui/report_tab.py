"""The Report tab: the report as it is, and its three files to take away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr
from markupsafe import Markup

from assistant_builder.ui.downloads import offer
from assistant_builder.ui.markup import empty
from assistant_builder.ui.sections import Look, Section
from assistant_builder.ui.snapshots import stamp
from assistant_builder.ui.views.study import needs_study

EMPTY = "The report is shown here."
FORMATS = ("html", "md", "json")


class ReportTab:
    """Components of the tab; the caller has opened the ``gr.Tab``."""

    def __init__(self) -> None:
        with gr.Row(visible=False, elem_classes="ab-actions") as self.bar:
            self.buttons = [gr.DownloadButton(f"Download .{ending}", size="sm") for ending in FORMATS]
        self.frame = gr.HTML(needs_study(EMPTY), elem_id="ab-report")

    def sections(self) -> list[Section]:
        """What follows the study."""
        return [Section("report", [self.bar, *self.buttons, self.frame], _report_mark, self._draw)]

    def _draw(self, look: Look) -> Sequence[Any]:
        nothing = [gr.update(visible=False), *(gr.update(value=None) for _ in FORMATS)]
        if look.study is None:
            return [*nothing, needs_study(EMPTY)]
        page = look.study.folder / "report.html"
        if not page.is_file():
            return [*nothing, empty("No report yet", "It is written by itself once both assistants are trained and "
                                    "evaluated.")]
        files = [
            gr.update(value=offer(look.study.folder / f"report.{ending}", f"{look.study.name}-report.{ending}"))
            for ending in FORMATS
        ]
        return [gr.update(visible=True), *files, report_frame(page.read_text(encoding="utf-8"))]


def report_frame(page: str) -> Markup:
    """The report in a frame of its own: its styles stay inside, and no script of it runs.

    A frame without an address resolves ``#part`` against that of the app, and would load the app into itself; so the
    report's own links get the frame's. Text of others holds no such link: its quotation marks are escaped.
    """
    inside = page.replace('href="#', 'href="about:srcdoc#')
    frame = Markup('<iframe class="ab-report" title="Report" sandbox="allow-popups" srcdoc="{}"></iframe>')
    return frame.format(inside)


def _report_mark(look: Look) -> str:
    return f"{look.name}:{stamp([look.study.folder / 'report.html'])}" if look.study else f"none:{look.name}"
