"""Building parts of the page in a test."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import gradio as gr

from assistant_builder.config import StudyConfig
from assistant_builder.ui.train.tab import TrainTab

Built = TypeVar("Built")


def inside_blocks(build: Callable[[], Built]) -> Built:
    """Call ``build`` inside ``gr.Blocks`` and an event loop; without one, gradio opens loops that it never closes."""

    async def run() -> Built:
        with gr.Blocks():
            return build()

    return asyncio.run(run())


def in_order(updates: Mapping[Any, Any], components: Sequence[Any]) -> list[Any]:
    """The updates of these components; those that do not change are skipped."""
    return [updates.get(component, gr.skip()) for component in components]


def wired_train_tab() -> TrainTab:
    """The Train tab with its events."""

    def build() -> TrainTab:
        tab = TrainTab()
        tab.wire(gr.Dropdown(), gr.Tabs())
        return tab

    return inside_blocks(build)


def train_values(tab: TrainTab, name: str, config: StudyConfig, **boxes: bool) -> dict[Any, Any]:
    """Component → value of the Train tab; ``boxes``: the ticked ones of replace, trust and connect."""
    names = ("replace", "trust", "connect")
    ticks = {getattr(tab, box): boxes.get(box, False) for box in names}
    return {tab._picker: name, **ticks, **tab.form.values(config)}
