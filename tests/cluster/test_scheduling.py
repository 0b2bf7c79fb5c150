"""What scheduling costs: 24 steps that sleep, on the four processors of three nodes."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmarks.ray_scheduling import Scheduling, measure
from tests.cluster.conftest import Nodes

STEPS, SLOTS, SECONDS = 24, 4, 4.0


def plainly() -> float:
    """Seconds that the same processes take here, four at a time: 24, and what starting them costs at the moment."""
    began = time.monotonic()
    with ThreadPoolExecutor(SLOTS) as pool:
        words = [sys.executable, "-c", f"import time; time.sleep({SECONDS})"]
        list(pool.map(lambda _: subprocess.run(words, check=True), range(STEPS)))
    return time.monotonic() - began


@pytest.mark.cluster
def test_twenty_four_steps_on_four_slots_take_little_more_than_they_sleep(nodes: Nodes) -> None:
    shares = []
    while len(shares) < 3 and not (shares and shares[-1] < 1.15):  # whatever else the machine does is measured too
        floor = plainly()
        found = measure(nodes.address, STEPS, SLOTS, SECONDS)
        shares.append(found.wall_seconds / floor)
    assert shares[-1] < 1.15, shares
    assert found.overhead_seconds < 3.0 and found.wall_seconds >= found.ideal_seconds == 24.0


def test_the_figures_are_those_of_a_slot() -> None:
    found = Scheduling(steps=10, slots=4, seconds=2.0, start_seconds=1.0, wall_seconds=9.0)
    assert found.ideal_seconds == 6.0 and found.excess == pytest.approx(0.5)
    assert found.overhead_seconds == pytest.approx(1.2)
