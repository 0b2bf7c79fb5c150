"""The bits of the quantized storage in a report, whose texts are written for 4 bits."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from assistant_builder.i18n.message import WRITTEN
from assistant_builder.i18n.message import bits as current_bits
from assistant_builder.quantization import METHODS, texts_of
from evals.report.method import Formula
from evals.report.schema import Report

# also 4 Bit, 4 bits; what is about a file or about how the published weights were rounded is 4-bit in any study
_FIXED = r"4-bit (?:file|GGUF)|4-Bit-Datei|(?:archivo de|fichier) 4 bits|those 4-bit weights|rounded to 4 bits before"
_NUMBER = r"(?P<article>\b[Aa]n? )?(?<![\w.,-])(?P<number>%d)(?=(?: (?:or|oder|o|ou) 16)?[- \u00a0][Bb]its?\b)"
_VOWELS = (8, 11, 18)
"""Numbers that follow “an” in English."""
_Text = TypeVar("_Text", bound=str)


def in_bits(text: _Text) -> _Text:
    """A text of the product with the current bits in place of 4."""
    return text if current_bits() == WRITTEN else _replaced(text, WRITTEN, current_bits())


def _replaced(text: _Text, old: int, new: int) -> _Text:
    def number(match: re.Match[str]) -> str:
        if match["number"] is None:
            return match[0]  # fixed
        article = match["article"] or ""
        return f"{article[:1]}{'n' * (new in _VOWELS)} {new}" if article else str(new)

    return type(text)(re.sub(f"{_FIXED}|{_NUMBER % old}", number, text))


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


def texts_for(report: Report) -> AbstractContextManager[None]:
    """The context in which texts name the bits of the report's study."""
    return texts_of(report.config["model"]["quant_type"])


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


def formulas(known: tuple[Formula, ...], report: Report) -> tuple[Formula, ...]:
    """The formulas of a report, with the quantization method of its study in place of the default one."""
    bits, quant_type = current_bits(), report.config["model"]["quant_type"]
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
