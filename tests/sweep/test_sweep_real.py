"""A real sweep of two studies of a few steps, from the command line, and again."""

import json
from pathlib import Path

import pytest

from tests.commands import FEW_SCORES, QUICK, command, record_of, set_words
from tests.export.tiny import tiny_base
from tests.synthetic_study import SMALL

SETTINGS = {
    **QUICK,
    **FEW_SCORES,
    "train.rank": "2,8",
    "train.max_steps": 1,
    "train.batch_size": 2,
    "eval.cells": "[L16,Q4]",
}


@pytest.fixture
def base(bundled_models: Path, tmp_path: Path) -> str:
    """A base of two layers; the bundled embedder is at hand for the data."""
    return str(tiny_base(tmp_path / "base"))


@pytest.mark.train
@pytest.mark.slow
def test_two_studies_are_trained_compared_and_kept(home, base):
    sweep = (f"sweep {SMALL} --name tiny", *set_words({**SETTINGS, "model.base": base}))
    record = record_of(*sweep)
    assert record["state"] == "succeeded" and record["selected"] in ("tiny-1", "tiny-2")
    one, two = record["studies"]
    assert record["selected"] == min((one, two), key=lambda row: row["validation_loss"])["name"]
    assert one["validation_losses"].keys() == {"lora", "qlora"}
    assert one["validation_losses"] != two["validation_losses"]
    splits = [
        json.loads((home / "studies" / row["name"] / "data" / "split.json").read_text())
        for row in (one, two)
    ]
    assert splits[0] == splits[1]
    chosen, other = (one, two) if record["selected"] == "tiny-1" else (two, one)
    for row in record["comparisons"]:
        cell = row["cell"]
        assert row["study"] == other["name"] and row["n"] == 4
        assert row["delta"] == pytest.approx(
            other["heldout"][cell] - chosen["heldout"][cell], abs=1e-9
        )

    studies = {
        path: path.stat().st_mtime_ns for path in (home / "studies").rglob("*") if path.is_file()
    }
    assert record_of(*sweep) == record
    assert {path: path.stat().st_mtime_ns for path in studies} == studies
    line = command(*sweep, "--set", "train.epochs=1", "--json", ends=1).stderr
    assert "exists with other settings (train.epochs: 3.0 -> 1.0)" in line and line.count("\n") == 1
