"""The chart of a plan: one training step of each method, stacked part on part, against the memory there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assistant_builder.planning.plan import Plan
from assistant_builder.ui.views.plan import TITLES, parts_of
from evals.report.wording import size

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

PART_COLORS = {
    "weights": "#4477aa", "adapters": "#ee6677", "gradients": "#ccbb44", "optimizer": "#228833",
    "activations": "#66ccee", "overhead": "#aa9fb1", "loading": "#bbbbbb",
}
"""Paul Tol's bright scheme: told apart by every common kind of colour vision, on white and on black."""
_GREY, _LINE = "#7b8494", "#c2410c"
_BEYOND = 1.6
"""Full fine-tuning is drawn while it needs at most this many times what the rest of the chart does; else it would
squeeze what matters."""


def plan_figure(plan: Plan) -> Figure:
    """Stacked bars of both methods, and of full fine-tuning where it does not dwarf them, with the memory as a line.

    Args:
        plan: The plan.
    """
    import plotly.graph_objects as go

    reach = max(plan.memory_bytes, plan.lora.total_bytes)
    shown = {name: method for name, method in plan.methods.items()
             if name != "full" or method.total_bytes <= _BEYOND * reach}
    labels = [TITLES[name] for name in shown]
    figure = go.Figure()
    for part, title in parts_of(plan).items():
        values = [method.parts.get(part, 0) for method in shown.values()]
        figure.add_bar(
            y=labels, x=[value / 1e9 for value in values], name=title, orientation="h",
            marker={"color": PART_COLORS[part]}, customdata=[size(value) for value in values],
            hovertemplate="%{customdata}",
        )
    peaks = [method.total_bytes for method in shown.values()]
    for label, peak in zip(labels, peaks, strict=True):
        figure.add_annotation(y=label, x=peak / 1e9, text=f"<b>{size(peak)}</b>", showarrow=False, xanchor="left",
                              xshift=6)
    figure.add_vline(
        x=plan.memory_bytes / 1e9, line={"color": _LINE, "width": 2, "dash": "dash"},
        annotation={"text": f"{size(plan.memory_bytes)} {'free' if plan.machine.here else 'of memory'}",
                    "font": {"color": _LINE}}, annotation_position="top",
    )
    top = max(*peaks, plan.memory_bytes) / 1e9
    figure.update_layout(
        barmode="stack", template="none", height=130 + 62 * len(shown), margin={"l": 120, "r": 24, "t": 34, "b": 84},
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", bargap=0.35, hovermode="y unified",
        font={"family": "system-ui, sans-serif", "size": 13, "color": _GREY},
        legend={"orientation": "h", "yanchor": "top", "y": -0.24, "x": 0, "traceorder": "normal"},
    )
    figure.update_xaxes(range=[0, top * 1.14], ticksuffix=" GB", gridcolor="rgba(123,132,148,0.2)", zeroline=False)
    figure.update_yaxes(autorange="reversed", linecolor="rgba(123,132,148,0.4)", ticks="")
    return figure
