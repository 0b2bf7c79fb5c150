"""Averaging over training seeds makes exact match fractional; the floor of 5 % has to hold all the same."""

import shutil
from typing import Any

import pytest

from evals.report.build import build_report
from tests.adversary.rescored_study import rescore, right, scored


@pytest.mark.parametrize("seeds", [1, 3])
def test_two_assistants_that_know_nothing_are_not_no_worse(seeds):
    def few(kind: int) -> Any:
        def change(place: int, sample: dict[str, Any]) -> dict[str, Any]:
            loss = (1.1 + 0.004 * ((place * 7 + kind) % 11 - 5)) * sample["tokens"]
            wrong = (
                {} if place % 70 == kind or not sample["answerable"] else {"answer": "It is blue."}
            )
            return {**right(place, sample), "nll": loss, **wrong}

        return change

    study = scored("ferries", few(0), few(5), seeds=seeds)
    for seed in range(2, seeds + 1):
        for cell, kind in (("L16", seed), ("Q4", seed + 5)):
            shutil.copytree(
                study.cell_folder(cell), study.cell_folder(cell, seed=seed), dirs_exist_ok=True
            )
            rescore(study.cell_folder(cell, seed=seed), few(kind))
    verdict = build_report(study)["verdict"]
    assert verdict["metric"] == "exact_match" and verdict["outcome"] == "inconclusive"
