"""The page: its tables are what the command writes."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from evals.capacity import __main__ as command
from evals.capacity.__main__ import README, SIMULATED, main, quick_parts, simulated_parts
from evals.capacity.assumptions import Assumptions
from evals.capacity.figures import estimate
from evals.capacity.measured import read_measured, write_measured
from evals.capacity.sizing import cluster_of, nodes_needed
from evals.capacity.tables import NOT_MEASURED, limits_table, queueing_table
from evals.capacity.workload import stages_of
from evals.readme import read_part
from tests.evals.capacity.numbers import made_up

SMALL = Assumptions(studies_a_day=100, days=1, repetitions=2)


@pytest.mark.parametrize("part", ["assumptions", "measured", "storage", "requests", "large"])
def test_committed_tables_are_those_of_the_command(part: str) -> None:
    made = quick_parts(read_measured(), Assumptions())
    assert read_part(part, README) == made[part], "remake them with: python -m evals.capacity --write"


def test_committed_simulation_is_that_of_the_command() -> None:
    """One line of it: the fewest nodes if studies come in office hours."""
    measured, assumed, text = read_measured(), Assumptions(), read_part("queueing", README)
    if measured is None:
        assert text == read_part("limits", README) == NOT_MEASURED
        return
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines()[2:]]
    nodes = int(rows[-2][1])
    found = estimate(stages_of(measured, assumed.seeds), cluster_of(measured, assumed, nodes), assumed)
    assert queueing_table([("office", found)], assumed).splitlines()[-1] in text.splitlines()
    assert read_part("limits", README) == limits_table(measured, assumed, nodes)


def test_no_table_is_left_out() -> None:
    assert set(quick_parts(None, SMALL)) | set(SIMULATED) == {
        "assumptions", "measured", "queueing", "storage", "requests", "limits", "large",
    }


def test_every_table_of_made_up_figures_says_what_was_put_in() -> None:
    parts = {**quick_parts(made_up(), SMALL), **simulated_parts(made_up(), SMALL)}
    assert "| train-lora | 600.0 | 2 | 2 GB | 2 min 30 s |" in parts["measured"]
    assert "| **all that stays** | 285 MB | 28.5 GB | 10.4 TB |" in parts["storage"]
    assert "| **without checkpoints** | 45 MB | 4.5 GB | 1.64 TB |" in parts["storage"]
    assert "| a step's lease is renewed | 1 | 1 | 1 | `leases.RENEW_SECONDS` | 2.1 | 2.1 | 2.1 |" in parts["requests"]
    assert "home screen" in parts["limits"].splitlines()[2]
    needed = nodes_needed(made_up(), SMALL).nodes
    office = [line for line in parts["queueing"].splitlines() if line.startswith("| nine in ten")]
    assert [int(line.split("|")[2]) for line in office] == [n for n in (needed - 1, needed, 2 * needed) if n]
    assert all(text.count("\n|") > 3 for text in parts.values())


class TestCommand:
    @pytest.fixture(autouse=True)
    def copy(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A page of its own."""
        page = tmp_path / "README.md"
        page.write_text(README.read_text(encoding="utf-8"), encoding="utf-8")
        monkeypatch.setattr(command, "README", page)
        return page

    def test_without_figures_says_so_in_every_table_that_needs_them(
        self, copy: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(command, "read_measured", lambda: None)
        assert main(["--write"]) == 0
        for part in ("measured", "storage", "requests", *SIMULATED):
            assert read_part(part, copy) == NOT_MEASURED
        assert "FSDP" in read_part("large", copy)

    def test_writes_what_it_prints(
        self, copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(command, "read_measured", made_up)
        words = ["--studies-a-day", "100", "--days", "1", "--repetitions", "2"]
        assert main(words) == 0
        printed = capsys.readouterr().out
        assert main([*words, "--write"]) == 0
        for part in (*quick_parts(None, SMALL), *SIMULATED):
            assert read_part(part, copy) in printed
        assert "`python -m evals.capacity --studies-a-day 100.0 --days 1 --repetitions 2 --write`" in printed

    @pytest.mark.parametrize(("words", "said"), [
        (["--repetitions", "1"], "--repetitions"), (["--goal-hours", "0.1"], "no number of nodes"),
        (["--node-memory-gb", "1"], "step train-lora"),
    ])
    def test_what_cannot_be_is_said_in_one_line(
        self, words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(command, "read_measured", made_up)
        assert main(["--days", "1", *words]) == 1
        lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("capacity: how many")]
        assert len(lines) == 1 and said in lines[0]

    def test_says_which_extra_is_missing(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        brings = builtins.__import__

        def without(name: str, *more: Any, **named: Any) -> Any:
            if name == "simpy":
                raise ImportError("No module named 'simpy'")
            return brings(name, *more, **named)

        monkeypatch.setattr(command, "read_measured", made_up)
        monkeypatch.setattr(builtins, "__import__", without)
        assert main(["--days", "1"]) == 1
        assert "assistant-builder[capacity]" in capsys.readouterr().err


def test_a_damaged_file_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "measured.json"
    write_measured(made_up(), path)
    path.write_text(path.read_text()[:100])
    monkeypatch.setattr(command, "read_measured", lambda: read_measured(path))
    assert main([]) == 1
