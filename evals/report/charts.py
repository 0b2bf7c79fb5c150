"""Positions of the marks of each chart, in percent of its width and height; the templates draw them.

With positions in percent a chart fills any page width while its text and markers keep their size, which a scaled
``viewBox`` cannot do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from assistant_builder.i18n import localize, t
from assistant_builder.study.contents import Entries
from evals.metrics import metric_of
from evals.report.number_format import (
    difference,
    interval,
    number,
    plain,
    shown,
)

_MOST_POINTS = 240  # maximum number of points of a curve; more are not visible at 700 pixels
_SMOOTHING = 20  # the running mean of the training loss covers a twentieth of the run


@dataclass(frozen=True)
class Scale:
    """A linear scale from ``low … high`` to 0 … 100 %, optionally mirrored."""

    low: float
    high: float
    mirrored: bool = False

    def __call__(self, value: float) -> float:
        """Position in percent."""
        share = 100 * (value - self.low) / (self.high - self.low)
        return round(100 - share if self.mirrored else share, 3)


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """About ``wanted`` round values within ``low … high``."""
    rough = (high - low) / max(wanted, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [
        round(index * step, 12) + 0.0 for index in range(first, math.floor(high / step + 1e-9) + 1)
    ]


def axis(scale: Scale, wanted: int = 5) -> list[dict[str, Any]]:
    """Positions and labels of the ticks of a scale; all labels except zero have the same decimals."""
    marks = ticks(scale.low, scale.high, wanted)
    places = max((len(f"{mark:.10g}".partition(".")[2]) for mark in marks), default=0)
    texts = [
        localize(f"{mark:.{places}f}").replace("-", "\N{MINUS SIGN}") if mark else "0"
        for mark in marks
    ]
    return [{"at": scale(mark), "text": text} for mark, text in zip(marks, texts, strict=True)]


def interval_panels(
    contrasts: Sequence[Any],
    primary: str,
    margin: float,
    names: tuple[str, str, str] | None = None,
) -> list[dict[str, Any]]:
    """The difference of each metric with its interval; metrics share an axis as in :func:`by_axis`.

    On every axis the candidate is worse on the right, so the axis of a higher-is-better metric is mirrored. The row of
    ``primary``, empty without a verdict, shows the margin. ``names`` are the labels of the two sides and the figures,
    those of :func:`of_the_twins` by default.
    """
    panels = []
    for group in by_axis(contrasts):
        rows = [
            {
                **row,
                "label": shown(row["metric"]).label,
                "primary": row["metric"] == primary,
                "margin": margin if row["metric"] == primary else None,
            }
            for row in group
        ]
        panels.append(interval_panel(rows, *(names or of_the_twins())))
    return panels


def of_the_twins() -> tuple[str, str, str]:
    """The labels of the two sides of a panel of the twins, and of its figures."""
    return t("← QLoRA better"), t("QLoRA worse →"), t("QLoRA − LoRA (95% interval)")


def by_axis(contrasts: Sequence[Any]) -> list[list[Any]]:
    """Entries of ``contrasts`` that can share an axis: the same unit and direction; losses first, then scores."""
    groups: dict[tuple[bool, bool, str], list[Any]] = {}
    for row in contrasts:
        how = shown(row["metric"])
        points = how.factor == 100
        groups.setdefault((points, points != row["higher_is_better"], how.unit), []).append(row)
    return [groups[key] for key in sorted(groups)]


def interval_panel(
    rows: Sequence[dict[str, Any]], left: str, right: str, heading: str, *, ascending: bool = False
) -> dict[str, Any]:
    """Differences with their intervals on one axis around zero; right is worse, unless figures are ``ascending``.

    The rows are entries of ``contrasts`` in one unit, with a ``label``, and as needed ``about note primary`` and
    ``margin``, the allowed harm in the metric's units.
    """
    rows = [{"about": "", "note": "", "primary": False, "margin": None, **row} for row in rows]
    how = shown(rows[0]["metric"])
    higher = rows[0]["higher_is_better"]
    mirrored = higher and not ascending
    factor = {row["metric"]: shown(row["metric"]).factor for row in rows}
    limits = [
        abs(row[key]) * factor[row["metric"]]
        for row in rows
        for key in ("ci_low", "ci_high", "delta")
    ]
    limits += [row["margin"] * factor[row["metric"]] for row in rows if row["margin"] is not None]
    reach = 1.12 * max(max(limits), 10.0 ** -(how.decimals + 1))
    scale = Scale(-reach, reach, mirrored)
    marks = []
    for row in rows:
        metric = row["metric"]
        low, high = sorted(scale(row[key] * factor[metric]) for key in ("ci_low", "ci_high"))
        harm = (
            None
            if row["margin"] is None
            else row["margin"] * factor[metric] * (-1 if higher else 1)
        )
        bound = None if harm is None else scale(harm)
        allowed = None if bound is None else (0.0, bound)
        if bound is not None and higher and ascending:
            allowed = bound, 100 - bound
        marks.append(
            {
                **{key: row[key] for key in ("label", "about", "note", "primary")},
                "low": low,
                "high": high,
                "at": scale(row["delta"] * factor[metric]),
                "margin": bound,
                "allowed": allowed,
                "text": difference(row["delta"], metric, row),
                "interval": interval(row, metric),
            }
        )
    return {
        "unit": t("points of 100") if how.unit == t("points") else how.unit,
        "rows": marks,
        "zero": scale(0.0),
        "ticks": axis(scale, 4),
        "left": left,
        "right": right,
        "heading": heading,
    }


def loss_chart(curves: Mapping[str, Any]) -> dict[str, Any] | None:
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
        "lines": [
            {
                "arm": arm,
                "kind": kind,
                "points": [(across(step), up(loss)) for step, loss in line],
                "last": number(line[-1][1], "nll_per_token"),
            }
            for arm, kind, line in lines
            if line
        ],
        "x": [
            {"at": across(tick), "text": plain(tick)}
            for tick in ticks(0, across.high, 5)
            if tick == int(tick)
        ],
        "y": axis(up),
    }


def _running_mean(points: list[tuple[int, float]]) -> list[tuple[float, float]]:
    """Mean over a window that ends at each step, thinned; the window of the first points is shorter."""
    window = max(1, len(points) // _SMOOTHING)
    smooth, total = [], 0.0
    for index, (step, loss) in enumerate(points):
        total += loss - (points[index - window][1] if index >= window else 0.0)
        smooth.append((float(step), total / min(index + 1, window)))
    every = max(1, math.ceil(len(smooth) / _MOST_POINTS))
    return smooth[::-1][::every][::-1]


def size_chart(formats: Sequence[Entries] | None) -> dict[str, Any] | None:
    """The difference of each GGUF file from the 16-bit assistant over its size; worse is lower.

    Each file has a point with its interval; ``margin`` is the largest harm that counts as no worse.
    """
    if not formats:
        return None
    metric, better = formats[0]["metric"], formats[0]["higher_is_better"]
    how = shown(metric)
    margin = formats[0]["margin"] * (-1 if better else 1)
    values = [value * how.factor for row in formats for value in (*row["ci"], row["delta"])]
    values += [0.0, margin * how.factor]
    pad = 0.08 * (max(values) - min(values)) or 10.0**-how.decimals
    up = Scale(min(values) - pad, max(values) + pad, mirrored=better)
    across = Scale(0, 1.15 * max(row["bytes"] for row in formats) / 1e6)
    arms = list(dict.fromkeys(row["arm"] for row in formats))
    points = [
        {
            "arm": row["arm"],
            "name": row["name"],
            "y": up(row["delta"] * how.factor),
            "x": round(
                across(row["bytes"] / 1e6) + 1.2 * arms.index(row["arm"]), 3
            ),  # files of one type have one size
            "low": min(ends),
            "high": max(ends),
            "above": row["arm"] == arms[0],
            "text": t(
                "{file}, {size:,.0f} MB: {difference} ({interval}), {verdict}",
                file=row["name"],
                size=row["bytes"] / 1e6,
                difference=difference(row["delta"], metric, pair),
                interval=interval(pair, metric),
                verdict=t(row["verdict"]),
            ),
        }
        for row in formats
        for ends in (tuple(up(end * how.factor) for end in row["ci"]),)
        for pair in ({"ci_low": row["ci"][0], "ci_high": row["ci"][1]},)
    ]
    return {
        "points": points,
        "arms": arms,
        "zero": up(0.0),
        "margin": up(margin * how.factor),
        "y": axis(up),
        "x": [{"at": across(tick), "text": plain(tick)} for tick in ticks(0, across.high, 5)],
        "unit": t("difference in {metric}, {unit}", metric=how.phrase, unit=how.unit)
        if how.unit
        else t("difference in {metric}", metric=how.phrase),
    }


def seed_panel(seeds: Entries, margin: float) -> dict[str, Any] | None:
    """The difference of each training run with its interval over items, and their mean with its interval over seeds."""
    if not seeds["spread"] or "delta" not in seeds["runs"][0]:
        return None
    metric, mean = seeds["metric"], seeds["spread"]["delta"]
    found = [
        (
            t("Seed {number}", number=run["seed"]),
            t("interval over the items"),
            run["delta"],
            run["ci"],
        )
        for run in seeds["runs"]
    ]
    found.append((t("Mean of the runs"), t("t interval over the seeds"), mean["mean"], mean["ci"]))
    rows = [
        {
            "metric": metric,
            "higher_is_better": metric_of(metric).higher_is_better,
            "margin": margin,
            "label": label,
            "about": about,
            "delta": delta,
            "ci_low": low,
            "ci_high": high,
        }
        for label, about, delta, (low, high) in found
    ]
    return interval_panel(rows, *of_the_twins())
