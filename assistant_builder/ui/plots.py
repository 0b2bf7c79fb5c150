"""The plotly figure of the page: the loss curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from assistant_builder.arms import ARMS, label
from assistant_builder.i18n import separators, t
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
"""Layout with a transparent background for the light and the dark theme."""
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
