"""The Evaluate tab: how far the scoring is, every cell's figures, the differences and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from assistant_builder.study import Study
from assistant_builder.ui.markup import error_callout
from assistant_builder.ui.runs import start_run
from assistant_builder.ui.sections import Look, Section, told
from assistant_builder.ui.views.evaluation import evaluation_panel
from assistant_builder.ui.views.study import needs_study

EMPTY = "The scores of both assistants are shown here."


class EvaluateTab:
    """Components of the tab; the caller has opened the ``gr.Tab``."""

    def __init__(self) -> None:
        self.start = gr.Button("Evaluate now", variant="primary", visible=False)
        self.panel = gr.HTML(needs_study(EMPTY), elem_id="ab-evaluation")

    def sections(self) -> list[Section]:
        """What follows the study."""
        return [Section("evaluate", [self.start, self.panel], lambda look: look.mark, self._draw)]

    def _draw(self, look: Look) -> Sequence[Any]:
        seen = look.snapshot
        if seen is None:
            return [gr.update(visible=False), error_callout(look.error) if look.error else needs_study(EMPTY)]
        ready = seen.trained and not seen.running and seen.step("evaluate").state != "succeeded"
        return [gr.update(visible=ready, interactive=True), evaluation_panel(seen)]

    def wire(self, picker: gr.Dropdown, tabs: gr.Tabs) -> None:
        """Connect the components."""
        self.start.click(told(self._start), picker, self.start, show_progress="hidden", api_visibility="private")

    def _start(self, name: str | None) -> dict[str, Any]:
        start_run(Study.open(name or "").name)
        return gr.update(interactive=False)
