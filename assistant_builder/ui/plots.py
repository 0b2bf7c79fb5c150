"""The plotly figures of the page: the loss curves, and a builder for row charts.

The builder collects plain records and passes them to plotly at once, which is ten times as fast as ``add_trace``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from assistant_builder.arms import ARMS, label
from assistant_builder.i18n import separators, t
from assistant_builder.ui.html import cut
from assistant_builder.ui.study_snapshot import ArmSnapshot

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MAX_POINTS = 600
GREY = "#7b8494"
LAYOUT: dict[str, Any] = {
    "template": "none",
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "font": {"family": "system-ui, sans-serif", "size": 13, "color": GREY},
    "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0},
}
"""Layout with a transparent background for the light and the dark theme; CSS sets the text colour of ``ab-figure``."""
AXIS: dict[str, Any] = {
    "gridcolor": "rgba(123,132,148,0.2)",
    "zeroline": False,
    "linecolor": "rgba(123,132,148,0.4)",
}


def loss_figure(arms: Mapping[str, ArmSnapshot]) -> Figure:
    """Training and validation loss of all arms over the optimizer steps, in nats per answer token."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for arm, seen in arms.items():
        points = downsample(latest_by_step(seen.points))
        checks = latest_by_step(seen.validations)
        title, color = label(arm), ARMS[arm].color
        if points:
            figure.add_scatter(
                x=[point["step"] for point in points],
                y=[point["loss"] for point in points],
                mode="lines" if len(points) > 2 else "lines+markers",
                name=t("{title}, training", title=title),
                line={"color": color, "width": 2},
                opacity=0.55,
                hovertemplate=t("step %{x}: %{y:.3f}"),
            )
        if checks:
            figure.add_scatter(
                x=[check["step"] for check in checks],
                y=[check["loss"] for check in checks],
                mode="lines+markers",
                name=t("{title}, validation", title=title),
                line={"color": color, "width": 1.5, "dash": "dot"},
                marker={
                    "size": 9,
                    "symbol": ["star" if check.get("best") else "circle" for check in checks],
                },
                hovertemplate=t("step %{x}: %{y:.3f}"),
            )
    figure.update_layout(
        **LAYOUT,
        separators="".join(reversed(separators())),
        height=360,
        margin={"l": 56, "r": 12, "t": 12, "b": 44},
        hovermode="x unified",
        uirevision="loss",  # keeps zoom and hidden curves when points are added
    )
    figure.update_xaxes(title_text=t("optimizer step"), rangemode="tozero", **AXIS)
    figure.update_yaxes(title_text=t("loss (nats per token)"), **AXIS)
    return figure


def latest_by_step(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The last event of each step, in order; a resumed run has logged some steps twice."""
    return [event for _, event in sorted({event["step"]: event for event in events}.items())]


def downsample(points: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """At most :data:`MAX_POINTS` evenly spaced points and the last one."""
    stride = -(-len(points) // MAX_POINTS) or 1
    kept = list(points[::stride])
    return kept if not points or kept[-1] is points[-1] else [*kept, points[-1]]


_MAX_LABEL_LENGTH = 54
"""Characters of the second line of a label that fit on a phone."""


class Drawing:
    """Builder of a figure with one row per entry; the label of a row is above its mark, so that it fits on a phone.

    The attributes are plotly records; ``shapes`` are lines and areas. The height is in pixels.
    """

    def __init__(self, height: int) -> None:
        self.traces: list[dict[str, Any]] = []
        self.shapes: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self.layout: dict[str, Any] = {
            **LAYOUT,
            "separators": "".join(reversed(separators())),
            "height": height,
            "margin": {"l": 8, "r": 8, "t": 8, "b": 48},
            "showlegend": False,
            "hoverlabel": {"align": "left"},
            "dragmode": False,
        }

    def label(self, y: float, text: str, about: str = "", *, axis: str = "", lift: int = 7) -> None:
        """Add a left-aligned label, ``lift`` pixels above the row at ``y``.

        The second line ``about`` is truncated to the width of a phone; ``axis`` is the number of the axis, or empty.
        """
        more = (
            f"<br><span style='font-size:11px'>{cut(about, _MAX_LABEL_LENGTH)}</span>"
            if about
            else ""
        )
        self._annotations.append(
            {
                "x": 0,
                "xref": f"x{axis} domain",
                "y": y,
                "yref": f"y{axis}",
                "xanchor": "left",
                "yanchor": "bottom",
                "yshift": lift,
                "text": text + more,
                "showarrow": False,
                "align": "left",
                "font": {"size": 12},
            }
        )

    def line(self, x0: float, x1: float, y0: float, y1: float, line: dict[str, Any]) -> None:
        """Add a line between two points of the first axes."""
        self.shapes.append({"type": "line", "x0": x0, "x1": x1, "y0": y0, "y1": y1, "line": line})

    def across(self, title: str, *, axis: str = "", **more: Any) -> None:
        """Set title and plotly options of the horizontal axis."""
        self.layout[f"xaxis{axis}"] = {
            **AXIS,
            "title": {"text": title, "font": {"size": 12}, "standoff": 6},
            "tickfont": {"size": 12},
            "fixedrange": True,
            **more,
        }

    def rows(self, last: float, *, axis: str = "", **more: Any) -> None:
        """Order the rows from top to bottom, with space for the first label; ``last`` is the lower edge."""
        self.layout[f"yaxis{axis}"] = {
            "range": [last, -0.8],
            "visible": False,
            "fixedrange": True,
            **more,
        }

    def figure(self) -> Figure:
        """The figure."""
        import plotly.graph_objects as go

        return go.Figure(
            {
                "data": self.traces,
                "layout": {**self.layout, "shapes": self.shapes, "annotations": self._annotations},
            }
        )


def spread(up: Sequence[float], down: Sequence[float], color: str) -> dict[str, Any]:
    """Plotly error bars that extend ``up`` above their points and ``down`` below."""
    return {
        "type": "data",
        "symmetric": False,
        "array": list(up),
        "arrayminus": list(down),
        "color": color,
        "thickness": 2.5,
        "width": 4,
    }
