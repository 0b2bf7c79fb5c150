"""What the server keeps of windows does not grow with what is done in them, nor with how many were closed."""

from __future__ import annotations

import asyncio

import gradio as gr
import httpx
import pytest

from assistant_builder.access.rules import Access
from assistant_builder.ui.sections import Page
from assistant_builder.ui.server import page_app
from assistant_builder.ui.windows import CLOSED_KEPT, Windows
from tests.ui.blocks import inside_blocks


@pytest.fixture
def demo() -> gr.Blocks:
    """A box that each event reads and makes anew."""

    def build() -> gr.Blocks:
        box = gr.Textbox("0")
        gr.Button().click(lambda text: gr.update(value=str(int(text) + 1), label=f"after {text}"), box, box)
        assert isinstance(box.parent, gr.Blocks)
        return box.parent

    return inside_blocks(build)


def test_events_leave_nothing_behind_but_their_outcome(demo: gr.Blocks) -> None:
    (function,) = demo.fns
    counts = []

    async def six_events() -> None:
        app, stop = page_app(Page(demo, []), Access())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            for turn in range(6):
                body = {"data": [str(turn)], "fn_index": function, "session_hash": "window"}
                answer = (await client.post("/gradio_api/run/predict", json=body)).json()
                assert answer["data"][0]["value"] == str(turn + 1)
                window = demo.state_holder.session_data["window"]
                counts.append((len(window.blocks_config.blocks), len(window.config_values)))

        stop()

    asyncio.run(six_events())
    assert len(set(counts)) == 1, counts
    parts = demo.state_holder.session_data["window"].blocks_config.blocks.values()
    assert [part.label for part in parts if isinstance(part, gr.Textbox)] == ["after 5"], "the next event knows of it"


def test_closed_windows_are_forgotten_and_open_ones_kept(demo: gr.Blocks) -> None:
    windows = Windows()
    windows.set_blocks(demo)
    for number in range(3 * CLOSED_KEPT):
        window = windows[f"closed {number}"]
        window.is_closed = True
        windows[f"open {number}"]
    kept = set(windows.session_data)
    last = range(2 * CLOSED_KEPT, 3 * CLOSED_KEPT)
    assert kept == {f"open {number}" for number in range(3 * CLOSED_KEPT)} | {f"closed {number}" for number in last}
    assert set(windows.time_last_used) == kept
