"""Texts of every report, from ``texts.yaml``: glossary, formulas, references, and what stands for missing sections."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import yaml

BASELINE_TEXTS = {
    "copy": ("Copied answer", "no model: the answer of the most similar training question"),
    "retrieval": (
        "Untuned, with examples",
        "the untuned float16 base, shown the three nearest training pairs as "
        "earlier turns of the chat (fewer where they do not fit)",
    ),
}
"""Label and description of the untuned baselines; unlike cells, they are no combinations of base and adapter."""

TEXTS: dict[str, Any] = yaml.load(  # noqa: S506 - a safe loader, of a file of this package
    files("evals.report").joinpath("texts.yaml").read_bytes(),
    getattr(yaml, "CSafeLoader", yaml.SafeLoader),
)
CONTEXT: tuple[dict[str, str], ...] = tuple(TEXTS["context"])
"""Published 16-bit LoRA and QLoRA results. Other models, data and metrics: orders of magnitude, not targets."""
GLOSSARY: tuple[tuple[str, str], ...] = tuple(TEXTS["glossary"].items())
"""Terms of the report for readers without a background in statistics or training."""
NOT_MEASURED: dict[str, str] = TEXTS["not_measured"]
"""Texts of sections without results, each with the setting that adds them."""
