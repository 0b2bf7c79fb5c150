"""``python -m benchmarks.doc_tables``: write the tables of the documentation that need no measurement.

The tables are written between marks: settings and base models in ``docs/configuration.md``, metrics in
``docs/evaluation.md``, refusal recognition in ``docs/method.md``, models by memory in ``README.md``, the 70B study in
``docs/capacity.md``, and the terms of ``docs/glossary.md``. The figures of studies are those of
``benchmarks/study_figures.json`` (:mod:`benchmarks.study_figures`).
Other benchmarks write their tables with :func:`write_section`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo

from assistant_builder.arms import QLORA, TWINS
from assistant_builder.atomic_io import write_text
from assistant_builder.config import (
    PRESETS,
    RegistryName,
    StudyConfig,
    constraints_of,
    option_fields,
)
from assistant_builder.config.serving import ServingConfig
from assistant_builder.errors import EvaluationError
from assistant_builder.models.catalog import CATALOG
from assistant_builder.planning.hardware import CARDS, choose_machine
from assistant_builder.planning.load_architecture import load_architecture
from assistant_builder.planning.plan import ASSUMED_PAIRS, Lengths, Plan, distribute, plan_study
from benchmarks import study_figures
from benchmarks.paths import ROOT
from benchmarks.refusal_agreement import labelled_answers
from benchmarks.refusal_agreement import table as refusal_table
from evals.metrics import METRICS
from evals.report import glossary as report_glossary
from evals.report.number_format import count, duration, money, size

PROJECT_README = ROOT / "README.md"
EVALUATION_PAGE = ROOT / "docs" / "evaluation.md"
METHOD_PAGE = ROOT / "docs" / "method.md"
CAPACITY_PAGE = ROOT / "docs" / "capacity.md"
PLANNER_PAGE = ROOT / "docs" / "planner.md"
CONFIGURATION_PAGE = ROOT / "docs" / "configuration.md"
GLOSSARY_PAGE = ROOT / "docs" / "glossary.md"
QUICK_START = ROOT / "docs" / "quickstart.md"


@dataclass(frozen=True)
class MemoryClaim:
    """A claim that a model of a given size fits a card of a given memory with default settings."""

    size: str  # size in words, such as ``7B``
    model: str  # a published model of that size
    card: str  # value of ``plan --card``
    arms: tuple[str, ...]  # the arms that fit


MEMORY_CLAIMS = (
    MemoryClaim("7B", "llama-2-7b", "RTX 4090", TWINS),
    MemoryClaim("8B", "llama-3-8b", "RTX 4090", TWINS),
    MemoryClaim("13B", "llama-2-13b", "RTX 4090", (QLORA.name,)),
    MemoryClaim("13B", "llama-2-13b", "L40S", TWINS),
    MemoryClaim("70B", "llama-3-70b", "A100 80 GB", (QLORA.name,)),
)
"""The claims of README.md; a test compares them with the planner."""
_README_PAIRS = 1000
_CARD = "A100 80 GB"
_ARMS = {"lora": "float16 LoRA", "qlora": "4-bit QLoRA"}
_FITS = {"room": "yes", "tight": "barely", "no": "no"}


def read_section(name: str, path: Path) -> str:
    """The text between two marks; raises EvaluationError if the file or the marks do not exist."""
    return _found(name, path)[1]


def write_section(name: str, text: str, path: Path) -> None:
    """Replace the text between two marks; raises EvaluationError if the file or the marks do not exist."""
    before, _, after = _found(name, path)
    write_text(path, f"{before}\n\n{text.strip()}\n\n{after}")


def _found(name: str, path: Path) -> tuple[str, str, str]:
    if not path.is_file():
        raise EvaluationError(
            "there is no such file", where=str(path), remedy="Run this in a checkout of the project"
        )
    parts = re.split(
        f"(<!-- {name}: begin -->|<!-- {name}: end -->)", path.read_text(encoding="utf-8")
    )
    if len(parts) != 5:
        raise EvaluationError(
            f"the marks of the section {name} are missing", where=str(path), remedy="Restore them"
        )
    return parts[0] + parts[1], parts[2].strip(), parts[3] + parts[4]


def settings_tables() -> str:
    """A table for each section of the settings, the values of the presets, and the options of ``serve``."""
    groups: dict[str, list[tuple[str, FieldInfo, Any]]] = {}
    for key, (field, default) in option_fields().items():
        section, _, _ = key.rpartition(".")
        groups.setdefault(section, []).append((key, field, default))
    parts = []
    for section, options in groups.items():
        about = (
            StudyConfig.model_fields[section].description
            if section
            else "The study, its arms and approaches."
        )
        parts.append(f"### {section or 'The study'}\n\n{about}\n\n{_settings_table(options)}")
        if section == "train":
            keys = list(next(iter(PRESETS.values())))
            rows = [
                (f"`{name}`", *(_value(values[key]) for key in keys))
                for name, values in PRESETS.items()
            ]
            heads = ("`train.preset` sets", *(f"`{key}`" for key in keys))
            parts.append(markdown_table(heads, rows))
    options = [
        (f"--{key.replace('_', '-')}", field, field.default)
        for key, field in ServingConfig.model_fields.items()
    ]
    parts.append(
        f"### serve\n\nOptions of `assistant-builder serve`, which belong to no study.\n\n"
        f"{_settings_table(options)}"
    )
    return "\n\n".join(parts)


def _settings_table(options: Sequence[tuple[str, FieldInfo, Any]]) -> str:
    rows = [
        "| setting, and its label on the page | default | values | meaning |",
        "| --- | --- | --- | --- |",
    ]
    for key, field, default in options:
        if field.description:
            rows.append(
                f"| `{key}`<br>{field.title} | {_value(default)} | {_allowed(field)} | {field.description} |"
            )
    return "\n".join(rows)


def _value(value: Any) -> str:
    """A default as it is written in study.yaml; empty for none."""
    if isinstance(value, list):
        return f"`[{', '.join(value)}]`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return (
        ""
        if value in (None, "", {}, ())
        else f"`{value:g}`"
        if isinstance(value, float)
        else f"`{value}`"
    )


def _allowed(field: FieldInfo) -> str:
    """The choices or the bounds of a setting."""
    parts = get_args(field.annotation)
    marks = [
        *field.metadata,
        *(mark for part in parts for mark in getattr(part, "__metadata__", ())),
    ]
    registry = next((each for each in marks if isinstance(each, RegistryName)), None)
    kinds = [kind for kind in (field.annotation, *parts) if get_origin(kind) is Literal]
    schema: dict[str, Any] = {}
    if callable(field.json_schema_extra):
        field.json_schema_extra(schema)
    choices = (
        registry.choices() if registry else get_args(kinds[0]) if kinds else schema.get("enum", ())
    )
    limits = [f"`{choice}`" for choice in choices]
    for bound in constraints_of(field):
        for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<")):
            if isinstance(bound, getattr(annotated_types, name.capitalize())):
                limits.append(f"{sign} {getattr(bound, name):g}")
    return ", ".join(limits)


def model_table() -> str:
    """The base models of the catalog."""
    rows = [
        "| name | parameters | context, tokens | licence | suits |",
        "| --- | ---: | ---: | --- | --- |",
    ]
    for entry in CATALOG.values():
        note = "; its terms must be accepted on the hub" if entry.gated else ""
        rows.append(
            f"| `{entry.name}` | {entry.parameters / 1e9:.2g} B | {count(entry.context_length)} | "
            f"{entry.licence}{note} | {entry.good_for} |"
        )
    return "\n".join(rows)


def glossary() -> str:
    """The terms of a report, each with a heading of its own so that search finds it."""
    return "\n\n".join(f"## {term}\n\n{text}" for term, text in report_glossary.glossary())


def metric_table() -> str:
    """The table of the metrics with their blind spots."""
    lines = [
        "| metric | in | better | what it sees | what it does not see |",
        "| --- | --- | --- | --- | --- |",
    ]
    for info in METRICS.values():
        better = "higher" if info.higher_is_better else "lower"
        weighted = ", weighted by tokens" if info.token_weighted else ""
        lines.append(
            f"| {info.label} (`{info.name}`) | {info.unit}{weighted} | {better} | {info.explanation} "
            f"| {info.blind_spots} |"
        )
    return "\n".join(lines)


@lru_cache(maxsize=64)
def plan(
    model: str, *, card: str = _CARD, rows: int = 1, length: int = 512, rank: int = 16
) -> Plan:
    """Plan a training as in the QLoRA paper: one card, checkpointing, paged AdamW."""
    config = StudyConfig().with_changes(
        {
            "model.base": model,
            "train.rank": rank,
            "train.alpha": 16.0,
            "train.micro_batch_size": rows,
            "train.batch_size": 16,
            "train.max_length": length,
            "train.gradient_checkpointing": "on",
            "train.optimizer": "paged_adamw_32bit",
        }
    )
    return plan_study(config, 10_000, Lengths.assume(length), CARDS[card])


def four_bit_gigabytes(model: str) -> float:
    """Size of the stored QLoRA base with block constants and 16-bit layers."""
    return plan(model).qlora.weights_bytes / 1e9


def double_quant_saving(model: str) -> tuple[float, float]:
    """Saving of double quantization in bits per quantized parameter and in gigabytes."""
    seen = plan(model)
    single = seen.with_changes({"model.double_quant": False})
    saved = single.qlora.weights_bytes - seen.qlora.weights_bytes
    return 8 * saved / sum(module.weights for module in seen.architecture.linear()), saved / 1e9


def hours_for(pairs: int, tokens: int, *, model: str = "llama-3-70b") -> float:
    """Hours of a QLoRA training of three epochs on one 80 GB card."""
    config = plan(model).config
    seen = plan_study(config, pairs, Lengths(tokens, 2 * tokens, tokens / 2, tokens), CARDS[_CARD])
    assert seen.qlora.seconds is not None  # the card's peak is known
    return seen.qlora.seconds / 3600


def memory_table() -> str:
    """The table of README.md: models that fit a given memory with default settings, in 4 and in 16 bits."""
    rows = [
        "| card | base model | QLoRA | LoRA, float16 |",
        "| --- | --- | --- | --- |",
    ]
    words = {"room": "", "tight": " (barely)"}
    for claim in MEMORY_CLAIMS:
        config = StudyConfig().with_changes({"model.base": claim.model})
        seen = plan_study(config, pairs=_README_PAIRS, machine=choose_machine(card=claim.card))
        totals = [
            f"{method.total_bytes / 1e9:.1f} GB"
            + (
                f"{words[method.fit]}, {(method.seconds or 0) / 60:.0f} min"
                if method.fit != "no"
                else ": does not fit"
            )
            for method in (seen.qlora, seen.lora)
        ]
        rows.append(
            f"| {seen.machine.name} | {claim.size}, `{claim.model}` | {' | '.join(totals)} |"
        )
    return "\n".join(rows)


def large_model_table() -> str:
    """The plan of a 70B study on eight cards of two types."""
    model, devices, rows = "llama-3.3-70b-instruct", 8, []
    name, architecture = load_architecture(model, None)
    config = StudyConfig().with_changes({"model.base": model})
    for card in (_CARD, "H100 80 GB"):
        machine = replace(CARDS[card], devices=devices)
        lengths = Lengths.assume(config.train.assumed_length)
        seen = distribute(Plan(name, architecture, config, machine, ASSUMED_PAIRS, lengths))
        for method in (seen.lora, seen.qlora):
            assert method.seconds is not None and machine.price_per_hour is not None
            rows.append(
                (
                    _ARMS[method.method],
                    f"{devices} × {card}",
                    size(method.expected_bytes),
                    _FITS[method.fit],
                    "recomputed" if method.checkpointing else "kept",
                    duration(method.seconds / devices),
                    f"${money(method.seconds / 3600 * machine.price_per_hour)}",
                )
            )
    heads = ("arm", "cards", "memory a card", "fits", "activations", "time at best", "cost at best")
    return markdown_table(heads, rows)


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with text in the first column and figures in the others."""
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (heads, rule, *rows))


def sections() -> dict[tuple[Path, str], str]:
    """Text of every table by page and section name."""
    return {
        (EVALUATION_PAGE, "metrics"): metric_table(),
        (METHOD_PAGE, "refusal"): refusal_table(labelled_answers()),
        (PROJECT_README, "figures"): study_figures.table(study_figures.kept()),
        (PROJECT_README, "promises"): memory_table(),
        (QUICK_START, "conclusion"): study_figures.conclusion_block("demo"),
        (CAPACITY_PAGE, "large"): large_model_table(),
        (CONFIGURATION_PAGE, "settings"): settings_tables(),
        (CONFIGURATION_PAGE, "models"): model_table(),
        (GLOSSARY_PAGE, "terms"): glossary(),
    }


def write_sections() -> None:
    """Write every table into its page."""
    for (page, name), text in sections().items():
        write_section(name, text, page)


if __name__ == "__main__":
    write_sections()
