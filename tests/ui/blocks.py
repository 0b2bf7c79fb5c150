"""Building parts of the page in a test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import gradio as gr

Built = TypeVar("Built")


def inside_blocks(build: Callable[[], Built]) -> Built:
    """Call ``build`` inside ``gr.Blocks`` and an event loop; without one, gradio opens loops that it never closes."""

    async def run() -> Built:
        with gr.Blocks():
            return build()

    return asyncio.run(run())
