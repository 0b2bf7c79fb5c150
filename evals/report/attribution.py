"""Where the difference between the two assistants comes from, and proof that the parts add up to the whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evals.report.background import CELL_TEXTS
from evals.report.contrasts import HEADLINE, clearly_better, clearly_worse
from evals.report.reading import BASELINE, CANDIDATE
from evals.report.wording import decimals, interval, shown, signed

IDENTITIES = (
    (HEADLINE, "L4-L16", "Q4-L4"),
    ("QR-Q4", "QR-QD", "QD-Q4"),
    ("LR-L16", "LR-LM", "LM-L16"),
)
"""A contrast, and the two that sum to it exactly."""
_PARTS = (("L4-L16", "storing the base in 4 bits"), ("Q4-L4", "training in 4 bits"))


def identities(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Check on every metric that each whole is the sum of its parts.

    Args:
        rows: The report's contrasts.

    Returns:
        ``{"text", "metric", "error"}``: the identity in signs, and by how much its two sides differ, rounding only.
    """
    deltas = {(row["name"], row["metric"]): row["delta"] for row in rows}
    found = []
    for whole, first, second in IDENTITIES:
        text = f"{_signs(whole)} = ({_signs(first)}) + ({_signs(second)})"
        for metric in dict.fromkeys(row["metric"] for row in rows):
            if all((name, metric) in deltas for name in (whole, first, second)):
                error = abs(deltas[whole, metric] - (deltas[first, metric] + deltas[second, metric]))
                found.append({"text": text, "metric": metric, "error": error})
    return found


def _signs(name: str) -> str:
    return name.replace("-", " \N{MINUS SIGN} ")


def attribution(
    rows: Sequence[Mapping[str, Any]], cells: Mapping[str, Mapping[str, Any]], primary: str
) -> dict[str, Any] | None:
    """The way from the 16-bit twin to QLoRA, in two steps, on the metric of the verdict.

    Args:
        rows: The report's contrasts.
        cells: The report's cells.
        primary: Metric of the verdict.

    Returns:
        ``{"metric", "steps", "sentence"}``, or ``None`` unless L4 carries the metric. A step is a level of a cell or
        the difference between two, with its interval.
    """
    of = {row["name"]: row for row in rows if row["metric"] == primary}
    if not {HEADLINE, *(name for name, _ in _PARTS)} <= of.keys():
        return None
    steps = [
        {"key": name, "kind": "step", "label": label, **{key: of[name][key] for key in ("delta", "ci_low", "ci_high")}}
        for name, label in _PARTS
    ]
    first, last = (
        {"key": cell, "kind": "level", "label": CELL_TEXTS[cell].label, "value": cells[cell]["metrics"][primary]}
        for cell in (BASELINE, CANDIDATE)
    )
    return {"metric": primary, "steps": [first, *steps, last], "sentence": _sentence(of, primary)}


def _sentence(of: Mapping[str, Mapping[str, Any]], primary: str) -> str:
    whole = of[HEADLINE]
    places, how = decimals(primary, whole), shown(primary)
    parts = [
        f"{label} accounts for {signed(of[name]['delta'] * how.factor, places)} "
        f"(95% interval {interval(of[name], primary, plus=False)}{_weight(of[name])})"
        for name, label in _PARTS
    ]
    return (f"From {BASELINE} to {CANDIDATE} the {how.phrase} moves by {signed(whole['delta'] * how.factor, places)} "
            f"{how.unit}: {parts[0]}, {parts[1]}.")


def _weight(row: Mapping[str, Any]) -> str:
    if clearly_worse(row):
        return ": a clear loss"
    return ": a clear gain" if clearly_better(row) else ": not clearly different from nothing"
