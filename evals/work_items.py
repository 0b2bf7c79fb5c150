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
from assistant_builder.arms import ARMS, CELLS, LORA, QLORA, TWINS, main_cells, untuned_base
from assistant_builder.atomic_io import file_hash, read_json
from assistant_builder.i18n import N_
from assistant_builder.models.checkpoint_dir import base_model_hash
from assistant_builder.study import Study
from assistant_builder.study.contents import ArmSummary
from assistant_builder.study.limits import answer_limit
from assistant_builder.study.steps import Progress
from evals.cells import Variant, fidelity_pairs, in_order_of_loading

HEADLINE_CELLS = (LORA.cell, QLORA.cell)
"""The twins as served: scored for every seed, and, where they are compared, for the noise floor."""
_STEP_FILES = (
    "status",
    "evaluate",
    "score-",
    "formats",
)  # prefixes of the files that record steps rather than scores


@dataclass(frozen=True)
class WorkItem:
    """One folder of scores; ``noise`` is the cell with another batch size, ``retrieval`` is on the untuned base."""

    kind: Literal["cell", "noise", "retrieval"]
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
        self._config, self._cells, self._compares = (
            study.config.eval,
            study.config.cells,
            study.config.compares,
        )
        self._seeds, self._arms = study.config.seeds, study.config.arms
        self._tasks, self._part = tuple(tasks), part
        self.whole = part is None
        whole, wanted = part is None, self._all_pieces()
        if part is not None:
            wanted = shard(wanted, part[1])[part[0] - 1]
        variants = {piece.variant for piece in wanted}
        self.pieces = [
            piece for piece in wanted if not _done(piece.folder / "scores.json", self.inputs(piece))
        ]
        self.tasks = [
            (cell, task)
            for cell in main_cells(self._arms)
            if Variant(CELLS[cell]) in variants and cell in self._cells
            for task in tasks
            if not _done(self.task_folder(cell) / f"{task}.json", self.task_inputs(cell))
        ]
        self.copy = (
            whole
            and self._config.baselines
            and not _done(self.baseline("copy") / "scores.json", self.copy_inputs)
        )
        self.fidelity = (
            whole
            and self._config.fidelity
            and self._compares
            and not _done(self.evals / "fidelity.json", self.fidelity_inputs)
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
        """The cells with remaining work, without duplicates."""
        return list(
            dict.fromkeys(
                [
                    *(piece.variant for piece in self.pieces),
                    *(Variant(CELLS[cell]) for cell, _ in self.tasks),
                    *self.read_again,
                ]
            )
        )

    @property
    def fidelity_cells(self) -> list[str]:
        """The cells whose next-token distributions are compared; none if that is done or not wanted."""
        return (
            sorted({name for pair in fidelity_pairs(self._cells) for name in pair})
            if self.fidelity
            else []
        )

    def obsolete_results(self) -> list[Path]:
        """Results of earlier runs that the settings no longer request, so that a report does not show them.

        A shard has none, because other shards may be running.
        """
        if self._part is not None:
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
        found = [] if self._part is not None else self.evals.rglob("*.json*")
        return sorted(
            path
            for path in found
            if not path.name.startswith(_STEP_FILES)
            and self._study.format_scores_folder not in path.parents
        )

    def planned(self, items: int, documents: Mapping[str, int]) -> dict[str, int]:
        """The amount of each kind of work."""
        long = sum(self.long(piece) for piece in self.pieces)
        plain = len(self.pieces) - long
        embedded = (len(self.pieces) + self.copy) * self._config.similarity
        return {
            "likelihood": items * plain,
            "answers": items * plain,
            "similarity": items * embedded,
            "long likelihood": items * long,
            "long answers": items * long,
            "documents": sum(documents[task] for _, task in self.tasks),
            "fidelity": items * len(self.read_again),
            "judgements": min(items, self._config.judge_items) if self.judges else 0,
        }

    def long(self, piece: WorkItem) -> bool:
        """Whether its prompts contain facts."""
        return piece.kind == "retrieval" or self._study.config.grounded

    def _all_pieces(self) -> list[WorkItem]:
        size, found = self._config.batch_size, []
        served = {ARMS[arm].cell for arm in self._arms}
        for spec in in_order_of_loading(CELLS[name] for name in self._cells):
            name = spec.name
            found.append(WorkItem("cell", Variant(spec), self._study.cell_folder(name), size))
            if name in HEADLINE_CELLS and self._config.noise_floor and self._compares:
                found.append(
                    WorkItem("noise", Variant(spec), self.evals / "noise" / name, 2 * size)
                )
            if name in served:  # one adapter for each seed
                found += [
                    WorkItem(
                        "cell", Variant(spec, seed), self._study.cell_folder(name, seed=seed), size
                    )
                    for seed in range(2, self._seeds + 1)
                ]
        if (
            self._config.baselines and not self._study.config.grounded
        ):  # else the untuned base reads the facts itself
            untuned = Variant(CELLS[untuned_base(self._arms)])
            found.append(WorkItem("retrieval", untuned, self.baseline("retrieval"), size))
        return found

    def inputs(self, piece: WorkItem) -> dict[str, Any]:
        """The inputs of a work item."""
        inputs = {
            **self._common,
            "adapter": self._adapter(piece.variant.run),
            "batch_size": piece.batch_size,
        }
        if piece.kind != "retrieval":
            return inputs
        base = piece.variant.cell.base
        return {
            **inputs,
            "training": self._training,
            **({} if base == "float16" else {"base": base}),
        }

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
        config = self._study.config
        return (
            {
                "false_declines": config.retrieval.false_declines,
                "validation": file_hash(self._study.split_file("validation")),
            }
            if config.grounded
            else {}
        )

    @cached_property
    def _training(self) -> str:
        return file_hash(self._study.split_file("train"))

    def _adapter(self, run: str | None) -> str | None:
        return (
            run
            and read_json(self._study.arm_folder(run) / "summary.json", ArmSummary)[
                "adapter_sha256"
            ]
        )


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


def _done(path: Path, inputs: Mapping[str, Any]) -> bool:
    return path.exists() and read_json(path).get("inputs") == dict(inputs)


PRIORS: Mapping[str, float] = {
    "likelihood": 1.0,
    "answers": 5.0,
    "similarity": 0.1,
    "documents": 1.0,
    "fidelity": 1.5,
    "long likelihood": 4.0,
    "long answers": 10.0,
    "judgements": 20.0,
    "file answers": 12.0,
    "writing": 500.0,
}
"""Rough cost of one item of each kind of work, relative to the likelihood of one reference answer; used until this run
has timed the kind."""


class ProgressTracker:
    """Writes the progress of an evaluation in seconds, and raises Cancelled between batches if requested.

    Seconds are used because the time of an item differs by a factor of ten between kinds of work. ``planned`` is the
    number of items of each kind.
    """

    def __init__(self, study: Study, planned: Mapping[str, int], step: str = "evaluate") -> None:
        self._study, self._step = study, step
        self._left = {kind: float(items) for kind, items in planned.items()}
        self._done = dict.fromkeys(planned, 0.0)
        self._seconds = dict.fromkeys(planned, 0.0)
        self._last = time.monotonic()
        self.set_message(N_("Loading the base model"))

    def set_message(self, message: str) -> None:
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
        self._left[kind] = max(0.0, self._left[kind] - items)
        self._write()
        self._study.raise_if_cancelled()

    def left(self) -> float | None:
        """Estimated remaining seconds; None before the first item."""
        spent = sum(self._seconds.values())
        weighed = sum(PRIORS[kind] * done for kind, done in self._done.items())
        if not weighed:
            return None
        unit = spent / weighed
        return sum(
            left
            * (self._seconds[kind] / self._done[kind] if self._done[kind] else unit * PRIORS[kind])
            for kind, left in self._left.items()
        )

    def _write(self) -> None:
        left, spent = self.left(), sum(self._seconds.values())
        done = int(100 * spent / (spent + left)) if left is not None and spent + left else 0
        self._study.write_progress(self._step, Progress(done, 100, "%", self._message, left))
