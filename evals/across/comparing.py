"""Compare two studies cell by cell, item by item, from the files of their folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from assistant_builder.config import METRICS, EvalConfig
from assistant_builder.errors import EvaluationError
from assistant_builder.study import Study
from evals.across.caveats import warnings
from evals.across.differing import differences
from evals.across.matching import Matching, match_items, shared_cell
from evals.across.wording import summary, verdict_sentence
from evals.compare import holm
from evals.report.background import CELL_TEXTS
from evals.report.contrasts import compare, figures_of
from evals.report.reading import BASELINE, CANDIDATE, Cell, figure, read_cells

JUDGED = (CANDIDATE, BASELINE)
"""The cells that get a verdict: QLoRA as served, and float16 LoRA."""
PER_BYTE = "nll_per_byte"
"""The loss where two tokenizers make tokens incomparable: Σ nll / Σ UTF-8 bytes of the references, in nats."""


@dataclass(frozen=True)
class _Sides:
    """The shared items of one cell under the same names in both studies; ``a`` is the baseline, ``b`` the candidate.

    Where the loss is per byte, the bytes of the reference stand in for its tokens, as divisor and as weight.
    """

    name: str
    a: Cell
    b: Cell


def compare_studies(a: Study, b: Study) -> dict[str, Any]:
    """Compare study ``b`` (candidate) with study ``a`` (baseline) on the held-out items that both have.

    Args:
        a: The baseline; its primary metric and margin decide the verdicts.
        b: The candidate; may be the same study.

    Returns:
        ``a``, ``b`` (names), ``shared_items``, ``only_a``, ``only_b`` (counts), ``loss`` (``nll_per_token``, or
        ``nll_per_byte`` where the two count tokens differently), ``differences`` (``setting, a, b``), ``verdicts`` (one
        for each of Q4 and L16 that both have), ``contrasts`` (as in ``report.json``, named ``Q4: B-A``, with the
        figures ``a`` and ``b``), ``warnings`` and ``sentence``.

    Raises:
        EvaluationError: A study has not been evaluated, its scores contradict themselves, or the two share too little,
            no cell among it: studies of one arm each, and not the same.
        DataError: A split of a study was changed after it was frozen.
    """
    cells_a, cells_b = _evaluated(a), _evaluated(b)
    like = shared_cell(cells_a, cells_b)
    matching = match_items(cells_a[like], cells_b[like])
    if len(matching.shared) < 2:
        raise EvaluationError(
            f"studies {a.name} and {b.name} share {len(matching.shared) or 'no'} held-out "
            f"item{'s' if len(matching.shared) != 1 else ''}, and a comparison needs at least two", where="compare",
            remedy="Items are shared where question and reference are the same: give both studies the same data file, "
            "with a split column or the same data.seed and data.heldout_fraction",
        )
    pairs = [(cells_a[like].by_item[one], cells_b[like].by_item[other]) for one, other in matching.shared]
    per_byte = any(one["tokens"] != other["tokens"] for one, other in pairs)
    weights = [len(one["reference"].encode("utf-8", "surrogatepass")) or 1 if per_byte else one["tokens"]
               for one, _ in pairs]
    sides = [
        _Sides(name, *_aligned(cells_a[name], cells_b[name], matching, weights))
        for name in CELL_TEXTS if name in cells_a and name in cells_b
    ]
    config, tokens = a.config.eval, sum(one["tokens"] for one, _ in pairs)
    if per_byte and config.primary_metric == "nll_per_token":  # a token of A is that many bytes
        config = config.model_copy(update={"margin": config.margin * tokens / sum(weights)})
    record: dict[str, Any] = {
        "a": a.name, "b": b.name, "shared_items": len(pairs),
        "only_a": len(matching.only_a), "only_b": len(matching.only_b),
        "loss": PER_BYTE if per_byte else "nll_per_token",
        "differences": differences(a, b, cells_a[like], cells_b[like]),
        **_compared(sides, config, per_byte=per_byte),
    }
    for verdict in record["verdicts"]:
        verdict["sentence"] = verdict_sentence(verdict, a.name, b.name)
    record["warnings"] = warnings(record, a, b, (cells_a[like], cells_b[like]), matching)
    record["sentence"] = summary(record)
    return record


def _evaluated(study: Study) -> dict[str, Cell]:
    state = study.step("evaluate").state
    if state != "succeeded":
        raise EvaluationError(
            f"study {study.name} has not been evaluated ({state})", where="compare",
            remedy=f"Finish it with 'assistant-builder run {study.name}'",
        )
    return read_cells(study)


def _aligned(a: Cell, b: Cell, matching: Matching, weights: Sequence[int]) -> tuple[Cell, Cell]:
    """Both cells on the shared items, named by their place; clusters are those of ``a``, or of ``b`` if it has none."""
    pairs = [(a.by_item[one], b.by_item[other]) for one, other in matching.shared]
    labels = [one.get("cluster") for one, _ in pairs]
    if not any(label is not None for label in labels):
        labels = [other.get("cluster") for _, other in pairs]
    sides: list[Cell] = []
    for side, cell in enumerate((a, b)):
        samples = [
            {**pair[side], "item": str(place), "tokens": weight, "cluster": label}
            for place, (pair, weight, label) in enumerate(zip(pairs, weights, labels, strict=True))
        ]
        sides.append(Cell(cell.name, tuple(samples), cell.scores))
    return sides[0], sides[1]


def _compared(sides: Sequence[_Sides], config: EvalConfig, *, per_byte: bool) -> dict[str, Any]:
    """Verdicts and contrasts of every cell."""
    verdicts, rows = [], []
    for cell in sides:
        family = []
        for metric in METRICS:
            items = [item for item in cell.a.by_item
                     if cell.a.value(item, metric) is not None and cell.b.value(item, metric) is not None]
            if _units(cell.a, items) < 2:
                continue
            result = compare(cell.a, cell.b, metric, items, config)
            shown = PER_BYTE if per_byte and metric == "nll_per_token" else metric
            row = {
                "name": f"{cell.name}: B-A", "cell": cell.name, "metric": shown, "baseline": "A", "candidate": "B",
                "a": figure(cell.a, metric, items), "b": figure(cell.b, metric, items), **figures_of(result),
            }
            family.append(row)
            if metric == config.primary_metric and cell.name in JUDGED:
                verdicts.append({
                    "cell": cell.name, "outcome": result.verdict, "metric": shown, "margin": config.margin,
                    "delta": row["delta"], "ci": [row["ci_low"], row["ci_high"]],
                    "within_margin_but_worse": bool(result.within_margin_but_worse),
                    **{key: row[key] for key in ("p_value", "n", "n_clusters", "higher_is_better", "warnings")},
                })
        adjusted = holm([row["p_value"] for row in family])
        rows += [{**row, "p_value_holm": float(value)} for row, value in zip(family, adjusted, strict=True)]
    if not rows:
        raise EvaluationError("the shared items belong to one cluster, which has no interval", where="compare",
                              remedy="Compare studies that share more of their held-out items")
    return {"verdicts": sorted(verdicts, key=lambda verdict: JUDGED.index(verdict["cell"])), "contrasts": rows}


def _units(cell: Cell, items: Sequence[str]) -> int:
    """Independent units among the items: clusters, and items without one."""
    return len({cell.by_item[item]["cluster"] or ("alone", item) for item in items})
