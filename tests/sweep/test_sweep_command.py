"""``assistant-builder sweep``: what it prints, and how it ends."""

import json
import sys

import pytest

from assistant_builder.cli import main
from tests.sweep.simulated_runs import Scenario, pretend
from tests.synthetic_study import SMALL

WORDS = (
    str(SMALL),
    "--name",
    "tool",
    "--set",
    "train.rank=4,8",
    "--set",
    "data.heldout_fraction=0.5",
    "--set",
    "eval.bootstrap_resamples=400",
)


def call(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *words: str
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["assistant-builder", "sweep", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return (int(ended.value.code or 0), *capfd.readouterr())


def test_it_prints_the_estimate_and_then_the_results(monkeypatch, capfd):
    pretend(Scenario(validation={2: 0.5}), monkeypatch)
    code, out, _ = call(monkeypatch, capfd, *WORDS)
    lines = out.splitlines()
    assert code == 0
    assert lines[0].startswith("tool: 2 studies to run, 4 trainings, planned at about ")
    assert lines[1:3] == ["tool-1: train.rank=4", "tool-2: train.rank=8"]
    assert "tool-2 *" in out and "Selected by the mean validation loss of both arms: tool-2" in out
    assert lines[-1].startswith("Sweep: ") and lines[-1].endswith("sweep.json")
    code, out, err = call(monkeypatch, capfd, *WORDS, "--json")
    record = json.loads(out)
    assert (code, err, record["state"], record["selected"]) == (0, "", "succeeded", "tool-2")
    assert call(monkeypatch, capfd, *WORDS)[1].startswith("tool: All 2 studies are done.\n")


def test_failed_studies_are_reported_after_the_results(monkeypatch, capfd):
    pretend(Scenario(failing={2}), monkeypatch)
    code, out, err = call(monkeypatch, capfd, *WORDS, "--json")
    assert code == 1 and json.loads(out)["selected"] == "tool-1" and len(err.splitlines()) == 1
    assert "1 of 2 studies failed (tool-2: memory ran out)" in err and "Run the sweep again" in err


def test_an_invalid_call_is_reported_in_one_line_and_starts_nothing(home, monkeypatch, capfd):
    pretend(Scenario(), monkeypatch)
    assert call(monkeypatch, capfd, *WORDS, "--arm", "dora")[0] == 2
    assert call(monkeypatch, capfd, str(SMALL))[0] == 2
    for words in ((str(SMALL), "--set", "train.rank=8"), ("none.csv", "--set", "train.rank=4,8")):
        code, out, err = call(monkeypatch, capfd, *words, "--json")
        assert (code, out) == (1, "") and len(err.splitlines()) == 1
    assert not (home / "sweeps").exists()
