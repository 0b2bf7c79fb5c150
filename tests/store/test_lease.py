"""Leases: one holder at a time."""

import os
import threading
import time

import pytest

from assistant_builder.atomic_io import read_json, write_json
from assistant_builder.store import lease as lease_module
from assistant_builder.store.lease import Lease, SharedLeaseFile, StoreLeaseFile
from assistant_builder.store.object_store import ObjectStore
from assistant_builder.store.sync import _newest_copy
from assistant_builder.study import locks
from assistant_builder.study.locks import is_lease_fresh
from assistant_builder.study.steps import StepRecord
from tests.synthetic_study import new_study


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "RENEW_SECONDS", 0.02)
    monkeypatch.setattr(lease_module, "TAKEOVER_SECONDS", 0.3)


def test_a_free_lease_is_acquired_at_once_and_released(tmp_path):
    path = tmp_path / "step.lease.json"
    lease = Lease(SharedLeaseFile(path), "one", "node")
    began = time.monotonic()
    lease.acquire()
    assert time.monotonic() - began < 0.2
    assert is_lease_fresh(path)
    assert read_json(path)["holder"] == "one"
    written = path.stat().st_ino
    time.sleep(0.03)
    assert lease.renew() and path.stat().st_ino != written
    lease.release()
    assert not path.exists() and not is_lease_fresh(path)


def test_a_takeover_waits_for_the_previous_holder(tmp_path):
    path = tmp_path / "step.lease.json"
    one, two = (Lease(SharedLeaseFile(path), name, "node") for name in ("one", "two"))
    one.acquire()
    began = time.monotonic()
    two.acquire()
    assert time.monotonic() - began >= 0.3
    time.sleep(0.03)
    assert not one.renew() and two.renew()
    one.release()
    assert read_json(path)["holder"] == "two" and (one.attempt, two.attempt) == (1, 2)
    two.release()
    one.acquire()
    assert one.attempt == 1  # a released lease is not a lost one


def test_held_by_finds_only_holders_that_renew(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "STALE_SECONDS", 0.4)
    one, two = (
        Lease(SharedLeaseFile(tmp_path / "study.lease.json"), name, f"node {name}")
        for name in ("one", "two")
    )
    assert two.held_by() == ""
    one.acquire()
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(0.03):
            one.renew()

    renewing = threading.Thread(target=renew)
    renewing.start()
    assert two.held_by() == "node one" and one.held_by() == ""
    stop.set()
    renewing.join()
    began = time.monotonic()
    assert two.held_by() == "" and 0.3 < time.monotonic() - began < 2
    began = time.monotonic()
    assert two.held_by() == "" and time.monotonic() - began < 0.3  # by now it is old at first sight


def test_renewal_does_not_recreate_a_missing_study(tmp_path):
    folder = tmp_path / "study"
    folder.mkdir()
    path = folder / "step.lease.json"
    lease = Lease(SharedLeaseFile(path), "one", "node")
    lease.acquire()
    path.unlink()
    folder.rmdir()
    time.sleep(0.03)
    assert not lease.renew() and not folder.exists()


def test_state_of_a_step_on_a_node_follows_its_lease():
    study = new_study()
    study.write_step(
        StepRecord(
            "data", "running", pid=os.getpid(), process_started="another-boot/1", node="10.0.0.1"
        )
    )
    assert study.step("data").state == "lost"
    write_json(
        study.lease_file("data"), {"holder": "x", "node": "10.0.0.1", "time": time.time() - 3}
    )
    assert study.step("data").state == "running" and study.state == "running"
    write_json(
        study.lease_file("data"), {"holder": "x", "node": "10.0.0.1", "time": time.time() - 60}
    )
    assert study.step("data").state == "lost"
    for damaged in ("[]", "{", '{"time": "now"}'):
        study.lease_file("data").write_text(damaged)
        assert study.step("data").state == "lost"


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"copy":' * 100_000, b"[]", b"3", b"\xff"])
def test_a_damaged_lease_of_a_store_is_none(memory, content):
    store = ObjectStore(f"{memory}/n")
    for name in (".lease.json", ".newest.json"):
        store.write(name, content)
    lease = Lease(StoreLeaseFile(store, ".lease.json"), "one", "node")
    assert lease.held_by() == "" and _newest_copy(store) is None
    assert lease.renew() and StoreLeaseFile(store, ".lease.json").read() is not None
