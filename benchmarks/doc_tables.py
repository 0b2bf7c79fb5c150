"""``python -m benchmarks.doc_tables``: write the tables of the documentation that need no measurement.

The tables are written between marks: settings and base models in ``docs/configuration.md``, metrics in
``docs/evaluation.md``, refusal recognition in ``docs/method.md``, published figures in ``docs/planner.md``, models by
memory in ``README.md``, the 70B study in ``docs/capacity.md``, and the terms of ``docs/glossary.md``. The figures of
studies are those of ``benchmarks/study_figures.json`` (:mod:`benchmarks.study_figures`).
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
from evals.report.format import count, duration, money, size
from evals.stats.power import items_needed

PROJECT_README = ROOT / "README.md"
EVALUATION_PAGE = ROOT / "docs" / "evaluation.md"
METHOD_PAGE = ROOT / "docs" / "method.md"
CAPACITY_PAGE = ROOT / "docs" / "capacity.md"
PLANNER_PAGE = ROOT / "docs" / "planner.md"
CONFIGURATION_PAGE = ROOT / "docs" / "configuration.md"
GLOSSARY_PAGE = ROOT / "docs" / "glossary.md"
QUICK_START = ROOT / "docs" / "quickstart.md"
FLIP_RATES = (0.10, 0.15, 0.20, 0.25, 0.30)
QUOTED_DIFFERENCE = 0.04
"""86 % against 82 %."""


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


def published_figures() -> list[tuple[str, str, str]]:
    """Rows of the table: the published figure, the planner's figure, and the reason for the difference."""
    big, llama3 = plan("llama-65b"), plan("llama-3-70b")
    bits, saved = double_quant_saving("llama-65b")
    linear = sum(module.weights for module in llama3.architecture.linear())
    long = plan("llama-3-70b", rows=4, length=2048)
    rank_64 = (
        plan("llama-65b", rank=64).qlora.total_bytes - plan("llama-65b").qlora.total_bytes
    ) / 1e9
    return [
        (
            "65B: 260 GB in float32 → about 35 GB",
            f"{4 * big.architecture.parameters / 1e9:.1f} GB → {four_bit_gigabytes('llama-65b'):.1f} GB",
            "Confirmed. The 4-bit figure includes 1.05 GB of 16-bit embeddings and head, and block constants of "
            "0.127 bits per parameter.",
        ),
        *(
            (
                f"{size} fits {card.rsplit(' ', 2)[1]} GB",
                _fit(model, card),
                "Rank 16, micro-batches of one sequence of 512 tokens, recomputed activations.",
            )
            for size, model, card in (
                ("7B", "llama-2-7b", "RTX 3090 24 GB"),
                ("13B", "llama-2-13b", "RTX A6000 48 GB"),
                ("70B", "llama-2-70b", _CARD),
            )
        ),
        (
            "Llama-3-70B: 140 GB in 16 bits",
            f"{2 * llama3.architecture.parameters / 1e9:.1f} GB",
            "Confirmed, rounded.",
        ),
        (
            "… about 35 GB in NF4",
            f"{four_bit_gigabytes('llama-3-70b'):.1f} GB",
            f"35 GB is 4 bits times 70 billion. The plan has {2 * linear / 4e9:.1f} GB of 4-bit weights, "
            f"{(linear * 0.127 / 8) / 1e9:.1f} GB of block constants, and 4.2 GB of embeddings and head (2.1 billion "
            "parameters that stay in 16 bits).",
        ),
        (
            "… + 1 GB adapters at rank 16",
            f"{llama3.qlora.adapter_bytes / 1e9:.2f} GB",
            f"{count(llama3.qlora.trained_parameters)} float32 values; half of that in bfloat16.",
        ),
        (
            "… + 30 GB activations and optimizer = 66 GB",
            f"{_rest(llama3):.1f} GB, {llama3.qlora.total_bytes / 1e9:.1f} GB in all (1 × 512 tokens); "
            f"{_rest(long):.1f} GB, {long.qlora.total_bytes / 1e9:.1f} GB in all (4 × 2,048)",
            "The result depends on batch size and length, which the quote does not name. The sum of the quote is "
            "correct.",
        ),
        (
            "Double quantization saves 0.37 bits a parameter, about 3 GB at 65B",
            f"{bits:.3f} bits, {saved:.2f} GB",
            "Confirmed: 0.5 − (8/64 + 32/(64·256)) = 0.373.",
        ),
        (
            "QLoRA totals of 5–6 / 10 / 21 / 41 GB for 7B / 13B / 33B / 65B",
            " / ".join(
                f"{plan(f'llama-{size}').qlora.total_bytes / 1e9:.1f}"
                for size in ("7b", "13b", "33b", "65b")
            )
            + " GB",
            "Confirmed at rank 16. At the paper's rank 64, float32 adapters with their gradients and states add "
            f"{rank_64:.1f} GB at 65B here; the paper uses bfloat16 adapters and pages the states out.",
        ),
        (
            "86 % → 82 % is “3 % less”",
            "4 points, or 4.7 % of 86 %",
            "Incorrect in both readings, and the number of answers is missing: see below.",
        ),
        (
            "1 against 8 A100: “32 × cheaper”",
            "8 ×",
            "Eight cards at the same price cost eight times as "
            "much as one. A factor of 32 requires a price per card four times as high.",
        ),
        (
            "float32 compute makes the 4-bit weights larger",
            "the same size",
            "float32 doubles the bytes of "
            "activations and 16-bit layers and is slower; the 4-bit weights do not change.",
        ),
        (
            "14 hours for 10,000 pairs",
            " / ".join(f"{hours_for(10_000, tokens):.1f} h" for tokens in (100, 300, 512))
            + " with 100 / 300 / 512 tokens a pair",
            "Llama-3-70B, three epochs, one A100 80 GB at an assumed quarter of its peak. The quote is plausible for "
            "pairs of about 300 tokens, but does not name a length.",
        ),
    ]


def _fit(model: str, card: str) -> str:
    seen = plan(model, card=card)
    verdict = {"room": "fits", "tight": "barely fits", "no": "does not fit"}
    both = "QLoRA and its 16-bit twin" if seen.lora.fit != "no" else "QLoRA alone"
    return (
        f"{both}. QLoRA {seen.qlora.total_bytes / 1e9:.1f} GB: {verdict[seen.qlora.fit]}; float16 LoRA "
        f"{seen.lora.total_bytes / 1e9:.1f} GB: {verdict[seen.lora.fit]}"
    )


def memory_table() -> str:
    """The table of README.md: models that fit a given memory with default settings, in 4 and in 16 bits."""
    rows = [
        "| card | base model | QLoRA | LoRA, float16 | `assistant-builder plan` |",
        "| --- | --- | --- | --- | --- |",
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
            f"| {seen.machine.name} | {claim.size} | {' | '.join(totals)} | "
            f'`{claim.model} --card "{claim.card}" --pairs {_README_PAIRS}` |'
        )
    return "\n".join(rows)


def _rest(seen: Plan) -> float:
    parts = seen.qlora.parts
    return (parts["activations"] + parts["optimizer"] + parts["gradients"]) / 1e9


def items_table() -> list[tuple[float, int]]:
    """(flip rate, held-out answers needed to detect 86 % against 82 % with 80 % power)."""
    return [(rate, items_needed(QUOTED_DIFFERENCE, variance=rate)) for rate in FLIP_RATES]


def published_table() -> str:
    """The table of published figures, and the held-out answers needed to detect a quoted difference."""
    rows = ["| published figure | plan | comment |", "| --- | --- | --- |"]
    rows += [f"| {' | '.join(figure)} |" for figure in published_figures()]
    needed = [
        "| answers that differ between the two | "
        + " | ".join(f"{rate:.0%}" for rate, _ in items_table())
        + " |",
        "| --- |" + " --- |" * len(FLIP_RATES),
        "| held-out answers needed | "
        + " | ".join(count(items) for _, items in items_table())
        + " |",
    ]
    caption = (
        "Held-out answers needed to detect 86 % against 82 % (two-sided test at 5 %, power 80 %):"
    )
    return "\n".join([*rows, "", caption, "", *needed])


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
        (PLANNER_PAGE, "founding"): published_table(),
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
