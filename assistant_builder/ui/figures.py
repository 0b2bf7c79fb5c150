"""The plotly figures of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from assistant_builder.ui.markup import ARM_TITLES
from assistant_builder.ui.snapshots import ArmSnapshot

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

ARM_COLORS = {"qlora": "#0d9488", "lora": "#d97706"}
"""Told apart by every common kind of colour vision; the style sheet has the same two."""
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
    """Training and validation loss of both arms over the optimizer steps, in nats per answer token.

    Args:
        arms: Arm → its training so far.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    for arm, seen in arms.items():
        points = thin(latest_by_step(seen.points))
        checks = latest_by_step(seen.validations)
        title, color = ARM_TITLES[arm], ARM_COLORS[arm]
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
