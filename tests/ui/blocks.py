"""Building parts of the page in a test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import gradio as gr

Built = TypeVar("Built")


def inside_blocks(build: Callable[[], Built]) -> Built:
    """What ``build`` makes inside ``gr.Blocks``; those open event loops where none is running, and never close them."""

    async def run() -> Built:
        with gr.Blocks():
            return build()

    return asyncio.run(run())
