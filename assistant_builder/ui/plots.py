"""The plotly figures of the page.

A picture of rows, put together as plain records and handed to plotly at once, which is ten times as quick.

Each row's label stands above its mark, not beside it, so that a picture fits a telephone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from assistant_builder.arms import ARMS
from assistant_builder.ui.html import cut
from assistant_builder.ui.study_snapshot import ArmSnapshot

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MOST_POINTS = 600
GREY = "#7b8494"
LAYOUT: dict[str, Any] = {
    "template": "none", "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)",
    "font": {"family": "system-ui, sans-serif", "size": 13, "color": GREY},
    "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0},
}
"""No ground of its own, so that a figure shows on light and on dark alike; the style sheet sets the texts of class
``ab-figure`` in the theme's own colour."""
AXIS: dict[str, Any] = {
    "gridcolor": "rgba(123,132,148,0.2)", "zeroline": False, "linecolor": "rgba(123,132,148,0.4)",
}


def loss_figure(arms: Mapping[str, ArmSnapshot]) -> Figure:
    """Training and validation loss of all arms over the optimizer steps, in nats per answer token.

    Args:
        arms: Arm → its training so far.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    for arm, seen in arms.items():
        points = thin(latest_by_step(seen.points))
        checks = latest_by_step(seen.validations)
        title, color = ARMS[arm].label, ARMS[arm].color
        if points:
            figure.add_scatter(
                x=[point["step"] for point in points], y=[point["loss"] for point in points],
                mode="lines" if len(points) > 2 else "lines+markers",
                name=f"{title}, training", line={"color": color, "width": 2}, opacity=0.55,
                hovertemplate="step %{x}: %{y:.3f}",
            )
        if checks:
            figure.add_scatter(
                x=[check["step"] for check in checks], y=[check["loss"] for check in checks], mode="lines+markers",
                name=f"{title}, validation", line={"color": color, "width": 1.5, "dash": "dot"},
                marker={"size": 9, "symbol": ["star" if check.get("best") else "circle" for check in checks]},
                hovertemplate="step %{x}: %{y:.3f}",
            )
    figure.update_layout(
        **LAYOUT, height=360, margin={"l": 56, "r": 12, "t": 12, "b": 44}, hovermode="x unified",
        uirevision="loss",  # keeps zoom and hidden curves when points are added
    )
    figure.update_xaxes(title_text="optimizer step", rangemode="tozero", **AXIS)
    figure.update_yaxes(title_text="loss (nats per token)", **AXIS)
    return figure


def latest_by_step(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """One event a step, in order; a run that carried on from a checkpoint has logged some steps twice."""
    return [event for _, event in sorted({event["step"]: event for event in events}.items())]


def thin(points: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """At most :data:`MOST_POINTS` of them, evenly spaced, with the last."""
    stride = -(-len(points) // MOST_POINTS) or 1
    kept = list(points[::stride])
    return kept if not points or kept[-1] is points[-1] else [*kept, points[-1]]


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
