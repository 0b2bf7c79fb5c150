"""``python -m benchmarks.doc_tables``: generate the tables of the documentation that need no measurement.

The tables are written between marks: metrics and refusal recogniser in ``docs/evaluation.md``, published figures in
``docs/planner.md``, memory promises in ``README.md``, the 70B study in ``docs/capacity.md``. Other benchmarks write
their tables by :func:`write_section`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from assistant_builder.arms import TWINS
from assistant_builder.atomic_io import write_text
from assistant_builder.config import StudyConfig
from assistant_builder.errors import EvaluationError
from assistant_builder.planning.hardware import CARDS, choose_machine
from assistant_builder.planning.load_architecture import architecture_of
from assistant_builder.planning.memory import shared
from assistant_builder.planning.plan import Lengths, Plan
from assistant_builder.planning.planner import ASSUMED_PAIRS, plan_study
from assistant_builder.planning.published_models import PROMISES
from evals.metrics import METRICS
from evals.metrics.refusal import labelled_answers
from evals.metrics.refusal import table as refusal_table
from evals.report.format import count, duration, money, size
from evals.stats.power import items_needed

_ROOT = Path(__file__).resolve().parents[1]
PROJECT_README = _ROOT / "README.md"
EVALUATION_PAGE = _ROOT / "docs" / "evaluation.md"
CAPACITY_PAGE = _ROOT / "docs" / "capacity.md"
PLANNER_PAGE = _ROOT / "docs" / "planner.md"
FLIP_RATES = (0.10, 0.15, 0.20, 0.25, 0.30)
QUOTED_DIFFERENCE = 0.04
"""86 % against 82 %."""
_CARD = "A100 80 GB"
_ARMS = {"lora": "float16 LoRA", "qlora": "4-bit QLoRA"}
_FITS = {"room": "with room", "tight": "barely", "no": "no"}


def read_section(name: str, path: Path) -> str:
    """The text between two marks.

    Raises:
        EvaluationError: The file or the marks do not exist.
    """
    return _found(name, path)[1]


def write_section(name: str, text: str, path: Path) -> None:
    """Replace the text between two marks.

    Raises:
        EvaluationError: The file or the marks do not exist.
    """
    before, _, after = _found(name, path)
    write_text(path, f"{before}\n\n{text.strip()}\n\n{after}")


def _found(name: str, path: Path) -> tuple[str, str, str]:
    if not path.is_file():
        raise EvaluationError("there is no such file", where=str(path), remedy="Run this in a checkout of the project")
    parts = re.split(f"(<!-- {name}: begin -->|<!-- {name}: end -->)", path.read_text(encoding="utf-8"))
    if len(parts) != 5:
        raise EvaluationError(f"the marks of the section {name} are missing", where=str(path), remedy="Restore them")
    return parts[0] + parts[1], parts[2].strip(), parts[3] + parts[4]


def metric_table() -> str:
    """The metrics with their blind spots."""
    lines = ["| metric | in | better | what it sees | what it does not see |", "| --- | --- | --- | --- | --- |"]
    for info in METRICS.values():
        better = "higher" if info.higher_is_better else "lower"
        weighted = ", weighted by tokens" if info.token_weighted else ""
        lines.append(
            f"| {info.label} (`{info.name}`) | {info.unit}{weighted} | {better} | {info.explanation} "
            f"| {info.blind_spots} |"
        )
    return "\n".join(lines)


@dataclass(frozen=True)
class PublishedFigure:
    """A published figure and the planner's.

    Attributes:
        quoted: The published figure.
        planned: The planner's figure.
        why: The reason for the difference.
    """

    quoted: str
    planned: str
    why: str


@lru_cache(maxsize=64)
def plan(model: str, *, card: str = _CARD, rows: int = 1, length: int = 512, rank: int = 16) -> Plan:
    """The plan of a published training: one card, checkpointing and paged AdamW, as in the QLoRA paper."""
    config = StudyConfig().with_changes({
        "model.base": model, "train.rank": rank, "train.alpha": 16.0, "train.micro_batch_size": rows,
        "train.batch_size": 16, "train.max_length": length, "train.gradient_checkpointing": "on",
        "train.optimizer": "paged_adamw_32bit",
    })
    return plan_study(config, 10_000, Lengths.assume(length), CARDS[card])


def four_bit_gigabytes(model: str) -> float:
    """Gigabytes of the QLoRA base, including block constants and 16-bit weights."""
    return plan(model).qlora.weights_bytes / 1e9


def double_quant_saving(model: str) -> tuple[float, float]:
    """Savings of double quantization: bits per quantized parameter, and gigabytes."""
    seen = plan(model)
    single = seen.with_changes({"model.double_quant": False})
    saved = single.qlora.weights_bytes - seen.qlora.weights_bytes
    return 8 * saved / sum(module.weights for module in seen.architecture.linear()), saved / 1e9


def hours_for(pairs: int, tokens: int, *, model: str = "llama-3-70b") -> float:
    """Hours of QLoRA for three epochs on one 80 GB card."""
    config = plan(model).config
    seen = plan_study(config, pairs, Lengths(tokens, 2 * tokens, tokens / 2, tokens), CARDS[_CARD])
    assert seen.qlora.seconds is not None  # the card's peak is known
    return seen.qlora.seconds / 3600


def published_figures() -> list[PublishedFigure]:
    """The published figures with those of the planner."""
    big, llama3 = plan("llama-65b"), plan("llama-3-70b")
    bits, saved = double_quant_saving("llama-65b")
    linear = sum(module.weights for module in llama3.architecture.linear())
    rows: list[tuple[str, str, str]] = [
        ("65B: 260 GB in float32 → about 35 GB",
         f"{4 * big.architecture.parameters / 1e9:.1f} GB → {four_bit_gigabytes('llama-65b'):.1f} GB",
         "Right. The 4-bit figure includes 1.05 GB of embeddings and head in 16 bits and 0.127 bits a parameter "
         "of block constants."),
        *((f"{size} fits {card.rsplit(' ', 2)[1]} GB", _fit(model, card), "At rank 16, one sequence of 512 "
           "tokens at a time, activations recomputed.")
          for size, model, card in (("7B", "llama-2-7b", "RTX 3090 24 GB"), ("13B", "llama-2-13b", "RTX A6000 48 GB"),
                                    ("70B", "llama-2-70b", _CARD))),
        ("Llama-3-70B: 140 GB in 16 bits", f"{2 * llama3.architecture.parameters / 1e9:.1f} GB", "Rounded."),
        ("… about 35 GB in NF4", f"{four_bit_gigabytes('llama-3-70b'):.1f} GB",
         f"35 GB is 4 bits times 70 billion. {2 * linear / 4e9:.1f} GB are the 4-bit weights; the block "
         f"constants add {(linear * 0.127 / 8) / 1e9:.1f} GB, and embeddings and head, 2.1 billion parameters "
         "that stay 16-bit, 4.2 GB."),
        ("… + 1 GB adapters at rank 16", f"{llama3.qlora.adapter_bytes / 1e9:.2f} GB",
         f"{count(llama3.qlora.trained_parameters)} float32 values; half of that in bfloat16."),
        ("… + 30 GB activations and optimizer = 66 GB",
         f"{_rest(llama3):.1f} GB, {llama3.qlora.total_bytes / 1e9:.1f} GB in all (1 × 512 tokens); {_long()}",
         "Depends on batch and length alone: the quote names neither. The sum of the quote adds up."),
        ("Double quantization saves 0.37 bits a parameter, about 3 GB at 65B", f"{bits:.3f} bits, {saved:.2f} GB",
         "Right: 0.5 − (8/64 + 32/(64·256)) = 0.373."),
        ("QLoRA totals of 5–6 / 10 / 21 / 41 GB for 7B / 13B / 33B / 65B",
         " / ".join(f"{plan(f'llama-{size}').qlora.total_bytes / 1e9:.1f}"
                          for size in ("7b", "13b", "33b", "65b")) + " GB",
         "Right at rank 16. With the paper's rank 64 the adapters' float32 values, gradients and states add "
         f"{_rank_64():.1f} GB at 65B here; the paper keeps adapters in bfloat16 and pages the states out."),
        ("86 % → 82 % is “3 % less”", "4 points, or 4.7 % of 86 %", "Wrong either way. Neither comes with n: "
         "see below."),
        ("1 against 8 A100: “32 × cheaper”", "8 ×", "Eight cards of one price cost eight times one. "
         "32 × needs a price per card four times as high."),
        ("float32 compute makes the 4-bit weights larger", "the same size", "It costs speed and activations "
         "(twice the bytes) and the 16-bit parts; the 4-bit weights do not change."),
        ("14 hours for 10,000 pairs",
         " / ".join(f"{hours_for(10_000, tokens):.1f} h" for tokens in (100, 300, 512))
         + " with 100 / 300 / 512 tokens a pair",
         "Llama-3-70B, three epochs, one A100 80 GB at the assumed quarter of its peak: plausible for pairs of "
         "about 300 tokens. A time without a length says little."),
    ]
    return [PublishedFigure(*row) for row in rows]


def _fit(model: str, card: str) -> str:
    seen = plan(model, card=card)
    verdict = {"room": "with room", "tight": "barely", "no": "not"}
    both = "QLoRA and its twin" if seen.lora.fit != "no" else "QLoRA alone"
    return (f"{both}. QLoRA {seen.qlora.total_bytes / 1e9:.1f} GB: {verdict[seen.qlora.fit]}; float16 LoRA "
            f"{seen.lora.total_bytes / 1e9:.1f} GB: {verdict[seen.lora.fit]}")


def promises_table() -> str:
    """The table of README.md: models that fit a given memory with default settings, in 4 and in 16 bits."""
    rows = ["| you have | base model | 4-bit QLoRA | float16 LoRA, its twin | a study of | command |",
            "| --- | --- | --- | --- | --- | --- |"]
    words = {"room": "fits with room", "tight": "fits, barely", "no": "does not fit"}
    for promise in PROMISES:
        config = StudyConfig().with_changes({"model.base": promise.model})
        seen = plan_study(config, machine=choose_machine(promise.memory))
        totals = [f"{method.total_bytes / 1e9:.1f} GB: {words[method.fit]}" for method in (seen.qlora, seen.lora)]
        fitting = [arm for arm in TWINS if seen.methods[arm].fit != "no"]
        study = "both arms" if len(fitting) == len(TWINS) else f"{' and '.join(fitting)} alone: `--set arms=qlora`"
        rows.append(f"| a GPU with {promise.memory.replace('GB', ' GB')} | {promise.size} | {' | '.join(totals)} | "
                    f"{study} | `assistant-builder plan {promise.model} --memory {promise.memory}` |")
    return "\n".join(rows)


def _rest(seen: Plan) -> float:
    parts = seen.qlora.parts
    return (parts["activations"] + parts["optimizer"] + parts["gradients"]) / 1e9


def _long() -> str:
    seen = plan("llama-3-70b", rows=4, length=2048)
    return f"{_rest(seen):.1f} GB, {seen.qlora.total_bytes / 1e9:.1f} GB in all (4 × 2,048)"


def _rank_64() -> float:
    return (plan("llama-65b", rank=64).qlora.total_bytes - plan("llama-65b").qlora.total_bytes) / 1e9


def items_table() -> list[tuple[float, int]]:
    """Flip rate, and held-out answers that detect 86 % against 82 % with a power of 80 %."""
    return [(rate, items_needed(QUOTED_DIFFERENCE, flip_rate=rate)) for rate in FLIP_RATES]


def published_table() -> str:
    """The table of published figures, and of the held-out answers that a published difference needs."""
    rows = ["| what is quoted | what the plan says | why they differ |", "| --- | --- | --- |"]
    rows += [f"| {figure.quoted} | {figure.planned} | {figure.why} |" for figure in published_figures()]
    needed = ["| answers that flip between the two | " + " | ".join(f"{rate:.0%}" for rate, _ in items_table()) + " |",
              "| --- |" + " --- |" * len(FLIP_RATES),
              "| held-out answers needed | " + " | ".join(count(items) for _, items in items_table()) + " |"]
    return "\n".join([*rows, "", "What 86 % against 82 % needs to be more than chance (two-sided 5 %, power 80 %):", "",
                      *needed])


def large_model_table() -> str:
    """The planned 70B study on eight cards of two kinds."""
    model, devices, rows = "llama-3.3-70b-instruct", 8, []
    name, architecture = architecture_of(model, None)
    config = StudyConfig().with_changes({"model.base": model})
    for card in (_CARD, "H100 80 GB"):
        machine = replace(CARDS[card], devices=devices)
        seen = shared(Plan(name, architecture, config, machine, ASSUMED_PAIRS, Lengths.assume(config.train.max_length)))
        for method in (seen.lora, seen.qlora):
            assert method.seconds is not None and machine.price_per_hour is not None
            rows.append((_ARMS[method.method], f"{devices} × {card}", size(method.expected_bytes), _FITS[method.fit],
                         "recomputed" if method.checkpointing else "kept", duration(method.seconds / devices),
                         f"${money(method.seconds / 3600 * machine.price_per_hour)}"))
    heads = ("arm", "cards", "memory a card", "fits", "activations", "time at best", "cost at best")
    return markdown_table(heads, rows)


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose first column is text and whose others are figures."""
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (heads, rule, *rows))


def sections() -> dict[tuple[Path, str], str]:
    """Text of every table, by page and name of its marks."""
    return {
        (EVALUATION_PAGE, "metrics"): metric_table(),
        (EVALUATION_PAGE, "refusal"): refusal_table(labelled_answers()),
        (PLANNER_PAGE, "founding"): published_table(),
        (PROJECT_README, "promises"): promises_table(),
        (CAPACITY_PAGE, "large"): large_model_table(),
    }


if __name__ == "__main__":
    for (page, name), text in sections().items():
        write_section(name, text, page)
