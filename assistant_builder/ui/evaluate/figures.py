"""Figures of the Results tab: differences with their intervals, waterfall, cells, reliability and seeds.

Right is worse on every axis, so the axis of a metric whose high values are good is reversed. The label of a row is
above its marker, so that a figure fits a phone. The shape of a marker repeats the meaning of its colour.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from assistant_builder.arms import ARMS, CELLS, FOUR_BIT, Arm, label
from assistant_builder.i18n import N_, t
from assistant_builder.quantization import UNQUANTIZED
from assistant_builder.ui.html import cut, fold, table
from assistant_builder.ui.plots import AXIS, GREY, Drawing, spread
from evals.declaration import EXACT
from evals.metrics import metric_of
from evals.report.charts import by_axis
from evals.report.contrasts import clearly_better, clearly_worse
from evals.report.format import capitalised, difference, interval, number, percent, shown
from evals.report.load import is_compared, lead_pair

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Report = Mapping[str, Any]
MINUS = " \N{MINUS SIGN} "
TONES = {
    "worse": ("#dc2626", "triangle-right", N_("clearly worse")),
    "better": ("#16a34a", "triangle-left", N_("clearly better")),
    "open": (GREY, "circle", N_("no clear difference")),
}
"""Tone of a difference → colour with a contrast of at least 3 : 1 on both backgrounds, marker, description."""
_ROW, _ROW_WITH_TEXT, _GAP = 36, 50, 58
"""Heights in pixels of a row, of a row with a label of two lines, and of the gap between two axes."""
_LARGE = 5
"""Largest multiple of the margin, or of the headline's interval, at which a difference shares the headline's axis."""


@dataclass(frozen=True)
class IntervalRow:
    """A difference with its 95 % interval in display units; ``about`` is the second line of its label."""

    title: str
    text: str
    about: str
    delta: float
    low: float
    high: float
    tone: str
    """A key of :data:`TONES`."""


@dataclass(frozen=True)
class IntervalPanel:
    """Rows that share an axis, from top to bottom; ``backwards``: low values are worse."""

    rows: tuple[IntervalRow, ...]
    unit: str
    backwards: bool
    margin: float | None = None
    """Non-inferiority margin in the unit of the axis; None without a verdict on this axis."""


def contrast_row(
    contrast: Mapping[str, Any], title: str, about: str, metric: str | None = None
) -> IntervalRow:
    """A row of the figure from an entry of ``report["contrasts"]``, or of a comparison of two studies.

    ``metric`` defines the number format; by default it is the entry's own.
    """
    metric = metric or contrast["metric"]
    factor = shown(metric).factor
    tone = "worse" if clearly_worse(contrast) else "better" if clearly_better(contrast) else "open"
    low, delta, high = (contrast[key] * factor for key in ("ci_low", "delta", "ci_high"))
    text = f"{difference(contrast['delta'], metric, contrast)} ({interval(contrast, metric, plus=False)})"
    return IntervalRow(title, text, about, delta, low, high, tone)


def headline_panels(report: Report) -> list[IntervalPanel]:
    """QLoRA minus LoRA on every metric, or the assistant minus its untuned base in a study of one arm.

    Losses share one axis, scores of 0 to 100 another, and shares to keep low a third.
    """
    found = []
    lead = "-".join(lead_pair(report))
    for rows in by_axis([row for row in report["contrasts"] if row["name"] == lead]):
        primary = next((row for row in rows if row["metric"] == report["primary_metric"]), None)
        found.append(
            IntervalPanel(
                tuple(contrast_row(row, shown(row["metric"]).label, "") for row in rows),
                unit_of(rows[0]["metric"]),
                bool(rows[0]["higher_is_better"]),
                _margin(report, primary["metric"]) if primary else None,
            )
        )
    return found


def verdict_panel(report: Report) -> list[IntervalPanel]:
    """The difference in the metric of the verdict with the margin; empty without a comparison."""
    rows = [
        row
        for row in report["contrasts"]
        if is_compared(report)
        and row["name"] == "-".join(lead_pair(report))
        and row["metric"] == report["primary_metric"]
    ]
    return [
        IntervalPanel(
            (
                contrast_row(
                    row,
                    t("Right answers") if row["metric"] == EXACT else shown(row["metric"]).label,
                    "",
                ),
            ),
            unit_of(row["metric"]),
            bool(row["higher_is_better"]),
            _margin(report, row["metric"]),
        )
        for row in rows
    ]


def contrast_panels(report: Report, metric: str) -> list[IntervalPanel]:
    """Every difference between two cells on one metric; those too large for the headline's axis get their own."""
    rows = [row for row in report["contrasts"] if row["metric"] == metric]
    if not rows:
        return []
    margin = _margin(report, metric)
    drawn = [contrast_row(row, row["name"].replace("-", MINUS), row["meaning"]) for row in rows]
    reach = max(abs(drawn[0].low), abs(drawn[0].high), margin or 0.0)
    near = [row for row in drawn if max(abs(row.low), abs(row.high)) <= _LARGE * reach]
    far = [row for row in drawn if row not in near]
    panel = IntervalPanel((), unit_of(metric), metric_of(metric).higher_is_better, margin)
    return [replace(panel, rows=tuple(group)) for group in (near, far) if group]


def interval_figure(panels: Sequence[IntervalPanel]) -> Figure:
    """Figure of differences with their 95 % intervals and the margin; one axis for each panel."""
    heights = [
        sum(_ROW_WITH_TEXT if row.about else _ROW for row in panel.rows) + 16 for panel in panels
    ]
    inner = sum(heights) + _GAP * (len(panels) - 1)
    drawing, top = Drawing(inner + 62), inner
    for place, (panel, height) in enumerate(zip(panels, heights, strict=True), start=1):
        name = "" if place == 1 else str(place)
        _draw_panel(drawing, name, panel, [max(0.0, top - height) / inner, top / inner])
        top -= height + _GAP
    return drawing.figure()


def _draw_panel(drawing: Drawing, name: str, panel: IntervalPanel, domain: list[float]) -> None:
    reach = 1.08 * max(
        [abs(value) for row in panel.rows for value in (row.low, row.high)]
        + [abs(panel.margin or 0.0), 1e-6]
    )
    x, y = f"x{name}", f"y{name}"
    whole = {"xref": x, "yref": f"{y} domain", "y0": 0, "y1": 1}
    if panel.margin is not None:
        harm, color = -panel.margin if panel.backwards else panel.margin, TONES["better"][0]
        drawing.shapes += [
            {
                **whole,
                "type": "rect",
                "x0": 0,
                "x1": harm,
                "fillcolor": color,
                "opacity": 0.13,
                "layer": "below",
                "line": {"width": 0},
            },
            {
                **whole,
                "type": "line",
                "x0": harm,
                "x1": harm,
                "line": {"color": color, "width": 2, "dash": "dash"},
            },
        ]
    drawing.shapes.append(
        {**whole, "type": "line", "x0": 0, "x1": 0, "line": {"color": GREY, "width": 1.5}}
    )
    for tone, (color, symbol, description) in TONES.items():
        words = t(description)
        drawn = [(place, row) for place, row in enumerate(panel.rows) if row.tone == tone]
        if drawn:
            drawing.traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": words,
                    "xaxis": x,
                    "yaxis": y,
                    "x": [row.delta for _, row in drawn],
                    "y": [place for place, _ in drawn],
                    "marker": {"color": color, "symbol": symbol, "size": 11},
                    "error_x": spread(
                        [row.high - row.delta for _, row in drawn],
                        [row.delta - row.low for _, row in drawn],
                        color,
                    ),
                    "customdata": [[row.title, row.text, cut(row.about, 110)] for _, row in drawn],
                    "hovertemplate": f"%{{customdata[0]}}: %{{customdata[1]}}<br>{words}<br>%{{customdata[2]}}"
                    "<extra></extra>",
                }
            )
    for place, row in enumerate(panel.rows):
        drawing.label(place, f"<b>{row.title}</b>  {row.text}", row.about, axis=name)
    ends = [-reach, reach]
    drawing.across(
        t("← better  ·  {unit}  ·  worse →", unit=panel.unit),
        axis=name,
        anchor=y,
        nticks=6,
        range=ends[::-1] if panel.backwards else ends,
    )
    drawing.rows(len(panel.rows) - 0.4, axis=name, anchor=x, domain=domain)


def unit_of(metric: str) -> str:
    """Unit of a metric's axis."""
    unit = shown(metric).unit
    return t("points of 100") if unit == t("points") else unit


def _margin(report: Report, metric: str) -> float | None:
    margin = report["verdict"]["margin"]
    judged = metric == report["primary_metric"] and is_compared(report)
    return margin * shown(metric).factor if judged else None


_OVER_BAR = 14
"""Distance in pixels from the centre of a bar to its label."""
_THIN = {"color": GREY, "width": 1, "dash": "dot"}


def waterfall_figure(attribution: Mapping[str, Any]) -> Figure:
    """Waterfall of ``report["attribution"]``: from LoRA to QLoRA by storing the base in 4 bits and training on it."""
    metric, steps = attribution["metric"], attribution["steps"]
    how, backwards = shown(metric), metric_of(metric).higher_is_better
    drawing = Drawing(64 * len(steps) + 80)
    level, marks = 0.0, []
    for y, step in enumerate(steps):
        title = f"<b>{capitalised(step['label'])}</b>  "
        if step["kind"] == "level":
            level = step["value"] * how.factor
            marks.append(level)
            arm = _arm_of(step["key"])
            drawing.traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "x": [level],
                    "y": [y],
                    "marker": {"size": 14, "symbol": arm.symbol, "color": arm.color},
                    "hovertemplate": f"{step['label']} ({step['key']}): {number(step['value'], metric)}<extra></extra>",
                }
            )
            drawing.label(y, title + number(step["value"], metric), lift=_OVER_BAR)
        else:
            row = contrast_row(
                {**step, "metric": metric, "higher_is_better": backwards}, step["label"], ""
            )
            start, level = level, level + row.delta
            marks += [start + row.low, start + row.high, level]
            color, words = TONES[row.tone][0], t(TONES[row.tone][2])
            drawing.traces.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "x": [row.delta],
                    "y": [y],
                    "base": [start],
                    "width": 0.3,
                    "marker": {"color": color, "opacity": 0.75},
                    "error_x": spread([row.high - row.delta], [row.delta - row.low], GREY),
                    "hovertemplate": f"{row.title}: {row.text}, {words}<extra></extra>",
                }
            )
            drawing.line(start, start, y - 1, y, _THIN)
            drawing.line(level, level, y, y + 1, _THIN)
            drawing.label(
                y,
                title + difference(step["delta"], metric, step),
                t(
                    "95 % interval {interval}, {words}",
                    interval=interval(step, metric),
                    words=words,
                ),
                lift=_OVER_BAR,
            )
    pad = 0.1 * (max(marks) - min(marks)) or 10.0**-how.decimals
    ends = [min(marks) - pad, max(marks) + pad]
    drawing.across(
        t("{unit}  ·  worse →", unit=unit_of(metric)),
        nticks=6,
        range=ends[::-1] if backwards else ends,
    )
    drawing.rows(len(steps) - 0.5)
    drawing.layout["barmode"] = "overlay"
    return drawing.figure()


def cells_figure(cells: Mapping[str, Mapping[str, Any]], metric: str) -> Figure | None:
    """One metric of every cell on one axis, with a colour and marker for each kind of serving.

    ``cells`` has the report's records of cells and baselines. None if no cell has the metric.
    """
    how = shown(metric)
    rows = [
        (name, record, record["metrics"][metric])
        for name, record in cells.items()
        if record["metrics"].get(metric) is not None
    ]
    if not rows:
        return None
    drawing = Drawing(36 * len(rows) + 110)
    for stored, (color, symbol) in _storage_styles(row[0] for row in rows).items():
        drawn = [(y, *row) for y, row in enumerate(rows) if _storage_label(row[0]) == stored]
        if drawn:
            drawing.traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": stored,
                    "x": [value * how.factor for *_, value in drawn],
                    "y": [y for y, *_ in drawn],
                    "marker": {"color": color, "symbol": symbol, "size": 11},
                    "customdata": [
                        [name, cut(record["about"], 110), number(value, metric)]
                        for _, name, record, value in drawn
                    ],
                    "hovertemplate": "%{customdata[0]}: %{customdata[2]}<br>%{customdata[1]}<extra></extra>",
                }
            )
    for y, (name, record, value) in enumerate(rows):
        drawing.label(y, f"<b>{name}</b>  {record['label']}  {number(value, metric)}")
    drawing.across(t("{unit}  ·  worse →", unit=unit_of(metric)), nticks=6, **_direction(metric))
    drawing.rows(len(rows) - 0.5)
    drawing.layout |= {"showlegend": True, "margin": {"l": 8, "r": 8, "t": 30, "b": 48}}
    return drawing.figure()


def _arm_of(cell: str) -> Arm:
    return ARMS[CELLS[cell].adapter or ""]


def _storage_label(name: str) -> str:
    """Legend entry of a cell: how its weights are served."""
    cell = CELLS.get(name)
    if cell is None:
        return t("no tuning")
    if cell.merged == "quantized" or (cell.merged is None and cell.base == FOUR_BIT):
        return t("in {bits} bits")
    return (
        t("served in 16 bits")
        if cell.merged or cell.base == UNQUANTIZED
        else t("as {base}", base=cell.base)
    )


def _storage_styles(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Legend entries of the cells → colour and marker of the first arm that is served in the same way."""
    found = {
        _storage_label(arm.cell): (arm.color, arm.symbol) for arm in reversed(list(ARMS.values()))
    }
    found = {**found, t("no tuning"): (GREY, "square")}
    return {stored: found[stored] for stored in dict.fromkeys(map(_storage_label, names))}


def _direction(metric: str) -> dict[str, Any]:
    """Axis options that put worse values on the right."""
    return {"autorange": "reversed"} if metric_of(metric).higher_is_better else {}


def reliability_figure(reliability: Mapping[str, Any]) -> Figure:
    """Reliability diagram of ``report["reliability"]``: share of correct answers by mean token probability."""
    drawing = Drawing(360)
    drawing.traces.append(
        {
            "type": "scatter",
            "mode": "lines",
            "x": [0, 1],
            "y": [0, 1],
            "name": t("perfectly calibrated"),
            "hoverinfo": "skip",
            "line": {"color": GREY, "dash": "dash", "width": 1.5},
        }
    )
    for cell, found in reliability["cells"].items():
        bins, arm = [one for one in found["bins"] if one["n"]], _arm_of(cell)
        drawing.traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": label(arm.name),
                "x": [one["mean_probability"] for one in bins],
                "y": [one["correct"] for one in bins],
                "line": {"color": arm.color, "width": 2},
                "marker": {"size": 9, "symbol": arm.symbol},
                "error_y": spread(
                    [one["ci"][1] - one["correct"] for one in bins],
                    [one["correct"] - one["ci"][0] for one in bins],
                    arm.color,
                ),
                "customdata": [one["n"] for one in bins],
                "hovertemplate": t("%{customdata} items: probability %{x:.0%}, correct %{y:.0%}"),
            }
        )
    least = min(
        (
            one["mean_probability"]
            for found in reliability["cells"].values()
            for one in found["bins"]
            if one["n"]
        ),
        default=0.0,
    )
    drawing.across(
        t("mean token probability of the answer"),
        range=[max(0.0, least - 0.08), 1.01],
        tickformat=".0%",
    )
    drawing.layout |= {
        "yaxis": {
            **AXIS,
            "title": {"text": t("correct answers"), "font": {"size": 12}},
            "range": [-0.03, 1.03],
            "tickformat": ".0%",
            "fixedrange": True,
        },
        "showlegend": True,
        "margin": {"l": 62, "r": 8, "t": 40, "b": 48},
    }
    return drawing.figure()


def seeds_figure(seeds: Mapping[str, Any]) -> Figure:
    """Every training run of ``report["seeds"]`` as a dot, with the mean of each arm."""
    metric, spreads = seeds["metric"], seeds.get("spread") or {}
    how, drawing = shown(metric), Drawing(190)
    arms = {cell: _arm_of(cell) for cell in CELLS if cell in seeds["runs"][0]}
    for y, (cell, arm) in enumerate(arms.items()):
        drawing.traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": label(arm.name),
                "x": [run[cell] * how.factor for run in seeds["runs"]],
                "y": [y] * len(seeds["runs"]),
                "marker": {"size": 11, "color": arm.color, "symbol": arm.symbol},
                "customdata": [[run["seed"], number(run[cell], metric)] for run in seeds["runs"]],
                "hovertemplate": "seed %{customdata[0]}: %{customdata[1]}<extra></extra>",
            }
        )
        text = f"<b>{label(arm.name)}</b>"
        if cell in spreads:
            mean = spreads[cell]["mean"] * how.factor
            drawing.line(mean, mean, y - 0.2, y + 0.2, {"color": arm.color, "width": 3})
            text += "  " + t("mean {value}", value=number(spreads[cell]["mean"], metric))
        drawing.label(y, text)
    drawing.across(t("{unit}  ·  worse →", unit=unit_of(metric)), nticks=6, **_direction(metric))
    drawing.rows(len(arms) - 0.5)
    return drawing.figure()


def reliability_table(reliability: Mapping[str, Any]) -> Markup:
    """The values of the reliability diagram, folded."""
    rows = [
        (
            label(_arm_of(cell).name),
            percent(one["mean_probability"], 0),
            t(
                "{share} ({low} to {high})",
                share=percent(one["correct"], 0),
                low=percent(one["ci"][0], 0),
                high=percent(one["ci"][1], 0),
            ),
            str(one["n"]),
        )
        for cell, found in reliability["cells"].items()
        for one in found["bins"]
        if one["n"]
    ]
    headers = (t("Assistant"), t("Mean probability"), t("Correct (95 % interval)"), t("Items"))
    return fold(t("Values of the figure"), table(headers, rows, numeric=(1, 2, 3)))
