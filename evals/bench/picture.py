"""The comparison as one SVG file that needs nothing else: speed as bars, the rounds as dots on them."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from assistant_builder.config import ARMS
from evals.bench.contenders import BASES
from evals.bench.results import Row

_WIDTH, _BAR, _GAP, _LEFT, _RIGHT, _TOP = 760, 26, 10, 150, 225, 58
_COLORS = {"plain": "#9aa3b2", "tuned": "#64748b", "ours": "#0d9488", "factory": "#b45309"}
_INK = "#1f2937"


def draw(rows: Sequence[Row], speeds: dict[str, list[float]], caption: str) -> str:
    """An SVG document.

    Args:
        rows: From :func:`evals.bench.results.summarize`.
        speeds: Tokens per second of every round, by contender.
        caption: One line under the title: machine, base, date.
    """
    scale = (_WIDTH - _LEFT - _RIGHT) / max(max(values) for values in speeds.values())
    parts: list[str] = []
    y = _TOP
    for arm in ARMS:
        own = [row for row in rows if row.contender.arm == arm]
        if own:
            parts.append(_text(0, y + 16, BASES[arm], weight="600"))
            y += 26
        for row in own:
            parts += _bar(row, speeds[row.contender.name], y, scale)
            y += _BAR + _GAP
        y += 12
    title = "Training speed, real tokens per second"
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-16 0 {_WIDTH + 32} {y + 30}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="13" fill="{_INK}">',
        f"<title>{title}</title>",
        f'<rect x="-16" width="{_WIDTH + 32}" height="{y + 30}" fill="#ffffff"/>',
        _text(0, 24, title, weight="700", size=17),
        _text(0, 44, caption, color="#64748b"),
        *parts,
        _text(0, y + 14, "Bar: median of the rounds. Dots: single rounds. Loss: on pairs that were not trained on.",
              color="#64748b"),
        "</svg>",
    ]) + "\n"


def _bar(row: Row, values: Sequence[float], y: int, scale: float) -> list[str]:
    width = row.tokens_per_second.median * scale
    middle = y + _BAR / 2
    label = f"{row.tokens_per_second.median:.0f}"
    if row.versus_plain is not None:
        label += f"  ({row.versus_plain.median:.2f} × plain)"
    label += f"  loss {row.validation_loss.median:.2f}"
    end = max(width, max(values) * scale)
    return [
        _text(0, middle + 4.5, row.contender.title),
        f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_BAR}" rx="3" '
        f'fill="{_COLORS[row.contender.family]}"/>',
        *(f'<circle cx="{_LEFT + value * scale:.1f}" cy="{middle:.1f}" r="3" fill="#ffffff" stroke="{_INK}"/>'
          for value in values),
        _text(_LEFT + end + 10, middle + 4.5, label),
    ]


def _text(x: float, y: float, text: str, *, weight: str = "400", size: int = 13, color: str = _INK) -> str:
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-weight="{weight}" font-size="{size}" fill="{color}" '
            f'xml:space="preserve">{escape(text)}</text>')
