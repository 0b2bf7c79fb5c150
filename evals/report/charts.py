"""Where the marks of each chart go, in percent of its width and height; the templates draw them.

Positions in percent let a chart fill any page width while its text and markers keep their size, which one scaled
``viewBox`` cannot do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evals.report.wording import difference, interval, number, plain, shown

_MOST_POINTS = 240
"""Points a curve is thinned to; more cannot be seen at 700 pixels."""
_SMOOTHING = 20
"""The training loss is averaged over a running window of a twentieth of the run."""


@dataclass(frozen=True)
class Scale:
    """A linear scale from ``low … high`` to 0 … 100 %, mirrored if asked."""

    low: float
    high: float
    mirrored: bool = False

    def __call__(self, value: float) -> float:
        """Position in percent."""
        share = 100 * (value - self.low) / (self.high - self.low)
        return round(100 - share if self.mirrored else share, 3)


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round values inside ``low … high``, at most about ``wanted`` of them."""
    rough = (high - low) / max(wanted, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) + 0.0 for index in range(first, math.floor(high / step + 1e-9) + 1)]


def axis(scale: Scale, wanted: int = 5) -> list[dict[str, Any]]:
    """Where the ticks of a scale go and what is printed at them, all with the same decimals but for zero."""
    marks = ticks(scale.low, scale.high, wanted)
    places = max((len(f"{mark:.10g}".partition(".")[2]) for mark in marks), default=0)
    texts = [f"{mark:.{places}f}".replace("-", "\N{MINUS SIGN}") if mark else "0" for mark in marks]
    return [{"at": scale(mark), "text": text} for mark, text in zip(marks, texts, strict=True)]


def interval_panels(
    contrasts: Sequence[dict[str, Any]], primary: str, margin: float,
    names: tuple[str, str, str] = ("← QLoRA better", "QLoRA worse →", "QLoRA − LoRA (95% interval)"),
) -> list[dict[str, Any]]:
    """The difference of each metric with its interval: losses on one axis, scores of 0 to 100 on another.

    On every axis right is where the candidate is worse, so the axis of a higher-is-better metric is mirrored.

    Args:
        contrasts: The headline's entry for each metric.
        primary: The metric of the verdict; its row carries the margin. Empty where there is no verdict.
        margin: Largest harm that counts as no worse, in the metric's own units.
        names: What stands at the left end of an axis, at the right end, and over the figures.
    """
    panels = []
    for higher_is_better in (False, True):
        rows = [
            {**row, "label": shown(row["metric"]).label, "about": "", "note": "", "primary": row["metric"] == primary,
             "margin": margin if row["metric"] == primary else None}
            for row in contrasts if row["higher_is_better"] == higher_is_better
        ]
        if rows:
            panels.append(interval_panel(rows, *names))
    return panels


def interval_panel(rows: Sequence[dict[str, Any]], left: str, right: str, heading: str) -> dict[str, Any]:
    """Differences with their intervals on one axis around zero; right is worse.

    Args:
        rows: Entries of ``contrasts`` in one unit, with ``label about note primary`` and ``margin``, the harm allowed
            in the metric's units or ``None``.
        left: What lies left of zero.
        right: What lies right of it.
        heading: What the printed figures are.
    """
    how = shown(rows[0]["metric"])
    mirrored = rows[0]["higher_is_better"]
    factor = {row["metric"]: shown(row["metric"]).factor for row in rows}
    limits = [abs(row[key]) * factor[row["metric"]] for row in rows for key in ("ci_low", "ci_high", "delta")]
    limits += [row["margin"] * factor[row["metric"]] for row in rows if row["margin"] is not None]
    reach = 1.12 * max(max(limits), 10.0 ** -(how.decimals + 1))
    scale = Scale(-reach, reach, mirrored)
    marks = []
    for row in rows:
        metric = row["metric"]
        low, high = sorted(scale(row[key] * factor[metric]) for key in ("ci_low", "ci_high"))
        harm = None if row["margin"] is None else row["margin"] * factor[metric] * (-1 if mirrored else 1)
        marks.append({
            **{key: row[key] for key in ("label", "about", "note", "primary")}, "low": low, "high": high,
            "at": scale(row["delta"] * factor[metric]), "margin": None if harm is None else scale(harm),
            "text": difference(row["delta"], metric, row), "interval": interval(row, metric),
        })
    return {
        "unit": how.unit if how.unit != "points" else "points of 100", "rows": marks, "zero": scale(0.0),
        "ticks": axis(scale, 4),
        "left": left, "right": right, "heading": heading,
    }


def loss_chart(curves: dict[str, dict[str, list[dict[str, Any]]]]) -> dict[str, Any] | None:
    """Training loss (running mean) and validation loss of both arms over the optimizer steps."""
    lines = []
    for arm, curve in curves.items():
        smooth = _running_mean([(row["step"], row["loss"]) for row in curve["steps"]])
        checked = [(row["step"], row["loss"]) for row in curve["validation"]]
        lines += [(arm, "train", smooth), (arm, "validation", checked)]
    points = [point for _, _, line in lines for point in line]
    if len(points) < 2:
        return None
    across = Scale(0, max(step for step, _ in points))
    low, high = min(loss for _, loss in points), max(loss for _, loss in points)
    pad = 0.06 * (high - low) or 0.1
    up = Scale(low - pad, high + pad, mirrored=True)
    return {
        "lines": [{"arm": arm, "kind": kind, "points": [(across(step), up(loss)) for step, loss in line],
                   "last": number(line[-1][1], "nll_per_token")} for arm, kind, line in lines if line],
        "x": [{"at": across(tick), "text": plain(tick)} for tick in ticks(0, across.high, 5) if tick == int(tick)],
        "y": axis(up),
    }


def _running_mean(points: list[tuple[int, float]]) -> list[tuple[float, float]]:
    """Mean over a window that ends at each step, thinned; the first points average what there is."""
    window = max(1, len(points) // _SMOOTHING)
    smooth, total = [], 0.0
    for index, (step, loss) in enumerate(points):
        total += loss - (points[index - window][1] if index >= window else 0.0)
        smooth.append((float(step), total / min(index + 1, window)))
    every = max(1, math.ceil(len(smooth) / _MOST_POINTS))
    return smooth[::-1][::every][::-1]


def bars(rows: Sequence[tuple[str, dict[str, float | None], dict[str, str], str]]) -> list[dict[str, Any]]:
    """Pairs of bars, one pair a quantity, each pair on its own scale that begins at zero.

    Args:
        rows: Label, value by arm, printed value by arm, and QLoRA's difference from LoRA in words.
    """
    drawn = []
    for label, values, texts, ratio in rows:
        known = {arm: value for arm, value in values.items() if value is not None}
        top = max(known.values(), default=0.0)
        if top > 0:
            drawn.append({"label": label, "ratio": ratio, "bars": [
                {"arm": arm, "width": round(100 * value / top, 2), "text": texts[arm]} for arm, value in known.items()
            ]})
    return drawn
