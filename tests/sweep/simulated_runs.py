"""Sweeps whose studies are made up instead of trained: what :func:`run_study` would leave, by a scenario."""

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from assistant_builder.atomic_io import read_json, write_json
from assistant_builder.errors import Cancelled, ResourceError
from assistant_builder.runner import open_study
from assistant_builder.runner.backend import Event
from assistant_builder.study import Study
from assistant_builder.sweep import run as sweep_run
from tests.evals.study_compare.scored_studies import CELLS, Samples, edit
from tests.synthetic_study import done, evaluated, trained, with_data


@dataclass
class Scenario:
    """How studies come out, by their number in the sweep.

    Attributes:
        validation: Validation loss at the end; others get 1.
        heldout: What is added to the held-out loss of every cell, in nats a token.
        failing: Studies whose run fails.
        cancelled: Studies during whose run the user cancels.
        ran: The studies that were run, in order.
    """

    validation: dict[int, float] = field(default_factory=dict)
    heldout: dict[int, float] = field(default_factory=dict)
    failing: set[int] = field(default_factory=set)
    cancelled: set[int] = field(default_factory=set)
    ran: list[int] = field(default_factory=list)

    def run(
        self, study: Study, *, on_event: Callable[[Event], None], check: Callable[[Study], None]
    ) -> None:
        """Stands in for ``run_study``."""
        number = int(study.name.rpartition("-")[2])
        self.ran.append(number)
        check(study)
        if number in self.failing:
            raise ResourceError("memory ran out", remedy="Close other programs")
        if number in self.cancelled:
            study.write_run_record("cancelled")
            raise Cancelled("cancelled on request")
        with_data(study)
        _finish(study, number, self.validation.get(number, 1.0), self.heldout.get(number, 0.0))


def _finish(study: Study, number: int, validation: float, shift: float) -> None:
    trained(study)
    for arm in study.config.arms:
        done(study, f"train-{arm}", 10.0)
        summary = study.arm_folder(arm) / "summary.json"
        loss = validation + (0.01 if arm == "qlora" else 0)
        write_json(summary, {**read_json(summary), "best_validation_loss": loss})
    evaluated(study)
    for folder in (study.folder / "evals").iterdir():
        if folder.is_dir() and folder.name not in CELLS:
            shutil.rmtree(folder)
    there = tuple(cell for cell in CELLS if cell in study.config.cells)
    edit(study, lambda samples: shifted(samples, shift, number), there)
    cells = {cell: read_json(study.cell_folder(cell) / "scores.json") for cell in there}
    write_json(
        study.folder / "report.json",
        {"primary_metric": study.config.eval.primary_metric, "cells": cells, "verdict": {}},
    )
    done(study, "report", 1.0)
    study.write_run_record("succeeded")


def shifted(samples: Samples, shift: float, number: int) -> Samples:
    """Add ``shift`` nats a token to the loss of every sample, and what differs from item to item in every study."""
    return [
        sample
        | {
            "nll": sample["nll"]
            + sample["tokens"] * (shift + 0.02 * math.sin(2.3 * place + number))
        }
        for place, sample in enumerate(samples)
    ]


def pretend(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> Scenario:
    """Let sweeps run by a scenario; the made-up steps do not say what they were made from, so nobody looks."""
    monkeypatch.setattr(sweep_run, "run_study", scenario.run)
    monkeypatch.setattr(open_study, "first_stale_step", lambda *words, **more: None)
    return scenario


def rows(record: dict[str, Any], key: str) -> dict[int, Any]:
    """A column of the results' studies by number."""
    return {int(row["name"].rpartition("-")[2]): row[key] for row in record["studies"]}
