"""How a window learns that something changed: it asks every second for one short text, and draws where that differs.

An event of gradio a second, with all components among its outputs, would cost a fifth of a core on either side as long
as a page is open.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from assistant_builder.ui.sections import Look, Section, marks_of

PATH = "/pulse"
FOLLOW_ID = "ab-follow"
_SCRIPT = (Path(__file__).parent / "pulse.js").read_text(encoding="utf-8")
ASK_EVERY_SECOND = _SCRIPT.replace("PATH", PATH).replace("FOLLOW_ID", FOLLOW_ID)
"""JavaScript that takes the chosen study's name once the page has arrived, and asks from then on."""
REMEMBER_DRAWN = "(marks) => { window.abDrawn = marks ? JSON.parse(marks).whole : null; }"
"""JavaScript that takes the marks of what was drawn."""


def pulse_route(sections: Sequence[Section]) -> Callable[[Request], Response]:
    """What answers :data:`PATH`: :attr:`Marks.whole` of the study that the query names; of the home screen without one.

    Args:
        sections: The parts of the page.
    """

    def pulse(request: Request) -> Response:
        return PlainTextResponse(marks_of(sections, Look(request.query_params.get("study"))).whole)

    return pulse
