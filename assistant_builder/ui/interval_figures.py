"""Differences with their intervals as a picture, the harm that is allowed drawn in.

Right is worse on every axis, so the axis of a metric whose high values are good runs backwards. Each row's label stands
above its mark, not beside it, so that a picture fits a telephone; tone is told by the mark's shape too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from assistant_builder.ui.drawing import Drawing, spread
from assistant_builder.ui.figures import GREY
from assistant_builder.ui.markup import cut
from evals.metrics import METRIC_INFO
from evals.report.contrasts import clearly_better, clearly_worse
from evals.report.reading import is_compared, lead_pair
from evals.report.wording import difference, interval, shown

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Report = Mapping[str, Any]
MINUS = " \N{MINUS SIGN} "
TONES = {
    "worse": ("#dc2626", "triangle-right", "clearly worse"),
    "better": ("#16a34a", "triangle-left", "clearly better"),
    "open": (GREY, "circle", "not told apart from none"),
}
"""Tone of a difference → colour, which has a contrast of 3 : 1 and more on both grounds; mark; words."""
_ROW, _ROW_WITH_TEXT, _GAP = 36, 50, 58
"""Pixels: a row, a row whose label has two lines, and what lies between two axes."""
_LARGE = 5
"""How many times the margin, or the reach of the headline's interval, a difference may be to share its axis."""


@dataclass(frozen=True)
class Row:
    """A difference with its interval, in the units in which it is shown.

    Attributes:
        title: What is compared.
        text: Difference and interval as printed.
        about: What that means.
        delta: Difference.
        low: Lower end of the 95 % interval.
        high: Upper end.
        tone: A key of :data:`TONES`.
    """

    title: str
    text: str
    about: str
    delta: float
    low: float
    high: float
    tone: str


@dataclass(frozen=True)
class Panel:
    """Rows that share an axis.

    Attributes:
        rows: The rows, uppermost first.
        unit: Unit of the axis.
        backwards: Whether low values are the worse ones.
        margin: Harm that is allowed, in the unit of the axis; ``None`` where no verdict goes by it.
    """

    rows: tuple[Row, ...]
    unit: str
    backwards: bool
    margin: float | None = None


def contrast_row(contrast: Mapping[str, Any], title: str, about: str, metric: str | None = None) -> Row:
    """A row of ``report["contrasts"]``, or of a comparison of two studies.

    Args:
        contrast: The row.
        title: What is compared.
        about: What that means.
        metric: The metric whose digits it is shown with, where that is not its own.
    """
    metric = metric or contrast["metric"]
    factor = shown(metric).factor
    tone = "worse" if clearly_worse(contrast) else "better" if clearly_better(contrast) else "open"
    low, delta, high = (contrast[key] * factor for key in ("ci_low", "delta", "ci_high"))
    text = f"{difference(contrast['delta'], metric, contrast)} ({interval(contrast, metric, plus=False)})"
    return Row(title, text, about, delta, low, high, tone)


def headline_panels(report: Report) -> list[Panel]:
    """QLoRA against its twin on every metric: losses on one axis, scores of 0 to 100 on another.

    Where one arm was trained, that assistant against the untuned base.
    """
    found = []
    lead = "-".join(lead_pair(report))
    for backwards in (False, True):
        rows = [row for row in report["contrasts"]
                if row["name"] == lead and row["higher_is_better"] == backwards]
        if rows:
            primary = next((row for row in rows if row["metric"] == report["primary_metric"]), None)
            found.append(Panel(
                tuple(contrast_row(row, shown(row["metric"]).label, "") for row in rows),
                unit_of(rows[0]["metric"]), backwards, _margin(report, primary["metric"]) if primary else None,
            ))
    return found


def contrast_panels(report: Report, metric: str) -> list[Panel]:
    """Every difference between two cells on one metric, those too large for the headline's axis on one of their own."""
    rows = [row for row in report["contrasts"] if row["metric"] == metric]
    if not rows:
        return []
    margin = _margin(report, metric)
    drawn = [contrast_row(row, row["name"].replace("-", MINUS), row["meaning"]) for row in rows]
    reach = max(abs(drawn[0].low), abs(drawn[0].high), margin or 0.0)
    near = [row for row in drawn if max(abs(row.low), abs(row.high)) <= _LARGE * reach]
    far = [row for row in drawn if row not in near]
    panel = Panel((), unit_of(metric), METRIC_INFO[metric].higher_is_better, margin)
    return [replace(panel, rows=tuple(group)) for group in (near, far) if group]


def interval_figure(panels: Sequence[Panel]) -> Figure:
    """Differences with their 95 % intervals around zero, the allowed harm drawn in.

    Args:
        panels: Groups of rows, one axis each.
    """
    heights = [sum(_ROW_WITH_TEXT if row.about else _ROW for row in panel.rows) + 16 for panel in panels]
    inner = sum(heights) + _GAP * (len(panels) - 1)
    drawing, top = Drawing(inner + 62), inner
    for place, (panel, height) in enumerate(zip(panels, heights, strict=True), start=1):
        name = "" if place == 1 else str(place)
        domain = [max(0.0, top - height) / inner, top / inner]
        _draw_panel(drawing, name, panel, domain)
        top -= height + _GAP
    return drawing.figure()


def _draw_panel(drawing: Drawing, name: str, panel: Panel, domain: list[float]) -> None:
    reach = 1.08 * max(
        [abs(value) for row in panel.rows for value in (row.low, row.high)] + [abs(panel.margin or 0.0), 1e-6]
    )
    x, y = f"x{name}", f"y{name}"
    whole = {"xref": x, "yref": f"{y} domain", "y0": 0, "y1": 1}
    if panel.margin is not None:
        harm, color = -panel.margin if panel.backwards else panel.margin, TONES["better"][0]
        drawing.shapes += [
            {**whole, "type": "rect", "x0": 0, "x1": harm, "fillcolor": color, "opacity": 0.13, "layer": "below",
             "line": {"width": 0}},
            {**whole, "type": "line", "x0": harm, "x1": harm, "line": {"color": color, "width": 2, "dash": "dash"}},
        ]
    drawing.shapes.append({**whole, "type": "line", "x0": 0, "x1": 0, "line": {"color": GREY, "width": 1.5}})
    for tone, (color, symbol, words) in TONES.items():
        drawn = [(place, row) for place, row in enumerate(panel.rows) if row.tone == tone]
        if drawn:
            drawing.traces.append({
                "type": "scatter", "mode": "markers", "name": words, "xaxis": x, "yaxis": y,
                "x": [row.delta for _, row in drawn], "y": [place for place, _ in drawn],
                "marker": {"color": color, "symbol": symbol, "size": 11},
                "error_x": spread([row.high - row.delta for _, row in drawn], [row.delta - row.low for _, row in drawn],
                                  color),
                "customdata": [[row.title, row.text, cut(row.about, 110)] for _, row in drawn],
                "hovertemplate": f"%{{customdata[0]}}: %{{customdata[1]}}<br>{words}<br>%{{customdata[2]}}"
                                 "<extra></extra>",
            })
    for place, row in enumerate(panel.rows):
        drawing.label(place, f"<b>{row.title}</b>  {row.text}", row.about, axis=name)
    ends = [-reach, reach]
    drawing.across(f"← better  ·  {panel.unit}  ·  worse →", axis=name, anchor=y, nticks=6,
                   range=ends[::-1] if panel.backwards else ends)
    drawing.rows(len(panel.rows) - 0.4, axis=name, anchor=x, domain=domain)


def unit_of(metric: str) -> str:
    """Unit of a metric's axis."""
    how = shown(metric)
    return "points of 100" if how.unit == "points" else how.unit


def _margin(report: Report, metric: str) -> float | None:
    margin = report["verdict"]["margin"]
    judged = metric == report["primary_metric"] and is_compared(report)
    return margin * shown(metric).factor if judged else None
