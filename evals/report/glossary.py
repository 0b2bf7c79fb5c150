"""Texts of every report, from ``texts.yaml``: glossary, formulas, references, and what stands for missing sections."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import yaml

from assistant_builder.i18n import bits, m, percentage, t
from assistant_builder.i18n.message import WRITTEN

BASELINE_TEXTS = {
    "copy": (
        m("Copied answer"),
        m("no model: the answer of the most similar training question"),
    ),
    "retrieval": (
        m("Untuned, with examples"),
        m(
            "the untuned {base} base, shown the three nearest training pairs as earlier turns of the chat (fewer where "
            "they do not fit)",
            base="float16",
        ),
    ),
}
"""Label and description of the untuned baselines; unlike cells, they are no combinations of base and adapter."""

TEXTS: dict[str, Any] = yaml.load(  # noqa: S506 - a safe loader, of a file of this package
    files("evals.report").joinpath("texts.yaml").read_bytes(),
    getattr(yaml, "CSafeLoader", yaml.SafeLoader),
)
CONTEXT: tuple[dict[str, str], ...] = tuple(TEXTS["context"])
"""Published 16-bit LoRA and QLoRA results. Other models, data and metrics: orders of magnitude, not targets."""


def messages() -> Iterator[str]:
    """The texts that are translated: all but glossary, formulas and references."""
    yield from TEXTS["not_measured"].values()
    for row in CONTEXT:
        yield from filter(None, (row["what"], row["note"]))
    for group in TEXTS["contents"]:
        yield from (group["title"], group["alone"]) if "alone" in group else (group["title"],)
        yield from group["sections"].values()


def glossary() -> tuple[tuple[str, str], ...]:
    """Terms of the report for readers without a background in statistics or training, and their explanations."""
    count = bits()
    stored = (
        t(
            "In 4 bits (QLoRA's format is called NF4) a weight takes about a quarter of the memory and is rounded to "
            "one of 16 values"
        )
        if count == WRITTEN
        else t(
            "In {bits} bits a weight takes about {share} of the memory and is rounded to one of at most {values:,} "
            "values",
            share=percentage(f"{100 * count / 16:.0f}"),
            values=2**count,
        )
    )
    return tuple((t(term), t(text, stored=stored)) for term, text in TEXTS["glossary"].items())


def not_measured() -> dict[str, str]:
    """Texts of sections without results, each with the setting that adds them."""
    return {section: t(text) for section, text in TEXTS["not_measured"].items()}
