"""Text for numbers: metrics, differences, intervals, sizes, times."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING

from assistant_builder.i18n import (
    ENGLISH,
    N_,
    Message,
    Text,
    joined,
    language,
    localize,
    m,
    render,
    t,
)
from assistant_builder.i18n.quantities import bytes_of, format_bytes, format_duration
from assistant_builder.study.contents import Entries
from evals.metrics import METRICS

if TYPE_CHECKING:
    from evals.report.schema import Export


@dataclass(frozen=True)
class MetricFormat:
    """How a metric's values are displayed: ``phrase`` is its name in sentences, ``unit`` that of a difference.

    Stored values are multiplied by ``factor``, because scores of 0 to 1 are shown as 0 to 100.
    """

    label: str
    phrase: str
    factor: float
    suffix: str
    unit: str
    decimals: int


size, size_of, duration = format_bytes, bytes_of, format_duration
SIGNIFICANT = 0.05
"""Adjusted p-value up to which a difference is called clear."""
_OF_TASKS = {
    "acc": N_("Accuracy"),
    "acc_norm": N_("Accuracy, length-normalised"),
    "exact_match": N_("Exact match"),
    "f1": "F1",
}
"""Labels of the lm-eval metrics that are shares of 0 to 1."""


def shown(metric: str) -> MetricFormat:
    """How a metric's values are displayed.

    The name is that of a registered metric, of a metric of an lm-eval task (``acc``, ``acc_norm,none``), or of a metric
    whose plugin is not loaded.
    """
    if metric == "nll_per_byte":  # of studies with different tokenizers
        return replace(shown("nll_per_token"), unit=t("nats per byte"))
    if metric in METRICS:
        info = METRICS[metric]
        phrase = info.phrase or info.label
        if info.format == "number":
            return MetricFormat(t(info.label), t(phrase), 1, "", t(info.unit), 3)
        return MetricFormat(
            t(info.label), t(phrase), 100, "%" if info.format == "percent" else "", t("points"), 1
        )
    name = metric.partition(",")[0]
    if name in _OF_TASKS:
        label = t(_OF_TASKS[name])
        return MetricFormat(label, in_sentence(label), 100, "%", t("points"), 1)
    return MetricFormat(name, name, 1, "", "", 3)


def plain(value: float) -> str:
    """A number in its shortest form, with a minus sign in place of a hyphen: ``−0.5``."""
    return localize(f"{value + 0.0:.10g}").replace("-", "\N{MINUS SIGN}")


def two_significant_digits(value: float) -> str:
    """An estimate with two significant digits: ``0.011``."""
    return plain(float(f"{value:.2g}"))


def signed(value: float, decimals: int) -> str:
    """A number with its sign, ``+0.31``; zero has none."""
    return render(figure(value, decimals, plus=True))


def export_description(row: Export) -> str:
    """What an entry of ``report["exports"]`` is, and the export formats that write it."""
    formats = row.get("formats")  # reports of version 0.1 have none
    how = render(row.message("how"))
    if not formats:
        return how
    return t("{how} Export it with --format {formats}.", how=how, formats=render(either(formats)))


def number(value: float | None, metric: str) -> str:
    """A cell's figure as displayed."""
    return render(value_of(value, metric))


_MOST_DECIMALS = 6


def decimals(metric: str, row: Entries) -> int:
    """Decimals that show one or two digits of the interval's half-width, at least the metric's own.

    With a ``margin`` in the row, so many that no end of the interval looks like the margin or zero without being it:
    these ends decide.
    """
    how = shown(metric)
    ends = [row["ci_low"] * how.factor, row["ci_high"] * how.factor]
    half = abs(ends[1] - ends[0]) / 2
    places = max(math.ceil(-math.log10(half / 3)) if half > 0 else how.decimals, how.decimals)
    margin = (row.get("margin") or 0.0) * how.factor
    decisive = [
        (end, limit)
        for end in ends
        for limit in (-margin, 0.0, margin)
        if "margin" in row and end != limit
    ]
    while places < _MOST_DECIMALS and any(
        round(end, places) == round(limit, places) for end, limit in decisive
    ):
        places += 1
    return min(places, _MOST_DECIMALS)


def difference(value: float, metric: str, row: Entries) -> str:
    """A signed difference, with the precision of the interval in ``row``."""
    return signed(value * shown(metric).factor, decimals(metric, row))


def level_text(level: float) -> str:
    """The level of an interval: ``97.5%``."""
    return render(level_message(level))


def level_message(level: float) -> Message:
    """:func:`level_text` as a value of messages."""
    number = Message("{value:.3g}", {"value": 100 * level})
    return Message("{number}%", {"number": number}, context="number")


def interval(row: Entries, metric: str) -> str:
    """The interval as ``−0.003 to +0.011``."""
    return render(span(row, metric, plus=True))


def percent(share: float, places: int = 1) -> str:
    """A share as a percentage: ``1.2%``."""
    return render(share_of(share, places))


def signed_percent(share: float, places: int = 1) -> str:
    """A share as a signed percentage: ``+1.2%``."""
    return render(share_of(share, places, plus=True))


def nats(value: float | None) -> str:
    """A divergence in nats with four decimals; a small one is not shown as 0."""
    return "–" if value is None else render(nats_of(value))


def p_value(value: float | None) -> str:
    """A p-value; a small one is not shown as 0."""
    if value is None:
        return "–"
    return localize("< 0.001" if value < 0.001 else f"{value:.3f}")


def figure(value: float, places: int, *, plus: bool = False) -> Message:
    """A number as a value of messages, which is written in the language in which they are shown.

    ``plus``: positive ones have their sign, too.
    """
    digits = f"{abs(value):.{places}f}"
    sign = (
        ""
        if float(digits) == 0 or (value > 0 and not plus)
        else "+"
        if value > 0
        else "\N{MINUS SIGN}"
    )
    return Message(f"{sign}{{value:.{places}f}}", {"value": abs(value)})


def value_of(value: float | None, metric: str) -> Message:
    """:func:`number` as a value of messages."""
    if value is None:
        return m("not scored")
    how = shown(metric)
    text = figure(value * how.factor, how.decimals)
    return Message("{number}%", {"number": text}, context="number") if how.suffix else text


def amount(value: float, metric: str, places: int | None = None, *, plus: bool = False) -> Message:
    """A value of a metric with its unit, such as a difference, as a value of messages."""
    how = shown(metric)
    text = figure(value * how.factor, how.decimals if places is None else places, plus=plus)
    return joined([text, Message(how.unit)])


def nats_of(value: float) -> Message:
    """:func:`nats` as a value of messages."""
    small = 0 < value < 0.00005
    return Message(
        "< {value:.4f}" if small else "{value:.4f}", {"value": 0.0001 if small else value}
    )


def margin(metric: str, value: float) -> Message:
    """A margin with its unit; ``zero`` without one."""
    how = shown(metric)
    if not value:
        return m("zero")
    number = Message("{value:.10g}", {"value": float(f"{value * how.factor:.2g}")})
    return joined([number, Message(how.unit)])


def measured(row: Entries) -> Message:
    """The difference of a row with its unit and its interval, for sentences."""
    metric = row["metric"]
    return m(
        "{difference}, 95% interval {interval}",
        difference=amount(row["delta"], metric, decimals(metric, row), plus=True),
        interval=span(row, metric),
    )


def span(row: Entries, metric: str, *, plus: bool = False) -> Message:
    """:func:`interval` as a value of messages, without signs of positive ends unless ``plus``."""
    places, factor = decimals(metric, row), shown(metric).factor
    low, high = (figure(row[key] * factor, places, plus=plus) for key in ("ci_low", "ci_high"))
    return m("{low} to {high}", low=low, high=high)


def share_of(share: float, places: int = 1, *, plus: bool = False) -> Message:
    """:func:`percent` as a value of messages."""
    number = figure(100 * share, places, plus=plus)
    return Message("{number}%", {"number": number}, context="number")


def enumerated(texts: Sequence[Text]) -> Text:
    """A list inside a sentence: ``a, b and c``."""
    *others, last = texts
    return m("{others} and {last}", others=others, last=last) if others else last


def both_of(texts: Sequence[Text]) -> Text:
    """``a and b`` as a value of messages, and ``a and b and c``."""
    return reduce(lambda first, second: m("{others} and {last}", others=first, last=second), texts)


def either(texts: Sequence[Text]) -> Text:
    """``a or b`` as a value of messages."""
    return reduce(lambda first, second: m("{others} or {last}", others=first, last=second), texts)


def count(value: float | None) -> str:
    """An integer with thousands separators: ``4,884,480``."""
    return "–" if value is None else localize(f"{value:,.0f}")


def money(value: float | None) -> str:
    """An amount of money with two decimals, with more if it is small."""
    if value is None:
        return "–"
    return localize(f"{value:,.2f}") if value >= 0.1 or value == 0 else plain(float(f"{value:.2g}"))


def perplexity(value: float) -> str:
    """A perplexity with about three digits."""
    return localize(f"{value:.2f}" if value < 100 else f"{value:,.0f}")


def rate(value: float | None) -> str:
    """Tokens per second."""
    return "–" if value is None else t("{speed:,.0f} tokens/s", speed=value)


def share(part: int, whole: int) -> str:
    """A part of a whole: ``3 of 8 (37.5%)``."""
    if not whole:
        return t("no such items")
    return t("{part:,} of {whole:,} ({share})", part=part, whole=whole, share=percent(part / whole))


def share_lost(export: Entries) -> Message:
    """How much an export loses, in words: a small share of the loss can be a large share of the right answers."""
    share = export.get("lost_share") or 0.0
    if share < 0.5:
        return m("some quality")
    return m("all that tuning gained") if share >= 1 else m("most of what tuning gained")


def plural(number_of: int, one: str, many: str | None = None) -> str:
    """A count with its noun: ``1 item``, ``2 items``."""
    return f"{number_of:,} {one if number_of == 1 else many or one + 's'}"


def in_sentence(label: str) -> str:
    """A label in lower case, unless its first word is an abbreviation or a name such as ``chrF`` or ``ROUGE-L``."""
    first, rest = label[:1], label[1:]
    if language() != ENGLISH:  # German nouns have capitals
        return label
    return (
        label
        if any(letter.isupper() for letter in rest.partition(" ")[0])
        else first.lower() + rest
    )


def capitalised(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]
