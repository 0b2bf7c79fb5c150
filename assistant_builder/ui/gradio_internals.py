"""Everything of gradio that the page uses without a promise of gradio; a test names each part.

No other module of ``ui`` reads an attribute of gradio that begins with an underscore. These parts have no public
counterpart: the queue tells nobody which events of a window wait, and looks for events every millisecond.
"""

from __future__ import annotations

from typing import Any

import gradio as gr
from fastapi import FastAPI
from gradio.blocks import Block
from gradio.route_utils import GradioMultiPartParser
from gradio.routes import App, file_upload_statuses
from gradio.state_holder import SessionState, StateHolder
from starlette.routing import Mount

__all__ = [
    "BoundedStateHolder",
    "GradioMultiPartParser",
    "close",
    "event_values",
    "file_upload_statuses",
    "is_pending",
    "is_waiting",
    "replace_state",
    "slow_queue",
]
MAX_CLOSED_WINDOWS = 20
"""Closed windows whose state is kept, because their computers may only have been suspended."""


class WindowState(SessionState):
    """The state of one browser window, with one component per id.

    Gradio 6.31 creates a component with a new id at every update and stores it under both ids, so that every question
    of a long conversation would stay in memory.
    """

    def __setitem__(self, key: int, value: Any) -> None:
        if isinstance(value, Block):
            value._id = key
        super().__setitem__(key, value)


class BoundedStateHolder(StateHolder):
    """States of the browser windows by session hash; gradio's own keeps 10,000 closed ones of about 1 MB each."""

    def __getitem__(self, session_id: str) -> SessionState:
        if session_id not in self.session_data:
            self.session_data[session_id] = WindowState(self.blocks)
        return super().__getitem__(session_id)

    def remove(self, session_id: str) -> None:
        """Delete the state of a window."""
        with self.lock:
            self.session_data.pop(session_id, None)
            self.time_last_used.pop(session_id, None)

    def update(self, session_id: str) -> None:
        """Mark a window as used, and delete all but the last :data:`MAX_CLOSED_WINDOWS` closed ones."""
        super().update(session_id)
        with self.lock:
            closed = [
                name
                for name, window in self.session_data.items()
                if window.is_closed and name != session_id
            ]
            for name in closed[:-MAX_CLOSED_WINDOWS]:
                del self.session_data[name]
                self.time_last_used.pop(name, None)


def replace_state(outer: FastAPI, demo: gr.Blocks, windows: BoundedStateHolder) -> App:
    """Let the mounted gradio keep its states in ``windows``; returns its app."""
    mounts = (route.app for route in outer.routes if isinstance(route, Mount))
    inner = next(app for app in mounts if isinstance(app, App))
    inner.state_holder = windows
    windows.set_blocks(demo)
    # Mounting does not set this, and without it gradio checks no file that a request names.
    demo.has_launched = True
    return inner


def slow_queue(demo: gr.Blocks, seconds: float) -> None:
    """Set how often the queue looks for events; its own millisecond costs an idle server some percent of a core."""
    demo._queue.sleep_when_free = demo._queue.progress_update_sleep_when_free = seconds


def is_pending(demo: gr.Blocks, window: Any, event: Any) -> bool:
    """Whether a window has an event with this id in the queue."""
    pending = demo._queue.pending_event_ids_session
    return isinstance(window, str) and event in list(pending.get(window, ()))


def is_waiting(demo: gr.Blocks, window: str) -> bool:
    """Whether a window waits for messages of an event."""
    return window in demo._queue.pending_messages_per_session


def close(demo: gr.Blocks, inner: App) -> None:
    """End the queue and all open event streams, which would otherwise never end."""
    demo.is_running = False
    demo._queue.close()
    inner.stop_event.set()


def event_values(event: gr.EventData) -> dict[str, Any]:
    """What a browser sends about an event."""
    return event._data if isinstance(event._data, dict) else {}
