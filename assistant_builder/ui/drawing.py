"""A picture of rows, put together as plain records and handed to plotly at once, which is ten times as quick.

Each row's label stands above its mark, not beside it, so that a picture fits a telephone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from assistant_builder.ui.figures import AXIS, LAYOUT
from assistant_builder.ui.markup import cut

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_LONGEST_LABEL = 54
"""Characters of a label's second line that a telephone shows."""


class Drawing:
    """The parts of a figure.

    Args:
        height: Height in pixels; the width is that of the page.

    Attributes:
        traces: Plotly's records of what is drawn.
        shapes: Lines and areas beside the data.
        layout: What else is said of the whole.
    """

    def __init__(self, height: int) -> None:
        self.traces: list[dict[str, Any]] = []
        self.shapes: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self.layout: dict[str, Any] = {
            **LAYOUT, "height": height, "margin": {"l": 8, "r": 8, "t": 8, "b": 48}, "showlegend": False,
            "hoverlabel": {"align": "left"}, "dragmode": False,
        }

    def label(self, y: float, text: str, about: str = "", *, axis: str = "", lift: int = 7) -> None:
        """Put words above a row's mark, from the left edge on.

        Args:
            y: The row.
            text: The words.
            about: A second line, cut to what a telephone shows.
            axis: Number of the axis, empty for the first.
            lift: Pixels between the row and its words.
        """
        more = f"<br><span style='font-size:11px'>{cut(about, _LONGEST_LABEL)}</span>" if about else ""
        self._annotations.append({
            "x": 0, "xref": f"x{axis} domain", "y": y, "yref": f"y{axis}", "xanchor": "left", "yanchor": "bottom",
            "yshift": lift, "text": text + more, "showarrow": False, "align": "left", "font": {"size": 12},
        })

    def line(self, x0: float, x1: float, y0: float, y1: float, line: dict[str, Any]) -> None:
        """Draw a line between two points of the first axes."""
        self.shapes.append({"type": "line", "x0": x0, "x1": x1, "y0": y0, "y1": y1, "line": line})

    def across(self, title: str, *, axis: str = "", **more: Any) -> None:
        """Say how the horizontal axis looks, in plotly's words."""
        self.layout[f"xaxis{axis}"] = {
            **AXIS, "title": {"text": title, "font": {"size": 12}, "standoff": 6}, "tickfont": {"size": 12},
            "fixedrange": True, **more,
        }

    def rows(self, last: float, *, axis: str = "", **more: Any) -> None:
        """Put the rows from the top down, with room for the first one's label; ``last`` is the lower edge."""
        self.layout[f"yaxis{axis}"] = {"range": [last, -0.8], "visible": False, "fixedrange": True, **more}

    def figure(self) -> Figure:
        """The figure."""
        import plotly.graph_objects as go

        return go.Figure({
            "data": self.traces, "layout": {**self.layout, "shapes": self.shapes, "annotations": self._annotations},
        })


def spread(up: Sequence[float], down: Sequence[float], color: str) -> dict[str, Any]:
    """Plotly's record of intervals that reach ``up`` above their points and ``down`` below."""
    return {"type": "data", "symmetric": False, "array": list(up), "arrayminus": list(down), "color": color,
            "thickness": 2.5, "width": 4}
