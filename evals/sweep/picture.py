"""The sweep as parallel coordinates: an axis for each setting and each loss, a line for each study.

Drawn from ordinary lines, because plotly's own parallel coordinates have no place for a study that was stopped before
it had a loss, mark no line, and need WebGL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evals.across.wording import metric_shown
from evals.report.wording import number
from evals.sweep.grid import label
from evals.sweep.wording import ARM_OF, STATES, study_outcomes

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_GREY, _LINE = "#7b8494", "rgba(123,132,148,0.45)"
_SPREAD = 0.05
"""How far apart lines through the same value of a setting lie at most, as a share of an axis."""
_KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "chosen": ("chosen", {"color": "#ea580c", "width": 4}),
    "better": ("clearly better", {"color": "#16a34a", "width": 2.5}),
    "not told apart": ("not to be told from it", {"color": "#2563eb", "width": 2}),
    "mixed": ("better with one arm, worse with the other", {"color": "#a855f7", "width": 2}),
    "worse": ("clearly worse", {"color": _GREY, "width": 1.5}),
    "unscored": ("not scored", {"color": _GREY, "width": 1.5, "dash": "dot"}),
}
"""Kind of a study → words of the legend, look of its line; the chosen one is drawn last, on top."""


@dataclass(frozen=True)
class Axis:
    """One vertical axis.

    Attributes:
        title: What it shows.
        at: Study → place on it, 0 (bottom) to 1; studies without a value are missing.
        ticks: Place and text of each tick.
    """

    title: str
    at: dict[str, float]
    ticks: tuple[tuple[float, str], ...]


def parallel_coordinates(record: Mapping[str, Any]) -> Figure:
    """The picture of a sweep's results."""
    import plotly.graph_objects as go

    drawn = axes(record)
    kinds = kinds_of(record)
    rows = {row["name"]: row for row in record["studies"]}
    figure = go.Figure()
    for kind in reversed(_KINDS):
        words, line = _KINDS[kind]
        for place, name in enumerate(name for name, found in kinds.items() if found == kind):
            points = [(where, axis.at[name]) for where, axis in enumerate(drawn) if name in axis.at]
            figure.add_scatter(
                x=[where for where, _ in points], y=[at for _, at in points], mode="lines+markers", line=line,
                marker={"size": 6, "color": line["color"]}, name=words, legendgroup=kind, showlegend=place == 0,
                text=[_hover(rows[name])] * len(points), hovertemplate="%{text}<extra></extra>",
            )
    for where, axis in enumerate(drawn):
        figure.add_shape(type="line", x0=where, x1=where, y0=-0.04, y1=1.04, line={"color": _LINE}, layer="below")
        figure.add_annotation(x=where, y=1.07, text=f"<b>{axis.title}</b>", showarrow=False, yanchor="bottom")
        for at, text in axis.ticks:
            figure.add_annotation(x=where, y=at, text=text, showarrow=False, xanchor="right", xshift=-6,
                                  yshift=9)
    figure.update_layout(
        template="none", height=460, margin={"l": 70, "r": 40, "t": 64, "b": 70}, hovermode="closest",
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13, "color": _GREY},
        legend={"orientation": "h", "yanchor": "top", "y": -0.06, "x": 0, "traceorder": "reversed"},
    )
    figure.update_xaxes(visible=False, range=[-0.3, len(drawn) - 0.85], fixedrange=True)
    figure.update_yaxes(visible=False, range=[-0.08, 1.2], fixedrange=True)
    return figure


def kinds_of(record: Mapping[str, Any]) -> dict[str, str]:
    """What each study is drawn as; a finished one that was compared with nothing is not told from the chosen one."""
    outcomes = study_outcomes(record)
    return {
        row["name"]: "chosen" if row["name"] == record["selected"] else "unscored" if row["state"] != "succeeded"
        else outcomes.get(row["name"], "not told apart")
        for row in record["studies"]
    }


def axes(record: Mapping[str, Any]) -> list[Axis]:
    """The settings in the order given, the validation loss, and the held-out figure of each arm that decides."""
    studies = record["studies"]
    finished = [row for row in studies if row["state"] == "succeeded"]
    cells = [cell for cell in ARM_OF if any(cell in row["heldout"] for row in finished)
             and record["arm"] in ("both", ARM_OF[cell][0])]
    found = [_setting_axis(key, values, studies) for key, values in record["sweep"].items()]
    losses = {row["name"]: row["validation_loss"] for row in finished}
    found.append(_figure_axis("validation loss", losses, "nll_per_token"))
    how = metric_shown(record["metric"])
    for cell in cells:
        values = {row["name"]: row["heldout"][cell] for row in finished if cell in row["heldout"]}
        found.append(_figure_axis(f"held-out {how.phrase},<br>{ARM_OF[cell][1]}", values, record["metric"]))
    return [axis for axis in found if axis.ticks]


def _setting_axis(key: str, values: Sequence[Any], studies: Sequence[Mapping[str, Any]]) -> Axis:
    """The values at equal distances in the order given, whatever they are; lines through one value lie side by side."""
    step = 1 / max(1, len(values) - 1)
    at = {}
    for place, value in enumerate(values):
        names = [row["name"] for row in studies if row["settings"][key] == value]
        for number_of, name in enumerate(names):
            aside = (number_of / (len(names) - 1) - 0.5) if len(names) > 1 else 0.0
            at[name] = place * step + _SPREAD * aside
    return Axis(key, at, tuple((place * step, str(value)) for place, value in enumerate(values)))


def _figure_axis(title: str, values: Mapping[str, float], metric: str) -> Axis:
    if not values:
        return Axis(title, {}, ())
    low, high = min(values.values()), max(values.values())
    reach = high - low
    at = {name: (value - low) / reach if reach else 0.5 for name, value in values.items()}
    marks = {0.0: low, 0.5: (low + high) / 2, 1.0: high} if reach else {0.5: low}
    return Axis(title, at, tuple((place, number(value, metric)) for place, value in marks.items()))


def _hover(row: Mapping[str, Any]) -> str:
    loss = row["validation_loss"]
    ended = f"validation loss {number(loss, 'nll_per_token')}" if row["state"] == "succeeded" else STATES[row["state"]]
    return f"<b>{row['name']}</b><br>{label(row['settings']).replace(', ', '<br>')}<br>{ended}"
