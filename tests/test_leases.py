"""One holder at a time, told by a file."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from assistant_builder import leases
from assistant_builder.files import read_json, write_json
from assistant_builder.leases import Lease, is_fresh
from assistant_builder.steps import StepRecord
from tests.fabricated import new_study


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.02)
    monkeypatch.setattr(leases, "TAKEOVER_SECONDS", 0.3)


def test_a_free_lease_is_taken_at_once_and_given_back(tmp_path: Path) -> None:
    lease = Lease(tmp_path / "step.lease.json", "one", "node")
    began = time.monotonic()
    lease.take()
    assert time.monotonic() - began < 0.2 and is_fresh(lease.path) and read_json(lease.path)["holder"] == "one"
    written = lease.path.stat().st_ino
    time.sleep(0.03)
    assert lease.renew() and lease.path.stat().st_ino != written
    lease.release()
    assert not lease.path.exists() and not is_fresh(lease.path)


def test_who_takes_over_waits_until_the_holder_before_has_seen_it(tmp_path: Path) -> None:
    one, two = (Lease(tmp_path / "step.lease.json", name, "node") for name in ("one", "two"))
    one.take()
    began = time.monotonic()
    two.take()
    assert time.monotonic() - began >= 0.3
    time.sleep(0.03)
    assert not one.renew() and two.renew()
    one.release()
    assert read_json(two.path)["holder"] == "two" and (one.attempt, two.attempt) == (1, 2)
    two.release()
    one.take()
    assert one.attempt == 1  # what was given back was not lost


def test_a_lease_of_a_study_that_is_gone_makes_no_ruin(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    lease = Lease(folder / "step.lease.json", "one", "node")
    lease.take()
    lease.path.unlink()
    folder.rmdir()
    time.sleep(0.03)
    assert not lease.renew() and not folder.exists()


def test_a_step_on_a_node_is_told_by_its_lease_and_not_by_a_process_here() -> None:
    study = new_study()
    study.write_step(StepRecord("data", "running", pid=os.getpid(), process_started="another-boot/1", node="10.0.0.1"))
    assert study.step("data").state == "lost"
    write_json(study.lease_file("data"), {"holder": "x", "node": "10.0.0.1", "time": time.time() - 3})
    assert study.step("data").state == "running" and study.state == "running"
    write_json(study.lease_file("data"), {"holder": "x", "node": "10.0.0.1", "time": time.time() - 60})
    assert study.step("data").state == "lost"
    for damaged in ("[]", "{", '{"time": "now"}'):
        study.lease_file("data").write_text(damaged)
        assert study.step("data").state == "lost"
