"""Read the scores in a study folder, and refuse scores that cannot be compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from assistant_builder.arms import ARMS, CELLS, LORA, QLORA, Arm, headline_arms
from assistant_builder.atomic_io import read_json, read_jsonl
from assistant_builder.errors import EvaluationError
from assistant_builder.i18n import enumerated, m, mn
from assistant_builder.study import Study
from assistant_builder.study.contents import SampleLine, Scores
from evals.metrics import METRICS, metric_of, score_stored
from evals.report.glossary import BASELINE_TEXTS
from evals.report.schema import Report

BASELINE, CANDIDATE = LORA.cell, QLORA.cell
"""The two cells of the headline: float16 LoRA, and QLoRA as served."""


def lead_arm(arms: Sequence[str]) -> Arm:
    """The arm of a study that a report is about first: QLoRA, or where nothing is compared the first one."""
    return ARMS[headline_arms(arms)[-1]]


def lead_pair(report: Report) -> tuple[str, str]:
    """The cells whose difference a report shows first, candidate and baseline.

    QLoRA and its twin; where these are not compared, the first arm's assistant and the base it started from.
    """
    if report.compares:
        return CANDIDATE, BASELINE
    arm = lead_arm(report.trained_arms)
    return arm.cell, arm.untuned_cell


@dataclass(frozen=True)
class Cell:
    """The scores of a cell or an untuned baseline on the held-out items, from ``samples.jsonl`` and ``scores.json``."""

    name: str
    samples: tuple[dict[str, Any], ...]
    scores: dict[str, Any]

    @cached_property
    def by_item(self) -> dict[str, dict[str, Any]]:
        """Samples by item name."""
        return {str(sample["item"]): sample for sample in self.samples}

    @cached_property
    def _values(self) -> dict[str, dict[str, float | None]]:
        return {}

    def value(self, item: str, metric: str) -> float | None:
        """The item's score, or ``None``; ``nll_per_token`` in nats."""
        if metric not in self._values:
            self._values[metric] = {
                name: self._value(sample, metric) for name, sample in self.by_item.items()
            }
        return self._values[metric][item]

    @staticmethod
    def _value(sample: Mapping[str, Any], metric: str) -> float | None:
        if metric == "nll_per_token":
            return (
                sample["nll"] / sample["tokens"]
                if sample.get("tokens") and sample.get("nll") is not None
                else None
            )
        score = sample["metrics"].get(metric)
        if score is None or not math.isfinite(score):
            return None
        low, high = metric_of(metric).bounds or (-math.inf, math.inf)
        clipped = min(
            max(float(score), low), high
        )  # removes a rounding error, such as a cosine of 1.0000001
        return clipped if abs(clipped - score) < 1e-5 else float(score)

    def has(self, metric: str) -> bool:
        """Whether any item has the score."""
        return any(self.value(item, metric) is not None for item in self.by_item)

    def values(self, items: list[str], metric: str) -> list[float]:
        """The scores of those ``items`` that have one, in order."""
        return [value for item in items if (value := self.value(item, metric)) is not None]


def read_cells(study: Study) -> dict[str, Cell]:
    """Every scored cell that the study asks for, in the order of ``CELLS``; scores of others may be out of date.

    Raises:
        EvaluationError: A cell of an arm's assistant is missing, the cells were scored on different items, or a cell's
            summary contradicts its samples.
    """
    config = study.config
    tuned, served = tuned_cells(config.arms), served_cells(config.arms)
    cells = _read({name: study.cell_folder(name) for name in CELLS if name in config.cells})
    missing = [name for name in served if name not in cells]
    if missing:
        raise EvaluationError(
            mn(
                "the report needs {needed}, and {missing} has not been scored",
                "the report needs {needed}, and {missing} have not been scored",
                len(missing),
                needed=(needed := enumerated(served[::-1])),
                missing=enumerated(missing),
            ),
            where=str(study.evals_folder),
            remedy=m(
                "Keep {needed} in {eval.cells} and run 'assistant-builder run {name}'",
                needed=needed,
                name=study.name,
            ),
        )
    _refuse_contradictions(study, cells[tuned[0]], cells)
    return cells


def tuned_cells(arms: Sequence[str]) -> tuple[str, ...]:
    """The cells of the headline, of both twins or of the first arm alone; a report has the items of the first."""
    return tuple(ARMS[arm].cell for arm in headline_arms(arms))


def served_cells(arms: Iterable[str]) -> tuple[str, ...]:
    """The cells of all arms' assistants as served."""
    return tuple(ARMS[arm].cell for arm in arms)


def read_baselines(study: Study, like: Cell) -> dict[str, Cell]:
    """The scored untuned baselines, if the study requests them.

    Raises:
        EvaluationError: They were scored on other items than the cell ``like``.
    """
    if not study.config.eval.baselines:
        return {}
    baselines = _read({name: study.cell_folder(f"baselines/{name}") for name in BASELINE_TEXTS})
    _refuse_contradictions(study, like, baselines)
    return baselines


def read_formats(study: Study, arm: str, like: Cell) -> list[Cell]:
    """The scored GGUF files of an arm, largest first; those of earlier settings until the step runs again.

    Raises:
        EvaluationError: They were scored on other items than the cell ``like``.
    """
    folder = study.format_scores_folder
    found = _read(
        {
            f"{arm} {type}": folder / f"{arm}-{type}"
            for type in study.config.file_types(arm) or study.config.formats.types
            if (folder / f"{arm}-{type}" / "scores.json").is_file()
        }
    )
    _refuse_contradictions(study, like, found)
    return sorted(found.values(), key=lambda cell: -int(cell.scores["bytes"]))


def read_rescored_cells(study: Study, like: Cell, *, seed: int | None = None) -> dict[str, Cell]:
    """A further scoring of the arms' assistants, by training ``seed`` or with another batch size; empty if incomplete.

    Raises:
        EvaluationError: They were scored on other items than the cell ``like``.
    """
    tuned = tuned_cells(study.config.arms)
    cells = _read(
        {
            name: study.cell_folder(f"noise/{name}")
            if seed is None
            else study.cell_folder(name, seed=seed)
            for name in tuned
        }
    )
    where = "with another batch size" if seed is None else f"of seed {seed}"
    _refuse_contradictions(study, like, {f"{name} {where}": cell for name, cell in cells.items()})
    return cells if len(cells) == len(tuned) else {}


def _read(folders: Mapping[str, Path]) -> dict[str, Cell]:
    cells = {}
    for name, folder in folders.items():
        samples = read_jsonl(folder / "samples.jsonl", SampleLine)
        if samples:
            for sample in samples:
                sample["metrics"] |= score_stored(
                    sample
                )  # by plugins that were registered after scoring
            scores = (
                read_json(folder / "scores.json", Scores)
                if (folder / "scores.json").exists()
                else {}
            )
            cells[name] = Cell(name, tuple(samples), scores)
    return cells


def _refuse_contradictions(study: Study, like: Cell, cells: Mapping[str, Cell]) -> None:
    """Raise unless every cell has the items of ``like`` and a summary that agrees with its samples."""
    problems = [
        problem for name, cell in cells.items() if (problem := _contradiction(name, cell, like))
    ]
    if problems:
        raise EvaluationError(
            m("the cells cannot be compared: {problems}", problems="; ".join(problems)),
            where=str(study.evals_folder),
            remedy=m(
                "Score them again with 'assistant-builder run {name} --redo'", name=study.name
            ),
        )


def _contradiction(name: str, cell: Cell, like: Cell) -> str | None:
    first, own, claimed = like.by_item, cell.by_item, cell.scores.get("nll_per_token")
    if len(own) != len(cell.samples):
        return f"{name} has an item twice"
    if own.keys() != first.keys():
        fewer, more = len(first.keys() - own.keys()), len(own.keys() - first.keys())
        return f"{name} lacks {fewer} items of {like.name} and has {more} others"
    if any(sample["tokens"] != own[item]["tokens"] for item, sample in first.items()):
        return f"{name} has other token counts than {like.name}"
    if claimed is not None and not math.isclose(
        claimed, figure(cell, "nll_per_token", list(own)), rel_tol=1e-6
    ):
        return f"scores.json of {name} contradicts its samples"
    return None


def metrics_of(
    cells: Mapping[str, Cell],
    tuned: Sequence[str],
    wanted: Callable[[Cell, str], list[str]] | None = None,
) -> dict[str, list[str]]:
    """The items each metric is computed on, in file order: those with a score in every cell that has the metric.

    Metrics that a ``tuned`` cell lacks or that have too few items for a comparison are left out.

    Args:
        cells: The cells.
        tuned: Cells without which a metric is left out.
        wanted: The items of the headline, by cell and metric; all unless given.
    """
    first = cells[tuned[0]]
    every = list(first.by_item)
    usable = {}
    for metric in METRICS:
        having = [cell for cell in cells.values() if cell.has(metric)]
        if set(tuned) <= {cell.name for cell in having}:
            items = every if wanted is None else wanted(first, metric)
            kept = [
                item
                for item in items
                if all(cell.value(item, metric) is not None for cell in having)
            ]
            if len(kept) == len(every) or independent_units(first, kept) > 1:
                usable[metric] = kept
    return usable


def independent_units(cell: Cell, items: Sequence[str]) -> int:
    """The number of clusters among the items, counting each item without a cluster as one."""
    return len({cell.by_item[item].get("cluster") or ("alone", item) for item in items})


def figure(cell: Cell, metric: str, items: list[str]) -> float:
    """A cell's figure over ``items``: Σ nll / Σ tokens for ``nll_per_token``, else the mean."""
    if metric == "nll_per_token":
        samples = [cell.by_item[item] for item in items]
        return math.fsum(float(sample["nll"]) for sample in samples) / sum(
            int(sample["tokens"]) for sample in samples
        )
    return math.fsum(cell.values(items, metric)) / len(items)
