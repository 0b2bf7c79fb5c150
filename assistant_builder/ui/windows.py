"""What the server keeps of each window of the page, for as long as it may be needed.

Gradio 6.31 would let it grow. An update makes a component anew, under another number; the next event that reads it
files it under that number too, value and all, so that every question of a long conversation stays in memory. And
windows that were closed are kept until 10,000 newer ones have come, at about a megabyte each.
"""

from __future__ import annotations

from typing import Any

from gradio.blocks import Block
from gradio.state_holder import SessionState, StateHolder

CLOSED_KEPT = 20
"""Windows that are closed but kept, in case their computers only slept."""


class Window(SessionState):
    """The components of one window: one for each number, however often they are made anew."""

    def __setitem__(self, key: int, value: Any) -> None:
        if isinstance(value, Block):
            value._id = key
        super().__setitem__(key, value)


class Windows(StateHolder):
    """The windows by their names, those used last at the end."""

    def __getitem__(self, session_id: str) -> SessionState:
        if session_id not in self.session_data:
            self.session_data[session_id] = Window(self.blocks)
        return super().__getitem__(session_id)

    def forget(self, session_id: str) -> None:
        """Drop what is kept of a window."""
        with self.lock:
            self.session_data.pop(session_id, None)
            self.time_last_used.pop(session_id, None)

    def update(self, session_id: str) -> None:
        """Note that a window is used, and forget closed ones that have not been for longest."""
        super().update(session_id)
        with self.lock:
            closed = [name for name, window in self.session_data.items() if window.is_closed and name != session_id]
            for name in closed[:-CLOSED_KEPT]:
                del self.session_data[name]
                self.time_last_used.pop(name, None)
