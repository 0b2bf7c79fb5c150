"""The atlas as Markdown: an overview, and a table with a forest plot of each group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evals.atlas.pooled import MODERATORS
from evals.declaration import EXACT, LOSS
from evals.metrics import metric_of

CLAIM = (1, 3)
"""Per cent by which 4-bit is usually said to be worse than 16-bit LoRA."""
_AGAINST = {
    "less": "This is less than",
    "more": "This is more than",
    "within": "This is within",
    "open": "This neither confirms nor contradicts",
}
_BAR = 41
_ORDER = {LOSS: 0, EXACT: 1}
"""The metrics that every storage has come first, and are quoted."""
_APPROACHES = {"memory": "from memory", "grounded": "with facts looked up"}


def markdown(found: Mapping[str, Any]) -> str:
    """The atlas as Markdown: notes, an overview, and for each group a forest plot and what one study changes."""
    lines = [each for note in found["notes"] for each in (note.strip(), "")]
    if found["missing"]:
        lines += [f"Not run yet: {', '.join(map(_cell, found['missing']))}.", ""]
    groups = sorted(found["groups"], key=lambda group: _ORDER.get(group["metric"], len(_ORDER)))
    lines += _overview([group for group in groups if group["pooled"]])
    lines += (line for group in groups for line in _lines(group))
    return "\n".join(lines)


def _overview(groups: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not groups:
        return
    yield "## Overview"
    yield ""
    yield (
        f"Harm against the 16-bit twin, pooled over studies. “{CLAIM[0]}–{CLAIM[1]} % worse” is the usual claim; the "
        "last column says where the interval in per cent of the 16-bit figure lies."
    )
    yield ""
    yield (
        "| storage | approach | metric | studies | harm | 95% interval | a new study | in % of 16-bit | "
        f"against {CLAIM[0]}–{CLAIM[1]} % |"
    )
    yield "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | --- |"
    for group in groups:
        pooled, relative = group["pooled"], group["relative"]
        new = _range(*pooled["prediction"]) if pooled["prediction"] else ""
        share = f"{_number(relative['mean'])} ({_range(*relative['ci'])})" if relative else ""
        yield (
            f"| {' | '.join(_names(group))} | "
            f"{len(group['studies'])} | {_number(pooled['mean'])} {group['unit']} | {_range(*pooled['ci'])} | {new} | "
            f"{share} | {_against(relative['ci']) if relative else ''} |"
        )
    yield ""
    yield "To quote:"
    for group in groups:
        if group["metric"] in _ORDER:
            yield ""
            yield f"> {_sentences(group)}"
    yield ""


def _sentences(group: Mapping[str, Any]) -> str:
    """What a group shows, with its intervals."""
    pooled, relative = group["pooled"], group["relative"]
    storage, approach, metric = _names(group)
    items = sum(row["items"] for row in group["studies"])
    text = (
        f"{storage}, answers {approach}, in {len(group['studies'])} studies with {items:,} held-out questions: the "
        f"harm in {metric} against 16 bits is {_number(pooled['mean'])} {group['unit']} "
        f"(95% interval {_range(*pooled['ci'])}"
    )
    if pooled["prediction"]:
        text += f"; one more study like these: {_range(*pooled['prediction'])}"
    text += ")."
    if relative:
        text += (
            f" In per cent of the 16-bit figure: {_number(relative['mean'])} ({_range(*relative['ci'])}). "
            f"{_AGAINST[_against(relative['ci'])]} “{CLAIM[0]}–{CLAIM[1]} %”."
        )
    return text


def _against(interval: Sequence[float]) -> str:
    """Where an interval of per cent lies, seen from the usual claim."""
    low, high = interval
    if high < CLAIM[0]:
        return "less"
    if low > CLAIM[1]:
        return "more"
    return "within" if low >= CLAIM[0] and high <= CLAIM[1] else "open"


def _lines(group: Mapping[str, Any]) -> Iterator[str]:
    unit, rows, pooled = group["unit"], group["studies"], group["pooled"]
    ends = [each for row in rows for each in (row["ci_low"], row["ci_high"])]
    if pooled and pooled["prediction"]:
        ends += pooled["prediction"]
    low, high = min(*ends, 0.0), max(*ends, 0.0)
    yield "## {}, {}: {}".format(*_names(group))
    yield ""
    yield f"Harm against the 16-bit twin in {unit}; right of the line is worse."
    yield ""
    yield f"| study | items | harm ({unit}) | 95% interval | weight | |"
    yield "| --- | ---: | ---: | ---: | ---: | --- |"
    weights = pooled["weights"] if pooled else [1.0] * len(rows)
    for row, weight in zip(rows, weights, strict=True):
        drawn = _bar(row["harm"], (row["ci_low"], row["ci_high"]), low, high)
        yield (
            f"| {_cell(row['study'])} ({_cell(row['base'])}) | {row['items']} | {_number(row['harm'])} | "
            f"{_range(row['ci_low'], row['ci_high'])} | {100 * weight:.0f}% | `{drawn}` |"
        )
    if not pooled:
        yield from ("", "One study is not pooled.", "")
        return
    drawn = _bar(pooled["mean"], pooled["ci"], low, high)
    yield f"| **pooled** | | **{_number(pooled['mean'])}** | {_range(*pooled['ci'])} | | `{drawn}` |"
    if pooled["prediction"]:
        drawn = _bar(pooled["mean"], pooled["prediction"], low, high)
        yield f"| a new study like these | | | {_range(*pooled['prediction'])} | | `{drawn}` |"
    yield ""
    yield (
        f"Heterogeneity: standard deviation between studies {_number(pooled['tau'])} {unit}, I² "
        f"{100 * pooled['i_squared']:.0f}%, Q {pooled['q']:.1f} (p {pooled['p_heterogeneity']:.2g})."
    )
    for name, moved in group["moderators"].items():
        change = f"{_number(moved['slope'])} ({_range(*moved['ci'])}, p {moved['p_value']:.2g})"
        yield f"Moderator, {MODERATORS[name]}: {change}."
    if group["without"]:
        one = max(group["without"], key=lambda row: abs(row["mean"] - pooled["mean"]))
        yield f"Without {_cell(one['study'])}, which moves it most: {_number(one['mean'])} ({_range(*one['ci'])})."
    yield ""


def _bar(value: float, ends: Sequence[float], low: float, high: float) -> str:
    """An interval as text, between ``low`` and ``high``, with the line of no difference."""

    def at(number: float) -> int:
        share = (number - low) / ((high - low) or 1.0)
        return round(min(max(share, 0.0), 1.0) * (_BAR - 1))

    cells = [" "] * _BAR
    cells[at(ends[0]) : at(ends[1]) + 1] = "─" * (at(ends[1]) - at(ends[0]) + 1)
    cells[at(0.0)] = "│" if cells[at(0.0)] == " " else "┼"
    cells[at(value)] = "■"
    return "".join(cells)


def _number(value: float) -> str:
    text = f"{value:+,.0f}" if abs(value) >= 1000 else f"{value:+.3g}"
    return text.replace("-", "\N{MINUS SIGN}")


def _range(low: float, high: float) -> str:
    return f"{_number(low)} to {_number(high)}"


def _names(group: Mapping[str, Any]) -> list[str]:
    """Storage, approach and metric of a group."""
    storage = group["storage"].upper() if group["storage"].islower() else group["storage"]
    approach = _APPROACHES.get(group["approach"], group["approach"])
    return [_cell(each) for each in (storage, approach, metric_of(group["metric"]).label)]


def _cell(text: str) -> str:
    """A name as the text of a table or heading."""
    return "".join(each if each.isalnum() or each in " .-_" else " " for each in text)[:80]
