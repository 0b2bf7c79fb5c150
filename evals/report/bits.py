"""The bits of the quantized storage in a report, whose texts are written for 4 bits."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from assistant_builder.arms import CellSpec
from assistant_builder.i18n.bits import WRITTEN, current_bits, in_bits
from assistant_builder.quantization import METHODS, texts_of
from evals.report.method import Formula

FROM_DATA = frozenset(
    (
        "study",
        "config",
        "settings",
        "data",
        "provenance",
        "context",
        "listed",
        "items",
        "worst",
        "lost",
        "gained",
        "first",
        "more",
        "examples",
        "conclusion",
        "report",
    )
)
"""Keys in a report and among the variables of its templates below which texts come from the user's data and settings,
or are written by functions that know the bits."""


def texts_for(report: Mapping[str, Any]) -> AbstractContextManager[None]:
    """The context in which texts name the bits of the report's study."""
    return texts_of(report["config"]["model"]["quant_type"])


def named(value: Any) -> Any:
    """A value with the bits of the current context in all texts in it, except below :data:`FROM_DATA`."""
    if current_bits() == WRITTEN:
        return value
    if isinstance(value, str):
        return in_bits(value)
    if isinstance(value, Mapping):
        return {key: entry if key in FROM_DATA else named(entry) for key, entry in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(named, value))
    if isinstance(value, CellSpec):
        return dataclasses.replace(value, label=in_bits(value.label), about=in_bits(value.about))
    return value


def glossary(terms: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """The glossary of a report; what is said about the values of a weight holds for the current bits."""
    bits = current_bits()
    if bits == WRITTEN:
        return terms
    return (
        (
            f"16-bit, {bits}-bit",
            f"The number of bits that store one weight of the frozen base model. In {bits} "
            f"bits a weight takes about {bits / 16:.0%} of the memory and is rounded to one of at most "
            f"{2**bits:,} values.",
        ),
        *named(terms[1:]),
    )


def formulas(known: tuple[Formula, ...], report: Mapping[str, Any]) -> tuple[Formula, ...]:
    """The formulas of a report, with the quantization method of its study in place of the default one."""
    bits, quant_type = current_bits(), report["config"]["model"]["quant_type"]
    if quant_type == "nf4" or quant_type not in METHODS:
        return known
    method = METHODS[quant_type]
    stored = f"({method.label}{', which also rounds what W is multiplied with' if method.rounds_inputs else ''})"
    return tuple(
        dataclasses.replace(
            each,
            formula=each.formula.replace("p_4", f"p_{{{bits}}}"),
            about=in_bits(each.about)
            .replace("p_4", f"p_{{{bits}}}")
            .replace("(by default NF4 with double quantization)", stored),
        )
        for each in known
    )
