"""The work items of an evaluation, which of them are up to date, and the progress in seconds.

A work item is a folder below ``evals/`` with a record of its inputs, so that a cancelled run resumes, and a study with
added settings scores only what is new.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from assistant_builder import __version__
from assistant_builder.arms import (
    ARMS,
    CELLS,
    LORA,
    QLORA,
    TWINS,
    CellSpec,
    main_cells,
    untuned_base,
)
from assistant_builder.atomic_io import file_hash, read_json
from assistant_builder.i18n import Text, m
from assistant_builder.models.checkpoint_dir import base_model_hash
from assistant_builder.retrieval.decline import RULE_VERSION
from assistant_builder.study import Study
from assistant_builder.study.limits import answer_limit
from assistant_builder.study.steps import Progress
from evals.cells import Variant, fidelity_pairs, in_order_of_loading

HEADLINE_CELLS = (LORA.cell, QLORA.cell)
"""The twins as served: scored for every seed, and, where they are compared, for the noise floor."""


def first_cells(arms: Sequence[str]) -> tuple[str, ...]:
    """The cells of the first verdict: all arms as served, and the untuned base, whose gain sets the loss's margin."""
    return (*(ARMS[arm].cell for arm in arms), untuned_base(arms))


_STEP_FILES = ("status", "evaluate", "score-", "formats")
"""Prefixes of the files that record steps rather than scores."""


Kind = Literal["cell", "noise", "retrieval"]


@dataclass(frozen=True)
class WorkItem:
    """One folder of scores; ``noise`` is the cell with another batch size, ``retrieval`` is on the untuned base."""

    kind: Kind
    variant: Variant
    folder: Path
    batch_size: int


class EvaluationPlan:
    """The remaining work items of a study or of a shard of its cells, and the inputs of each.

    ``items`` is ``items.jsonl`` of the study's task folder; ``part`` the number of a shard, from 1, and their number.
    """

    def __init__(
        self,
        study: Study,
        base: Path,
        items: Path,
        tasks: Sequence[str],
        part: tuple[int, int] | None = None,
    ) -> None:
        self._study, self._base, self._items = study, base, items
        self._config, self._cells = study.config.eval, study.config.cells
        self._compares, self._arms = study.config.compares, study.config.arms
        self._seeds, self._tasks = study.config.seeds, tuple(tasks)
        self.whole = whole = part is None
        wanted = self._all_pieces()
        if part is not None:
            wanted = shard(wanted, part[1])[part[0] - 1]
        variants = {piece.variant for piece in wanted}
        self.pieces = [
            piece
            for piece in wanted
            if not is_done(piece.folder / "scores.json", self.inputs(piece))
        ]
        first = first_cells(self._arms) if whole else ()
        self.headline = [
            piece
            for piece in self.pieces
            if piece.kind == "cell" and piece.variant.cell.name in first
        ]
        self.tasks = [
            (cell, task)
            for cell in main_cells(self._arms)
            if Variant(CELLS[cell]) in variants and cell in self._cells
            for task in tasks
            if not is_done(self.task_folder(cell) / f"{task}.json", self.task_inputs(cell))
        ]
        self.copy = (
            whole
            and self._config.baselines
            and not is_done(self.baseline("copy") / "scores.json", self.copy_inputs)
        )
        self.fidelity = (
            whole
            and self._config.fidelity
            and self._compares
            and not is_done(self.evals / "fidelity.json", self.fidelity_inputs)
        )
        scored = {piece.variant for piece in self.pieces if piece.kind == "cell"}
        self.read_again = [
            cell for name in self.fidelity_cells if (cell := Variant(CELLS[name])) not in scored
        ]
        self.judges = whole and self._compares and bool(self._config.judge_url)

    @property
    def evals(self) -> Path:
        """Folder of all scores."""
        return self._study.evals_folder

    def baseline(self, name: str) -> Path:
        """Folder of an untuned baseline: ``copy`` or ``retrieval``."""
        return self.evals / "baselines" / name

    def task_folder(self, cell: str) -> Path:
        """Folder of a cell's results on the extra tasks."""
        return self._study.cell_folder(cell) / "tasks"

    def variants(self) -> list[Variant]:
        """The cells with work that remains after the headline, without duplicates."""
        tasks = [Variant(CELLS[cell]) for cell, _ in self.tasks]
        scored = [piece.variant for piece in self.pieces if piece not in self.headline]
        return list(dict.fromkeys([*scored, *tasks, *self.read_again]))

    @property
    def order(self) -> list[str]:
        """Cells whose next-token distributions are compared, in the order in which they are scored."""
        first = {piece.variant.cell.name for piece in self.headline if piece.variant.seed == 1}
        cells = in_order_of_loading(CELLS[name] for name in self.fidelity_cells)
        return sorted((cell.name for cell in cells), key=lambda name: name not in first)

    @property
    def fidelity_cells(self) -> list[str]:
        """The cells whose next-token distributions are compared; none if that is done or not wanted."""
        pairs = fidelity_pairs(self._cells) if self.fidelity else ()
        return sorted({name for pair in pairs for name in pair})

    def obsolete_results(self) -> list[Path]:
        """Results of earlier runs that the settings no longer request, so that a report does not show them.

        A shard has none, because other shards may be running.
        """
        if not self.whole:
            return []
        config, seeds = self._config, range(2, self._seeds + 1)
        optional = [
            (config.noise_floor and self._compares, ["noise"]),
            (config.baselines, ["baselines"]),
            (config.fidelity and self._compares, ["fidelity.json", "fidelity.jsonl"]),
            (config.judge_url and self._compares, ["judge.json"]),
        ]
        found = [self.evals / name for wanted, names in optional if not wanted for name in names]
        found += [self._study.cell_folder(cell) for cell in CELLS if cell not in self._cells]
        found += [self.evals / "noise" / cell for cell in HEADLINE_CELLS if cell not in self._cells]
        found += [path for path in self.evals.glob("seeds/*") if path.name not in map(str, seeds)]
        found += [
            path
            for cell in self._cells
            for path in self.task_folder(cell).glob("*")
            if path.stem not in self._tasks or cell not in main_cells(self._arms)
        ]
        return [path for path in found if path.exists()]

    def score_files(self) -> list[Path]:
        """All existing files of scores, without those of GGUF files; none for a shard."""
        found = self.evals.rglob("*.json*") if self.whole else ()
        return sorted(
            path
            for path in found
            if not path.name.startswith(_STEP_FILES)
            and self._study.format_scores_folder not in path.parents
        )

    def planned_first(self, items: int) -> dict[str, int]:
        """The amount of each kind of work before the first verdict."""
        return self._scored(self.headline, items)

    def _scored(self, pieces: Sequence[WorkItem], items: int) -> dict[str, int]:
        long = sum(self.long(piece) for piece in pieces)
        plain = len(pieces) - long
        embedded = (len(pieces) + self.copy) * self._config.similarity
        return {
            "likelihood": items * plain,
            "answers": items * plain,
            "similarity": items * embedded,
            "long likelihood": items * long,
            "long answers": items * long,
        }

    def planned(self, items: int, documents: Mapping[str, int]) -> dict[str, int]:
        """The amount of each kind of work."""
        return {
            **self._scored(self.pieces, items),
            "documents": sum(documents[task] for _, task in self.tasks),
            "fidelity": items * len(self.read_again),
            "judgements": min(items, self._config.judge_items) if self.judges else 0,
        }

    def long(self, piece: WorkItem) -> bool:
        """Whether its prompts contain facts."""
        return piece.kind == "retrieval" or self._study.config.grounded

    def _all_pieces(self) -> list[WorkItem]:
        config, study, items = self._config, self._study, list[WorkItem]()

        def add(kind: Kind, cell: CellSpec, folder: Path, seed: int = 1, batches: int = 1) -> None:
            size = batches * config.batch_size
            items.append(WorkItem(kind, Variant(cell, seed), folder, size))

        served = {ARMS[arm].cell for arm in self._arms}
        for cell in in_order_of_loading(CELLS[name] for name in self._cells):
            add("cell", cell, study.cell_folder(cell.name))
            if cell.name in HEADLINE_CELLS and config.noise_floor and self._compares:
                add("noise", cell, self.evals / "noise" / cell.name, batches=2)
            for seed in range(2, self._seeds + 1) if cell.name in served else ():
                add("cell", cell, study.cell_folder(cell.name, seed=seed), seed)
        if config.baselines and not study.config.grounded:  # else the untuned base reads the facts
            add("retrieval", CELLS[untuned_base(self._arms)], self.baseline("retrieval"))
        return items

    def inputs(self, piece: WorkItem) -> dict[str, Any]:
        """The inputs of a work item."""
        inputs = {
            **self._common,
            "adapter": self._adapter(piece.variant.run),
            "batch_size": piece.batch_size,
        }
        if piece.kind == "retrieval":
            inputs["training"] = self._training
            if piece.variant.cell.base != "float16":
                inputs["base"] = piece.variant.cell.base
        return inputs

    def task_inputs(self, cell: str) -> dict[str, Any]:
        """The inputs of a cell's results on an extra task."""
        kept = {key: self._common[key] for key in ("code", "base model", "model", "compute_dtype")}
        return {
            **kept,
            "adapter": self._adapter(CELLS[cell].adapter),
            "batch_size": self._config.batch_size,
            "seed": self._config.seed,
        }

    @property
    def copy_inputs(self) -> dict[str, Any]:
        """The inputs of the baseline of copied answers."""
        return {
            "code": __version__,
            "items": self._common["items"],
            "training": self._training,
            "similarity": self._config.similarity,
            **self._rule,
        }

    @property
    def fidelity_inputs(self) -> dict[str, Any]:
        """The inputs of the token-by-token comparison."""
        return {
            **self._common,
            "adapters": [self._adapter(arm) for arm in TWINS],
            "cells": sorted(self._config.cells),
        }

    @cached_property
    def _common(self) -> dict[str, Any]:
        return {
            "code": __version__,
            "base model": base_model_hash(self._base),
            "items": file_hash(self._items),
            "model": self._study.config.model.model_dump(mode="json"),
            "compute_dtype": self._config.compute_dtype,
            "similarity": self._config.similarity,
            "max_new_tokens": answer_limit(self._study),
            **self._rule,
        }

    @property
    def _rule(self) -> dict[str, Any]:
        """What the rule for declining depends on apart from index and adapter; empty without the grounded approach."""
        if not self._study.config.grounded:
            return {}
        return {
            "false_declines": self._study.config.retrieval.false_declines,
            "validation": file_hash(self._study.split_file("validation")),
            "rule": RULE_VERSION,
        }

    @cached_property
    def _training(self) -> str:
        return file_hash(self._study.split_file("train"))

    def _adapter(self, run: str | None) -> str | None:
        return run and self._study.arm_summary(run)["adapter_sha256"]


def evenly_spaced(items: Sequence[Any], count: int) -> list[Any]:
    """``count`` items in their order, evenly spread over all."""
    if count >= len(items):
        return list(items)
    return [items[(2 * place + 1) * len(items) // (2 * count)] for place in range(count)]


def shard(pieces: Sequence[WorkItem], parts: int) -> list[list[WorkItem]]:
    """Distribute work items over processes; those of a cell stay together, and cells of one base are adjacent.

    The shards are as equal as possible; some are empty if there are fewer cells.
    """
    order = in_order_of_loading(CELLS.values())

    def base(piece: WorkItem) -> tuple[int, int]:
        return order.index(piece.variant.cell), piece.variant.seed

    shares: list[list[WorkItem]] = [[] for _ in range(parts)]
    before = 0
    for _, together in groupby(sorted(pieces, key=base), key=base):
        cell = list(together)
        middle = before + len(cell) / 2
        shares[int(middle * parts / len(pieces))] += cell
        before += len(cell)
    return shares


def is_done(path: Path, inputs: Mapping[str, Any]) -> bool:
    """Whether a record was written with these inputs."""
    return path.exists() and read_json(path).get("inputs") == dict(inputs)


PRIORS: Mapping[str, float] = {
    "likelihood": 1.0,
    "answers": 5.0,
    "similarity": 0.1,
    "documents": 1.0,
    "fidelity": 4.0,
    "long likelihood": 4.0,
    "long answers": 3.0,
    "judgements": 20.0,
    "file answers": 12.0,
    "writing": 500.0,
}
"""Rough cost of one item of each kind of work, relative to the likelihood of one reference answer; used until this run
has timed the kind."""


class ProgressTracker:
    """Writes the progress of an evaluation in seconds, and raises Cancelled between batches if requested.

    Seconds are used because the time of an item differs by a factor of ten between kinds of work. ``planned`` is the
    number of items of each kind, ``first`` that of the items before the first verdict.
    """

    def __init__(
        self,
        study: Study,
        planned: Mapping[str, int],
        step: str = "evaluate",
        first: Mapping[str, int] | None = None,
    ) -> None:
        self._study, self._step = study, step
        self._left = {kind: float(items) for kind, items in planned.items()}
        self._first: dict[str, float] = {
            kind: float(items) for kind, items in (first or {}).items()
        }
        self._done = dict.fromkeys(planned, 0.0)
        self._seconds = dict.fromkeys(planned, 0.0)
        self._last = time.monotonic()
        self.set_message(m("Loading the base model"))

    def set_message(self, message: Text) -> None:
        """Set the message; the time since the last call is not attributed to any kind of work."""
        self._last = time.monotonic()
        self._message = message
        self._write()

    def tick(self, kind: str, items: float) -> None:
        """Count further ``items`` of a kind as done.

        Raises:
            Cancelled: The user cancelled.
        """
        now = time.monotonic()
        self._seconds[kind] += now - self._last
        self._last = now
        self._done[kind] += items
        for left in (self._left, self._first):
            left[kind] = max(0.0, left.get(kind, 0.0) - items)
        self._write()
        self._study.raise_if_cancelled()

    def verdict_reached(self) -> None:
        """Note that the first verdict is there."""
        self._first = {}

    def left(self) -> float | None:
        """Estimated remaining seconds; None before the first item."""
        return self._estimate(self._left)

    def _estimate(self, items: Mapping[str, float]) -> float | None:
        spent = sum(self._seconds.values())
        weighed = sum(PRIORS[kind] * done for kind, done in self._done.items())
        if not weighed:
            return None
        unit = spent / weighed
        return sum(
            left
            * (self._seconds[kind] / self._done[kind] if self._done[kind] else unit * PRIORS[kind])
            for kind, left in items.items()
        )

    def _write(self) -> None:
        left, spent = self.left(), sum(self._seconds.values())
        done = int(100 * spent / (spent + left)) if left is not None and spent + left else 0
        first = self._estimate(self._first) if any(self._first.values()) else None
        self._study.write_progress(
            self._step, Progress.saying(done, 100, "%", self._message, left, first)
        )
