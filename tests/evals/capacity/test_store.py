"""Requests and bytes of the shared store: counted at the program itself, and by hand."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from assistant_builder import atomic_io
from assistant_builder.config import load_config
from assistant_builder.jobs import cluster
from assistant_builder.jobs.following import FollowedStore
from assistant_builder.leases import Lease, SharedFile
from assistant_builder.steps import Progress, StepRecord
from assistant_builder.study import Study
from assistant_builder.training.progress import MetricsLog
from evals.capacity.assumptions import Assumptions
from evals.capacity.limits import limits
from evals.capacity.measured import Measured
from evals.capacity.store import (
    OPTIMIZER_STEP,
    RENEWAL,
    RUN_LOOK,
    STEP_LOOK,
    kept_bytes,
    read_bytes,
    sources,
    study_requests,
    written_bytes,
)
from tests.evals.capacity.numbers import made_up
from tests.synthetic_study import new_study

TRAININGS = ("train-lora", "train-qlora")


class Counting:
    """Counts files that are read whole, and those that are put in place or appended to, from now on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reads: Counter[str] = Counter()
        self.writes: Counter[str] = Counter()
        self._patch = monkeypatch
        self._count("assistant_builder.study.load_config", self.reads, load_config)
        for place in ("study", "leases"):
            self._count(f"assistant_builder.{place}.read_json", self.reads, atomic_io.read_json)
            self._count(f"assistant_builder.{place}.write_json", self.writes, atomic_io.write_json)
        self._count("assistant_builder.training.progress.append_jsonl", self.writes, atomic_io.append_jsonl)

    def _count(self, where: str, into: Counter[str], function: Callable[..., Any]) -> None:
        def counted(path: Path, *more: Any) -> Any:
            into[path.name] += 1
            return function(path, *more)

        self._patch.setattr(where, counted)


class Quiet:
    """Tasks that are under way for ever."""

    def __init__(self, study: Study, url: str) -> None:
        self.study = study

    def look(self) -> dict[str, None]:
        return dict.fromkeys(TRAININGS)


@pytest.fixture
def training() -> Study:
    """A study whose arms train on nodes."""
    study = new_study()
    for step in TRAININGS:
        study.write_step(StepRecord(step, state="running", started=1.0, node="a node"))
        study.write_progress(step, Progress(1, 2, "steps"))
        Lease(SharedFile(study.lease_file(step)), "holder", "a node").take()
    return study


def test_a_look_of_a_run_reads_what_is_said(training: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "Keeper", Quiet)
    run = cluster._Run(training, training.config.executor, FollowedStore(None), lambda event: None)
    run._waiting = [*TRAININGS, "evaluate", "report"]
    counted = Counting(monkeypatch)
    run.go_on()
    assert counted.reads.total() == RUN_LOOK.reads + len(TRAININGS) * STEP_LOOK.reads
    assert counted.reads["study.yaml"] == RUN_LOOK.reads and not counted.writes


def test_a_renewal_reads_and_writes_what_is_said(training: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = Lease(SharedFile(training.lease_file("train-lora")), "holder", "a node")
    counted = Counting(monkeypatch)
    lease._renewed = time.monotonic() - 60
    assert lease.renew()
    assert (counted.reads.total(), counted.writes.total()) == (RENEWAL.reads, RENEWAL.writes)


def test_an_optimizer_step_writes_what_is_said(training: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    log = MetricsLog(training.arm_folder("lora") / "metrics.jsonl", step=0, steps=2)
    counted = Counting(monkeypatch)
    log.record_step(1, tokens=5, seconds=1.0, values={"loss": 1.0})
    training.write_progress("train-lora", Progress(1, 2, "steps"))
    assert counted.writes.total() == OPTIMIZER_STEP.writes == 2


def test_requests_of_a_study_by_hand() -> None:
    found = study_requests(made_up(), Assumptions())
    computing = 5 + 10 + 3 * 600 + 5
    assert found.reads == pytest.approx(4 * 3 * computing + computing)
    assert found.writes == pytest.approx(computing + 2 * 2 * 60)
    twice = sources(made_up(), Assumptions(seeds=2))
    assert sum(source.study.writes for source in twice) == pytest.approx(computing + 1200 + 4 * 2 * 60)


def test_bytes_by_hand() -> None:
    figures = made_up()
    assert kept_bytes(figures, 1, checkpoints=True) == 5_000_000 + 2 * 140_000_000
    assert kept_bytes(figures, 2, checkpoints=False) == 5_000_000 + 4 * 20_000_000
    # four checkpoints of 60 MB were written in each training, two are there
    assert written_bytes(figures, 1) == 5_000_000 + 2 * (20_000_000 + 240_000_000)
    assert read_bytes(figures, 1) == 3 * 270_000_000


class TestLimits:
    def test_by_hand(self) -> None:
        found = limits(made_up(), Assumptions(kept_days=100), 3)
        assert [limit.studies_a_day for limit in found] == sorted(limit.studies_a_day for limit in found)
        by_start = {" ".join(limit.name.split()[:3]): limit.studies_a_day for limit in found}
        assert by_start["processors of 3"] == pytest.approx(3 * 16 * 86_400 / (3620 + 0.5 * (3 * 2 + 3)))
        assert by_start["disk of 10"] == pytest.approx(10e12 / 285e6 / 100)
        assert by_start["processors of the"] == pytest.approx(16 / (0.01 / 0.25) / 1220 * 86_400)
        assert by_start["steps a second"] == pytest.approx(4 / 5.5 * 86_400 / 6)
        assert by_start["bytes read from"] == pytest.approx(1250e6 * 86_400 / 810e6)
        listing = [limit.studies_a_day for limit in found if "home screen" in limit.name]
        assert listing == pytest.approx([10.0, 20.48])

    def test_scheduling_is_left_out_where_it_was_not_measured(self) -> None:
        without = Measured.model_validate({**made_up().model_dump(), "scheduling": None})
        assert len(limits(without, Assumptions(), 3)) == len(limits(made_up(), Assumptions(), 3)) - 1
